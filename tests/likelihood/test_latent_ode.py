# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""latent_ode: the bound with the ODE's density of latents and of embeddings, against exact likelihoods.

With the optimal denoiser of Gaussian z the ODE's density is that of z with the noise of its first time. If q(z | x) is
the exact posterior under that density, the bound is the likelihood. All terms are quadratic in the noise of z, so that
noise of ±1, in all combinations, has the same expectation as Gaussian noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import LOG_2, Mixture, double
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from ddpm_hf.diffusion.diagonal_gaussian import DiagonalGaussian
from ddpm_hf.diffusion.gaussian_diffusion import GaussianDiffusion
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.likelihood import (
    EmbeddingModel,
    LatentOdeBitsPerDim,
    latent_ode_bits_per_dim,
    ode_bits_per_dim,
    unclip_ode_bits_per_dim,
)


EXACT = {"trace": "exact", "rtol": 1e-11, "atol": 1e-11, "method": "dopri8"}
DEVIATION = 0.3  # of x given z
X = double([[1.0, -2.0, 0.5], [0.0, 0.3, 0.2], [0.4, 0.1, -0.7]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


WEIGHTS = torch.linalg.qr(torch.randn(3, 2, generator=seeded(), dtype=torch.float64))[0] * double([1.5, 0.4])


def diffusion(log_snr_max: float, log_snr_min: float) -> GaussianDiffusion:
    schedule = NoiseSchedule.linear_log_snr(10, log_snr_max, log_snr_min)
    return GaussianDiffusion(schedule, range(1, 11), "sample", "fixed_small", num_levels=None)


def oracle(chain: GaussianDiffusion, std: float, of: Callable[..., Tensor | float]) -> Any:
    """The optimal prediction of x_0 ~ N(of(conditioning), std²), elementwise, also at real times."""
    data = Mixture.gaussian(0.0, std**2)

    def denoise(x_t: Tensor, timesteps: Tensor, **conditioning: Tensor) -> Tensor:
        mean = of(**conditioning)
        log_abar = chain.schedule.continuous.log_alpha_cumprod(timesteps.double() + 1).reshape(-1, 1).expand_as(x_t)
        centred = x_t.double() - torch.exp(0.5 * log_abar) * mean
        return data.denoise(centred.flatten(), log_abar.flatten()).view_as(x_t) + mean

    return denoise


class LinearGaussian:
    """x = W u + noise, z = (u − shift) · scale, and the exact posterior where u ~ N(0, width²)."""

    num_levels = None

    def __init__(self, width: float, scale: float = 1.0, shift: float = 0.0):
        self.width, self.scale, self.shift = width, scale, shift

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        precisions = WEIGHTS.square().sum(0) / DEVIATION**2 + 1 / self.width**2
        u = x @ WEIGHTS / DEVIATION**2 / precisions
        log_variance = 2 * math.log(self.scale) - precisions.log()
        return DiagonalGaussian((u - self.shift) * self.scale, log_variance.expand_as(u))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        u = z / self.scale + self.shift
        return Normal(u @ WEIGHTS.T, DEVIATION).log_prob(x).sum(1)

    def log_prob(self, x: Tensor) -> Tensor:
        covariance = self.width**2 * WEIGHTS @ WEIGHTS.T + DEVIATION**2 * torch.eye(3).double()
        return MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(x)


SIGNS = double(list(itertools.product((-1.0, 1.0), repeat=2)))  # the noise of z, in the rows of a batch


@pytest.fixture
def all_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddpm_hf.likelihood.latent_ode.randn_like", lambda like, _: SIGNS)


def rows(x: Tensor) -> Tensor:
    """One example `[1, D]`, once for each combination of signs."""
    return x.expand(len(SIGNS), -1)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.3, 2.0), (7.0, -0.5)])
def test_the_bound_of_the_exact_posterior_is_the_likelihood(all_signs: None, scale: float, shift: float) -> None:
    chain, mean = diffusion(4.0, -5.0), -shift * scale
    first_noise = math.exp(-0.5 * chain.schedule.log_snr[1].item())
    model = LinearGaussian(math.hypot(1.0, first_noise / scale), scale, shift)
    log_abar = chain.schedule.log_alphas_cumprod[-1]
    of_z = Mixture.gaussian(mean, scale**2)

    def log_prior(z_T: Tensor) -> Tensor:
        return of_z.log_density(z_T.flatten(), log_abar).view_as(z_T).sum(1)

    how = (oracle(chain, scale, lambda: mean), chain)
    parts = [latent_ode_bits_per_dim(*how, [rows(x)], model, log_prior=log_prior, **EXACT) for x in X[:, None]]
    for x, found in zip(X[:, None], parts, strict=True):
        assert found.total == pytest.approx(-model.log_prob(x).item() / LOG_2 / 3, abs=1e-9)
        assert found.total == pytest.approx(sum(found.parts.values()), abs=1e-12)
    together = latent_ode_bits_per_dim(*how, map(rows, X[:, None]), model, log_prior=log_prior, **EXACT)
    merged = LatentOdeBitsPerDim.merged(parts)
    assert (merged.num_examples, merged.per_example) == (12, together.per_example)
    assert merged.total == pytest.approx(together.total, abs=1e-12)
    assert merged.standard_error == pytest.approx(together.standard_error, abs=1e-12)
    assert merged.num_model_evaluations == together.num_model_evaluations


def test_another_posterior_costs_its_divergence() -> None:
    """On average over z, within five standard errors."""
    chain, count = diffusion(20.0, -20.0), 4000
    exact, wide = LinearGaussian(1.0), LinearGaussian(3.0)
    x = X[:1].expand(count, -1)
    how = {"generator": seeded(), "trace": "exact", "rtol": 1e-6, "atol": 1e-6}
    found = latent_ode_bits_per_dim(oracle(chain, 1.0, lambda: 0.0), chain, [x], wide, **how)
    q, p = wide.posterior(X[:1]), exact.posterior(X[:1])
    laws = (Normal(each.mean, (0.5 * each.log_variance).exp()) for each in (q, p))
    divergence = torch.distributions.kl_divergence(*laws).sum().item()
    expected = (divergence - exact.log_prob(X[:1]).item()) / LOG_2 / 3
    assert divergence > 0.01 and abs(found.total - expected) < 5 * found.standard_error + 1e-4


def test_embeddings_and_pictures_by_their_odes(all_signs: None) -> None:
    """z ~ N(text, 1), x ~ N(W z, .3²); the posterior is exact for text 0."""
    prior, decoder = diffusion(24.0, -40.0), diffusion(25.0, -39.0)
    model = LinearGaussian(1.0)
    embedding = EmbeddingModel(
        model.posterior,
        oracle(prior, 1.0, lambda text: text),
        prior,
        of_decoder=lambda z, conditioning: {"z": z},
        of_prior=lambda conditioning: {"text": conditioning["text"]},
    )
    denoise = oracle(decoder, DEVIATION, lambda z: z @ WEIGHTS.T)
    for x in X[:2, None]:
        batch = (rows(x), {"text": torch.zeros(4, 2, dtype=torch.float64)})
        found = unclip_ode_bits_per_dim(denoise, decoder, [batch], embedding, **EXACT)
        assert found.total == pytest.approx(-model.log_prob(x).item() / LOG_2 / 3, abs=1e-7)
    z = model.posterior(rows(x)).sample(SIGNS)
    alone = ode_bits_per_dim(denoise, decoder, [(rows(x), {"z": z})], **EXACT)
    assert found.reconstruction == pytest.approx(alone.total, abs=1e-9)
    assert found.num_model_evaluations > alone.num_model_evaluations  # both models' are counted


def test_no_examples_are_refused() -> None:
    chain = diffusion(4.0, -5.0)
    with pytest.raises(ValueError, match="`batches` holds no examples"):
        latent_ode_bits_per_dim(oracle(chain, 1.0, lambda: 0.0), chain, [], LinearGaussian(1.0))
