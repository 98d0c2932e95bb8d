# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The continuous view against closed forms: densities by the ODE, the ODE itself, scores, Langevin corrections."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from oracles import LOG_2, GaussianVectors, Mixture, Points, double, model_output
from package_bound import package_bound
from torch import Tensor

from ddpm_hf import (
    DDPMPaperScheduler,
    NoiseSchedule,
    bits_per_dim,
    ode_bits_per_dim,
    ode_encode,
    ode_log_likelihood,
    ode_sample,
    predictor_corrector,
)
from ddpm_hf.diffusion.gaussian_process import StepCoefficients, q_posterior_mean_variance
from ddpm_hf.diffusion.langevin import corrector_step
from ddpm_hf.diffusion.losses import simple_loss
from ddpm_hf.diffusion.ode_solver import ADAPTIVE_METHODS, FIXED_METHODS
from ddpm_hf.likelihood.ode import dequantize


MEAN, VARIANCE = 0.3, 0.25
GAUSSIAN = Mixture.gaussian(MEAN, VARIANCE)
MIXTURE = Mixture.of((0.3, -0.6, 0.1), (0.7, 0.5, 0.2))
VECTORS = GaussianVectors(double([0.3, -0.2]), double([[0.5, 0.3], [0.3, 0.25]]))
TIGHT = {"rtol": 1e-13, "atol": 1e-13, "method": "dopri8"}
EXACT = {"trace": "exact", **TIGHT}
X = torch.linspace(-1.2, 1.8, 6, dtype=torch.float64)[:, None]


def scheduler_of(schedule: NoiseSchedule | None = None, **options: object) -> DDPMPaperScheduler:
    schedule = NoiseSchedule.linear(20, 0.005, 0.5) if schedule is None else schedule
    return DDPMPaperScheduler.from_schedule(schedule, **{"clip_sample": False, "num_levels": None, **options})


def log_abar_at(scheduler: DDPMPaperScheduler, timesteps: Tensor) -> Tensor:
    """log ᾱ at diffusers' timesteps, whole or real."""
    return scheduler.schedule.continuous.log_alpha_cumprod(timesteps.double() + 1)


def oracle(scheduler: DDPMPaperScheduler, data: Mixture) -> Callable[..., Tensor]:
    """The optimal denoiser of data whose elements are independent, in the words of the scheduler."""

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        log_abar = log_abar_at(scheduler, timesteps).reshape(-1, *[1] * (x_t.ndim - 1)).expand_as(x_t).flatten()
        x = x_t.double().flatten()
        output = model_output(scheduler.config.prediction_type, data.denoise(x, log_abar), x, log_abar)
        return output.view_as(x_t).to(x_t.dtype)

    return denoise


def vector_oracle(scheduler: DDPMPaperScheduler, data: GaussianVectors) -> Callable[..., Tensor]:
    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        log_abar = log_abar_at(scheduler, timesteps[0])
        gain, offset = data.denoiser(log_abar)
        return model_output(scheduler.config.prediction_type, x_t @ gain.T + offset, x_t, log_abar)

    return denoise


def noise_level(scheduler: DDPMPaperScheduler, t: float) -> float:
    """s̄, the standard deviation of the noise in x_t/√ᾱ_t."""
    return math.exp(-0.5 * scheduler.schedule.continuous.log_snr(float(t)).item())


def exact_log_density(scheduler: DDPMPaperScheduler, data: Mixture, x_bar: Tensor, t: float) -> Tensor:
    """log p of x_t/√ᾱ_t for independent elements, `[B]`."""
    spread = Mixture(data.weights, data.means, data.variances + noise_level(scheduler, t) ** 2)
    return spread.log_density(x_bar.flatten(), double(0.0)).view_as(x_bar).flatten(1).sum(1)


def exact_prior(scheduler: DDPMPaperScheduler, data: Mixture) -> Callable[[Tensor], Tensor]:
    """log q_T."""
    log_abar = scheduler.schedule.log_alphas_cumprod[scheduler.schedule.continuous.last_time]
    return lambda x_T: data.log_density(x_T.flatten(), log_abar).view_as(x_T).flatten(1).sum(1)


def led(scheduler: DDPMPaperScheduler, x_bar: Tensor, start: float, end: float) -> Tensor:
    """Where the flow of Gaussian data leads x_t/√ᾱ: as many standard deviations from the mean as it was."""
    before, after = (VARIANCE + noise_level(scheduler, t) ** 2 for t in (start, end))
    return MEAN + (x_bar - MEAN) * (after / before) ** 0.5


# --- log-densities --------------------------------------------------------------------------------------------------

SCHEDULES = {
    "linear": lambda: NoiseSchedule.linear(20, 0.005, 0.5),
    "log-SNR": lambda: NoiseSchedule.linear_log_snr(10, 6.0, -6.0),
    "linear, zero terminal SNR": lambda: NoiseSchedule.linear(20, 0.005, 0.5).rescale_zero_terminal_snr(),
}


# Each schedule, and both times with the one that both of the others resemble.
@pytest.mark.parametrize(
    ("name", "first_time"),
    [("linear", 1.0), ("linear", 2.375), ("log-SNR", 2.375), ("linear, zero terminal SNR", 1.0)],
)
def test_the_density_of_gaussian_data_is_exact(name: str, first_time: float):
    scheduler = scheduler_of(SCHEDULES[name]())
    found = ode_log_likelihood(
        oracle(scheduler, GAUSSIAN),
        scheduler,
        X,
        first_time=first_time,
        log_prior=exact_prior(scheduler, GAUSSIAN),
        **EXACT,
    )
    expected = exact_log_density(scheduler, GAUSSIAN, X, first_time)
    torch.testing.assert_close(found.log_density, expected, rtol=0, atol=1e-11)
    last = scheduler.schedule.continuous.last_time
    alpha = scheduler.schedule.alphas_cumprod[last].sqrt()
    latents = alpha * led(scheduler, X, first_time, last)
    torch.testing.assert_close(found.latents, latents, rtol=0, atol=1e-11)


def test_correlated_dimensions_need_the_whole_trace():
    scheduler = scheduler_of()
    denoise = vector_oracle(scheduler, VECTORS)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def density(t: float) -> torch.distributions.MultivariateNormal:
        covariance = VECTORS.covariance + noise_level(scheduler, t) ** 2 * torch.eye(2, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(VECTORS.mean, covariance)

    alpha = scheduler.schedule.alphas_cumprod[-1].sqrt()

    def log_prior(x_T: Tensor) -> Tensor:
        return density(20).log_prob(x_T / alpha) - 2 * alpha.log()

    found = ode_log_likelihood(denoise, scheduler, x, log_prior=log_prior, **EXACT)
    torch.testing.assert_close(found.log_density, density(1).log_prob(x), rtol=0, atol=1e-11)


def test_without_a_prior_latents_are_standard_normal():
    scheduler = scheduler_of()
    x = X.reshape(2, 3)
    found = ode_log_likelihood(oracle(scheduler, GAUSSIAN), scheduler, x, **EXACT)
    spread = [VARIANCE + noise_level(scheduler, t) ** 2 for t in (1, 20)]
    log_slope = 0.5 * (scheduler.schedule.log_alphas_cumprod[-1].item() + math.log(spread[1] / spread[0]))
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = normal.log_prob(found.latents).sum(1) + 3 * log_slope
    torch.testing.assert_close(found.log_density, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("eps", "shift", "digits"), [(1e-5, -1.5e-6, 2e-8), (1e-3, -1.6e-4, 1e-5)])
def test_starting_at_little_noise_shifts_the_density_by_little(eps: float, shift: float, digits: float):
    """The VP-SDE with β from 0.1 to 20, started at ε of its unit of time as by Song et al. (2021): t = 1 here.

    Their density is that of x_t, taken at the data: at the mean of N(0.3, 0.25), by ½ log of the variances.
    """
    u = torch.cat([double([0.0]), torch.logspace(math.log10(eps), 0, 6, dtype=torch.float64)])
    scheduler = scheduler_of(NoiseSchedule(-(0.1 * u + 0.5 * 19.9 * u**2)))
    log_alpha = 0.5 * scheduler.schedule.log_alphas_cumprod[1]
    x_bar = double([[MEAN]]) / log_alpha.exp()
    found = ode_log_likelihood(
        oracle(scheduler, GAUSSIAN), scheduler, x_bar, log_prior=exact_prior(scheduler, GAUSSIAN), **EXACT
    )
    exact = exact_log_density(scheduler, GAUSSIAN, x_bar, 1)
    torch.testing.assert_close(found.log_density, exact, rtol=0, atol=1e-11)
    at_the_data = -0.5 * math.log(2 * math.pi * VARIANCE)
    assert (found.log_density - log_alpha).item() - at_the_data == pytest.approx(shift, abs=digits)


def test_the_flow_has_the_likelihood_of_a_mixture_and_the_bound_costs_more():
    scheduler = scheduler_of(NoiseSchedule.linear(1000), variance_type="learned")
    denoise = oracle(scheduler, MIXTURE)
    x = torch.linspace(-1.6, 1.9, 351, dtype=torch.float64)[:, None]
    weight = MIXTURE.log_density(x[:, 0], double(0.0)).exp() * 0.01
    assert weight.sum() == pytest.approx(1, abs=1e-9)

    found = ode_log_likelihood(
        lambda x_t, t: torch.cat([denoise(x_t, t), torch.zeros_like(x_t)], dim=1),
        scheduler,
        x,
        trace="exact",
        log_prior=exact_prior(scheduler, MIXTURE),
        rtol=1e-8,
        atol=1e-8,
        method="dopri8",
    )
    truth = exact_log_density(scheduler, MIXTURE, x, 1)
    torch.testing.assert_close(found.log_density, truth, rtol=0, atol=1e-6)
    entropy = 0.21202310348
    flow = -(weight * found.log_density).sum().item()
    bound = package_bound(scheduler.process, MIXTURE).total
    assert flow == pytest.approx(-(weight * truth).sum().item(), abs=1e-7)
    assert entropy <= flow < entropy + 1e-4 < bound == pytest.approx(entropy + 0.00451389, abs=1e-7)


def test_hutchinsons_estimate_is_unbiased_and_more_probes_are_better():
    scheduler = scheduler_of()
    denoise = vector_oracle(scheduler, VECTORS)
    x = double([[0.7, -0.4]])
    options = {"rtol": 1e-8, "atol": 1e-8, "method": "dopri8"}
    exact = ode_log_likelihood(denoise, scheduler, x, trace="exact", **options).log_density
    variances = []
    for num_probes in (1, 4):
        generator = torch.Generator().manual_seed(num_probes)
        copies = x.expand(2000, 2)
        found = ode_log_likelihood(
            denoise, scheduler, copies, num_probes=num_probes, generator=generator, **options
        ).log_density
        assert abs(found.mean() - exact) < 5 * found.std() / 2000**0.5
        variances.append(found.var().item())
    assert variances[0] / variances[1] == pytest.approx(4, rel=0.3)


def test_hutchinsons_estimate_is_exact_where_dimensions_are_independent():
    scheduler = scheduler_of()
    x = X.reshape(1, 2, 3)
    both = [
        ode_log_likelihood(oracle(scheduler, MIXTURE), scheduler, x, trace=trace, method="dopri8").log_density
        for trace in ("hutchinson", "exact")
    ]
    torch.testing.assert_close(*both, rtol=0, atol=1e-9)


def test_all_predictions_have_the_same_likelihood_and_variance_channels_are_left_out():
    found = []
    for kind, variance_type in (
        ("epsilon", "fixed_small"),
        ("epsilon", "learned_range"),
        ("sample", "learned"),
        ("v_prediction", "fixed_large"),
    ):
        scheduler = scheduler_of(prediction_type=kind, variance_type=variance_type)
        denoise = oracle(scheduler, MIXTURE)
        if scheduler.process.learns_variance:
            denoise = partial(_with_more_channels, denoise)
        # The same steps are taken with all of them, and the same errors made.
        options = {"trace": "exact", "rtol": 1e-7, "atol": 1e-7, "method": "dopri8"}
        found.append(ode_log_likelihood(denoise, scheduler, X[:4].reshape(2, 2), **options))
    for other in found[1:]:
        torch.testing.assert_close(other.log_density, found[0].log_density, rtol=0, atol=1e-9)
        torch.testing.assert_close(other.latents, found[0].latents, rtol=0, atol=1e-9)
    assert torch.equal(found[1].log_density, found[0].log_density)


def _with_more_channels(denoise: Callable[..., Tensor], x_t: Tensor, timesteps: Tensor) -> Tensor:
    return torch.cat([denoise(x_t, timesteps), 3 * x_t + 1], dim=1)


def test_an_example_does_not_depend_on_the_batch_that_hides_it():
    data = Mixture.gaussian(0.0, VARIANCE)  # at 0 nothing moves, and no error is made
    scheduler = scheduler_of()
    alone = ode_encode(oracle(scheduler, data), scheduler, double([[2.0]]))
    hidden = ode_encode(oracle(scheduler, data), scheduler, double([[2.0], *[[0.0]] * 99]))
    assert hidden.num_model_evaluations == alone.num_model_evaluations
    torch.testing.assert_close(hidden.sample[:1], alone.sample, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_model_sees_samples_and_times_in_the_precision_of_the_examples(dtype: torch.dtype):
    scheduler, seen = scheduler_of(), []
    model = torch.nn.Linear(1, 1, dtype=torch.float64)

    def denoise(x_t: Tensor, timesteps: Tensor, scale: float) -> Tensor:
        seen.append((x_t.dtype, timesteps.dtype, timesteps.shape))
        assert 0 <= timesteps.min() <= timesteps.max() <= 19
        return scale * model(x_t.double()).to(dtype)

    x = X.to(dtype)
    found = ode_log_likelihood(denoise, scheduler, x, {"scale": 0.1}, first_time=0.25, rtol=1e-3, atol=1e-3)
    assert set(seen) == {(dtype, torch.float64 if dtype == torch.float64 else torch.float32, x.shape[:1])}
    assert found.num_model_evaluations == len(seen)
    assert (found.log_density.dtype, found.latents.dtype) == (torch.float64, dtype)
    assert not found.log_density.requires_grad and not found.latents.requires_grad
    assert model.weight.grad is None
    back = ode_sample(denoise, scheduler, found.latents, {"scale": 0.1}, rtol=1e-3, atol=1e-3)
    assert back.sample.dtype == dtype and back.sample.shape == x.shape


# --- bits per dimension ---------------------------------------------------------------------------------------------


def test_bits_of_levels_are_those_of_the_dequantised_density(generator: torch.Generator):
    K, shape = 17, (40, 12)
    scheduler = scheduler_of(num_levels=K)
    x = torch.randint(K, shape, generator=generator).double() / 8 - 1
    found = ode_bits_per_dim(
        oracle(scheduler, GAUSSIAN),
        scheduler,
        [x[:16], (x[16:], {})],
        num_dequantizations=4,
        log_prior=exact_prior(scheduler, GAUSSIAN),
        method="dopri8",
        generator=generator,
    )
    half, variance = 1 / (K - 1), VARIANCE + noise_level(scheduler, 1) ** 2
    squares = (x - MEAN) ** 2 + half**2 / 3  # E_u (x + u − m)²
    expected = 0.5 * (squares / variance + math.log(2 * math.pi * variance)).mean(1) - math.log(2 * half)
    difference = double(found.per_example) - expected / LOG_2
    assert abs(difference.mean()) < 5 * difference.std() / len(x) ** 0.5
    assert difference.std() < 0.1 < found.standard_error * len(x) ** 0.5
    assert found.total == pytest.approx(sum(found.per_example) / len(x))
    assert found.standard_error == pytest.approx(double(found.per_example).std().item() / len(x) ** 0.5)
    assert found.num_examples == 40 and found.num_model_evaluations % 8 == 0
    # The expectation is a bound on what the density gives to the bin.
    normal = torch.distributions.Normal(MEAN, variance**0.5)
    in_bins = -(normal.cdf(x + half) - normal.cdf(x - half)).log().mean(1)
    assert bool((expected > in_bins).all()) and (expected - in_bins).max() < 1e-2


def test_bits_of_continuous_data_are_the_density_and_at_most_the_bound(generator: torch.Generator):
    scheduler = scheduler_of(variance_type="fixed_large")
    denoise = oracle(scheduler, GAUSSIAN)
    x = MEAN + VARIANCE**0.5 * torch.randn(50, 8, generator=generator, dtype=torch.float64)
    density = ode_log_likelihood(denoise, scheduler, x).log_density
    found = ode_bits_per_dim(denoise, scheduler, x.split(50))
    torch.testing.assert_close(double(found.per_example), -density / 8 / LOG_2, rtol=0, atol=1e-12)
    bound = bits_per_dim(denoise, scheduler, x.split(50), generator=generator)
    assert found.total < bound.total
    in_steps = ode_bits_per_dim(denoise, scheduler, x.split(50), num_steps=30, method="rk4")
    assert in_steps.total == pytest.approx(found.total, abs=1e-3) and in_steps.num_model_evaluations == 50 * 120


def test_dequantisation_fills_the_bins_evenly(generator: torch.Generator):
    x = double([[-1.0], [0.0], [1.0]]).expand(3, 10000)
    u = (dequantize(x, 3, generator) - x) * 2
    assert -1 <= u.min() < -0.999 and 0.999 < u.max() <= 1
    assert abs(u.mean()) < 5 * (1 / 3 / u.numel()) ** 0.5
    assert dequantize(x.half(), 3).dtype == torch.float32


# --- there and back -------------------------------------------------------------------------------------------------


def test_encoding_and_sampling_are_inverse():
    scheduler = scheduler_of()
    denoise = oracle(scheduler, MIXTURE)
    latents, _ = ode_encode(denoise, scheduler, X, first_time=1.5, rtol=1e-9, atol=1e-9)
    back, _ = ode_sample(
        denoise, scheduler, latents, first_time=1.5, denoise_last=False, rtol=1e-9, atol=1e-9, method="dopri8"
    )
    torch.testing.assert_close(back, X, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "multiple"), {"dopri5": 3.0, "dopri8": 1.5, "bosh3": 10.0, "adaptive_heun": 5.0}.items()
)
def test_adaptive_steps_err_by_little_more_than_their_tolerance(method: str, multiple: float):
    scheduler, tolerance = scheduler_of(), 1e-4
    assert method in ADAPTIVE_METHODS
    sample, _ = ode_sample(
        oracle(scheduler, GAUSSIAN), scheduler, X, method=method, rtol=tolerance, atol=tolerance, denoise_last=False
    )
    exact = led(scheduler, X / scheduler.schedule.alphas_cumprod[-1].sqrt(), 20, 1)
    assert (sample - exact).abs().max() < multiple * tolerance


def test_samples_of_gaussian_data_are_a_linear_map_of_the_noise():
    scheduler = scheduler_of(prediction_type="v_prediction")
    calls = []

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(timesteps)
        return oracle(scheduler, GAUSSIAN)(x_t, timesteps)

    sample, num_calls = ode_sample(denoise, scheduler, X, **TIGHT)
    assert num_calls == len(calls)
    alpha = scheduler.schedule.alphas_cumprod[-1].sqrt()
    x_bar, first = led(scheduler, X / alpha, 20, 1), VARIANCE + noise_level(scheduler, 1) ** 2
    torch.testing.assert_close(sample, MEAN + VARIANCE / first * (x_bar - MEAN), rtol=0, atol=1e-11)
    noisy, _ = ode_sample(denoise, scheduler, X, denoise_last=False, **TIGHT)
    torch.testing.assert_close(noisy, x_bar, rtol=0, atol=1e-11)


def test_euler_steps_are_ddim():
    """x̄ changes by ε (s̄' − s̄); for Gaussian data ε = s̄ (x̄ − m)/(v + s̄²)."""
    scheduler = scheduler_of()
    denoise, alpha = oracle(scheduler, GAUSSIAN), scheduler.schedule.alphas_cumprod[-1].sqrt()
    sample, num_calls = ode_sample(denoise, scheduler, X, num_steps=7, method="euler", denoise_last=False)
    ends = [math.log(noise_level(scheduler, t)) for t in (20, 1)]
    s = torch.linspace(*ends, 8, dtype=torch.float64).exp()
    x_bar = X / alpha
    for here, there in itertools.pairwise(s):
        x_bar = x_bar + (there - here) * here * (x_bar - MEAN) / (VARIANCE + here**2)
    torch.testing.assert_close(sample, x_bar, rtol=0, atol=1e-12)
    assert num_calls == 7


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)])
def test_fixed_steps_converge_with_their_order(method: str, order: int):
    scheduler = scheduler_of()
    denoise, alpha = oracle(scheduler, GAUSSIAN), scheduler.schedule.alphas_cumprod[-1].sqrt()
    exact = led(scheduler, X / alpha, 20, 1)
    errors = []
    for num_steps in (40, 80):
        sample, num_calls = ode_sample(denoise, scheduler, X, num_steps=num_steps, method=method, denoise_last=False)
        errors.append((sample - exact).abs().max().item())
        assert num_calls <= 4 * num_steps + 1
    assert math.log2(errors[0] / errors[1]) > order - 0.35
    assert method in FIXED_METHODS
    there, _ = ode_encode(denoise, scheduler, X, num_steps=80, method=method)
    torch.testing.assert_close(
        there, alpha * led(scheduler, X, 1, 20), rtol=0, atol=0.1 if method == "euler" else 2e-3
    )


def test_the_density_by_euler_steps_is_a_sum():
    """x̄ changes by s̄ ε (log s̄' − log s̄); for Gaussian data s̄ ε = s̄² (x̄ − m)/(v + s̄²)."""
    scheduler = scheduler_of()
    x = X.reshape(2, 3)
    options = {"num_steps": 7, "method": "euler", "log_prior": lambda x_T: 0 * x_T[:, 0]}
    found = ode_log_likelihood(oracle(scheduler, GAUSSIAN), scheduler, x, **options)
    ends = [math.log(noise_level(scheduler, t)) for t in (1, 20)]
    log_s = torch.linspace(*ends, 8, dtype=torch.float64)
    slope = log_s.exp() ** 2 / (VARIANCE + log_s.exp() ** 2)
    log_alpha = 0.5 * scheduler.schedule.log_alphas_cumprod[-1].item()
    expected = 3 * ((slope[:-1] * log_s.diff()).sum().item() + log_alpha)
    assert found.log_density.tolist() == pytest.approx([expected] * 2, abs=1e-12)
    x_T = math.exp(log_alpha) * (MEAN + (x - MEAN) * (1 + slope[:-1] * log_s.diff()).prod())
    torch.testing.assert_close(found.latents, x_T, rtol=0, atol=1e-12)
    assert found.num_model_evaluations == 7


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)])
def test_the_density_by_fixed_steps_converges_with_their_order(method: str, order: int):
    scheduler = scheduler_of()
    denoise, prior = oracle(scheduler, MIXTURE), exact_prior(scheduler, MIXTURE)
    exact = exact_log_density(scheduler, MIXTURE, X, 1.0)
    errors = []
    for num_steps in (40, 80):
        options = {"num_steps": num_steps, "method": method, "log_prior": prior, "trace": "exact"}
        found = ode_log_likelihood(denoise, scheduler, X, **options)
        errors.append((found.log_density - exact).abs().max().item())
    assert math.log2(errors[0] / errors[1]) > order - 0.35


def test_midpoints_are_what_fixed_steps_take_if_not_told():
    scheduler = scheduler_of()
    ways = [ode_sample(oracle(scheduler, MIXTURE), scheduler, X, num_steps=5, method=m) for m in (None, "midpoint")]
    assert torch.equal(ways[0].sample, ways[1].sample)
    assert ways[0].num_model_evaluations == 11  # two a step, and the predicted x_0 at the end


# --- the score ------------------------------------------------------------------------------------------------------

POINTS = Points(
    torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    double([0.3, 0.1, 0.2, 0.2, 0.2]),
)


@pytest.mark.parametrize("variance_type", ["fixed_small", "learned_range", "learned"])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "mean"])
def test_the_score_is_the_gradient_of_the_log_density(kind: str, variance_type: str, generator: torch.Generator):
    scheduler = scheduler_of(prediction_type=kind, variance_type=variance_type, clip_sample=True)
    if variance_type != "learned":
        scheduler.set_timesteps(timesteps=[19])  # the score is the model's, whatever is visited
    timesteps = torch.tensor([0, 2, 5, 10, 19])
    log_abar = log_abar_at(scheduler, timesteps)
    noise = torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)
    x_t = scheduler.add_noise(POINTS.values, noise, timesteps).requires_grad_()
    (gradient,) = torch.autograd.grad(POINTS.log_density(x_t, log_abar).sum(), x_t)
    x_t, x_0 = x_t.detach(), POINTS.denoise(x_t.detach(), log_abar)
    if kind == "mean":
        t = timesteps + 1
        output, _, _ = q_posterior_mean_variance(scheduler.schedule, x_0, x_t, t - 1, t)
    else:
        output = model_output(kind, x_0, x_t, log_abar[:, None, None])
    if scheduler.process.learns_variance:
        output = torch.cat([output, torch.ones_like(output)], dim=1)
    score = scheduler.score(output, x_t, timesteps)
    sigma = (-torch.expm1(log_abar)).sqrt()[:, None, None]
    torch.testing.assert_close(score * sigma, gradient * sigma, rtol=1e-12, atol=1e-12)
    for k, t in enumerate(timesteps.tolist()):  # one time for all
        one = scheduler.score(output, x_t, t)
        torch.testing.assert_close(one[k], score[k], rtol=1e-14, atol=1e-14)


def test_the_score_is_at_least_float32_and_exists_where_nothing_is_left_of_the_data():
    scheduler = scheduler_of(NoiseSchedule.linear(20, 0.005, 0.5).rescale_zero_terminal_snr())
    x_t = torch.randn(3, 2).bfloat16()
    score = scheduler.score(x_t, x_t, 19)
    assert score.dtype == torch.float32
    torch.testing.assert_close(score, -x_t.float())
    with pytest.raises(ValueError, match="`timesteps`"):
        scheduler.score(x_t, x_t, 20)
    with pytest.raises(ValueError, match="`model_output` of shape"):
        scheduler.score(x_t[:, :1], x_t, 3)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_denoising_score_matching_is_the_simple_loss(kind: str, generator: torch.Generator):
    """σ_t² |score_θ − ∇ log q(x_t | x_0)|² = |ε_θ − ε|² for every example (Vincent 2011; Ho et al. 2020, Eq. 12)."""
    scheduler = scheduler_of(prediction_type=kind)
    x_0, noise, output = torch.randn(3, 20, 6, generator=generator, dtype=torch.float64)
    timesteps = torch.arange(20)
    x_t = scheduler.add_noise(x_0, noise, timesteps)
    mean, variance, _ = scheduler.q_mean_variance(x_0, timesteps)
    error = scheduler.score(output, x_t, timesteps) - (mean - x_t) / variance
    weighted = (variance * error**2).mean(1)
    epsilon = -variance.sqrt() * scheduler.score(output, x_t, timesteps)
    torch.testing.assert_close(weighted, simple_loss(epsilon, noise), rtol=1e-9, atol=1e-12)
    if kind == "epsilon":
        torch.testing.assert_close(weighted, simple_loss(output, noise), rtol=1e-10, atol=1e-12)


# --- predictor and corrector ----------------------------------------------------------------------------------------


def test_without_corrections_it_is_ancestral_sampling_number_for_number():
    scheduler = scheduler_of()
    scheduler.set_timesteps(7)
    denoise = oracle(scheduler, MIXTURE)
    x = x_T = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    for t in scheduler.timesteps:
        x = scheduler.step(denoise(x, t.expand(4)), t, x, generator=generator).prev_sample
    found = predictor_corrector(
        denoise, scheduler, x_T, num_corrector_steps=0, generator=torch.Generator().manual_seed(2)
    )
    assert torch.equal(found, x)


def test_corrections_are_made_where_a_step_has_led_and_not_at_the_data(generator: torch.Generator):
    scheduler, seen = scheduler_of(), []
    scheduler.set_timesteps(timesteps=[19, 7, 2])

    def denoise(x_t: Tensor, timesteps: Tensor, scale: float) -> Tensor:
        seen.append(timesteps.tolist())
        assert timesteps.dtype == torch.int64
        return scale * x_t

    x_T = torch.randn(2, 3, generator=generator).bfloat16()
    found = predictor_corrector(denoise, scheduler, x_T, {"scale": 0.5}, num_corrector_steps=2, generator=generator)
    assert seen == [[t] * 2 for t in (19, 7, 7, 7, 2, 2, 2)]
    assert found.dtype == torch.bfloat16 and found.isfinite().all()


@pytest.mark.parametrize("start", [1.0, 4.0, 0.25])
def test_langevin_steps_lead_to_the_density_whose_score_they_follow(start: float, generator: torch.Generator):
    """N(m, V): with r² the mean square of x − m, δ = 2 α snr² V²/r² and r² ← (1 − δ/V)² r² + 2δ, as norms concentrate.

    So r² goes to V (1 + α snr²) from wherever it starts: what such steps get wrong, they being finite.
    """
    m, V, alpha, snr = 0.3, 0.6, 0.97, 0.16
    n, dimensions = 8, 16384
    tolerance = 5 * (2 / (n * dimensions)) ** 0.5
    x = m + (start * V) ** 0.5 * torch.randn(n, dimensions, generator=generator, dtype=torch.float64)
    r2 = start * V
    for _ in range(110):
        x = corrector_step((m - x) / V, x, alpha, snr, generator)
        delta = 2 * alpha * snr**2 * V**2 / r2
        r2 = (1 - delta / V) ** 2 * r2 + 2 * delta
        assert ((x - m) ** 2).mean().item() == pytest.approx(r2, rel=2 * tolerance)
    assert r2 == pytest.approx(V * (1 + alpha * snr**2), rel=1e-3)
    assert x.mean().item() == pytest.approx(m, abs=5 * (V / x.numel()) ** 0.5)


def test_a_step_is_that_of_algorithm_5_for_every_example(generator: torch.Generator):
    score, x = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    score[1] = 0
    alpha = double([0.9, 0.95, 0.99])
    found = corrector_step(score, x, alpha, 0.2, torch.Generator().manual_seed(7))
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for k in (0, 2):
        delta = 2 * alpha[k] * (0.2 * z[k].norm() / score[k].norm()) ** 2
        expected = x[k] + delta * score[k] + (2 * delta).sqrt() * z[k]
        torch.testing.assert_close(found[k], expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(found[1], x[1])  # nowhere to go: no noise either, and no NaN


def exact_moments(schedule: NoiseSchedule, times: Sequence[int], num_corrector_steps: int) -> tuple[float, float]:
    """Mean and variance of what `predictor_corrector` draws with the optimal denoiser of N(MEAN, VARIANCE).

    Every step is linear in x; those of the corrector as their norms concentrate, in many dimensions.
    """
    abar = schedule.alphas_cumprod.tolist()
    centre = [a**0.5 * MEAN for a in abar]
    marginal = [a * VARIANCE + 1 - a for a in abar]
    mean, variance = 0.0, 1.0
    triples = zip([0, 0, *times[:-2]], [0, *times[:-1]], times, strict=True)
    for r, s, t in reversed(list(triples)):
        step = StepCoefficients.between(schedule, s, t).map(float)
        slope = step.posterior_coef_x0 * abar[t] ** 0.5 * VARIANCE / marginal[t] + step.posterior_coef_xt
        mean = centre[s] + slope * (mean - centre[t])
        variance = slope**2 * variance + step.posterior_variance
        for _ in range(num_corrector_steps if s > 0 else 0):
            V, offset = marginal[s], mean - centre[s]
            delta = 2 * abar[s] / abar[r] * 0.16**2 * V**2 / (variance + offset**2)
            mean -= delta / V * offset
            variance = (1 - delta / V) ** 2 * variance + 2 * delta
    return mean, variance


@pytest.mark.parametrize("num_corrector_steps", [0, 3])
@pytest.mark.parametrize("times", [range(1, 21), [2, 13, 17, 20]])
def test_samples_of_gaussian_data_have_the_moments_of_the_recursion(
    times: Sequence[int], num_corrector_steps: int, generator: torch.Generator
):
    scheduler = scheduler_of()
    scheduler.set_timesteps(timesteps=[t - 1 for t in reversed(times)])
    x_T = torch.randn(16, 4096, generator=generator, dtype=torch.float64)
    found = predictor_corrector(
        oracle(scheduler, GAUSSIAN), scheduler, x_T, num_corrector_steps=num_corrector_steps, generator=generator
    )
    mean, variance = exact_moments(scheduler.schedule, list(times), num_corrector_steps)
    assert found.var().item() == pytest.approx(variance, rel=5 * (2 / found.numel()) ** 0.5)
    assert found.mean().item() == pytest.approx(mean, abs=5 * (variance / found.numel()) ** 0.5)


def test_corrections_bring_samples_nearer_to_the_data():
    schedule = NoiseSchedule.linear(20, 0.005, 0.5)
    errors = [abs(exact_moments(schedule, range(1, 21), M)[1] / VARIANCE - 1) for M in (0, 1, 2)]
    assert errors[0] > errors[1] > errors[2]


# --- what is wrong is said ------------------------------------------------------------------------------------------


def _zero(x_t: Tensor, timesteps: Tensor) -> Tensor:
    return 0 * x_t


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_time": 0.0}, "`first_time` must be a number between 0 and 20, where the ODE ends, but is 0.0."),
        ({"first_time": 20.0}, "`first_time` must be a number between 0 and 20"),
        ({"first_time": math.nan}, "`first_time` must be a number"),
        ({"trace": "full"}, "`trace` must be one of 'hutchinson', 'exact', but is 'full'."),
        ({"num_probes": 0}, "`num_probes` must be an int >= 1, but is 0."),
        ({"rtol": 0.0}, "`rtol` must be a positive number, but is 0.0."),
        ({"atol": -1.0}, "`atol` must be a positive number"),
        ({"method": "rk4"}, "`method` must be one of 'dopri5'.*, but is 'rk4' for adaptive steps."),
        ({"log_prior": lambda x: x}, r"`log_prior` must give one number per example, \[6\], but gave \[6, 1\]."),
        ({"log_prior": lambda x: 0.0}, "`log_prior` must give one number per example, .* but gave float."),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        ode_log_likelihood(_zero, scheduler_of(), X, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be an int >= 1, but is 0."),
        ({"num_steps": 2.0}, "`num_steps` must be an int >= 1, but is 2.0."),
        ({"num_steps": 5, "method": "dopri5"}, "`method` must be one of 'euler'.*, but is 'dopri5' with `num_steps`."),
        ({"method": "midpoint"}, "`method` must be one of 'dopri5'.*, but is 'midpoint' for adaptive steps."),
    ],
)
@pytest.mark.parametrize("function", [ode_sample, ode_encode, ode_log_likelihood])
def test_steps_that_make_no_sense_are_refused(function: Callable, options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        function(_zero, scheduler_of(), X, **options)


def test_examples_that_are_none_are_refused():
    for x, message in (
        (torch.zeros(2, 3, dtype=torch.uint8), "`x` must be a floating-point tensor"),
        (torch.zeros(0, 3), "`x` must hold at least one example"),
    ):
        with pytest.raises(ValueError, match=message):
            ode_encode(_zero, scheduler_of(), x)
    with pytest.raises(ValueError, match="at most 4096, but an example has 5000; use 'hutchinson'"):
        ode_log_likelihood(_zero, scheduler_of(), torch.zeros(1, 5000), trace="exact")


def test_a_mean_has_no_flow():
    scheduler = scheduler_of(prediction_type="mean")
    for function in (ode_log_likelihood, ode_encode, ode_sample):
        with pytest.raises(ValueError, match="`prediction_type` 'mean' refers to a pair of times"):
            function(_zero, scheduler, X)


@pytest.mark.parametrize("options", [{}, {"num_steps": 3}, {"num_steps": 3, "method": "euler"}])
def test_a_model_that_gives_no_numbers_is_named(options: dict[str, object]):
    for function in (ode_encode, ode_sample):
        with pytest.raises(ValueError, match="`denoise` gives values that are not finite"):
            function(lambda x_t, t: x_t * math.nan, scheduler_of(), X, **options)


def test_a_model_without_gradients_is_named():
    with pytest.raises(ValueError, match="`denoise` must be differentiable with respect to x_t"):
        ode_log_likelihood(torch.no_grad()(_zero), scheduler_of(), X)


def test_an_error_of_the_model_is_its_own():
    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        raise AssertionError("the model's")

    with pytest.raises(AssertionError, match="the model's"):
        ode_encode(denoise, scheduler_of(), X)


def test_a_missing_solver_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ModuleNotFoundError, match="`pip install torchdiffeq`, or ddpm_hf with its extra `ode`"):
        ode_encode(_zero, scheduler_of(), X)


def test_data_that_do_not_fit_are_refused():
    levels, continuous = scheduler_of(num_levels=17), scheduler_of()
    with pytest.raises(ValueError, match="must take 17 evenly spaced levels"):
        ode_bits_per_dim(_zero, levels, [X])
    with pytest.raises(ValueError, match="`batches` holds no examples"):
        ode_bits_per_dim(_zero, levels, [torch.zeros(0, 3)])
    with pytest.raises(ValueError, match="`num_dequantizations` must be an int >= 1, but is 0"):
        ode_bits_per_dim(_zero, levels, [X], num_dequantizations=0)
    with pytest.raises(ValueError, match="`num_dequantizations` must be 1 for continuous data"):
        ode_bits_per_dim(_zero, continuous, [X], num_dequantizations=2)


def test_corrections_that_make_no_sense_are_refused():
    scheduler = scheduler_of()
    with pytest.raises(ValueError, match="`num_corrector_steps` must be an int >= 0, but is -1"):
        predictor_corrector(_zero, scheduler, X, num_corrector_steps=-1)
    with pytest.raises(ValueError, match="`snr` must be a positive number, but is 0"):
        predictor_corrector(_zero, scheduler, X, snr=0)
    with pytest.raises(ValueError, match="`snr` must be a positive number"):
        corrector_step(X, X, 0.9, math.nan)
    with pytest.raises(ValueError, match="`score` of shape"):
        corrector_step(X[:2], X, 0.9)
