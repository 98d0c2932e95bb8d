# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""decoder_law: p(x | z) against the normal distribution's bins, and its scale against what made the images."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import logistic, norm
from torch import Tensor

from ddpm_hf.diffusion.diagonal_gaussian import DiagonalGaussian
from ddpm_hf.likelihood.decoder_law import DecoderLaw, measured_decoder_scale


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def levels_of(x: Tensor, num_levels: int) -> Tensor:
    return ((x.clamp(-1, 1) + 1) / 2 * (num_levels - 1)).round() * 2 / (num_levels - 1) - 1


def cost(x: Tensor, reconstruction: Tensor, log_scale: float, num_levels: int) -> float:
    """−log P of levels by scipy, per element."""
    half, scale = 1 / (num_levels - 1), math.exp(log_scale)
    above = torch.where(x > 1 - half, math.inf, x + half)
    below = torch.where(x < -1 + half, -math.inf, x - half)
    upper, lower = (norm.cdf(edge, reconstruction, scale) for edge in (above.numpy(), below.numpy()))
    return -float(torch.log(torch.as_tensor(upper - lower).clamp(min=1e-300)).mean())


@pytest.mark.parametrize("shape", [(3, 2, 4), (3, 2, 4, 4), (3, 2, 2, 4, 4)])
def test_every_channel_has_its_own_scale(shape: tuple[int, ...]) -> None:
    generator = seeded()
    reconstruction = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    x = levels_of(reconstruction + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64), 17)
    law = DecoderLaw([-1.0, -2.0], 17)
    got = law.log_likelihood(x, reconstruction)
    assert got.shape == (3,) and law.scale == [math.exp(-1), math.exp(-2)]
    for example, of_example in zip(got, zip(x, reconstruction, strict=True), strict=True):
        parts = zip(*of_example, law.log_scale, strict=True)
        expected = -sum(cost(*part, 17) * x[0, 0].numel() for part in parts)
        assert example.item() == pytest.approx(expected, rel=1e-10)


def test_a_learned_scale_has_a_gradient_and_is_recorded_as_numbers() -> None:
    log_scale = torch.tensor([-1.0, -1.0], requires_grad=True)
    law = DecoderLaw(log_scale, 17)
    x = levels_of(torch.rand(2, 2, 3, generator=seeded()) * 2 - 1, 17)
    law.log_likelihood(x, torch.zeros_like(x)).sum().backward()
    assert log_scale.grad is not None and bool((log_scale.grad != 0).all())
    assert law.numbers == [-1.0, -1.0]


@pytest.mark.parametrize(("noise", "num_levels"), [(0.2, 256), (0.004, 256), (0.5, 5)])
def test_the_scale_is_the_one_of_highest_likelihood(noise: float, num_levels: int) -> None:
    generator = seeded()
    mean = 2.4 * torch.rand(20000, 1, generator=generator, dtype=torch.float64) - 1.2
    x = levels_of(mean + noise * torch.randn(mean.shape, generator=generator, dtype=torch.float64), num_levels)
    (fitted,) = DecoderLaw.fitted(x, mean, num_levels).numbers
    best = minimize_scalar(lambda s: cost(x, mean, s, num_levels), bounds=(math.log(noise) - 2, math.log(noise) + 1))
    assert fitted == pytest.approx(best.x, abs=1e-3)
    assert fitted == pytest.approx(math.log(noise), abs=0.03)  # what made the images, within its standard error


@pytest.mark.parametrize(("family", "distribution"), [("gaussian", norm), ("logistic", logistic)])
def test_the_channels_of_a_pixel_share_the_component_of_a_mixture(family: str, distribution: Any) -> None:
    generator = seeded()
    found = torch.rand(3, 2, 4, 5, generator=generator, dtype=torch.float64) - 0.5
    x = levels_of(found + 0.1 * torch.randn(found.shape, generator=generator, dtype=torch.float64), 17)
    log_scale, log_weight = [[-1.0, -1.5], [-2.5, -2.0], [-3.0, -3.5]], [0.0, 1.0, -2.0]
    law = DecoderLaw(log_scale, 17, log_weight, family)
    half, weights = 1 / 16, np.exp(log_weight) / np.exp(log_weight).sum()
    upper = np.where(x > 1 - half, math.inf, x + half)
    lower = np.where(x < -1 + half, -math.inf, x - half)
    mixed = np.zeros((3, 4, 5))
    for weight, row in zip(weights, log_scale, strict=True):
        scales = np.exp(row).reshape(2, 1, 1)
        bins = distribution.cdf(upper, found, scales) - distribution.cdf(lower, found, scales)
        mixed += weight * bins.prod(axis=1)
    assert law.log_likelihood(x, found).numpy() == pytest.approx(np.log(mixed).sum(axis=(1, 2)), rel=1e-9)
    variance = sum(w * np.exp(2 * np.array(row)) for w, row in zip(weights, log_scale, strict=True))
    assert law.scale == pytest.approx(distribution.std() * np.sqrt(variance))
    assert law.num_components == 3 and law.num_channels == 2


def test_one_component_is_the_single_law_and_a_mixture_learns() -> None:
    x = levels_of(torch.rand(2, 2, 3, generator=seeded()) * 2 - 1, 17)
    found = torch.zeros_like(x)
    single, mixed = DecoderLaw([-1.0, -2.0], 17), DecoderLaw([[-1.0, -2.0]], 17, [0.3])
    assert torch.equal(single.log_likelihood(x, found), mixed.log_likelihood(x, found))
    log_scale = torch.tensor([[-1.0, -1.0], [-3.0, -3.0]], requires_grad=True)
    log_weight = torch.zeros(2, requires_grad=True)
    law = DecoderLaw(log_scale, 17, log_weight, "logistic")
    law.log_likelihood(x, found).sum().backward()
    assert bool((log_scale.grad != 0).all()) and bool((log_weight.grad != 0).all())
    assert log_weight.grad.sum().abs() < 1e-6  # a constant added to all of them changes nothing
    assert len(law.scale) == 2


@pytest.mark.parametrize(
    "law", [DecoderLaw([-1.0], 17), DecoderLaw([-1.0, -2.0], 17, None, "logistic"), DecoderLaw([[-1.0]], 4, [0.5])]
)
def test_a_configuration_restores_it(law: DecoderLaw) -> None:
    again = DecoderLaw(**json.loads(json.dumps(law.config)))
    assert again.config == law.config
    assert ("family" in law.config) == (law.family != "gaussian")  # as earlier versions wrote it


def test_images_that_are_reconstructed_exactly_cost_nothing() -> None:
    x = levels_of(torch.rand(50, 2, 4, generator=seeded()).double() * 2 - 1, 256)
    law = DecoderLaw.fitted(x, x)
    assert all(math.isfinite(value) for value in law.numbers)
    assert law.log_likelihood(x, x).abs().max() < 1e-12


@dataclass
class Doubling:
    """z = x/2 with a little noise; x̂ = 2z, so that the error of the reconstruction is 2σ in the first channel."""

    deviation: float = 0.1

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        log_variance = torch.full_like(x, 2 * math.log(self.deviation))
        log_variance[:, 1] -= 2 * math.log(10.0)
        return DiagonalGaussian(x / 2, log_variance)

    def decode(self, z: Tensor) -> Tensor:
        return 2 * z


def test_the_scale_of_an_autoencoder_is_measured_through_its_posterior() -> None:
    x = levels_of(torch.rand(64, 2, 6, 6, generator=seeded()) - 0.5, 256)
    law = measured_decoder_scale(Doubling(), x.split(10), generator=seeded(1))
    assert law.numbers == pytest.approx([math.log(0.2), math.log(0.02)], abs=0.05)
    again = measured_decoder_scale(Doubling(), x.split(10), generator=seeded(1))
    assert again.numbers == law.numbers


def test_the_scale_of_large_images_is_measured_on_some_of_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddpm_hf.likelihood.decoder_law.PIXELS_OF_AN_IMAGE", 100)
    monkeypatch.setattr("ddpm_hf.likelihood.decoder_law.ELEMENTS_OF_A_CHANNEL", 500)
    seen = []
    monkeypatch.setattr(DecoderLaw, "fitted", lambda x, *_: seen.append(x))
    measured_decoder_scale(Doubling(), [levels_of(torch.rand(8, 2, 16, 16, generator=seeded()) - 0.5, 256)])
    assert [tuple(x.shape) for x in seen] == [(500, 2)]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`log_scale` must hold one finite number per channel, but is"):
        DecoderLaw([0.0, math.nan])
    with pytest.raises(ValueError, match="`log_scale` must hold"):
        DecoderLaw(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="`log_scale` must hold one finite number per channel for each component"):
        DecoderLaw([[0.0, 1.0], [0.0]], 256, [0.0, 0.0])
    with pytest.raises(ValueError, match="`log_weight` must hold one finite number for each of 2 components"):
        DecoderLaw([[0.0], [0.0]], 256, [0.0])
    with pytest.raises(ValueError, match="`family` must be one of 'gaussian', 'logistic', but is 'normal'"):
        DecoderLaw([0.0], family="normal")
    with pytest.raises(ValueError, match="`num_levels` of an autoencoder's images must be an int >= 2, but is None"):
        DecoderLaw([0.0], None)
    with pytest.raises(ValueError, match="must have 2 channels, as the decoder's scale has, but have 3"):
        DecoderLaw([0.0, 0.0]).log_likelihood(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"must have the shape of the images, \[1, 3, 2, 2\], but has \[1, 3, 2, 1\]"):
        DecoderLaw([0.0] * 3).log_likelihood(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 1))
    with pytest.raises(ValueError, match="`batches` holds no examples"):
        measured_decoder_scale(Doubling(), [])
