# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""diagonal_gaussian: entropy, density and divergence against torch.distributions, for examples of any shape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpm_hf.diffusion.diagonal_gaussian import DiagonalGaussian


SHAPES = [(3, 2), (3, 2, 5), (2, 3, 4, 4), (2, 3, 2, 4, 4)]


def of_shape(*shape: int) -> tuple[DiagonalGaussian, Normal]:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return DiagonalGaussian(mean, 3 * log_variance), Normal(mean, (1.5 * log_variance).exp())


def summed(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).sum(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_over_every_element_of_an_example(shape: tuple[int, ...]) -> None:
    ours, theirs = of_shape(*shape)
    z = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(ours.entropy(), summed(theirs.entropy()), rtol=1e-13, atol=0)
    torch.testing.assert_close(ours.log_prob(z), summed(theirs.log_prob(z)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_divergence_is_by_channel(shape: tuple[int, ...]) -> None:
    ours, theirs = of_shape(*shape)
    kl = kl_divergence(theirs, Normal(torch.zeros(shape, dtype=torch.float64), 1.0))
    torch.testing.assert_close(ours.kl_by_channel(), kl.reshape(*shape[:2], -1).sum(2), rtol=1e-12, atol=1e-14)


def test_the_divergence_of_almost_equal_laws_keeps_its_digits() -> None:
    off = torch.full((1, 1), 1e-9, dtype=torch.float64)  # KL = m²/2 + l²/4 + …
    kl = DiagonalGaussian(off, 2 * off).kl_by_channel()
    torch.testing.assert_close(kl, torch.full((1, 1), 1.5e-18, dtype=torch.float64), rtol=1e-7, atol=0)


def test_samples_have_the_mean_and_the_variance_and_pass_gradients() -> None:
    mean, log_variance = (torch.full((1, 2), value, requires_grad=True) for value in (0.5, -2.0))
    q = DiagonalGaussian(mean, log_variance)
    noise = torch.tensor([[1.0, -2.0]])
    z = q.sample(noise)
    torch.testing.assert_close(z, 0.5 + torch.exp(torch.tensor(-1.0)) * noise)
    (q.entropy() + z.sum()).sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(1, 2))
    torch.testing.assert_close(log_variance.grad, 0.5 + 0.5 * torch.exp(torch.tensor(-1.0)) * noise)


def test_parameters_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`log_variance` of shape \[2\] does not fit"):
        DiagonalGaussian(torch.zeros(2, 3), torch.zeros(2))
