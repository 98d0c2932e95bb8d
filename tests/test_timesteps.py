# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""timesteps: the spacings against exact fractions, numpy and stock diffusers where it is right."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from ddpm_hf.timesteps import TIMESTEP_SPACINGS, custom_times, spaced_times


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
