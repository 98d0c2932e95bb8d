# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Which times a chain of K steps visits, out of the paper's 1 … T; all functions return them ascending.

The spacings are those of Lin et al. (2024, Table 2), exact for every K ≤ T; where K does not divide T, "leading" is
spread over the whole range, of which stock diffusers leaves out the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from .gaussian_process import unknown


TIMESTEP_SPACINGS = ("linspace", "leading", "trailing")


def spaced_times(spacing: str, num_inference_steps: int, T: int, offset: int = 0) -> list[int]:
    """K = `num_inference_steps` evenly spaced times of 1 … T.

    Args:
        spacing: "leading" starts at t = 1, "trailing" ends at t = T, "linspace" does both.
        offset: added to every time of "leading".

    Raises:
        ValueError: unless 1 ≤ K ≤ T, for an unknown spacing, or for an offset that leads out of 1 … T.
    """
    K = num_inference_steps
    if isinstance(K, bool) or not isinstance(K, int) or not 1 <= K <= T:
        raise ValueError(f"`num_inference_steps` must be an int in 1 ... {T} (the training timesteps), but is {K!r}.")
    if spacing == "leading":
        times = [1 + k * T // K + offset for k in range(K)]
    elif spacing == "trailing":
        times = [_round_half_even(k * T, K) for k in range(1, K + 1)]
    elif spacing == "linspace":
        times = [1 + _round_half_even(k * (T - 1), K - 1) for k in range(K)] if K > 1 else [1]
    else:
        raise ValueError(unknown("timestep_spacing", spacing, TIMESTEP_SPACINGS))
    if times[0] < 1 or times[-1] > T:
        raise ValueError(
            f"`steps_offset` {offset} leads out of the {T} training timesteps with {K} inference steps; use"
            f" {'a smaller one' if offset > 0 else 'one that is not negative'}."
        )
    return times


def custom_times(times: Sequence[int], T: int) -> list[int]:
    """A hand-picked chain, given in the order of sampling (descending), as ascending times.

    Raises:
        ValueError: unless the times descend without repetition within 1 … T.
    """
    times = list(times)
    if not times:
        raise ValueError("`timesteps` must name at least one timestep.")
    if any(isinstance(t, bool) or not isinstance(t, int) for t in times):
        raise ValueError(f"`timesteps` must be ints, but are {times}.")
    if any(later >= earlier for earlier, later in itertools.pairwise(times)):
        raise ValueError("`timesteps` must be in descending order, without repetition.")
    if times[0] > T or times[-1] < 1:
        raise ValueError(f"`timesteps` must lie among the {T} training timesteps, but one does not.")
    return times[::-1]


def _round_half_even(numerator: int, denominator: int) -> int:
    """numerator/denominator to the nearest integer, ties to the even one, as `numpy.round` does; exact."""
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    return quotient + (twice > denominator or (twice == denominator and quotient % 2 == 1))
