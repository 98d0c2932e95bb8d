# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""timestep_spacing: the spacings against exact fractions, numpy, and stock diffusers where it is right."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from oracles import Mixture, double
from torch import Tensor

from ddpm_hf.diffusion.denoising_errors import DenoisingErrors, step_costs
from ddpm_hf.diffusion.gaussian_process import StepCoefficients
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.diffusion.timestep_spacing import (
    TIMESTEP_SPACINGS,
    custom_times,
    log_snr_times,
    optimal_times,
    quadratic_times,
    spaced_times,
)


# K ≤ T
lengths = st.integers(1, 2000).flatmap(lambda T: st.tuples(st.integers(1, T), st.just(T)))


@given(lengths, st.sampled_from(TIMESTEP_SPACINGS))
def test_times_ascend_within_the_schedule_without_repetition(length: tuple[int, int], spacing: str):
    K, T = length
    times = spaced_times(spacing, K, T)
    assert len(times) == K
    assert all(type(t) is int for t in times)
    assert times == sorted(set(times))
    assert 1 <= times[0] <= times[-1] <= T


@given(lengths, st.sampled_from(TIMESTEP_SPACINGS))
def test_times_are_spaced_as_evenly_as_integers_can_be(length: tuple[int, int], spacing: str):
    times = spaced_times(spacing, *length)
    gaps = {later - earlier for earlier, later in itertools.pairwise(times)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(lengths)
def test_each_spacing_keeps_the_end_it_is_named_for(length: tuple[int, int]):
    K, T = length
    assert spaced_times("leading", K, T)[0] == 1
    assert spaced_times("trailing", K, T)[-1] == T
    if K > 1:
        linspace = spaced_times("linspace", K, T)
        assert (linspace[0], linspace[-1]) == (1, T)


@given(lengths)
def test_times_are_those_of_exact_fractions(length: tuple[int, int]):
    K, T = length
    # Python rounds a Fraction half to even.
    assert spaced_times("leading", K, T) == [1 + int(Fraction(k * T, K)) for k in range(K)]
    assert spaced_times("trailing", K, T) == [round(Fraction(k * T, K)) for k in range(1, K + 1)]
    if K > 1:
        assert spaced_times("linspace", K, T) == [1 + round(Fraction(k * (T - 1), K - 1)) for k in range(K)]


@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
def test_all_steps_are_all_times(spacing: str):
    for T in (1, 2, 3, 10, 1000):
        assert spaced_times(spacing, T, T) == list(range(1, T + 1))


def stock_times(scheduler: DDPMScheduler, K: int) -> list[int]:
    """Stock's timesteps on the paper's clock, ascending."""
    scheduler.set_timesteps(K)
    return [t + 1 for t in reversed(scheduler.timesteps.tolist())]


def exact_positions(spacing: str, K: int, T: int) -> list[Fraction]:
    """Where the times of a spacing lie before they are rounded."""
    if spacing == "leading":
        return [Fraction(1 + k * (T // K)) for k in range(K)]
    if spacing == "trailing":
        return [Fraction(k * T, K) for k in range(1, K + 1)]
    return [1 + Fraction(k * (T - 1), max(K - 1, 1)) for k in range(K)]


@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
def test_times_are_those_of_stock_diffusers_where_it_is_right(spacing: str):
    compared = 0
    for T in range(1, 61):
        stock = DDPMScheduler(T, timestep_spacing=spacing)
        for K in range(1, T + 1):
            if spacing == "leading" and T % K != 0:
                continue  # stock leaves out the end of the schedule
            theirs, positions = stock_times(stock, K), exact_positions(spacing, K, T)
            if len(theirs) != K:
                assert spacing == "trailing"  # stock's arange overshoots by a rounding error
                continue
            for ours, stocks, position in zip(spaced_times(spacing, K, T), theirs, positions, strict=True):
                # Half-way between two times, floating-point noise decides for stock.
                assert ours == stocks or (position.denominator == 2 and abs(ours - stocks) == 1), (K, T)
            compared += 1
    assert compared >= {"leading": 261, "trailing": 1750, "linspace": 1830}[spacing]


@pytest.mark.parametrize("K", [1, 2, 3, 7, 10, 25, 50, 100, 250, 333, 600, 999, 1000])
def test_times_of_a_thousand_are_numpys(K: int):
    T = 1000
    assert spaced_times("linspace", K, T) == (np.linspace(0, T - 1, K).round() + 1).tolist()
    assert spaced_times("leading", K, T) == (np.floor(np.arange(K) * T / K) + 1).tolist()
    assert spaced_times("trailing", K, T) == np.round(np.arange(1, K + 1) * T / K).tolist()


def test_published_spacings():
    assert [t - 1 for t in spaced_times("leading", 50, 1000)] == list(range(0, 1000, 20))  # "ddim50" leaves out 999
    linspace = [t - 1 for t in spaced_times("linspace", 250, 1000)]
    assert linspace[:4] == [0, 4, 8, 12]
    assert linspace[-1] == 999
    assert [t - 1 for t in spaced_times("trailing", 10, 1000)] == list(range(99, 1000, 100))
    assert spaced_times("leading", 600, 1000)[-1] == 999  # stock diffusers stops at 600


@given(lengths, st.integers(0, 50))
def test_an_offset_shifts_leading_times_and_is_refused_where_it_leads_out(length: tuple[int, int], offset: int):
    K, T = length
    shifted = [t + offset for t in spaced_times("leading", K, T)]
    if shifted[-1] <= T:
        assert spaced_times("leading", K, T, offset) == shifted
    else:
        with pytest.raises(ValueError, match=f"`steps_offset` {offset} leads out of the {T} training timesteps"):
            spaced_times("leading", K, T, offset)
    for spacing in ("trailing", "linspace"):
        assert spaced_times(spacing, K, T, offset) == spaced_times(spacing, K, T)


def test_a_negative_offset_is_refused():
    with pytest.raises(ValueError, match=r"`steps_offset` -1 .* not negative"):
        spaced_times("leading", 10, 1000, -1)


@pytest.mark.parametrize("K", [0, -1, 1001, 10.0, True, "10", None])
@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
def test_a_number_of_steps_outside_1_to_T_is_refused(spacing: str, K: object):
    with pytest.raises(ValueError, match=r"`num_inference_steps` must be an int in 1 \.\.\. 1000"):
        spaced_times(spacing, K, 1000)


@pytest.mark.parametrize("spacing", ["even", "", None, "Leading"])
def test_an_unknown_spacing_is_refused(spacing: object):
    with pytest.raises(ValueError, match=r"`timestep_spacing` must be one of 'linspace', 'leading', 'trailing'"):
        spaced_times(spacing, 10, 1000)


@given(st.sets(st.integers(1, 1000), min_size=1))
def test_a_hand_picked_chain_is_turned_around(times: set[int]):
    assert custom_times(sorted(times, reverse=True), 1000) == sorted(times)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([], "at least one"),
        ([1, 2], "descending"),
        ([5, 5, 1], "descending"),
        ([5, 3, 4], "descending"),
        ([1001, 1], "among the 1000"),
        ([1000, 0], "among the 1000"),
        ([5, -1], "among the 1000"),
        ([5.0, 1.0], "ints"),
        ([True], "ints"),
        (["5"], "ints"),
        ([None], "ints"),
    ],
)
def test_a_hand_picked_chain_that_does_not_descend_within_the_schedule_is_refused(times: list[int], message: str):
    with pytest.raises(ValueError, match=rf"`timesteps` .*{message}"):
        custom_times(times, 1000)


# --- other spacings -------------------------------------------------------------------------------------------------


@given(lengths)
def test_quadratic_times_are_even_in_the_root(length: tuple[int, int]):
    K, T = length
    times = quadratic_times(K, T)
    assert len(times) == K and times[0] == 1
    assert all(s < t for s, t in itertools.pairwise(times)) and times[-1] <= T
    if K > 1:
        assert times[-1] == T
    if K > 2 and T > 4 * K**2:  # no two fell on one integer
        roots = np.sqrt(times)
        steps = np.diff(roots)
        assert abs(steps - steps.mean()).max() < 1 / np.sqrt(2)  # half an integer, in roots, on either side


@given(lengths)
def test_log_snr_times_are_even_in_the_log_snr(length: tuple[int, int]):
    K, T = length
    schedule = NoiseSchedule.linear_log_snr(T, 8.0, -9.0) if T > 1 else NoiseSchedule.from_betas([0.5])
    times = np.array(log_snr_times(K, schedule))
    assert abs(times - (np.linspace(1, T, K) if K > 1 else [1])).max() <= 0.5 + 1e-6  # linspace's own, ties apart


@pytest.mark.parametrize("K", [1, 2, 10, 100, 1000])
@pytest.mark.parametrize("name", ["linear", "cosine", "rescaled"])
def test_log_snr_times_are_the_nearest_there_are(name: str, K: int):
    schedule = NoiseSchedule.cosine(1000) if name == "cosine" else NoiseSchedule.linear(1000)
    schedule = schedule.rescale_zero_terminal_snr() if name == "rescaled" else schedule
    times = log_snr_times(K, schedule)
    assert len(set(times)) == K and times == sorted(times) and times[0] == 1
    if K > 1:
        assert times[-1] == 1000
    if K == 10 and name == "linear":  # steep next to the data: times crowd there in log-SNR
        log_snr = schedule.log_snr[times].numpy()
        step = (log_snr[0] - log_snr[-1]) / 9
        assert abs(np.diff(log_snr) + step).max() < 0.15 * step


@pytest.mark.parametrize("K", [0, -1, 11, True, 2.0])
def test_they_need_as_many_times_as_there_are(K: object):
    schedule = NoiseSchedule.linear(10)
    for call in (lambda: quadratic_times(K, 10), lambda: log_snr_times(K, schedule)):
        with pytest.raises(ValueError, match="num_inference_steps"):
            call()


# --- the times that cost the least ----------------------------------------------------------------------------------


def brute_force(costs: Tensor, K: int) -> float:
    """The least total of all chains of K steps."""
    T = len(costs) - 1
    chains = ([0, *chosen, T] for chosen in itertools.combinations(range(1, T), K - 1))
    return min(total(costs, chain) for chain in chains)


def total(costs: Tensor, chain: list[int]) -> float:
    return math.fsum(costs[s, t].item() for s, t in itertools.pairwise(chain))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_chain_is_the_best_of_all(seed: int):
    T = 9
    costs = torch.randn(T + 1, T + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = {K: total(costs, [0, *optimal_times(costs, K)]) for K in range(1, T + 1)}
    for K in range(1, T + 1):
        assert len(optimal_times(costs, K)) == K
        assert found[K] == pytest.approx(brute_force(costs, K), abs=1e-11)
        fewer = optimal_times(costs, K, at_most=True)
        assert len(fewer) <= K
        assert total(costs, [0, *fewer]) == pytest.approx(min(found[k] for k in range(1, K + 1)), abs=1e-11)


SHORT = NoiseSchedule.linear(20, 0.005, 1.0)


def gaussian_costs(variance_of_step: str, schedule: NoiseSchedule = SHORT) -> Tensor:
    """Data N(0, .25): what steps cost with the variance β, or β̃, of their pair, nats."""
    abar, T = schedule.alphas_cumprod, schedule.T
    mmse = 0.25 * (1 - abar) / (abar * 0.25 + 1 - abar)
    costs = torch.full((T + 1, T + 1), math.inf, dtype=torch.float64)
    s, t = torch.triu_indices(T, T, offset=1) + 1
    step = StepCoefficients.between(schedule, s, t)
    variance = step.beta if variance_of_step == "beta" else step.posterior_variance
    ratio = step.posterior_variance / variance
    costs[s, t] = 0.5 * (ratio - 1 - ratio.log()) + step.posterior_coef_x0**2 * mmse[t] / (2 * variance)
    costs[0, 1:] = 0.5 * torch.log(2 * math.pi * (1 - abar[1:])) + mmse[1:] / (2 * (1 - abar[1:]))
    return costs


def test_the_best_chain_of_gaussian_data():
    costs = gaussian_costs("beta")
    times = optimal_times(costs, 5)
    assert times == [3, 4, 5, 7, 20]
    assert total(costs, [0, *times]) == pytest.approx(0.818023101354, abs=1e-11)
    assert brute_force(costs, 5) == pytest.approx(total(costs, [0, *times]), abs=1e-11)


def test_more_steps_may_cost_more():
    costs = gaussian_costs("posterior")
    totals = [total(costs, [0, *optimal_times(costs, K)]) for K in range(1, 21)]
    least = min(totals)
    assert totals[-1] > least + 0.01
    best = optimal_times(costs, 20, at_most=True)
    assert len(best) < 20 and total(costs, [0, *best]) == pytest.approx(least, abs=1e-12)


SHAPES = {
    "Gaussian": Mixture.gaussian(0.3, 0.25),
    "two components": Mixture.of((0.3, -0.6, 0.1), (0.7, 0.5, 0.2)),
    "levels": Mixture.of_levels(double([0, 1, 4]), double([0.4, 0.4, 0.2]), 5),
}


def totals_with_the_optimal_variance(errors: Tensor, schedule: NoiseSchedule) -> list[float]:
    """The least costs of 1 … T steps by these errors at the times 1 … T."""
    costs = step_costs(schedule, DenoisingErrors(schedule.log_snr[1:].tolist(), errors.tolist()))
    return [total(costs, [0, *optimal_times(costs, K)]) for K in range(1, schedule.T + 1)]


@pytest.mark.parametrize("name", SHAPES)
def test_more_steps_of_the_optimal_denoiser_with_the_optimal_variance_never_cost_more(name: str):
    schedule = NoiseSchedule.linear(20, 0.005, 0.5)
    totals = totals_with_the_optimal_variance(SHAPES[name].mmse(schedule.log_alphas_cumprod[1:]), schedule)
    assert all(more <= fewer + 1e-12 for fewer, more in itertools.pairwise(totals))


def test_more_steps_of_another_denoiser_may_cost_more_even_with_the_optimal_variance():
    # One that errs by as much at every noise level: (1 + a e)(1 + b e) > 1 + (a + b) e.
    schedule = NoiseSchedule.linear(20, 0.005, 0.5)
    totals = totals_with_the_optimal_variance(torch.full((20,), 0.1, dtype=torch.float64), schedule)
    assert totals[0] == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 0.1), rel=1e-12)
    assert all(more > fewer for fewer, more in itertools.pairwise(totals))


def excess_over_the_truth(costs: Tensor, schedule: NoiseSchedule, chain: list[int]) -> float:
    """By how much its bound exceeds what Gaussian data cost at the least, bits."""
    abar = schedule.alphas_cumprod[-1].item()
    variance = abar * 0.25 + 1 - abar  # of q(x_T)
    prior = 0.5 * (abar * 0.25 - abar - math.log1p(-abar))
    truth = 0.5 * math.log(2 * math.pi * math.e * 0.25) + 0.5 * (variance - 1 - math.log(variance))
    return (total(costs, [0, *chain]) + prior - truth) / math.log(2)


def test_of_a_thousand_steps_the_best_two_hundred_cost_as_much_more_than_the_truth_as_is_known():
    # The one test of so many times: the algorithm takes O(K T²).
    schedule = NoiseSchedule.linear(1000, 1e-4, 0.02)
    costs = gaussian_costs("posterior", schedule)
    assert excess_over_the_truth(costs, schedule, list(range(1, 1001))) == pytest.approx(0.658372, abs=2e-6)
    assert excess_over_the_truth(costs, schedule, optimal_times(costs, 200)) == pytest.approx(0.013603, abs=2e-6)


def test_exactly_all_steps_cost_more_than_the_best_of_them():
    schedule = NoiseSchedule.linear(250, 4e-4, 0.08)
    costs = gaussian_costs("posterior", schedule)
    exactly, best = (optimal_times(costs, 250, at_most=each) for each in (False, True))
    assert exactly == list(range(1, 251)) and len(best) < 250
    all_steps, least = (excess_over_the_truth(costs, schedule, chain) for chain in (exactly, best))
    assert 0 < least < 0.1 * all_steps
    fewer, more = (total(costs, [0, *optimal_times(costs, len(best) + side)]) for side in (-1, 1))
    assert total(costs, [0, *best]) < min(fewer, more)


def test_many_times_are_chosen_exactly_where_every_choice_is_known():
    # Squares of the steps' lengths: the even chain is the least, and its cost T²/K.
    place = torch.arange(251, dtype=torch.float64)
    costs = (place[None, :] - place[:, None]) ** 2
    for K in (1, 2, 10, 125, 250):
        assert optimal_times(costs, K) == [250 * k // K for k in range(1, K + 1)]
    assert optimal_times(costs, 250, at_most=True) == list(range(1, 251))


@pytest.mark.parametrize(
    ("costs", "K", "message"),
    [
        (torch.zeros(3, 4), 1, "costs"),
        (torch.zeros(3), 1, "costs"),
        (torch.zeros(1, 1), 1, "costs"),
        (torch.zeros(4, 4), 4, "num_inference_steps"),
        (torch.full((4, 4), math.nan), 2, "NaN"),
        (torch.full((4, 4), math.inf), 2, "no chain"),
    ],
)
def test_costs_without_a_chain_are_refused(costs: Tensor, K: int, message: str):
    with pytest.raises(ValueError, match=message):
        optimal_times(costs, K)
