# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""latents: the bound against exact likelihoods, of probabilistic PCA and of mixtures in latent space.

For Gaussian latents the optimal chain with zero terminal SNR is exact: its reverse process is the forward process run
backwards, so that its bound is −log N(z; m, s²) for every z, and so is every path's weight. All terms are then
quadratic in the noise of z and of x_t, and noise of ±1, in all combinations, has the same expectation as Gaussian
noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from oracles import Mixture, double, optimal_log_variance
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from ddpm_hf.diffusion.denoiser import Denoiser
from ddpm_hf.diffusion.diagonal_gaussian import DiagonalGaussian
from ddpm_hf.diffusion.gaussian_diffusion import GaussianDiffusion
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.likelihood import (
    DecoderLaw,
    LatentBitsPerDim,
    bits_per_dim,
    information_of,
    latent_bits_per_dim,
    latent_importance_weighted_bits_per_dim,
    latent_log_weights,
    log_path_weights,
)


LOG_2 = math.log(2.0)
SCALES = [(1.0, 0.0), (0.3, 2.0), (7.0, -0.5)]  # of the latents, and shifts


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- probabilistic PCA (Tipping & Bishop 1999) ----------------------------------------------------------------------


@dataclass
class ProbabilisticPCA:
    """x = W u + μ + noise of deviation σ, with u ~ N(0, I) and z = (u − shift) · scale.

    W has orthogonal columns of different lengths, so that the exact posterior of u is diagonal, and not isotropic.
    """

    weights: Tensor  # [D, d]
    mean: Tensor  # [D]
    deviation: float
    scale: float = 1.0
    shift: float = 0.0
    off: float = 0.0  # of the posterior's mean, and of its log-variance, from the exact ones
    num_levels: int | None = None

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        precisions = self.weights.square().sum(0) + self.deviation**2
        u = (x - self.mean) @ self.weights / precisions
        log_variance = (self.deviation**2 / precisions).log() + 2 * math.log(self.scale)
        mean = (u + self.off - self.shift) * self.scale
        return DiagonalGaussian(mean, log_variance.expand_as(u) + self.off)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        u = z / self.scale + self.shift
        return Normal(u @ self.weights.T + self.mean, self.deviation).log_prob(x).sum(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """The exact log p(x), `[B]`."""
        covariance = self.weights @ self.weights.T + self.deviation**2 * torch.eye(len(self.mean)).double()
        return MultivariateNormal(self.mean, covariance).log_prob(x)

    @property
    def latents(self) -> Mixture:
        """The marginal of each element of z."""
        return Mixture.gaussian(-self.shift * self.scale, self.scale**2)


def pca(**options: Any) -> ProbabilisticPCA:
    weights = torch.linalg.qr(torch.randn(3, 2, generator=seeded(), dtype=torch.float64))[0] * double([1.5, 0.4])
    return ProbabilisticPCA(weights, double([0.3, -0.2, 0.1]), 0.3, **options)


def exact_chain(times: tuple[int, ...] = (1, 2, 3, 4), num_levels: int | None = None) -> GaussianDiffusion:
    schedule = NoiseSchedule.from_betas([0.1, 0.3, 0.6, 1.0])
    return GaussianDiffusion(schedule, times, "sample", "learned", num_levels=num_levels)


def oracle(diffusion: GaussianDiffusion, data: Mixture) -> Denoiser:
    """The optimal prediction of x_0, and the optimal log-variance, for data whose elements are independent."""
    log_abars = diffusion.schedule.log_alphas_cumprod[[0, *diffusion.times]]
    variances = optimal_log_variance(log_abars, data.mmse(log_abars[1:]))

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        log_abar = diffusion.schedule.log_alphas_cumprod[timesteps + 1].repeat_interleave(x_t[0].numel())
        x_0 = data.denoise(x_t.double().flatten(), log_abar).reshape(x_t.shape)
        index = torch.searchsorted(torch.tensor(diffusion.times), timesteps + 1)
        log_variance = variances[index].reshape(-1, *[1] * (x_t.ndim - 1)).expand_as(x_0)
        return torch.cat([x_0, log_variance], dim=1)

    return denoise


class Signs:
    """Noise of ±1 for one example in a batch: z takes all combinations, and x_t those that the counter tells."""

    def __init__(self, d: int):
        self.of_z, self.of_x_t = (double(list(itertools.product((-1.0, 1.0), repeat=d))) for _ in range(2))

    def batches(self, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tensor]:
        """The example as often as z has combinations, once for each combination of the noise of x_t."""
        monkeypatch.setattr("ddpm_hf.likelihood.latents.randn_like", lambda like, _: self.of_z)
        for signs in self.of_x_t:
            noise = signs.expand_as(self.of_z)
            monkeypatch.setattr("ddpm_hf.likelihood.variational.randn_like", lambda like, _, noise=noise: noise)
            yield x.expand(len(self.of_z), -1)


def expected_bound(
    model: ProbabilisticPCA, diffusion: GaussianDiffusion, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> LatentBitsPerDim:
    """The bound of one example `[1, D]`, exactly."""
    batches = Signs(model.weights.shape[1]).batches(x, monkeypatch)
    return latent_bits_per_dim(oracle(diffusion, model.latents), diffusion, batches, model)


@pytest.mark.parametrize("times", [(1, 2, 3, 4), (2, 4)])
@pytest.mark.parametrize(("scale", "shift"), SCALES)
def test_the_bound_of_the_exact_posterior_is_the_likelihood(
    scale: float, shift: float, times: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pca(scale=scale, shift=shift)
    for x in double([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]])[:, None]:
        bound = expected_bound(model, exact_chain(times), x, monkeypatch)
        assert bound.total == pytest.approx(-model.log_prob(x).item() / LOG_2 / 3, abs=1e-10)


@pytest.mark.parametrize(("scale", "shift"), SCALES)
def test_another_posterior_costs_its_divergence_from_the_exact_one(
    scale: float, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, exact = pca(scale=scale, shift=shift, off=0.4), pca()
    x = double([[1.0, -2.0, 0.5]])
    q, p = pca(off=0.4).posterior(x), exact.posterior(x)
    laws = (Normal(each.mean, (0.5 * each.log_variance).exp()) for each in (q, p))
    divergence = torch.distributions.kl_divergence(*laws).sum()
    bound = expected_bound(model, exact_chain(), x, monkeypatch)
    assert bound.total == pytest.approx((divergence - exact.log_prob(x)).item() / LOG_2 / 3, abs=1e-10)


@pytest.mark.parametrize(("scale", "shift"), SCALES)
def test_every_path_of_the_exact_posterior_weighs_the_likelihood(scale: float, shift: float) -> None:
    model, diffusion = pca(scale=scale, shift=shift), exact_chain()
    x = torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
    denoise = oracle(diffusion, model.latents)
    weights = latent_log_weights(denoise, diffusion, x, model, generator=seeded(1))
    torch.testing.assert_close(weights, model.log_prob(x), rtol=0, atol=1e-10)
    result = latent_importance_weighted_bits_per_dim(denoise, diffusion, [x[:2], x[2:]], model, num_paths=3)
    expected = -model.log_prob(x) / LOG_2 / 3
    torch.testing.assert_close(double(result.per_example), expected, rtol=0, atol=1e-10)
    assert result.num_model_evaluations == 5 * 3 * 4


def test_the_mean_of_the_weights_is_the_likelihood() -> None:
    """Of a posterior that is not exact, within five standard errors."""
    model, diffusion, count = pca(off=0.3), exact_chain(), 20000
    x = double([[1.0, -2.0, 0.5]])
    weights = latent_log_weights(oracle(diffusion, model.latents), diffusion, x.expand(count, -1), model)
    ratios = (weights - model.log_prob(x)).exp()
    assert abs(ratios.mean().item() - 1) < 5 * ratios.std().item() / math.sqrt(count)


@pytest.mark.parametrize(("scale", "shift"), SCALES[1:])
def test_scale_and_shift_change_the_parts_but_not_the_total(scale: float, shift: float) -> None:
    """Draw for draw: the same noise of z, and a chain of one step, whose bound does not depend on noise."""
    x = torch.randn(6, 3, generator=seeded(), dtype=torch.float64)
    chain = GaussianDiffusion(NoiseSchedule.from_betas([1.0]), [1], "sample", "learned", num_levels=None)
    models = (pca(off=0.3), pca(scale=scale, shift=shift, off=0.3))
    plain, scaled = (
        latent_bits_per_dim(oracle(chain, each.latents), chain, [x], each, generator=seeded(1)) for each in models
    )
    torch.testing.assert_close(double(scaled.per_example), double(plain.per_example), rtol=0, atol=1e-12)
    assert scaled.reconstruction == pytest.approx(plain.reconstruction, abs=1e-12)
    shared = 2 * math.log2(scale) / 3
    assert scaled.posterior_entropy == pytest.approx(plain.posterior_entropy - shared, abs=1e-12)
    assert scaled.latent == pytest.approx(plain.latent + shared, abs=1e-12)


# --- other shapes, and a mixture ------------------------------------------------------------------------------------


@dataclass
class Elementwise:
    """z = x + noise of deviation s, by channel, and x = z + noise of deviation σ, in any shape."""

    posterior_deviations: Tensor  # [C]
    deviation: float
    num_levels: int | None = None

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        log_variance = 2 * self.posterior_deviations.log().reshape(-1, *[1] * (x.ndim - 2))
        return DiagonalGaussian(x, log_variance.expand_as(x))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return Normal(z, self.deviation).log_prob(x).flatten(1).sum(1)


def test_latents_of_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """[B, C, F, H, W], an anisotropic posterior, a chain of one step: every part in closed form."""
    model = Elementwise(double([0.1, 0.5]), 0.3)
    data = Mixture.gaussian(0.2, 0.7)
    chain = GaussianDiffusion(NoiseSchedule.from_betas([1.0]), [1], "sample", "learned", num_levels=None)
    x, noise = (torch.randn(3, 2, 2, 4, 3, generator=seeded(k), dtype=torch.float64) for k in range(2))
    monkeypatch.setattr("ddpm_hf.likelihood.latents.randn_like", lambda like, _: noise)
    bound = latent_bits_per_dim(oracle(chain, data), chain, [x], model)
    deviations = double([0.1, 0.5]).reshape(1, 2, 1, 1, 1)
    z = x + deviations * noise
    bits = {
        "reconstruction": -Normal(z, 0.3).log_prob(x),
        "posterior_entropy": -Normal(z, deviations.expand_as(z)).entropy(),
        "latent": -Normal(double(0.2), math.sqrt(0.7)).log_prob(z),
    }
    for name, nats in bits.items():
        assert getattr(bound, name) == pytest.approx(nats.mean().item() / LOG_2, abs=1e-12), name
    per_example = sum(bits.values()).flatten(1).mean(1) / LOG_2
    torch.testing.assert_close(double(bound.per_example), per_example, rtol=0, atol=1e-12)


MIXTURE = Mixture.of((0.3, -0.7, 0.2), (0.7, 0.4, 0.3))


def mixture_log_prob(x: Tensor, deviation: float) -> Tensor:
    """log p(x) of x = z + noise, z of the mixture."""
    variances = MIXTURE.variances + deviation**2
    return torch.logsumexp(MIXTURE.weights.log() + Normal(MIXTURE.means, variances.sqrt()).log_prob(x[:, None]), dim=1)


def fine_chain(T: int = 100) -> GaussianDiffusion:
    schedule = NoiseSchedule.linear_log_snr(T, 9.0, -9.0)
    return GaussianDiffusion(schedule, range(1, T + 1), "sample", "learned", num_levels=None)


def test_a_mixture_in_latent_space() -> None:
    """Over its own data: the bound is −log p(x) + KL(q ‖ p(z|x)), by quadrature, and the small gap of the chain."""
    model, chain, generator = Elementwise(double([0.18]), 0.15), fine_chain(), seeded()
    component = torch.multinomial(MIXTURE.weights, 20000, replacement=True, generator=generator)
    deviations = (MIXTURE.variances[component] + 0.15**2).sqrt()
    x = MIXTURE.means[component] + deviations * torch.randn(20000, generator=generator, dtype=torch.float64)
    x, truth = x[:, None], -mixture_log_prob(x, 0.15) / LOG_2
    steps = torch.linspace(-7, 7, 201, dtype=torch.float64)  # of (z − x)/0.18
    z = x + 0.18 * steps
    log_joint = Normal(z, 0.15).log_prob(x) + MIXTURE.log_density(z.flatten(), double(0.0)).reshape(z.shape)
    log_q = Normal(x, 0.18).log_prob(z)
    expected = ((log_q - log_joint) * log_q.exp()).sum(1) * 0.18 * 14 / 200 / LOG_2
    denoise = oracle(chain, MIXTURE)
    bound = latent_bits_per_dim(denoise, chain, [x], model, num_evaluations=8, generator=generator)
    paths = latent_importance_weighted_bits_per_dim(
        denoise, chain, [x[:500]], model, num_paths=16, generator=generator
    )
    for result, exact in ((bound, expected), (paths, truth[:500])):
        over = double(result.per_example) - exact
        error = over.std().item() / math.sqrt(result.num_examples)
        assert error < 0.02 and -4 * error < over.mean().item() < 0.03 + 4 * error
    assert expected.mean() - truth.mean() > 0.1 > paths.total - truth[:500].mean()


# --- parts, errors, estimates ---------------------------------------------------------------------------------------


def gaussian_case(count: int = 40) -> tuple[Denoiser, GaussianDiffusion, Tensor, ProbabilisticPCA]:
    model, diffusion = pca(off=0.2), exact_chain()
    x = torch.randn(count, 3, generator=seeded(), dtype=torch.float64)
    return oracle(diffusion, model.latents), diffusion, x, model


@pytest.mark.parametrize(("num_evaluations", "num_latents"), [(None, 1), (3, 1), (None, 3)])
def test_the_parts_sum_to_the_total(num_evaluations: int | None, num_latents: int) -> None:
    denoise, diffusion, x, model = gaussian_case()
    options = {"num_evaluations": num_evaluations, "num_latents": num_latents, "generator": seeded(1)}
    bound = latent_bits_per_dim(denoise, diffusion, x.split(15), model, **options)
    assert bound.total == pytest.approx(bound.reconstruction + bound.posterior_entropy + bound.latent, abs=1e-12)
    assert bound.latent == pytest.approx(bound.prior + bound.rate + bound.decoder, abs=1e-12)
    assert bound.latent == pytest.approx(bound.prior + sum(bound.per_timestep), abs=1e-12)
    assert bound.total == pytest.approx(sum(bound.per_example) / 40, abs=1e-12)
    assert bound.num_examples == 40 and bound.num_latents == num_latents
    assert bound.num_model_evaluations == 40 * num_latents * (num_evaluations or 4)
    assert bound.posterior_entropy == pytest.approx(-model.posterior(x).entropy().mean().item() / LOG_2 / 3)


def test_the_latents_are_scored_as_any_other_examples() -> None:
    denoise, diffusion, x, model = gaussian_case()
    bound = latent_bits_per_dim(denoise, diffusion, [x], model, generator=seeded(1))
    generator = seeded(1)
    q = model.posterior(x)
    z = q.sample(torch.randn(q.mean.shape, generator=generator, dtype=torch.float64))
    latent = bits_per_dim(denoise, diffusion, [z], generator=generator)
    assert bound.latent == pytest.approx(2 / 3 * latent.total, rel=1e-14)
    rest = (-model.log_likelihood(x, z) - q.entropy()) / LOG_2 / 3
    expected = rest + 2 / 3 * double(latent.per_example)
    torch.testing.assert_close(double(bound.per_example), expected, rtol=1e-13, atol=0)


def test_the_weights_are_those_of_the_latents_paths() -> None:
    denoise, diffusion, x, model = gaussian_case()
    weights = latent_log_weights(denoise, diffusion, x, model, generator=seeded(1))
    generator = seeded(1)
    q = model.posterior(x)
    z = q.sample(torch.randn(q.mean.shape, generator=generator, dtype=torch.float64))
    of_z = log_path_weights(denoise, diffusion, z, generator=generator)
    torch.testing.assert_close(weights, model.log_likelihood(x, z) + of_z - q.log_prob(z), rtol=1e-13, atol=0)


def test_an_estimate_is_unbiased() -> None:
    denoise, diffusion, x, model = gaussian_case(4000)
    some, full = (
        latent_bits_per_dim(denoise, diffusion, [x], model, num_evaluations=m, num_latents=4, generator=seeded(1))
        for m in (2, None)
    )
    error = math.hypot(some.estimation_error, full.estimation_error)
    assert some.total != full.total and abs(some.total - full.total) < 4 * error


def test_the_estimation_error_is_that_of_repeated_draws() -> None:
    denoise, diffusion, x, model = gaussian_case(16)
    draws = [latent_bits_per_dim(denoise, diffusion, x.split(8), model, num_latents=2) for _ in range(100)]
    seen = double([each.total for each in draws]).std().item()
    stated = double([each.estimation_error for each in draws]).square().mean().sqrt().item()
    assert stated == pytest.approx(seen, rel=0.25)
    one = latent_bits_per_dim(denoise, diffusion, x.split(8), model)
    assert one.estimation_error == one.standard_error > seen


def test_the_worth_of_conditioning_is_counted_in_bits_of_an_image() -> None:
    model, diffusion = pca(), exact_chain()
    optimal = oracle(diffusion, model.latents)

    def denoise(x_t: Tensor, timesteps: Tensor, known: Tensor) -> Tensor:
        return optimal(x_t, timesteps) + 0.1 * known[:, None]

    x = torch.randn(50, 3, generator=seeded(), dtype=torch.float64)
    without, given = (
        latent_bits_per_dim(denoise, diffusion, [(x, {"known": value})], model, generator=seeded(1))
        for value in (torch.ones(50), torch.zeros(50))
    )
    worth = information_of(without, given, dimensions=3)
    assert worth.bits == pytest.approx(3 * (without.total - given.total)) and worth.bits > 0
    assert worth.bits == pytest.approx(sum(worth.per_timestep))


def test_a_result_is_shown_in_a_few_lines_and_as_a_table() -> None:
    denoise, diffusion, x, model = gaussian_case(4)
    bound = latent_bits_per_dim(denoise, diffusion, [x], model)
    assert str(bound).splitlines()[1] == (
        f"= reconstruction {bound.reconstruction:.4f} + posterior entropy {bound.posterior_entropy:.4f}"
        f" + latent {bound.latent:.4f}"
    )
    assert bound.table() == {"timestep": [0, 1, 2, 3], "bits_per_dim": bound.per_timestep}
    assert bound.to_dict()["per_example"] == bound.per_example


# --- levels, and bad input ------------------------------------------------------------------------------------------


@dataclass
class Levels(Elementwise):
    """The same for images of levels."""

    num_levels: int | None = 17

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return DecoderLaw([math.log(self.deviation)] * x.shape[1], 17).log_likelihood(x, z)


def test_levels_have_at_least_the_bits_of_their_entropy() -> None:
    """One element of 17 levels, all as likely: log2(17) bits at least, and little more for a good model."""
    x = torch.arange(17).double()[:, None] / 8 - 1
    data = Mixture(torch.full((17,), 1 / 17).double(), x[:, 0], torch.full((17,), 0.05**2).double())
    chain = fine_chain()
    model = Levels(double([0.02]), 0.03)
    bound = latent_bits_per_dim(oracle(chain, data), chain, [x.repeat(40, 1)], model, num_evaluations=20)
    tightest = latent_importance_weighted_bits_per_dim(oracle(chain, data), chain, [x], model, num_paths=16)
    assert math.log2(17) - 4 * bound.estimation_error < bound.total < math.log2(17) + 1.2
    assert math.log2(17) - 0.05 < tightest.total < bound.total


def test_images_off_the_levels_are_refused() -> None:
    chain = exact_chain()
    for count in (latent_bits_per_dim, latent_importance_weighted_bits_per_dim):
        with pytest.raises(ValueError, match="The examples must take 17 evenly spaced levels"):
            count(oracle(chain, MIXTURE), chain, [torch.full((2, 1), 0.05)], Levels(double([0.1]), 0.1))


def test_the_levels_of_a_scheduler_do_not_make_latents_discrete() -> None:
    denoise, diffusion, x, model = gaussian_case()
    discrete = exact_chain(num_levels=256)
    totals = [
        latent_bits_per_dim(denoise, each, [x], model, generator=seeded(1)).total for each in (diffusion, discrete)
    ]
    assert totals[0] == totals[1]


class Broken(Elementwise):
    broken: str = "posterior"

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        q = super().posterior(x)
        return DiagonalGaussian(q.mean * math.nan, q.log_variance) if self.broken == "posterior" else q

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return super().log_likelihood(x, z) * math.nan


def test_bad_arguments() -> None:
    denoise, diffusion, x, model = gaussian_case(4)
    with pytest.raises(ValueError, match="`batches` holds no examples"):
        latent_bits_per_dim(denoise, diffusion, [], model)
    with pytest.raises(ValueError, match="`num_latents` must be an int >= 1, but is 0"):
        latent_bits_per_dim(denoise, diffusion, [x], model, num_latents=0)
    with pytest.raises(ValueError, match="`num_paths` must be an int >= 1, but is 0"):
        latent_importance_weighted_bits_per_dim(denoise, diffusion, [x], model, num_paths=0)
    broken = Broken(double([0.1, 0.1, 0.1]), 0.1)
    with pytest.raises(ValueError, match=r"q\(z \| x\) is not finite"):
        latent_bits_per_dim(denoise, diffusion, [x], broken)
    broken.broken = "decoder"
    with pytest.raises(ValueError, match=r"p\(x \| z\) is not finite"):
        latent_bits_per_dim(denoise, diffusion, [x], broken)
    parts = [latent_bits_per_dim(denoise, diffusion, [x], model, num_latents=count) for count in (1, 2)]
    with pytest.raises(ValueError, match="`parts` must be at least one bound, all along the same timesteps"):
        LatentBitsPerDim.merged(parts)
