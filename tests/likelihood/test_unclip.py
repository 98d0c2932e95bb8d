# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""unclip: the bound against the exact likelihood of a chain of Gaussians, text → embedding → picture.

z = text + noise, x = W z + noise, and q(z | x) is the exact posterior given the text, or the one of an encoder that
does not know the text. Both diffusions are optimal with zero terminal SNR, so that their bounds, and the weight of
every path, are exact; see test_latents.py.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from oracles import Mixture, double, optimal_log_variance
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from ddpm_hf.diffusion.diagonal_gaussian import DiagonalGaussian
from ddpm_hf.diffusion.gaussian_diffusion import GaussianDiffusion
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.likelihood import (
    DiffusionDecoder,
    EmbeddingModel,
    LatentBitsPerDim,
    by_bound,
    by_path,
    unclip_bits_per_dim,
    unclip_importance_weighted_bits_per_dim,
)


LOG_2 = math.log(2.0)
WIDTH, PIXELS = 2, 3  # of an embedding, and of a picture
PRIOR_STD, PIXEL_STD = 0.7, 0.3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain(*betas: float) -> GaussianDiffusion:
    """A chain whose last β is 1."""
    return GaussianDiffusion(
        NoiseSchedule.from_betas([*betas, 1.0]), range(1, len(betas) + 2), "sample", "learned", num_levels=None
    )


def oracle(diffusion: GaussianDiffusion, means: Tensor, std: float) -> Any:
    """The optimal prediction of x_0 ~ N(means, std²), elementwise, and the optimal log-variance."""
    data = Mixture.gaussian(0.0, std**2)
    log_abars = diffusion.schedule.log_alphas_cumprod[[0, *diffusion.times]]
    variances = optimal_log_variance(log_abars, data.mmse(log_abars[1:]))

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        log_abar = diffusion.schedule.log_alphas_cumprod[timesteps + 1]
        centred = x_t.double() - torch.exp(0.5 * log_abar)[:, None] * means
        x_0 = data.denoise(centred.flatten(), log_abar.repeat_interleave(x_t[0].numel())).reshape(x_t.shape) + means
        log_variance = variances[torch.searchsorted(torch.tensor(diffusion.times), timesteps + 1)]
        return torch.cat([x_0, log_variance[:, None].expand_as(x_0)], dim=1)

    return denoise


@dataclass
class LinearGaussian:
    """z ~ N(text, .7²), x ~ N(W z, .3²), where W has orthogonal columns; q(z | x) is the posterior for text 0.

    Attributes:
        off: of the mean of q(z | x) from the exact one.
    """

    off: float = 0.0

    @property
    def weights(self) -> Tensor:  # [PIXELS, WIDTH]
        q, _ = torch.linalg.qr(torch.randn(PIXELS, WIDTH, generator=seeded(), dtype=torch.float64))
        return q * double([1.5, 0.4])

    def posterior_given(self, x: Tensor, text: Tensor) -> DiagonalGaussian:
        precisions = self.weights.square().sum(0) / PIXEL_STD**2 + 1 / PRIOR_STD**2
        mean = (x @ self.weights / PIXEL_STD**2 + text / PRIOR_STD**2) / precisions
        return DiagonalGaussian(mean + self.off, -precisions.log().expand_as(mean))

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        return self.posterior_given(x, torch.zeros(len(x), WIDTH, dtype=torch.float64))

    def log_prob(self, x: Tensor, text: Tensor) -> Tensor:
        """The exact log p(x | text), `[B]`."""
        weights = self.weights
        covariance = PRIOR_STD**2 * weights @ weights.T + PIXEL_STD**2 * torch.eye(PIXELS).double()
        return MultivariateNormal(text @ weights.T, covariance).log_prob(x)


PRIOR, DECODER = chain(0.1, 0.4), chain(0.2, 0.3, 0.5)


def told(diffusion: GaussianDiffusion, std: float, of: Any) -> Any:
    """A denoiser whose data have the mean of(conditioning)."""
    return lambda x_t, timesteps, **conditioning: oracle(diffusion, of(**conditioning), std)(x_t, timesteps)


def embedding_of(model: LinearGaussian) -> EmbeddingModel:
    return EmbeddingModel(
        model.posterior,
        told(PRIOR, PRIOR_STD, lambda text: text),
        PRIOR,
        of_decoder=lambda z, conditioning: {"z": z, "style": conditioning["style"]},
        of_prior=lambda conditioning: {"text": conditioning["text"]},
    )


def decoder_of(model: LinearGaussian) -> Any:
    return told(DECODER, PIXEL_STD, lambda z, style: z @ model.weights.T + style)


def batch(count: int = 5) -> tuple[Tensor, dict[str, Tensor]]:
    x = torch.randn(count, PIXELS, generator=seeded(1), dtype=torch.float64)
    text = torch.randn(count, WIDTH, generator=seeded(2), dtype=torch.float64)
    return x, {"text": text, "style": torch.zeros(count, 1, dtype=torch.float64)}


def expected_bound(
    model: LinearGaussian, x: Tensor, text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> LatentBitsPerDim:
    """The bound of one picture `[1, PIXELS]`, exactly.

    Every term is quadratic in the noise of z, z_t and x_t, so that noise of ±1 in all combinations has the same
    expectation as Gaussian noise: here the rows of a batch have those of z, and whole bounds those of the others.
    """
    of_z = double(list(itertools.product((-1.0, 1.0), repeat=WIDTH)))
    monkeypatch.setattr("ddpm_hf.likelihood.latents.randn_like", lambda like, _: of_z)
    parts = []
    for signs in itertools.product((-1.0, 1.0), repeat=PIXELS):
        noise = double(signs)
        monkeypatch.setattr(
            "ddpm_hf.likelihood.variational.randn_like",
            lambda like, _, noise=noise: noise[: like.shape[1]].expand(like.shape),
        )
        conditioning = {"text": text.expand(len(of_z), -1), "style": torch.zeros(len(of_z), 1).double()}
        rows = x.expand(len(of_z), -1)
        parts.append(unclip_bits_per_dim(decoder_of(model), DECODER, [(rows, conditioning)], embedding_of(model)))
    return LatentBitsPerDim.merged(parts)


@pytest.mark.parametrize("off", [0.0, 0.4])
def test_the_bound_is_the_likelihood_but_for_the_divergence_of_the_posterior(
    off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LinearGaussian(off)
    for text in (double([[0.0, 0.0]]), double([[0.5, -1.0]])):
        x = double([[1.0, -2.0, 0.5]])
        q, p = model.posterior(x), LinearGaussian().posterior_given(x, text)
        laws = (Normal(each.mean, (0.5 * each.log_variance).exp()) for each in (q, p))
        divergence = torch.distributions.kl_divergence(*laws).sum()
        bound = expected_bound(model, x, text, monkeypatch)
        exact = (divergence - model.log_prob(x, text)).item() / LOG_2 / PIXELS
        assert bound.total == pytest.approx(exact, abs=1e-10)
        assert bound.total == pytest.approx(bound.reconstruction + bound.posterior_entropy + bound.latent, abs=1e-12)


def test_the_bits_of_an_embedding_are_the_divergence_from_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, text = LinearGaussian(), double([[1.0, -2.0, 0.5]]), double([[0.5, -1.0]])
    q = model.posterior(x)
    laws = (Normal(q.mean, (0.5 * q.log_variance).exp()), Normal(text, PRIOR_STD))
    divergence = torch.distributions.kl_divergence(*laws).sum().item() / LOG_2
    bound = expected_bound(model, x, text, monkeypatch)
    assert PIXELS * (bound.posterior_entropy + bound.latent) == pytest.approx(divergence, abs=1e-10)


def test_every_path_of_the_exact_posterior_weighs_the_likelihood() -> None:
    model, (x, conditioning) = LinearGaussian(), batch()
    conditioning["text"] = torch.zeros_like(conditioning["text"])  # for which the posterior is exact
    result = unclip_importance_weighted_bits_per_dim(
        decoder_of(model), DECODER, [(x, conditioning)], embedding_of(model), num_paths=3, generator=seeded()
    )
    expected = -model.log_prob(x, conditioning["text"]) / LOG_2 / PIXELS
    torch.testing.assert_close(double(result.per_example), expected, rtol=0, atol=1e-10)
    assert result.num_model_evaluations == 5 * 3 * (4 + 3)


def test_many_weighted_paths_of_another_posterior_approach_the_likelihood() -> None:
    model, (x, conditioning) = LinearGaussian(), batch(1)
    rows = {name: value.expand(4000, -1) for name, value in conditioning.items()}
    result = unclip_importance_weighted_bits_per_dim(
        decoder_of(model), DECODER, [(x.expand(4000, -1), rows)], embedding_of(model), num_paths=1, generator=seeded()
    )
    ratios = torch.exp(-LOG_2 * PIXELS * double(result.per_example) - model.log_prob(x, conditioning["text"]))
    assert abs(ratios.mean().item() - 1) < 5 * ratios.std().item() / math.sqrt(len(ratios))


def test_calls_of_both_models_are_counted_and_estimates_agree() -> None:
    model, (x, conditioning) = LinearGaussian(), batch(400)
    how = (decoder_of(model), DECODER, [(x, conditioning)], embedding_of(model))
    whole = unclip_bits_per_dim(*how, num_latents=2, generator=seeded())
    assert whole.num_model_evaluations == 400 * 2 * (4 + 3)
    few = unclip_bits_per_dim(*how, num_evaluations=2, prior_num_evaluations=2, generator=seeded(5))
    assert few.num_model_evaluations == 400 * (2 + 2)
    exact = -model.log_prob(x, conditioning["text"])
    gaps = double(whole.per_example) - exact / LOG_2 / PIXELS
    assert gaps.mean() > 0
    difference = double(few.per_example) - double(whole.per_example)
    assert abs(difference.mean()) < 5 * difference.std() / 20


def test_a_decoder_alone_is_a_latent_model() -> None:
    model, (x, conditioning) = LinearGaussian(), batch()
    z = model.posterior(x).mean
    estimates = (by_bound(decoder_of(model), DECODER, generator=seeded()), by_path(decoder_of(model), DECODER))
    exact = Normal(z @ model.weights.T, PIXEL_STD).log_prob(x).sum(1)
    for estimate in estimates:
        given = {"style": conditioning["style"]}
        decoder = DiffusionDecoder(model.posterior, None, lambda z, given=given: {"z": z, **given}, estimate)
        found = decoder.log_likelihood(x, z)
        assert decoder.num_model_evaluations == len(x) * len(DECODER.times)
        assert found.shape == exact.shape and abs((found - exact).mean()) < 2
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-10)  # of any path


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, PIXELS)]])
def test_no_examples_are_refused(batches: list[Tensor]) -> None:
    model = LinearGaussian()
    with pytest.raises(ValueError, match="`batches` holds no examples"):
        unclip_bits_per_dim(decoder_of(model), DECODER, batches, embedding_of(model))
