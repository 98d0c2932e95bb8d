# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""NoiseSchedule: every constructor against a product in 50-digit arithmetic and against stock diffusers."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Callable

import mpmath
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr
from hypothesis import given
from hypothesis import strategies as st
from oracles import double
from scipy.integrate import solve_ivp

from ddpm_hf.diffusion.gaussian_process import StepCoefficients
from ddpm_hf.diffusion.noise_schedule import ContinuousSchedule, NoiseSchedule


mp = mpmath.mp.clone()
mp.dps = 50


# --- the exact betas ----------------------------------------------------------------------------------------------


def exact_line(low: float, high: float, T: int) -> list[mpmath.mpf]:
    low, high = mp.mpf(low), mp.mpf(high)
    return [low + (high - low) * i / max(T - 1, 1) for i in range(T)]


def exact_linear(T: int, low: float = 1e-4, high: float = 0.02) -> list[mpmath.mpf]:
    return exact_line(low, high, T)


def exact_scaled_linear(T: int, low: float = 1e-4, high: float = 0.02) -> list[mpmath.mpf]:
    return [x**2 for x in exact_line(mp.sqrt(mp.mpf(low)), mp.sqrt(mp.mpf(high)), T)]


def exact_sigmoid(T: int, low: float = 1e-4, high: float = 0.02) -> list[mpmath.mpf]:
    low, high = mp.mpf(low), mp.mpf(high)
    return [low + (high - low) / (1 + mp.exp(-x)) for x in exact_line(-6, 6, T)]


def exact_from_curve(curve: Callable[[mpmath.mpf], mpmath.mpf], T: int, max_beta: float) -> list[mpmath.mpf]:
    values = [curve(mp.mpf(t) / T) for t in range(T + 1)]
    return [min(1 - after / before, mp.mpf(max_beta)) for before, after in itertools.pairwise(values)]


def exact_cosine(T: int, s: float = 0.008, max_beta: float = 0.999) -> list[mpmath.mpf]:
    s = mp.mpf(s)
    return exact_from_curve(lambda u: mp.cos((u + s) / (1 + s) * mp.pi / 2) ** 2, T, max_beta)


def exact_laplace(T: int, max_beta: float = 0.999) -> list[mpmath.mpf]:
    def curve(u: mpmath.mpf) -> mpmath.mpf:
        sign = 1 if u <= 0.5 else -1
        snr = mp.exp(-sign * mp.log(1 - 2 * abs(mp.mpf(0.5) - u) + mp.mpf(1e-6)) / 2)
        return mp.sqrt(snr / (1 + snr))

    return exact_from_curve(curve, T, max_beta)


def exact_linear_log_snr(T: int, high: float, low: float) -> list[mpmath.mpf]:
    values = [mp.mpf(1)] + [1 / (1 + mp.exp(-x)) for x in exact_line(high, low, T)]
    return [1 - after / before for before, after in itertools.pairwise(values)]


def exact_rescaled(betas: list[mpmath.mpf]) -> list[mpmath.mpf]:
    """Lin et al. (2024), Algorithm 1, as they write it."""
    roots = [mp.sqrt(abar) for abar in exact_products(betas)[1:]]
    values = [mp.mpf(1)] + [((r - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2 for r in roots]
    return [1 - after / before for before, after in itertools.pairwise(values)]


def exact_products(betas: list[mpmath.mpf]) -> list[mpmath.mpf]:
    """ᾱ_0 … ᾱ_T."""
    products = [mp.mpf(1)]
    for beta in betas:
        products.append(products[-1] * (1 - beta))
    return products


SCHEDULES = {
    "linear": (NoiseSchedule.linear, exact_linear),
    "scaled_linear": (NoiseSchedule.scaled_linear, exact_scaled_linear),
    "sigmoid": (NoiseSchedule.sigmoid, exact_sigmoid),
    "cosine": (NoiseSchedule.cosine, exact_cosine),
    "laplace": (NoiseSchedule.laplace, exact_laplace),
    "linear_log_snr": (
        lambda T: NoiseSchedule.linear_log_snr(T, 6.5, -9.0),
        lambda T: exact_linear_log_snr(T, 6.5, -9.0),
    ),
    "linear, other ends": (lambda T: NoiseSchedule.linear(T, 1e-6, 0.3), lambda T: exact_linear(T, 1e-6, 0.3)),
    "linear, downwards": (lambda T: NoiseSchedule.linear(T, 0.02, 1e-3), lambda T: exact_linear(T, 0.02, 1e-3)),
    "cosine, other cap": (lambda T: NoiseSchedule.cosine(T, 0.1, 0.5), lambda T: exact_cosine(T, 0.1, 0.5)),
    "laplace, other cap": (lambda T: NoiseSchedule.laplace(T, 0.5), lambda T: exact_laplace(T, 0.5)),
    "linear, zero terminal SNR": (
        lambda T: NoiseSchedule.linear(T).rescale_zero_terminal_snr(),
        lambda T: exact_rescaled(exact_linear(T)),
    ),
    "cosine, zero terminal SNR": (
        lambda T: NoiseSchedule.cosine(T).rescale_zero_terminal_snr(),
        lambda T: exact_rescaled(exact_cosine(T)),
    ),
}


def assert_relative(actual: torch.Tensor, expected: list[mpmath.mpf], tolerance: float) -> None:
    for i, (a, e) in enumerate(zip(actual.tolist(), expected, strict=True)):
        assert abs(mp.mpf(a) - e) <= tolerance * abs(e), f"entry {i}: {a} is not {mp.nstr(e, 20)}"


@pytest.mark.parametrize(
    ("name", "T"),
    [(name, T) for name in SCHEDULES for T in (1, 2, 3, 10, 137, 1000) if T > 1 or "terminal" not in name],
)
def test_every_schedule_is_the_exact_product_of_its_betas(name: str, T: int):
    build, exact = SCHEDULES[name]
    schedule, betas = build(T), exact(T)
    products = exact_products(betas)
    assert schedule.T == T == len(schedule.betas)
    assert schedule.log_alphas_cumprod.dtype == torch.float64
    assert_relative(-torch.expm1(schedule.log_alphas_cumprod), [1 - abar for abar in products], 1e-12)
    assert_relative(schedule.betas, betas, 1e-12)
    assert_relative(schedule.alphas_cumprod[:-1], products[:-1], 1e-12)
    pairs = random.Random(T)
    s, t = zip(*(sorted(pairs.sample(range(T + 1), 2)) for _ in range(200)), strict=True)
    steps = StepCoefficients.between(schedule, torch.tensor(s), torch.tensor(t))
    assert_relative(steps.beta, [1 - products[b] / products[a] for a, b in zip(s, t, strict=True)], 1e-12)


@given(st.lists(st.floats(1e-7, 0.9999), min_size=1, max_size=40))
def test_given_betas_are_kept_to_the_resolution_of_their_log_products(betas: list[float]):
    schedule = NoiseSchedule.from_betas(betas)
    products = exact_products([mp.mpf(beta) for beta in betas])
    assert_relative(-torch.expm1(schedule.log_alphas_cumprod), [1 - abar for abar in products], 1e-13)
    # β comes from a difference of log ᾱ, so its absolute error is that of log ᾱ.
    resolution = 2**-52 * (1 - schedule.log_alphas_cumprod[1:])
    assert ((schedule.betas - double(betas)).abs() <= resolution).all()


@pytest.mark.parametrize("betas", [[0.1, 0.2], (0.1, 0.2), double([0.1, 0.2]), double([0.1, 0.2]).numpy()])
def test_betas_come_as_a_list_a_tensor_or_an_array(betas: object):
    torch.testing.assert_close(NoiseSchedule.from_betas(betas).alphas_cumprod, double([1, 0.9, 0.72]))


@pytest.mark.parametrize("T", [1, 2, 10, 1000])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("stock_name", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
def test_betas_are_those_of_stock_diffusers_up_to_its_float32(stock_name: str, rescale: bool, T: int):
    ours = SCHEDULES["cosine" if stock_name.startswith("squaredcos") else stock_name][0](T)
    stock = DDPMScheduler(T, beta_schedule=stock_name).betas
    assert stock.dtype == torch.float32
    if not rescale:
        ulp = 2**-23 * ours.betas.max()  # stock interpolates from both ends in float32
        assert ((stock - ours.betas).abs() <= 2 * ulp).all()
    elif T > 1:
        # Stock's own float32 loses most digits of the last betas, so its formula is evaluated in float64.
        expected = rescale_zero_terminal_snr(ours.betas)
        torch.testing.assert_close(ours.rescale_zero_terminal_snr().betas, expected, rtol=1e-8, atol=1e-12)


# --- what the table says ------------------------------------------------------------------------------------------


def test_time_0_is_the_data():
    schedule = NoiseSchedule.linear(10)
    assert schedule.alphas_cumprod[0] == 1
    assert schedule.log_snr[0] == math.inf


def test_log_snr_falls_in_equal_steps_where_it_is_asked_to():
    log_snr = NoiseSchedule.linear_log_snr(100, 14.0, -9.0).log_snr[1:]
    torch.testing.assert_close(log_snr, torch.linspace(14, -9, 100, dtype=torch.float64), rtol=0, atol=1e-9)


def test_log_snr_keeps_its_digits_next_to_the_data():
    schedule = NoiseSchedule.from_betas([1e-12, 0.5])
    expected = mp.log((1 - mp.mpf(1e-12)) / mp.mpf(1e-12))
    assert float(schedule.log_snr[1]) == pytest.approx(float(expected), rel=1e-15, abs=0)


def test_zero_terminal_snr_is_exact_and_keeps_the_first_noise_level():
    before = NoiseSchedule.scaled_linear(1000, 0.00085, 0.012)
    after = before.rescale_zero_terminal_snr()
    assert not before.has_zero_terminal_snr
    assert after.has_zero_terminal_snr
    assert after.alphas_cumprod[-1] == 0
    assert after.betas[-1] == 1
    assert after.log_snr[-1] == -math.inf
    torch.testing.assert_close(after.alphas_cumprod[1], before.alphas_cumprod[1], rtol=1e-15, atol=0)


def test_a_schedule_rescaled_twice_is_rescaled_once():
    once = NoiseSchedule.linear(50).rescale_zero_terminal_snr()
    torch.testing.assert_close(once.rescale_zero_terminal_snr().betas, once.betas, rtol=1e-12, atol=0)


def test_a_last_beta_of_1_leaves_nothing_of_the_data():
    assert NoiseSchedule.from_betas([0.5, 1.0]).has_zero_terminal_snr
    assert NoiseSchedule.from_betas([1.0]).alphas_cumprod.tolist() == [1.0, 0.0]


def test_an_uncapped_cosine_ends_where_the_cosine_does():
    assert NoiseSchedule.cosine(1000, max_beta=1.0).alphas_cumprod[-1] < 1e-30


def test_lookup_by_int_and_by_tensor_agree():
    schedule = NoiseSchedule.cosine(20)
    by_tensor = schedule.log_alpha_cumprod(torch.arange(21))
    assert by_tensor.tolist() == [schedule.log_alpha_cumprod(t).item() for t in range(21)]
    assert schedule.log_alpha_cumprod(3).shape == schedule.log_alpha_cumprod(torch.tensor(3)).shape == torch.Size([])
    assert schedule.log_alpha_cumprod(torch.tensor([], dtype=torch.int64)).shape == torch.Size([0])


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
def test_times_may_be_integers_of_any_width(dtype: torch.dtype):
    schedule = NoiseSchedule.linear(3)
    times = torch.tensor([0, 1, 1, 3], dtype=dtype)  # as many as the table has entries: a mask would fit too
    assert torch.equal(schedule.log_alpha_cumprod(times), schedule.log_alpha_cumprod(times.long()))


def test_marginal_coefficients_are_those_of_q():
    schedule = NoiseSchedule.cosine(20)
    for t in (3, torch.tensor(3), torch.tensor([0, 1, 20])):
        alpha, sigma = schedule.marginal_coefficients(t)
        log_abar = schedule.log_alpha_cumprod(t)
        assert alpha.shape == sigma.shape == log_abar.shape
        torch.testing.assert_close(alpha**2, log_abar.exp(), rtol=1e-15, atol=0)
        torch.testing.assert_close(sigma**2, -torch.expm1(log_abar), rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_are_built_on_the_cpu_whatever_the_default_device(name: str):
    with torch.device("meta"):
        schedule = SCHEDULES[name][0](10)
    assert schedule.log_alphas_cumprod.device.type == "cpu"
    assert torch.equal(schedule.log_alphas_cumprod, SCHEDULES[name][0](10).log_alphas_cumprod)


def test_moving_keeps_the_table():
    schedule = NoiseSchedule.linear(10)
    assert torch.equal(schedule.to("cpu").log_alphas_cumprod, schedule.log_alphas_cumprod)
    moved = schedule.to("meta")
    assert isinstance(moved, NoiseSchedule)
    assert moved.log_alphas_cumprod.device.type == "meta"
    assert moved.T == 10


def test_a_schedule_is_frozen():
    schedule = NoiseSchedule.linear(10)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.log_alphas_cumprod = torch.zeros(2)


# --- what is refused ----------------------------------------------------------------------------------------------

WITH_A_LENGTH = {
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "sigmoid": NoiseSchedule.sigmoid,
    "cosine": NoiseSchedule.cosine,
    "laplace": NoiseSchedule.laplace,
    "linear_log_snr": lambda T: NoiseSchedule.linear_log_snr(T, 6.5, -9.0),
}


def assert_is_one_sentence_naming(name: str, error: pytest.ExceptionInfo[ValueError]) -> None:
    message = str(error.value)
    assert f"`{name}`" in message
    assert message.endswith(".")
    assert "\n" not in message
    assert not re.search(r"\. [A-Z]", message), "more than one sentence"


@pytest.mark.parametrize("T", [0, -3, 1.0, 1000.0, True, "10", None, float("nan")])
@pytest.mark.parametrize("name", WITH_A_LENGTH)
def test_a_length_that_is_not_a_positive_int_is_refused(name: str, T: object):
    with pytest.raises(ValueError) as error:
        WITH_A_LENGTH[name](T)
    assert_is_one_sentence_naming("num_train_timesteps", error)


@pytest.mark.parametrize("argument", ["beta_start", "beta_end"])
@pytest.mark.parametrize("beta", [0, -1e-4, 1.0001, math.nan, math.inf])
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "sigmoid"])
def test_a_range_of_betas_outside_0_to_1_is_refused(name: str, beta: float, argument: str):
    with pytest.raises(ValueError) as error:
        WITH_A_LENGTH[name](10, **{argument: beta})
    assert_is_one_sentence_naming(argument, error)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_a_cosine_offset_that_is_not_positive_is_refused(value: float):
    with pytest.raises(ValueError) as error:
        NoiseSchedule.cosine(10, s=value)
    assert_is_one_sentence_naming("s", error)


@pytest.mark.parametrize("value", [0, -1.0, 1.001, math.nan])
@pytest.mark.parametrize("build", [NoiseSchedule.cosine, NoiseSchedule.laplace])
def test_a_cap_outside_0_to_1_is_refused(build: Callable[..., NoiseSchedule], value: float):
    with pytest.raises(ValueError) as error:
        build(10, max_beta=value)
    assert_is_one_sentence_naming("max_beta", error)


@pytest.mark.parametrize("ends", [(1.0, 1.0), (-9.0, 6.5), (math.inf, 0.0), (0.0, -math.inf), (math.nan, 0.0)])
def test_log_snrs_that_do_not_fall_are_refused(ends: tuple[float, float]):
    with pytest.raises(ValueError) as error:
        NoiseSchedule.linear_log_snr(10, *ends)
    assert_is_one_sentence_naming("log_snr_max", error)


@pytest.mark.parametrize(
    "betas",
    [
        [],
        0.5,
        [[0.1, 0.2]],
        [0.1, 0.0],
        [0.1, -0.1],
        [0.1, 1.5],
        [0.1, math.nan],
        [0.1, math.inf],
        [1.0, 0.5],
        [0.1, 1.0, 0.1],
        [1.0, 1.0],
    ],
)
def test_betas_that_are_not_probabilities_are_refused(betas: object):
    with pytest.raises(ValueError) as error:
        NoiseSchedule.from_betas(betas)
    assert_is_one_sentence_naming("betas", error)


@pytest.mark.parametrize("position", [0, 3, 9])
def test_the_message_says_which_beta_is_wrong(position: int):
    betas = [0.1] * 10
    betas[position] = -0.25
    with pytest.raises(ValueError, match=rf"betas\[{position}\] is -0.25"):
        NoiseSchedule.from_betas(betas)


@pytest.mark.parametrize(
    "table",
    [
        double([0.0]),
        double([]),
        double([[0.0, -1.0]]),
        torch.tensor([0.0, -1.0]),
        torch.tensor([0, -1]),
        double([0.1, -1.0]),
        double([0.0, -1.0, -1.0]),
        double([0.0, -1.0, -0.5]),
        double([0.0, 1.0]),
        double([0.0, -math.inf, -math.inf]),
        double([0.0, math.nan]),
        double([0.0, math.nan, -1.0]),
        torch.linspace(0, -1, 100),
        [0.0, -1.0],
    ],
)
def test_a_table_that_is_not_a_schedule_is_refused(table: object):
    with pytest.raises(ValueError, match="`log_alphas_cumprod`") as error:
        NoiseSchedule(table)
    assert "\n" not in str(error.value), "a sentence, not a table"


def test_betas_are_called_what_the_user_calls_them():
    with pytest.raises(ValueError, match=r"`trained_betas` must lie in .* trained_betas\[1\] is 2.0") as error:
        NoiseSchedule.from_betas([0.1, 2.0], argument="trained_betas")
    assert_is_one_sentence_naming("trained_betas", error)


def test_a_beta_below_the_resolution_of_float64_is_refused():
    with pytest.raises(ValueError, match="below the resolution of float64"):
        NoiseSchedule.from_betas([0.5, 1e-17])


def test_one_step_cannot_be_rescaled():
    with pytest.raises(ValueError) as error:
        NoiseSchedule.linear(1).rescale_zero_terminal_snr()
    assert_is_one_sentence_naming("rescale_betas_zero_snr", error)


@pytest.mark.parametrize(
    "t",
    [
        -1,
        11,
        1.0,
        True,
        "1",
        None,
        torch.tensor(-1),
        torch.tensor([3, 11]),
        torch.tensor([1.0]),
        torch.tensor([True]),
    ],
)
def test_times_off_the_clock_are_refused(t: object):
    with pytest.raises(ValueError, match=r"[Tt]ime"):
        NoiseSchedule.linear(10).log_alpha_cumprod(t)


# --- at real times ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["linear", "cosine", "log-SNR", "linear, zero terminal SNR", "a single step"])
def continuous(request: pytest.FixtureRequest) -> ContinuousSchedule:
    schedules = {
        "linear": lambda: NoiseSchedule.linear(1000),
        "cosine": lambda: NoiseSchedule.cosine(100),
        "log-SNR": lambda: NoiseSchedule.linear_log_snr(50, 13.0, -9.0),
        "linear, zero terminal SNR": lambda: NoiseSchedule.linear(1000).rescale_zero_terminal_snr(),
        "a single step": lambda: NoiseSchedule.linear(1),
    }
    return schedules[request.param]().continuous


def real_times(continuous: ContinuousSchedule) -> torch.Tensor:
    """Anywhere in reach, the ends and what is next to them among them."""
    anywhere = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = double([1e-9, 1e-3, 1.0, continuous.last_time - 1e-9, continuous.last_time])
    return torch.cat([anywhere * continuous.last_time, ends])


def test_at_integer_times_it_is_the_chain(continuous: ContinuousSchedule):
    schedule = continuous.schedule
    assert continuous.last_time == schedule.T - schedule.has_zero_terminal_snr
    t = torch.arange(continuous.last_time + 1)
    assert torch.equal(continuous.log_alpha_cumprod(t.double()), schedule.log_alpha_cumprod(t))
    assert torch.equal(continuous.log_snr(t), schedule.log_snr[t])
    assert continuous.log_alpha_cumprod(1.0) == schedule.log_alpha_cumprod(1)


def test_the_time_of_a_log_snr_is_the_inverse(continuous: ContinuousSchedule):
    t = real_times(continuous)
    log_snr = continuous.log_snr(t)
    torch.testing.assert_close(continuous.time_at(log_snr), t, rtol=1e-12, atol=1e-12)
    levels = torch.linspace(log_snr.min().item(), 20, 500, dtype=torch.float64)
    torch.testing.assert_close(continuous.log_snr(continuous.time_at(levels)), levels, rtol=1e-12, atol=1e-12)
    assert continuous.time_at(math.inf) == 0 and continuous.log_snr(0.0) == math.inf


def test_the_rate_is_the_derivative_and_log_abar_its_integral(continuous: ContinuousSchedule):
    t = real_times(continuous).requires_grad_()
    (slope,) = torch.autograd.grad(continuous.log_alpha_cumprod(t).sum(), t)
    torch.testing.assert_close(continuous.beta(t), -slope, rtol=1e-12, atol=0)
    whole = continuous.beta(torch.arange(1.0, continuous.last_time + 1, dtype=torch.float64))
    torch.testing.assert_close(1 - torch.exp(-whole), continuous.schedule.betas[: continuous.last_time])


@pytest.mark.parametrize(("s", "t"), [(0, 1), (2, 3), (1, 9), (0, 10)])
def test_the_kernels_of_the_sde_are_those_of_the_chain(s: int, t: int):
    """The moments of dx = −½ β x dt + √β dw: m' = −½ β m, V' = β − β V, solved from one integer time to the next."""
    schedule = NoiseSchedule.linear(10, 0.01, 0.6)
    mean, variance = 1.0, 0.0
    for start in range(s, t):

        def moments(time: float, state: list[float]) -> list[float]:
            beta = schedule.continuous.beta(time).item()
            return [-0.5 * beta * state[0], beta - beta * state[1]]

        # A piece has the rate at its end: the start belongs to the piece before.
        span = (math.nextafter(start, math.inf), start + 1)
        mean, variance = solve_ivp(moments, span, [mean, variance], rtol=1e-12, atol=1e-14).y[:, -1]
    step = StepCoefficients.between(schedule, s, t)
    assert variance == pytest.approx(step.beta.item(), rel=1e-10)
    assert mean**2 == pytest.approx(1 - step.beta.item(), rel=1e-10)


@pytest.mark.parametrize(
    "t",
    [
        -0.1,
        10.1,
        math.nan,
        True,
        "1",
        None,
        torch.tensor([True]),
        torch.tensor([1, 11]),
        double([0.5, 10.5]),
        double([math.nan, 1.0]),
    ],
)
def test_real_times_off_the_clock_are_refused(t: object):
    continuous = NoiseSchedule.linear(10).continuous
    for method in (continuous.log_alpha_cumprod, continuous.beta, continuous.log_snr):
        with pytest.raises(ValueError, match=r"Real times must lie in 0 ... 10|`t` must be a real number"):
            method(t)


def test_with_zero_terminal_snr_real_times_end_before_it():
    continuous = NoiseSchedule.linear(10).rescale_zero_terminal_snr().continuous
    with pytest.raises(ValueError, match=r"Real times must lie in 0 ... 9, but 9.5"):
        continuous.log_alpha_cumprod(9.5)
    with pytest.raises(ValueError, match=r"`log_snr` must be at least .* its value at t = 9, but -50 was given"):
        continuous.time_at(-50.0)
    with pytest.raises(ValueError, match="`log_snr` must be a real number"):
        continuous.time_at(torch.tensor([True]))
