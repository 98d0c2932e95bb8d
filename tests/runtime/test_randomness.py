# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""randomness: random numbers depend only on their address."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import kstest

from ddpm_hf.runtime.randomness import BLOCK, Use, generator_of, noise_like, seed_of


def test_a_seed_depends_on_every_part_of_its_address() -> None:
    addresses = [*itertools.product(range(4), repeat=3), *itertools.product(range(4), repeat=2)]
    seeds = {seed_of(use, *address) for use in Use for address in addresses}
    assert len(seeds) == len(Use) * len(addresses)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_same_address_draws_the_same_whatever_was_drawn_before() -> None:
    expected = torch.randn(5, generator=generator_of(Use.TIMES, 1, 2))
    torch.randn(1000)
    torch.manual_seed(3)
    assert torch.equal(torch.randn(5, generator=generator_of(Use.TIMES, 1, 2)), expected)
    assert not torch.equal(torch.randn(5, generator=generator_of(Use.NOISE, 1, 2)), expected)


@pytest.mark.parametrize("parts", [[64], [32, 32], [16] * 4, [1, 30, 33], [5] * 12 + [4], [BLOCK - 1, BLOCK + 1, 32]])
def test_noise_does_not_depend_on_how_a_batch_is_divided(parts: list[int]) -> None:
    whole = noise_like(torch.zeros(64, 1, 3, 5), 0, seed=7, step=11)
    firsts = itertools.accumulate([0, *parts[:-1]])
    pieces = [
        noise_like(torch.zeros(n, 1, 3, 5), first, seed=7, step=11) for n, first in zip(parts, firsts, strict=True)
    ]
    assert torch.equal(torch.cat(pieces), whole)


def test_noise_is_standard_normal_and_independent_from_step_to_step_and_place_to_place() -> None:
    noise = torch.stack([noise_like(torch.zeros(48, 2, 4), 0, seed=0, step=step) for step in range(50)]).double()
    n = noise.numel()
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    for axis in range(4):  # steps, places, and both dimensions of an example
        product = (noise * noise.roll(1, axis)).mean()
        assert abs(product) < 4 / math.sqrt(n), axis
    other_seed = torch.stack([noise_like(torch.zeros(48, 2, 4), 0, seed=1, step=step) for step in range(50)])
    assert abs((noise * other_seed).mean()) < 4 / math.sqrt(n)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_noise_is_float32_whatever_the_images_are(dtype: torch.dtype) -> None:
    noise = noise_like(torch.zeros(4, 2, dtype=dtype), 0, seed=0, step=0)
    assert noise.dtype == torch.float32 and torch.equal(noise, noise_like(torch.zeros(4, 2), 0, seed=0, step=0))
