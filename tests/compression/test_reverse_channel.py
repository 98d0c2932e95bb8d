# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Reverse channel coding on Gaussians: the samples are those of q, and cost little more than the divergence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ddpm_hf.compression.progressive import _magnitudes
from ddpm_hf.compression.reverse_channel import Chunk, Target, pad_of
from ddpm_hf.compression.shared_noise import SharedNoise


def coded(bits: float, size: int, count: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Shifts of `count` targets of so many expected bits, the samples' errors in deviations of q, and the indices."""
    generator = torch.Generator().manual_seed(0)
    variance = 2 ** (-2 * bits / size)
    log_variance = torch.full((size,), math.log(variance), dtype=torch.float64)
    shifts, errors, indices = [], [], []
    for i in range(count):
        shift = torch.randn(size, generator=generator, dtype=torch.float64) * math.sqrt(1 - variance)
        chunk = Chunk(SharedNoise(1, i), 3, 0, size)
        indices.append(chunk.choose(Target(shift, log_variance)))
        shifts.append(shift.numpy())
        errors.append(((chunk.candidate(indices[-1]) - shift) / math.sqrt(variance)).numpy())
    return np.array(shifts), np.array(errors), indices


@pytest.mark.parametrize("bits, size, count", [(1, 2, 600), (4, 6, 400), (5, 3, 300), (8, 8, 120)])
def test_samples_are_those_of_the_target_and_cost_little_more(bits: float, size: int, count: int) -> None:
    shifts, errors, indices = coded(bits, size, count)
    n = errors.size
    assert abs(errors.mean()) < 3 / math.sqrt(n)
    assert abs(errors.var() - 1) < 3 * math.sqrt(2 / n)
    # A search that ends too early returns samples too near to 0: errors against the shift.
    assert abs((errors * shifts).mean()) < 3 * shifts.std() / math.sqrt(n)
    frequencies = _magnitudes(bits)._frequencies(np.zeros(1, np.int64), 1)[0]
    shares = frequencies / frequencies.sum()
    magnitudes = [(index + 1).bit_length() - 1 for index in indices]
    cost = np.mean([m - math.log2(shares[m]) for m in magnitudes])
    assert bits < cost < bits + 3.2


def test_a_search_that_is_too_short_is_biased_and_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddpm_hf.compression.reverse_channel.pad_of", lambda bits: -2.0)
    shifts, errors, _ = coded(4, 6, 400)
    assert (errors * shifts).mean() < -6 * shifts.std() / math.sqrt(errors.size)


def test_the_ratio_and_its_bound_and_the_divergence() -> None:
    target = Target(torch.tensor([0.3, -1.2], dtype=torch.float64), torch.tensor([-0.7, -1.5], dtype=torch.float64))
    p = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), 1.0)
    q = torch.distributions.Normal(target.shift, torch.exp(0.5 * target.log_variance))
    z = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    grid = torch.stack([z, z.flip(0)], dim=1)
    assert target.log_ratio(grid).allclose((q.log_prob(grid) - p.log_prob(grid)).sum(dim=1), atol=1e-12)
    each = [
        Target(target.shift[i : i + 1], target.log_variance[i : i + 1]).log_ratio(z[:, None]).max() for i in (0, 1)
    ]
    assert target.log_bound == pytest.approx(float(sum(each)), abs=1e-5)
    exact = torch.distributions.kl_divergence(q, p).sum() / math.log(2)
    assert target.divergence == pytest.approx(float(exact), abs=1e-12)
    assert pad_of(4) > 2 * math.sqrt(8 / math.log(2))
