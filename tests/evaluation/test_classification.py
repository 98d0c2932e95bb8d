# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Bayes' rule on bounds: exact likelihoods, and noisy estimates of known likelihoods."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_hf.conditioning.classes import classes_of, of_classes
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.diffusion.numerics import standard_error
from ddpm_hf.evaluation.classification import bayes, bits_by_class, bits_without_the_class


SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
LAWS = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]], dtype=torch.float64)  # [class, level]
DIMENSIONS = 4


def images(count: int) -> LevelImages:
    """Images of independent pixels, each of the law of the image's class."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.multinomial(SHARES, count, replacement=True, generator=generator)
    pixels = torch.multinomial(LAWS[classes], DIMENSIONS, replacement=True, generator=generator)
    return LevelImages.in_memory(pixels.reshape(count, 1, 2, 2), 3, of_classes(classes.tolist()))


def bits_per_dim_of(images: LevelImages) -> Tensor:
    """−log₂ p(x | class) of the images given the classes in their columns, bits/dim."""
    laws = LAWS[classes_of(images.columns)]
    return -laws.gather(1, images.pixels.flatten(1)).log2().mean(1)


def seen_through_noise(deviation: float, seed: int) -> Callable[[LevelImages], list[float]]:
    """Unbiased estimates of the bits/dim, as the strata of a bound are."""
    generator = torch.Generator().manual_seed(seed)

    def bits_of(images: LevelImages) -> list[float]:
        noise = torch.randn(len(images), generator=generator, dtype=torch.float64)
        return (bits_per_dim_of(images) + deviation * noise).tolist()

    return bits_of


def exact_without_the_class(images: LevelImages) -> Tensor:
    """−log₂ of the mixture of the laws, bits/dim."""
    by_class = LAWS[:, images.pixels.flatten(1)].prod(-1)  # [classes, N]
    return -(SHARES @ by_class).log2() / DIMENSIONS


def test_bayes_rule_on_likelihoods_that_are_known() -> None:
    # p(x | class) = 2^(−D bits): 1/2, 1/4, 1/8 for one image of 2 dimensions, with shares 1/4, 1/4, 1/2.
    bits, shares = torch.tensor([[0.5, 1.0, 1.5]], dtype=torch.float64), torch.tensor([0.25, 0.25, 0.5])
    posterior, without = bayes(bits, 2, shares)
    evidence = 0.125 + 0.0625 + 0.0625
    torch.testing.assert_close(posterior.exp2(), torch.tensor([[0.125, 0.0625, 0.0625]]).double() / evidence)
    assert without.item() == pytest.approx(-np.log2(evidence) / 2)


def test_without_noise_the_bound_without_the_class_is_exact() -> None:
    some = images(200)
    exact = seen_through_noise(0.0, 0)
    bits = bits_by_class(exact, some, 3)
    _, without = bayes(bits, DIMENSIONS, SHARES)
    torch.testing.assert_close(without, exact_without_the_class(some), rtol=1e-12, atol=1e-12)
    bound = bits_without_the_class(exact, some, bits, SHARES)
    # What is left out of the weights costs −log(1 − 2 · 10⁻³) at most.
    torch.testing.assert_close(bound, without, rtol=0, atol=0.003 / DIMENSIONS)
    assert bool((bound >= without - 1e-12).all())


def test_noise_does_not_take_the_bound_without_the_class_below_the_truth() -> None:
    many = images(6000)
    bits = bits_by_class(seen_through_noise(0.3, 1), many, 3)
    _, without = bayes(bits, DIMENSIONS, SHARES)
    truth = exact_without_the_class(many)
    too_low = without - truth
    assert too_low.mean() < -5 * standard_error(too_low)  # Bayes' rule on noisy bits is no bound
    excess = bits_without_the_class(seen_through_noise(0.3, 2), many, bits, SHARES) - truth
    assert excess.mean() > 3 * standard_error(excess)
    assert excess.mean() < 0.2  # for the weights, too, come from noisy bits


def test_unlikely_classes_are_not_scored_again() -> None:
    scored = []

    def bits_of(images: LevelImages) -> list[float]:
        scored.append((int(classes_of(images.columns)[0]), len(images)))
        return bits_per_dim_of(images).tolist()

    posterior = torch.tensor([[0.9995, 5e-4, 1e-9], [0.5, 1e-9, 0.5], [1.0, 1e-9, 1e-9]], dtype=torch.float64)
    three = images(3).with_columns(of_classes([0, 0, 1]))
    bound = bits_without_the_class(bits_of, three, -(posterior / SHARES).log2() / DIMENSIONS, SHARES)
    assert scored == [(0, 2), (1, 1), (2, 1)]  # the first is surely of its own class, the last of another
    assert bool(bound.isfinite().all())
