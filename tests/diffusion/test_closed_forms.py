# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Public functions with closed-form denoisers return the numbers that the theory predicts.

Expectations are quadratures in float64, exact to rounding; only the sampler's test has a statistical tolerance.
"""

from __future__ import annotations

import itertools
import math
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from oracles import (
    LOG_2,
    GaussianVectors,
    Grid,
    Mixture,
    Points,
    double,
    exact_bound,
    fixed_log_variances,
    model_output,
    optimal_log_variance,
)
from package_bound import log_abar_of, package_bound
from scipy.stats import norm
from torch import Tensor

from ddpm_hf.diffusion.bound_terms import prior_kl, vlb_terms
from ddpm_hf.diffusion.constraints import clip_sample
from ddpm_hf.diffusion.discretized_likelihood import discretized_gaussian_log_likelihood
from ddpm_hf.diffusion.gaussian_process import (
    PREDICTION_TYPES,
    StepCoefficients,
    convert_prediction,
    q_posterior_mean_variance,
    q_sample,
)
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.diffusion.reverse_process import ReverseProcess
from ddpm_hf.diffusion.timestep_spacing import spaced_times
from ddpm_hf.schedulers.scheduling_ddpm_paper import DDPMPaperScheduler


EULER_GAMMA = 0.5772156649015329


def linear(T: int) -> NoiseSchedule:
    """The process of "linear-1000" in T steps."""
    return NoiseSchedule.linear(T, 0.1 / T, 20 / T)


def full_chain(schedule: NoiseSchedule, variance_type: str = "learned", **kwargs: object) -> ReverseProcess:
    return ReverseProcess(schedule, range(1, schedule.T + 1), variance_type=variance_type, **kwargs)


LINEAR = linear(1000)
SCHEDULES = {
    "linear-1000": LINEAR,
    "cosine-1000": NoiseSchedule.cosine(1000),
    "cosine-10": NoiseSchedule.cosine(10),
    "linear-25": NoiseSchedule.linear(25, 0.004, 0.8),
    "log-SNR-100": NoiseSchedule.linear_log_snr(100, 6.5, -9.0),
    "sigmoid-50": NoiseSchedule.sigmoid(50, 1e-3, 0.5),
    "one step": NoiseSchedule.from_betas([0.9]),
    "any": NoiseSchedule.from_betas([0.5, 1e-3, 0.999, 0.2]),
}


# --- Gaussian data ----------------------------------------------------------------------------------------------

MEAN, VARIANCE = 0.3, 0.25
GAUSSIAN = Mixture.gaussian(MEAN, VARIANCE)


def entropy_of_gaussian(variance: float) -> float:
    return 0.5 * math.log(2 * math.pi * math.e * variance)


def divergence_of_q_from_prior(
    schedule: NoiseSchedule, t: int, mean: float = MEAN, variance: float = VARIANCE
) -> float:
    """KL(q(x_t) ‖ N(0, 1)) for Gaussian data."""
    abar = schedule.alphas_cumprod[t].item()
    v = abar * variance + 1 - abar
    return 0.5 * (v + abar * mean**2 - 1 - math.log(v))


def truth(schedule: NoiseSchedule, t: int, mean: float = MEAN, variance: float = VARIANCE) -> float:
    """The cross-entropy of the best chain that starts from N(0, 1) at time t."""
    return entropy_of_gaussian(variance) + divergence_of_q_from_prior(schedule, t, mean, variance)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction", "score"])
@pytest.mark.parametrize(("mean", "variance"), [(0.3, 0.25), (0.0, 1.0), (-1.0, 4.0), (0.5, 1e-4)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_optimal_variance_makes_the_bound_of_gaussian_data_exact(
    name: str, mean: float, variance: float, prediction_type: str
):
    # (D): for any number of steps, any schedule.
    schedule, data = SCHEDULES[name], Mixture.gaussian(mean, variance)
    bound = package_bound(full_chain(schedule, prediction_type=prediction_type), data)
    assert bound.total == pytest.approx(truth(schedule, schedule.T, mean, variance), abs=1e-12)


@pytest.mark.parametrize("times", [[1000], [1, 1000], [1, 7, 50, 51, 900], [500], list(range(3, 1000, 37))], ids=len)
def test_it_does_so_for_any_visited_times(times: list[int]):
    # A strided bound is that of another chain: every coefficient belongs to a visited pair, the prior to the last one.
    bound = package_bound(ReverseProcess(LINEAR, times, variance_type="learned"), GAUSSIAN)
    assert bound.total == pytest.approx(truth(LINEAR, times[-1]), abs=1e-12)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_a_strided_bound_is_the_bound_of_the_schedule_with_the_visited_times_alone(variance_type: str):
    times = [2, 10, 11, 300, 1000]
    strided = package_bound(ReverseProcess(LINEAR, times, variance_type=variance_type), GAUSSIAN)
    alone = full_chain(NoiseSchedule(LINEAR.log_alphas_cumprod[[0, *times]]), variance_type)
    expected = package_bound(alone, GAUSSIAN)
    torch.testing.assert_close(strided.terms, expected.terms, rtol=1e-12, atol=0)
    assert strided.prior == pytest.approx(expected.prior, rel=1e-12, abs=0)
    unstrided = package_bound(full_chain(LINEAR, variance_type), GAUSSIAN).terms[[t - 1 for t in times]]
    assert (strided.terms[1:] / unstrided[1:]).max() > 2, "not a sum over the unstrided terms"


def test_beta_as_the_variance_costs_in_proportion_to_the_step():
    # T (VLB − truth) → ¼ ∫ β² (1 − v)²/v², v the variance of x_t.
    u = (np.polynomial.legendre.leggauss(60)[0] + 1) / 2
    weight = np.polynomial.legendre.leggauss(60)[1] / 2
    beta, log_abar = 0.1 + 19.9 * u, -(0.1 * u + 19.9 * u**2 / 2)
    v = np.exp(log_abar) * VARIANCE - np.expm1(log_abar)
    limit = float((weight * beta**2 * (1 - v) ** 2 / v**2).sum()) / 4
    assert limit == pytest.approx(1.0919172, abs=1e-7)
    excess = {
        T: T * (package_bound(full_chain(linear(T), "fixed_large"), GAUSSIAN).total - truth(linear(T), T))
        for T in (1000, 16000)
    }
    assert excess[1000] == pytest.approx(1.09226, abs=5e-6)
    assert excess[1000] == pytest.approx(limit, rel=4e-4, abs=0)
    assert excess[16000] == pytest.approx(limit, rel=3e-5, abs=0)


def test_the_posteriors_variance_never_becomes_exact():
    # VLB − truth → γ/2 + ½(1 − ln 2): the first steps alone never fit.
    limit = EULER_GAMMA / 2 + (1 - LOG_2) / 2
    assert limit / LOG_2 == pytest.approx(0.6377, abs=5e-5)
    excess = {
        T: package_bound(full_chain(linear(T), "fixed_small"), GAUSSIAN).total - truth(linear(T), T)
        for T in (1000, 64000)
    }
    assert excess[1000] / LOG_2 == pytest.approx(0.8222, abs=5e-5)
    assert excess[64000] == pytest.approx(limit, abs=0.006)


def test_the_whole_bound_of_25_steps():
    bound = package_bound(full_chain(NoiseSchedule.linear(25, 0.004, 0.8), "fixed_small"), GAUSSIAN)
    assert bound.total == pytest.approx(4.0330697089355715, abs=1e-13)


def test_the_bound_down_to_a_time_is_its_mutual_information():
    # L_T and the terms above t are what it costs to send x_t: I(x_0; x_t) = ½ ln(s²/mmse_t), and the prior's misfit.
    bound = package_bound(full_chain(LINEAR), GAUSSIAN)
    grid = GAUSSIAN.grid(LINEAR.log_alphas_cumprod[1:])
    process = full_chain(LINEAR, "fixed_small")
    output = model_output("epsilon", grid.mean, grid.x_t, grid.log_abar)
    x_0 = process.p_mean_variance(output[:, None], grid.x_t[:, None], grid.index).pred_original_sample[:, 0]
    mmse = grid.sum_per_time(grid.variance + (grid.mean - x_0) ** 2)
    misfit = divergence_of_q_from_prior(LINEAR, 1000)
    rate = bound.prior - misfit + bound.terms[1:].flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(rate, 0.5 * torch.log(VARIANCE / mmse[:-1]), rtol=0, atol=1e-12)
    assert bound.prior - misfit == pytest.approx(0.5 * math.log(VARIANCE / mmse[-1]), abs=1e-12)


# --- the identities of the optimal denoiser ---------------------------------------------------------------------

MIXTURE = Mixture.of((0.3, -0.6, 0.1), (0.7, 0.5, 0.2))
IDENTITY_TIMES = [1, 2, 3, 10, 100, 101, 500, 900, 999, 1000]


def pair_coefficients(s: int, t: int) -> tuple[float, float, float]:
    """β, β̃ and c₁ of a pair, with 30 digits."""
    with mpmath.workdps(30):
        abar_s, abar_t = (mpmath.exp(mpmath.mpf(LINEAR.log_alphas_cumprod[time].item())) for time in (s, t))
        beta = 1 - abar_t / abar_s
        values = beta, beta * (1 - abar_s) / (1 - abar_t), mpmath.sqrt(abar_s) * beta / (1 - abar_t)
        return tuple(float(value) for value in values)


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["Gaussian", "mixture"])
@pytest.mark.parametrize("log_variance", [-12.0, -7.0, -3.0, 0.0])
def test_a_term_is_the_variances_misfit_and_the_posteriors_spread(data: Mixture, log_variance: float):
    # (A)
    process = ReverseProcess(LINEAR, IDENTITY_TIMES, variance_type="learned")
    terms = package_bound(process, data, log_variance=torch.full((10,), log_variance, dtype=torch.float64)).terms
    mmse = data.mmse(LINEAR.log_alphas_cumprod[IDENTITY_TIMES])
    for k in range(1, 10):
        _, posterior, c1 = pair_coefficients(IDENTITY_TIMES[k - 1], IDENTITY_TIMES[k])
        ratio = posterior / math.exp(log_variance)
        expected = 0.5 * (ratio - 1 - math.log(ratio)) + c1**2 * mmse[k].item() / (2 * math.exp(log_variance))
        assert terms[k].item() == pytest.approx(expected, rel=1e-11, abs=0)


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["Gaussian", "mixture"])
def test_the_optimal_variance_is_where_a_term_is_least(data: Mixture):
    # (B)
    process = ReverseProcess(LINEAR, IDENTITY_TIMES, variance_type="learned")
    best = optimal_log_variance(
        log_abar_of(process), data.mmse(LINEAR.log_alphas_cumprod[IDENTITY_TIMES])
    ).requires_grad_()
    terms = package_bound(process, data, log_variance=best).terms
    (slope,) = torch.autograd.grad(terms.sum(), best)
    assert slope.abs().max() < 1e-12
    for change in (-0.1, 0.1):
        assert (package_bound(process, data, log_variance=best.detach() + change).terms > terms).all()
    for k in range(1, 10):
        _, posterior, _ = pair_coefficients(IDENTITY_TIMES[k - 1], IDENTITY_TIMES[k])
        expected = 0.5 * (best[k].item() - math.log(posterior))
        assert terms[k].item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_weight_of_the_error_is_the_fall_of_the_signal_to_noise_ratio():
    # (C), for neighbours and for far pairs; with digits to spare where the two ratios nearly agree
    s, t = zip(*[(s, s + 1) for s in range(1, 1000)], (1, 1000), (3, 700), (500, 999), strict=True)
    steps = StepCoefficients.between(LINEAR, torch.tensor(s), torch.tensor(t))
    with mpmath.workdps(40):
        abar = [mpmath.exp(mpmath.mpf(x)) for x in LINEAR.log_alphas_cumprod.tolist()]
        snr = [None] + [a / (1 - a) for a in abar[1:]]
        expected = double([float(snr[a] - snr[b]) for a, b in zip(s, t, strict=True)])
    torch.testing.assert_close(steps.posterior_coef_x0**2 / steps.posterior_variance, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("variance", [0.0, 0.01, 0.25, 1.0, 4.0])
def test_the_optimal_variance_lies_between_the_posteriors_and_that_of_the_way_back(variance: float):
    # β̃ ≤ σ*² ≤ β/α; β̃ for data that are a point, β for data that are noise already, more than β beyond.
    data = Mixture.gaussian(0.3, variance)
    mmse = data.mmse(LINEAR.log_alphas_cumprod[1:])
    best = optimal_log_variance(LINEAR.log_alphas_cumprod, mmse).exp()[1:]
    table = full_chain(LINEAR).table
    small, large = table.log_variance_small[1:].exp(), table.log_variance_large[1:].exp()
    assert (best >= small * (1 - 1e-12)).all()
    assert (best <= large / (1 - large) * (1 + 1e-12)).all()
    if variance == 0:
        torch.testing.assert_close(best, small, rtol=1e-12, atol=0)
    elif variance == 1:
        torch.testing.assert_close(best, large, rtol=1e-12, atol=0)
    else:
        assert ((best > large) == (variance > 1)).all()


def test_a_learned_range_reaches_the_optimum_below_unit_variance_and_not_beyond():
    for variance, reaches in ((0.25, True), (4.0, False)):
        data = Mixture.gaussian(0.0, variance)
        process = full_chain(LINEAR, "learned_range")
        best = optimal_log_variance(log_abar_of(process), data.mmse(LINEAR.log_alphas_cumprod[1:]))
        small, large = process.table.log_variance_small, process.table.log_variance_large
        channels = (2 * (best - small) / (large - small) - 1)[1:]  # 2ν − 1
        assert ((channels.abs() <= 1).all()) == reaches
        assert ((channels.abs() <= 1).any()) == reaches


def test_the_bound_of_a_mixture_exceeds_its_entropy_by_what_1000_steps_cost():
    x = torch.linspace(-3, 3, 20001, dtype=torch.float64)
    log_density = MIXTURE.log_density(x, double(0.0))
    entropy = -float((log_density.exp() * log_density).sum()) * 6 / 20000
    assert entropy == pytest.approx(0.21202310348, abs=1e-11)
    assert package_bound(full_chain(LINEAR), MIXTURE).total - entropy == pytest.approx(0.00451389, abs=1e-8)


@pytest.mark.parametrize("times", [[1, 2, 30], [3, 50, 51, 900, 1000]], ids=str)
@pytest.mark.parametrize("data", ["Gaussian", "mixture", "levels"])
def test_all_terms_of_the_bound_are_those_of_the_papers_equations(data: str, times: list[int]):
    mixture = {"Gaussian": GAUSSIAN, "mixture": MIXTURE, "levels": FOUR}[data]
    num_levels, log_abar = 256 if data == "levels" else None, LINEAR.log_alphas_cumprod[[0, *times]]
    fixed = zip(("fixed_small", "fixed_large"), fixed_log_variances(log_abar), strict=True)
    best = optimal_log_variance(log_abar, mixture.mmse(log_abar[1:]))
    for variance_type, log_variance in [*fixed, ("learned", best)]:
        process = ReverseProcess(LINEAR, times, variance_type=variance_type)
        found = package_bound(process, mixture, num_levels)
        expected = exact_bound(mixture, log_abar, log_variance, num_levels)
        torch.testing.assert_close(found.terms, expected.terms, rtol=1e-9, atol=1e-12)
        assert found.prior == pytest.approx(expected.prior, rel=1e-9, abs=0)


def test_clipping_cannot_raise_the_terms_of_data_within_the_range(generator: torch.Generator):
    x_0 = 2 * torch.rand(999, 40, generator=generator, dtype=torch.float64) - 1
    index = torch.arange(1, 1000)
    x_t = q_sample(LINEAR, x_0, torch.randn(999, 40, generator=generator, dtype=torch.float64), index + 1)
    output = x_0 + torch.randn(999, 40, generator=generator, dtype=torch.float64)
    free, clipped = (
        vlb_terms(
            full_chain(LINEAR, "fixed_small", prediction_type="sample", constrain=c), output, x_0, x_t, index, 256
        )
        for c in (None, clip_sample(1.0))
    )
    assert (clipped <= free).all()
    assert (clipped < free).any()


# --- 256 levels -------------------------------------------------------------------------------------------------


def decoder_bins() -> Tensor:
    """The probability of every level under N(0.1, 0.4²), the edge bins taking the tails."""
    edges = np.concatenate([[-np.inf], (2 * np.arange(255) + 1) / 255 - 1, [np.inf]])
    return double(np.diff(norm.cdf(edges, 0.1, 0.4)))


SMOOTH = Mixture.of_levels(double(range(256)), decoder_bins(), 256)
FOUR = Mixture.of_levels(double([0, 100, 101, 255]), double([0.4, 0.3, 0.1, 0.2]), 256)


def entropy_in_bits(data: Mixture) -> float:
    return -float((data.weights * data.weights.log2()).sum())


@pytest.fixture(scope="module")
def grids() -> dict[str, Grid]:
    """Quadrature nodes at all of the 1000 times, once for all variances."""
    return {name: data.grid(LINEAR.log_alphas_cumprod[1:]) for name, data in (("smooth", SMOOTH), ("four", FOUR))}


def test_the_bins_of_the_data_are_the_decoders_own():
    levels = SMOOTH.means
    log_probability = discretized_gaussian_log_likelihood(levels, double(0.1), double(2 * math.log(0.4)), 256)
    torch.testing.assert_close(log_probability.exp(), SMOOTH.weights, rtol=1e-10, atol=1e-15)
    assert entropy_in_bits(SMOOTH) == pytest.approx(7.632992, abs=5e-7)
    assert entropy_in_bits(FOUR) == pytest.approx(1.846, abs=5e-4)


@pytest.mark.parametrize(
    ("data", "variance_type", "first_variance", "expected", "tolerance"),
    [
        ("smooth", "learned", None, 7.645880, 6e-7),
        ("smooth", "fixed_large", None, 7.649333, 6e-7),
        ("smooth", "fixed_large", "posterior", 7.762764, 6e-7),
        ("smooth", "fixed_small", None, 8.400782, 6e-7),
        ("four", "learned", None, 1.893, 5e-4),
        ("four", "fixed_large", "posterior", 2.901, 5e-4),
        ("four", "fixed_small", None, 2.449, 5e-4),
    ],
)
def test_the_bound_of_1000_steps_on_levels(
    data: str,
    variance_type: str,
    first_variance: str | None,
    expected: float,
    tolerance: float,
    grids: dict[str, Grid],
):
    process = full_chain(LINEAR, variance_type, first_variance=first_variance)
    bound = package_bound(process, {"smooth": SMOOTH, "four": FOUR}[data], 256, grid=grids[data])
    assert bound.total / LOG_2 == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("data", "expected"), [("smooth", 0.113), ("four", -0.205)])
def test_the_first_variance_alone_moves_the_total(data: str, expected: float, grids: dict[str, Grid]):
    mixture = {"smooth": SMOOTH, "four": FOUR}[data]
    one, other = (
        package_bound(full_chain(LINEAR, "fixed_large", first_variance=first), mixture, 256, grid=grids[data])
        for first in ("posterior", "beta")
    )
    torch.testing.assert_close(one.terms[1:], other.terms[1:], rtol=0, atol=0)
    assert (one.total - other.total) / LOG_2 == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(
    ("variance_type", "expected", "tolerance"),
    [("fixed_small", 542.9, 0.05), ("fixed_large", 7.94, 0.005), ("learned", 7.68, 0.005)],
)
def test_the_bound_of_10_evenly_spaced_steps_on_levels(variance_type: str, expected: float, tolerance: float):
    process = ReverseProcess(LINEAR, spaced_times("linspace", 10, 1000), variance_type=variance_type)
    assert package_bound(process, SMOOTH, 256).total / LOG_2 == pytest.approx(expected, abs=tolerance)


def test_the_published_distortion():
    # Ho et al. (2020), section 4.3: an error of .95 on the 0–255 scale is 1.97 bits/dim.
    log_variance = full_chain(NoiseSchedule.linear(1000), "fixed_small").table.log_variance_small[0]
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    residual = 0.95136 * 2 / 255 * double(nodes)
    log_probability = discretized_gaussian_log_likelihood(double(1 / 255), 1 / 255 + residual, log_variance, 256)
    bits = -float((double(weights / weights.sum()) * log_probability).sum()) / LOG_2
    assert bits == pytest.approx(1.977, abs=5e-4)


# --- sizes and constants ----------------------------------------------------------------------------------------


def test_the_prior_term_of_linear_1000():
    schedule = NoiseSchedule.linear(1000)
    assert schedule.alphas_cumprod[-1].item() == pytest.approx(4.035830e-5, rel=1e-6, abs=0)
    for square, expected, tolerance in ((1.0, 2.911295e-5, 2e-7), (1 / 3, 9.70e-6, 1e-3)):
        x_0 = torch.full((1, 3), math.sqrt(square), dtype=torch.float64)
        assert prior_kl(schedule, x_0, 1000).item() / LOG_2 == pytest.approx(expected, rel=tolerance, abs=0)
        assert DDPMPaperScheduler().prior_loss(x_0).item() == pytest.approx(expected, rel=tolerance, abs=0)


@pytest.mark.parametrize("T", [10, 100, 1000, 4000])
def test_exactly_one_beta_of_the_cosine_is_capped(T: int):
    capped = (NoiseSchedule.cosine(T).betas - 0.999).abs() < 1e-12
    assert capped.sum() == 1
    assert capped[-1]


def test_the_cosine_of_4000_ends_at_1_5e_10():
    assert NoiseSchedule.cosine(4000).alphas_cumprod[-1].item() == pytest.approx(1.518e-10, rel=4e-4, abs=0)
    assert NoiseSchedule.cosine(4000, max_beta=1.0).alphas_cumprod[-1].item() < 1e-30


def test_one_minus_alphas_cumprod_is_exact_next_to_the_data():
    # Tables in float32 are off by 1.7e-4 here, and by 2.9e-3 for the cosine.
    for schedule, beta in ((NoiseSchedule.linear(1000), 1e-4), (NoiseSchedule.cosine(4000), None)):
        if beta is None:
            with mpmath.workdps(40):
                angles = [(mpmath.mpf(t) / 4000 + mpmath.mpf(0.008)) / (1 + mpmath.mpf(0.008)) for t in (0, 1)]
                beta = float(1 - (mpmath.cos(angles[1] * mpmath.pi / 2) / mpmath.cos(angles[0] * mpmath.pi / 2)) ** 2)
        assert -math.expm1(schedule.log_alphas_cumprod[1]) == pytest.approx(beta, rel=1e-13, abs=0)


# --- chains and data sets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction", "mean"])
@pytest.mark.parametrize(
    ("variance_type", "steps", "eta"),
    [
        ("fixed_small", 20, None),
        ("fixed_large", 20, None),
        ("fixed_large", 7, None),
        ("fixed_small", 7, 0.0),
        ("fixed_small", 7, 0.6),
    ],
)
def test_samples_have_the_covariance_of_the_linear_recursion(
    variance_type: str, steps: int, eta: float | None, prediction_type: str, generator: torch.Generator
):
    data = GaussianVectors(double([0.3, -0.2, 0.0]), double([[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.1]]))
    scheduler = DDPMPaperScheduler(
        20,
        0.01,
        0.5,
        variance_type=variance_type,
        prediction_type=prediction_type,
        clip_sample=False,
        timestep_spacing="linspace",
    )
    scheduler.set_timesteps(steps)
    n = 20000
    x_t = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    mean, covariance, identity = torch.zeros(3).double(), torch.eye(3).double(), torch.eye(3).double()
    times = [*(scheduler.timesteps + 1).tolist(), 0]
    step = scheduler.step if eta is None else partial(scheduler.ddim_step, eta=eta)
    for t, s in itertools.pairwise(times):
        log_abar_t, log_abar_s = scheduler.schedule.log_alphas_cumprod[[t, s]]
        gain, offset = data.denoiser(log_abar_t)  # E[x_0 | x_t] = gain x_t + offset
        x_0 = x_t @ gain.T + offset
        abar_t, abar_s = log_abar_t.exp(), log_abar_s.exp()
        beta, posterior = 1 - abar_t / abar_s, (1 - abar_t / abar_s) * (1 - abar_s) / (1 - abar_t)
        c1 = abar_s.sqrt() * beta / (1 - abar_t)
        c2 = (abar_t / abar_s).sqrt() * (1 - abar_s) / (1 - abar_t)
        if prediction_type == "mean":  # of the time before t, whichever is visited
            abar_n = scheduler.schedule.log_alphas_cumprod[t - 1].exp()
            alpha_n = abar_t / abar_n
            output = (abar_n.sqrt() * (1 - alpha_n) * x_0 + alpha_n.sqrt() * (1 - abar_n) * x_t) / (1 - abar_t)
        else:
            output = model_output(prediction_type, x_0, x_t, log_abar_t)
        x_t = step(output, t - 1, x_t, generator=generator).prev_sample
        sigma2 = 0.0 if s == 0 else (posterior if variance_type == "fixed_small" else beta)
        if eta is not None:  # (Song et al. 2021, Eq. 12)
            sigma2 = eta**2 * sigma2
            c2 = ((1 - abar_s - sigma2) / (1 - abar_t)).sqrt()
            c1 = abar_s.sqrt() - c2 * abar_t.sqrt()
        A = c1 * gain + c2 * identity  # the recursion: x_s = A x_t + b + σ z
        mean, covariance = A @ mean + c1 * offset, A @ covariance @ A.T + sigma2 * identity
    scale = covariance.diagonal().sqrt()
    error = (x_t.T.cov() - covariance) / scale[:, None] / scale
    assert error.abs().max() <= 5 * math.sqrt(2 / n)
    assert ((x_t.mean(0) - mean) / scale).abs().max() <= 5 / math.sqrt(n)


@pytest.mark.parametrize("shape", [[2], [3, 4], [2, 3, 3]], ids=len)
def test_the_optimal_noise_prediction_on_a_finite_data_set_is_the_score(shape: list[int], generator: torch.Generator):
    # ε*(x_t) = −√(1 − ᾱ) ∇ log q(x_t)
    data = Points(torch.randn(6, *shape, generator=generator, dtype=torch.float64), double([1, 2, 3, 1, 1, 2]) / 10)
    t = torch.tensor([1, 20, 200, 400, 700, 1000])
    schedule = NoiseSchedule.linear(1000)
    log_abar = schedule.log_alphas_cumprod[t]
    x_t = q_sample(schedule, data.values, torch.randn(6, *shape, generator=generator, dtype=torch.float64), t)
    x_t.requires_grad_()
    (score,) = torch.autograd.grad(data.log_density(x_t, log_abar).sum(), x_t)
    x_0 = data.denoise(x_t, log_abar).detach()
    x_t = x_t.detach()
    noise = convert_prediction(x_0, x_t, "sample", "epsilon", schedule, t)
    scale = 1 / torch.sqrt(-torch.expm1(log_abar)).reshape(-1, *[1] * len(shape))
    torch.testing.assert_close(noise, -score / scale, rtol=1e-12, atol=1e-12)
    converted = convert_prediction(noise, x_t, "epsilon", "score", schedule, t)
    torch.testing.assert_close(converted / scale, score / scale, rtol=1e-12, atol=1e-12)
    for kind in PREDICTION_TYPES:
        prediction = convert_prediction(score, x_t, "score", kind, schedule, t)
        back = convert_prediction(prediction, x_t, kind, "sample", schedule, t)
        torch.testing.assert_close(back, x_0, rtol=1e-9, atol=1e-9)


def test_the_mean_prediction_of_the_optimal_denoiser_is_the_mean_of_the_way_back():
    # E[x_s | x_t] on a finite data set, directly: the posterior means of all points, each with its posterior weight.
    data = Points(double([[-1.0], [0.25], [1.0]]), double([0.5, 0.3, 0.2]))
    x_t = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for s, t in ((0, 1), (1, 2), (300, 700), (999, 1000)):
        log_abar = LINEAR.log_alphas_cumprod[t].expand(9)
        weights = data.posterior_weights(x_t, log_abar)
        means = [q_posterior_mean_variance(LINEAR, point.expand(9, 1), x_t, s, t)[0] for point in data.values]
        expected = (weights * torch.cat(means, dim=1)).sum(1, keepdim=True)
        x_0 = data.denoise(x_t, log_abar)
        torch.testing.assert_close(
            convert_prediction(x_0, x_t, "sample", "mean", LINEAR, t, s), expected, rtol=1e-12, atol=1e-12
        )
