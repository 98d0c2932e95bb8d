# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""gaussian_process: q composes, its posterior obeys Bayes' rule, and the five predictions determine each other."""

from __future__ import annotations

import itertools
import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import double
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpm_hf.diffusion.gaussian_process import (
    PREDICTION_TYPES,
    StepCoefficients,
    convert_prediction,
    gaussian_kl,
    linear_combination,
    prediction_from_x0,
    q_mean_variance,
    q_posterior_mean_variance,
    q_sample,
    q_transition_mean_variance,
    velocity,
    x0_from_prediction,
)
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule


LINEAR = NoiseSchedule.linear(1000)
COSINE = NoiseSchedule.cosine(1000)
SHORT = NoiseSchedule.linear(10, 0.05, 0.3)
RANKS = [[4], [4, 3], [4, 3, 2], [4, 3, 2, 2], [4, 3, 2, 2, 2]]

# Random schedules of up to a dozen steps, with a pair of times s < t.
betas_and_times = st.lists(st.floats(1e-6, 0.999), min_size=2, max_size=12).flatmap(
    lambda betas: st.tuples(
        st.just(NoiseSchedule.from_betas(betas)),
        st.lists(st.integers(0, len(betas)), min_size=2, max_size=2, unique=True).map(sorted),
    )
)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- the forward process ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_q_of_x_t_is_q_of_x_s_followed_by_the_transition(schedule: NoiseSchedule):
    x_0 = randn(3, 2)
    for s, t in [(1, 2), (1, 1000), (10, 11), (400, 900), (999, 1000)]:
        mean_s, variance_s, _ = q_mean_variance(schedule, x_0, s)
        mean, beta, _ = q_transition_mean_variance(schedule, mean_s, s, t)
        ratio = schedule.alphas_cumprod[t] / schedule.alphas_cumprod[s]
        mean_t, variance_t, _ = q_mean_variance(schedule, x_0, t)
        torch.testing.assert_close(mean, mean_t, rtol=1e-13, atol=0)
        torch.testing.assert_close(ratio * variance_s + beta, variance_t, rtol=1e-13, atol=0)


def test_the_transition_from_the_data_is_q():
    x_0, t = randn(3, 2), torch.tensor([1, 500, 1000])
    for one, other in zip(
        q_transition_mean_variance(LINEAR, x_0, torch.zeros_like(t), t), q_mean_variance(LINEAR, x_0, t), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-15, atol=0)


@given(betas_and_times, st.floats(-3, 3), st.floats(-3, 3))
def test_the_posterior_is_bayes_rule(case: tuple[NoiseSchedule, list[int]], x_0: float, x_t: float):
    # q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0): precisions add, and so do precision-weighted means.
    schedule, (s, t) = case
    x_0, x_t = double([[x_0]]), double([[x_t]])
    mean, variance, log_variance = q_posterior_mean_variance(schedule, x_0, x_t, s, t)
    if s == 0:
        assert variance.item() == 0
        assert log_variance.item() == -math.inf
        torch.testing.assert_close(mean, x_0, rtol=1e-14, atol=1e-14)
        return
    prior_mean, prior_variance, _ = q_mean_variance(schedule, x_0, s)
    _, beta, _ = q_transition_mean_variance(schedule, x_0, s, t)
    scale = (schedule.log_alphas_cumprod[t] - schedule.log_alphas_cumprod[s]).exp().sqrt()
    precision = scale**2 / beta + 1 / prior_variance
    torch.testing.assert_close(1 / variance, precision, rtol=1e-11, atol=0)
    torch.testing.assert_close(log_variance, -precision.log(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        mean, (scale * x_t / beta + prior_mean / prior_variance) / precision, rtol=1e-9, atol=1e-9
    )


def test_the_posterior_density_is_the_quotient_of_the_forward_densities():
    s, t = torch.tensor([1, 10, 400, 999]), torch.tensor([2, 300, 401, 1000])
    x_0, x_t, x_s = randn(4, 3), randn(4, 3, seed=1), randn(4, 3, seed=2)

    def log_density(moments: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
        return Normal(moments[0], moments[1].sqrt()).log_prob(x)

    posterior = log_density(q_posterior_mean_variance(LINEAR, x_0, x_t, s, t), x_s)
    forward = (
        log_density(q_transition_mean_variance(LINEAR, x_s, s, t), x_t)
        + log_density(q_mean_variance(LINEAR, x_0, s), x_s)
        - log_density(q_mean_variance(LINEAR, x_0, t), x_t)
    )
    torch.testing.assert_close(posterior, forward, rtol=1e-9, atol=1e-9)


def test_steps_are_exact_to_the_last_digits_for_any_pair():
    with mpmath.workdps(60):
        for schedule in (LINEAR, COSINE):
            abar = [mpmath.exp(mpmath.mpf(x)) for x in schedule.log_alphas_cumprod.tolist()]
            for s, t in [(0, 1), (0, 1000), (1, 2), (1, 1000), (500, 501), (3, 997), (998, 1000), (999, 1000)]:
                step = StepCoefficients.between(schedule, s, t)
                beta, noise_s, noise_t = 1 - abar[t] / abar[s], 1 - abar[s], 1 - abar[t]
                expected = {
                    "alpha_t": mpmath.sqrt(abar[t]),
                    "sigma_t": mpmath.sqrt(noise_t),
                    "beta": beta,
                    "log_beta": mpmath.log(beta),
                    "posterior_coef_x0": mpmath.sqrt(abar[s]) * beta / noise_t,
                    "posterior_coef_xt": mpmath.sqrt(abar[t] / abar[s]) * noise_s / noise_t,
                    "posterior_variance": beta * noise_s / noise_t,
                }
                for name, value in expected.items():
                    assert float(getattr(step, name)) == pytest.approx(float(value), rel=2e-13, abs=0), (name, s, t)
                if s > 0:
                    log_variance = float(mpmath.log(expected["posterior_variance"]))
                    assert step.posterior_log_variance.item() == pytest.approx(log_variance, rel=1e-13, abs=0)


def test_coefficients_map_to_a_set_of_the_same_kind():
    steps = StepCoefficients.between(SHORT, torch.arange(10), torch.arange(1, 11))
    third = steps.map(lambda column: column[2])
    assert isinstance(third, StepCoefficients)
    assert third.beta == StepCoefficients.between(SHORT, 2, 3).beta


@pytest.mark.parametrize("shape", RANKS, ids=len)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_samples_and_moments_agree_for_one_time_and_for_one_per_example(shape: list[int], dtype: torch.dtype):
    x_0, noise = randn(*shape, dtype=dtype), randn(*shape, seed=1, dtype=dtype)
    t = torch.tensor([0, 1, 500, 1000])
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-14, "atol": 1e-14}
    x_t, v = q_sample(LINEAR, x_0, noise, t), velocity(LINEAR, x_0, noise, t)
    mean, variance, log_variance = q_mean_variance(LINEAR, x_0, t)
    assert x_t.shape == v.shape == mean.shape == x_0.shape
    assert x_t.dtype == v.dtype == mean.dtype == variance.dtype == log_variance.dtype == dtype
    torch.testing.assert_close(x_t, mean + variance.sqrt() * noise, **tolerance)
    torch.testing.assert_close(log_variance.exp(), variance, **tolerance)
    for b, time in enumerate(t.tolist()):
        abar = math.exp(LINEAR.log_alphas_cumprod[time])
        alpha, sigma = math.sqrt(abar), math.sqrt(-math.expm1(LINEAR.log_alphas_cumprod[time]))
        torch.testing.assert_close(x_t[b], alpha * x_0[b] + sigma * noise[b], **tolerance)
        torch.testing.assert_close(v[b], alpha * noise[b] - sigma * x_0[b], **tolerance)
        torch.testing.assert_close(q_sample(LINEAR, x_0, noise, time)[b], x_t[b], **tolerance)
        torch.testing.assert_close(velocity(LINEAR, x_0, noise, time)[b], v[b], **tolerance)
        torch.testing.assert_close(q_mean_variance(LINEAR, x_0, time)[0][b], mean[b], **tolerance)


@pytest.mark.parametrize("shape", RANKS, ids=len)
def test_posterior_and_transition_agree_for_one_pair_and_for_one_per_example(shape: list[int]):
    x_0, x_t = randn(*shape), randn(*shape, seed=1)
    s, t = torch.tensor([0, 1, 500, 3]), torch.tensor([1, 1000, 501, 5])
    posterior, transition = (
        q_posterior_mean_variance(LINEAR, x_0, x_t, s, t),
        q_transition_mean_variance(LINEAR, x_0, s, t),
    )
    for b, pair in enumerate(zip(s.tolist(), t.tolist(), strict=True)):
        alone = q_posterior_mean_variance(LINEAR, x_0, x_t, *pair), q_transition_mean_variance(LINEAR, x_0, *pair)
        for batch, single in zip(posterior + transition, alone[0] + alone[1], strict=True):
            torch.testing.assert_close(batch.expand_as(x_0)[b], single.expand_as(x_0)[b], rtol=1e-14, atol=0)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("t", [1, 2, 9, 20, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_samples_get_their_noise(dtype: torch.dtype, t: int, schedule: NoiseSchedule):
    # Coefficients in half precision would round 1 − ᾱ_t to zero here and add nothing.
    x_0, noise = randn(2, 5000, dtype=dtype) / 4, randn(2, 5000, seed=1, dtype=dtype)
    exact = q_sample(schedule, x_0.double(), noise.double(), t)
    for time in (t, torch.tensor([t, t])):
        x_t = q_sample(schedule, x_0, noise, time)
        assert x_t.dtype == dtype
        # Within half a unit in the last place, and what the float32 in between rounds off.
        half_ulp = exact.abs().clamp(min=2.0**-14) * torch.finfo(dtype).eps / 2
        in_between = 2.0**-23 * (x_0.double().abs() + noise.double().abs())
        assert ((x_t.double() - exact).abs() <= half_ulp + in_between).all()
    added = x_t.double() - (0.5 * schedule.log_alphas_cumprod[t]).exp() * x_0.double()
    sigma = (added * noise.double()).sum() / (noise.double() ** 2).sum()
    assert sigma.item() == pytest.approx(math.sqrt(-math.expm1(schedule.log_alphas_cumprod[t])), rel=0.02, abs=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_variances_survive_half_precision_samples(dtype: torch.dtype):
    x = randn(2, 3, dtype=dtype)
    for moments in (
        q_mean_variance(LINEAR, x, 1),
        q_transition_mean_variance(LINEAR, x, 1, 2),
        q_posterior_mean_variance(LINEAR, x, x, 1, 2),
    ):
        assert all(moment.dtype == torch.float32 for moment in moments)
        assert (moments[1] > 0).all()
    assert velocity(LINEAR, x, x, 1).dtype == dtype


def test_after_a_step_to_zero_terminal_snr_nothing_of_the_data_is_left():
    schedule = NoiseSchedule.from_betas([0.1, 1.0])
    x_0, noise = randn(3, 2), randn(3, 2, seed=1)
    assert torch.equal(q_sample(schedule, x_0, noise, 2), noise)
    mean, variance, _ = q_posterior_mean_variance(schedule, x_0, noise, 1, 2)
    prior_mean, prior_variance, _ = q_mean_variance(schedule, x_0, 1)
    torch.testing.assert_close(mean, prior_mean)
    torch.testing.assert_close(variance, prior_variance)


# --- the divergence ---------------------------------------------------------------------------------------------


def test_gaussian_kl_is_that_of_torch_distributions():
    mean_1, log_variance_1, mean_2, log_variance_2 = (randn(50, 4, seed=seed) for seed in range(4))
    expected = kl_divergence(
        Normal(mean_1, (0.5 * log_variance_1).exp()), Normal(mean_2, (0.5 * log_variance_2).exp())
    )
    torch.testing.assert_close(
        gaussian_kl(mean_1, log_variance_1, mean_2, log_variance_2), expected, rtol=1e-12, atol=0
    )


def test_gaussian_kl_keeps_its_digits_between_nearly_equal_variances():
    log_ratio = double([1e-3, 1e-5, 1e-6])
    with mpmath.workdps(50):
        expected = [float((mpmath.expm1(mpmath.mpf(r)) - mpmath.mpf(r)) / 2) for r in log_ratio.tolist()]
    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(gaussian_kl(zero, log_ratio, zero, zero), double(expected), rtol=1e-3, atol=0)
    assert gaussian_kl(zero, zero, zero, zero).tolist() == [0, 0, 0]


# --- the five predictions ---------------------------------------------------------------------------------------


def all_predictions(schedule: NoiseSchedule, x_0: Tensor, noise: Tensor, t: Tensor | int) -> dict[str, Tensor]:
    """The five quantities from their definitions, at s = t − 1."""
    shape = [-1, *[1] * (x_0.ndim - 1)]
    t = torch.as_tensor(t).expand(len(x_0))
    abar = schedule.alphas_cumprod.to(x_0.dtype)[t].reshape(shape)
    before = schedule.alphas_cumprod.to(x_0.dtype)[t - 1].reshape(shape)
    beta = 1 - abar / before
    x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * noise
    mean = before.sqrt() * beta / (1 - abar) * x_0 + (abar / before).sqrt() * (1 - before) / (1 - abar) * x_t
    return {
        "epsilon": noise,
        "sample": x_0,
        "v_prediction": abar.sqrt() * noise - (1 - abar).sqrt() * x_0,
        "score": -noise / (1 - abar).sqrt(),
        "mean": mean,
        "x_t": x_t,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [1, 5, torch.tensor([1, 10, 3, 7])], ids=["first", "one", "batch"])
@pytest.mark.parametrize(("source", "target"), list(itertools.product(PREDICTION_TYPES, repeat=2)))
def test_every_prediction_turns_into_every_other_and_back(
    source: str, target: str, t: int | Tensor, dtype: torch.dtype
):
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    for shape in RANKS:
        truth = all_predictions(SHORT, randn(*shape, dtype=dtype), randn(*shape, seed=1, dtype=dtype), t)
        there = convert_prediction(truth[source], truth["x_t"], source, target, SHORT, t)
        assert there.dtype == dtype
        torch.testing.assert_close(there, truth[target], **tolerance)
        back = convert_prediction(there, truth["x_t"], target, source, SHORT, t)
        torch.testing.assert_close(back, truth[source], **tolerance)


def test_the_mean_may_refer_to_any_earlier_time():
    x_0, noise = randn(4, 3), randn(4, 3, seed=1)
    s, t = torch.tensor([0, 1, 4, 9]), torch.tensor([10, 8, 6, 10])
    x_t = q_sample(SHORT, x_0, noise, t)
    expected, _, _ = q_posterior_mean_variance(SHORT, x_0, x_t, s, t)
    mean = convert_prediction(noise, x_t, "epsilon", "mean", SHORT, t, s)
    torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        convert_prediction(mean, x_t, "mean", "sample", SHORT, t, s), x_0, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_coefficients_of_a_prediction_and_of_x0_invert_each_other(kind: str):
    step = StepCoefficients.between(LINEAR, torch.arange(1000), torch.arange(1, 1001))
    (p, q), (a, b) = prediction_from_x0(kind, step), x0_from_prediction(kind, step)
    torch.testing.assert_close(a * p, torch.ones(1000, dtype=torch.float64), rtol=1e-14, atol=0)
    torch.testing.assert_close(a * q + b, torch.zeros(1000, dtype=torch.float64), rtol=0, atol=3e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_conversions_return_the_dtype_they_were_given(dtype: torch.dtype):
    noise, x_t = randn(4, 3, dtype=dtype), randn(4, 3, seed=1, dtype=dtype)
    v = convert_prediction(noise, x_t, "epsilon", "v_prediction", SHORT, 4)
    exact = convert_prediction(noise.double(), x_t.double(), "epsilon", "v_prediction", SHORT, 4)
    assert v.dtype == dtype
    torch.testing.assert_close(v.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


def test_at_zero_terminal_snr_v_still_determines_the_others_and_epsilon_does_not():
    schedule = SHORT.rescale_zero_terminal_snr()
    x_0, noise = randn(4, 3), randn(4, 3, seed=1)
    v = velocity(schedule, x_0, noise, 10)
    torch.testing.assert_close(convert_prediction(v, noise, "v_prediction", "sample", schedule, 10), x_0)
    torch.testing.assert_close(convert_prediction(v, noise, "v_prediction", "epsilon", schedule, 10), noise)
    for source in ("epsilon", "score"):
        assert torch.equal(convert_prediction(noise, noise, source, source, schedule, 10), noise)
        with pytest.raises(ValueError, match="`source`"):
            convert_prediction(noise, noise, source, "sample", schedule, 10)
        with pytest.raises(ValueError, match="`source`"):
            convert_prediction(noise, noise, source, "sample", schedule, torch.tensor([3, 10, 3, 3]))


def test_a_linear_combination_of_numbers_is_that_of_tensors():
    x, y = randn(3, 2), randn(3, 2, seed=1)
    before = x.clone()
    expected = 0.3 * x - 0.7 * y
    torch.testing.assert_close(linear_combination(0.3, x, -0.7, y), expected, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(
        linear_combination(double([0.3] * 3), x, double(-0.7), y), expected, rtol=1e-15, atol=1e-15
    )
    assert torch.equal(x, before)


@pytest.mark.parametrize("t", [5, torch.tensor([1, 5, 10, 2])], ids=["one", "batch"])
def test_the_process_is_differentiable(t: int | Tensor):
    x, y = randn(4, 2).requires_grad_(), randn(4, 2, seed=1).requires_grad_()
    functions = [
        lambda x, y: q_sample(SHORT, x, y, t),
        lambda x, y: velocity(SHORT, x, y, t),
        lambda x, y: q_posterior_mean_variance(SHORT, x, y, t - 1, t)[0],
        lambda x, y: convert_prediction(x, y, "epsilon", "mean", SHORT, t),
        lambda x, y: gaussian_kl(x, y, y, x),
    ]
    for function in functions:
        assert torch.autograd.gradcheck(function, (x, y))


# --- what is refused --------------------------------------------------------------------------------------------

GOOD = torch.zeros(4, 3)


@pytest.mark.parametrize(
    "bad", [torch.zeros(3, 4), torch.zeros(4), torch.zeros(1, 3), torch.zeros(4, 3, dtype=torch.int64), None], ids=str
)
def test_samples_that_do_not_fit_are_refused(bad: Tensor | None):
    for call, name in (
        (lambda: q_sample(SHORT, GOOD, bad, 1), "noise"),
        (lambda: velocity(SHORT, GOOD, bad, 1), "noise"),
        (lambda: q_posterior_mean_variance(SHORT, GOOD, bad, 0, 1), "x_t"),
        (lambda: convert_prediction(GOOD, bad, "epsilon", "sample", SHORT, 1), "x_t"),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            call()


def test_integer_samples_are_refused_with_advice():
    pixels = torch.zeros(2, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"`x_0` must be a floating-point tensor, but is torch.uint8; scale"):
        q_sample(SHORT, pixels, pixels, 1)
    with pytest.raises(ValueError, match="`x_0`"):
        q_mean_variance(SHORT, pixels, 1)
    with pytest.raises(ValueError, match="`x_s`"):
        q_transition_mean_variance(SHORT, pixels, 1, 2)


@pytest.mark.parametrize(
    "t", [torch.tensor([1, 2]), torch.tensor([[1], [1], [1], [1]]), torch.ones(3, dtype=torch.int64)]
)
def test_times_that_are_not_one_per_example_are_refused(t: Tensor):
    with pytest.raises(ValueError, match="batch"):
        q_sample(SHORT, GOOD, GOOD, t)
    with pytest.raises(ValueError, match="batch"):
        q_posterior_mean_variance(SHORT, GOOD, GOOD, t - 1, t)


@pytest.mark.parametrize("t", [-1, 11, 1.0, torch.tensor([0, 1, 2, 11]), torch.tensor([1.0] * 4)], ids=str)
def test_times_off_the_clock_are_refused(t: object):
    with pytest.raises(ValueError, match=r"[Tt]ime"):
        q_sample(SHORT, GOOD, GOOD, t)


@pytest.mark.parametrize(
    "pair", [(3, 3), (4, 3), (torch.tensor([0, 5]), torch.tensor([1, 5])), (4, torch.tensor([5, 3]))]
)
def test_pairs_of_times_that_do_not_ascend_are_refused(pair: tuple[int | Tensor, int | Tensor]):
    x = torch.zeros(2, 3)
    for call in (
        lambda: q_transition_mean_variance(SHORT, x, *pair),
        lambda: q_posterior_mean_variance(SHORT, x, x, *pair),
        lambda: StepCoefficients.between(SHORT, *pair),
    ):
        with pytest.raises(ValueError, match="s < t"):
            call()


def test_time_0_has_no_prediction():
    with pytest.raises(ValueError, match=r"[Tt]ime"):
        convert_prediction(GOOD, GOOD, "epsilon", "sample", SHORT, 0)


@pytest.mark.parametrize(("source", "target", "name"), [("eps", "sample", "source"), ("sample", "eps", "target")])
def test_an_unknown_prediction_is_refused_by_the_name_of_its_argument(source: str, target: str, name: str):
    with pytest.raises(ValueError, match=rf"`{name}` must be one of .*'eps'"):
        convert_prediction(GOOD, GOOD, source, target, SHORT, 1)
