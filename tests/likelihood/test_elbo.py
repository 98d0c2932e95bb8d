# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The evidence lower bound, against models whose likelihood is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddpm_hf.diffusion.diagonal_gaussian import DiagonalGaussian
from ddpm_hf.likelihood import ElboBits, elbo_bits_per_dim
from ddpm_hf.likelihood.decoder_law import DecoderLaw
from ddpm_hf.likelihood.elbo import channels_of_note


LOG_2 = math.log(2)


class Lines:
    """z ~ N(0, 1), x = a z + s ε with one latent and D values of x: all is known, q(z | x) too (Bishop 2006, 12.2)."""

    num_levels = 65536

    def __init__(self, weights: Tensor, scale: float, widened: float = 1.0):
        self.weights, self.scale, self.widened = weights, scale, widened

    @property
    def precision(self) -> Tensor:
        return 1 + (self.weights**2).sum() / self.scale**2

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        mean = (x * self.weights).sum(dim=1, keepdim=True) / self.scale**2 / self.precision
        log_variance = torch.full_like(mean, -float(self.precision.log()) + 2 * math.log(self.widened))
        return DiagonalGaussian(mean, log_variance)

    def decode(self, z: Tensor) -> Tensor:
        return z * self.weights

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Of levels so dense that a density times the width of a bin is their probability."""
        off = (x - self.decode(z)) / self.scale
        width = math.log(2 / 65535)
        return (-0.5 * off**2 - math.log(self.scale) - 0.5 * math.log(2 * math.pi) + width).sum(dim=1)


def examples(model: Lines, count: int) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    z = torch.randn(count, 1, generator=draws, dtype=torch.float64)
    x = model.decode(z) + model.scale * torch.randn(count, len(model.weights), generator=draws, dtype=torch.float64)
    return ((x.clamp(-1, 1) + 1) / 2 * 65535).round() / 65535 * 2 - 1


def exact_bits(model: Lines, x: Tensor) -> float:
    """−log₂ p(x) per dimension: x is Gaussian."""
    covariance = torch.outer(model.weights, model.weights) + model.scale**2 * torch.eye(len(model.weights)).double()
    law = torch.distributions.MultivariateNormal(torch.zeros(len(model.weights)).double(), covariance)
    nats = -law.log_prob(x) - x.shape[1] * math.log(2 / 65535)
    return nats.mean().item() / x.shape[1] / LOG_2


WEIGHTS = torch.tensor([0.1, -0.05, 0.02], dtype=torch.float64)


@pytest.mark.parametrize("widened", [1.0, 1.5])
def test_the_bound_exceeds_the_likelihood_by_the_divergence_of_the_posterior(widened: float) -> None:
    model = Lines(WEIGHTS, 0.05, widened)
    x, generator = examples(model, 20_000), torch.Generator().manual_seed(1)
    found = elbo_bits_per_dim(model, [x[:5000], x[5000:]], generator=generator)
    divergence = (widened**2 - 1) / 2 - math.log(widened)  # KL between q and the true posterior, nats
    expected = exact_bits(model, x) + divergence / 3 / LOG_2
    # The noise of z alone: both sides are of the same x.
    error = math.sqrt(widened**4 / 2 * (1 - 1 / float(model.precision)) ** 2 + 1) / 3 / LOG_2 / math.sqrt(len(x))
    assert found.total == pytest.approx(expected, abs=5 * error)
    assert found.total == pytest.approx(found.reconstruction + found.kl)
    assert found.num_examples == len(found.per_example) == len(x)
    assert found.total == pytest.approx(sum(found.per_example) / len(x))


def test_the_kl_of_each_channel_is_that_of_torch() -> None:
    mean, log_variance = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(dim=(2, 3))
    kl = DiagonalGaussian(mean, log_variance).kl_by_channel()
    found = ElboBits.of(torch.zeros(5), kl, 12)
    assert found.kl_by_channel == pytest.approx(expected.mean(dim=0).tolist(), rel=1e-5)
    assert found.kl == pytest.approx(expected.sum(dim=1).mean().item() / 12 / LOG_2, rel=1e-5)


def test_parts_of_different_sizes_count_by_their_images() -> None:
    nats, kl = torch.rand(7), torch.rand(7, 2)
    whole = ElboBits.of(nats, kl, 10)
    merged = ElboBits.merged([ElboBits.of(nats[:2], kl[:2], 10), ElboBits.of(nats[2:], kl[2:], 10)])
    for name in ("total", "reconstruction", "kl", "standard_error", "kl_by_channel", "per_example"):
        assert getattr(merged, name) == pytest.approx(getattr(whole, name)), name


def test_collapsed_and_exploded_channels_are_named() -> None:
    assert channels_of_note([0.001, 5.0, 2000.0], elements=64) == ([0], [2])


def test_what_cannot_be_scored_is_refused() -> None:
    model = Lines(WEIGHTS, 0.05)
    with pytest.raises(ValueError, match="`batches` holds no examples"):
        elbo_bits_per_dim(model, [])
    with pytest.raises(ValueError, match="`parts` must be at least one bound"):
        ElboBits.merged([])
    with pytest.raises(ValueError, match="must have 3 channels, as the decoder's scale has"):
        DecoderLaw([0.0] * 3).log_likelihood(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
