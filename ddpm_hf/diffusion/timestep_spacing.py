# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The times that a chain of K steps visits, out of the paper's 1 … T; all functions return them ascending.

"linspace", "leading" and "trailing" follow Lin et al. (2024, Table 2) and are exact for every K ≤ T. If K does not
divide T, "leading" covers the whole range, whereas stock diffusers omits its end. "quadratic" is even in √t, as in
Song, Meng & Ermon (2021, appendix D.2), but covers the whole range. "log_snr" is even in the log-SNR. "optimal" times
minimise the bound and are found by dynamic programming (Watson et al. 2021).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .gaussian_process import unknown
from .noise_schedule import NoiseSchedule


TIMESTEP_SPACINGS = ("linspace", "leading", "trailing")  # also in diffusers


def spaced_times(spacing: str, num_inference_steps: int, T: int, offset: int = 0) -> list[int]:
    """K = `num_inference_steps` evenly spaced times of 1 … T.

    Args:
        spacing: "leading" starts at t = 1, "trailing" ends at t = T, "linspace" does both.
        num_inference_steps: K in 1 … T.
        T: number of training timesteps.
        offset: added to every time of "leading".

    Raises:
        ValueError: unless 1 ≤ K ≤ T, for an unknown spacing, or for an offset that puts a time outside 1 … T.
    """
    K = num_inference_steps
    _check_count(K, T)
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


def quadratic_times(num_inference_steps: int, T: int) -> list[int]:
    """K distinct times of 1 … T, as even in √t as possible; if K > 1 they include both ends.

    Raises:
        ValueError: unless 1 ≤ K ≤ T.
    """
    K = num_inference_steps
    _check_count(K, T)
    return _nearest([(1 + k / max(K - 1, 1) * (math.sqrt(T) - 1)) ** 2 for k in range(K)], T)


def log_snr_times(num_inference_steps: int, schedule: NoiseSchedule) -> list[int]:
    """K distinct times of the schedule, as even in log-SNR as possible; if K > 1 they include both ends.

    Raises:
        ValueError: unless 1 ≤ K ≤ T.
    """
    _check_count(num_inference_steps, schedule.T)
    return _nearest(_even_in_log_snr(schedule, num_inference_steps), schedule.T)


def optimal_times(costs: Tensor, num_inference_steps: int, at_most: bool = False) -> list[int]:
    """The chain of K steps from T to the data with the least total cost (Watson et al. 2021, Algorithm 1).

    The minimum is exact: dynamic programming in O(K T²). For the optimal denoiser with the variance σ*, more steps
    never cost more. For any other denoiser they may, with any variance.

    Args:
        costs: `[T + 1, T + 1]`, the cost of a step t → s at `[s, t]` for 0 ≤ s < t ≤ T, where s = 0 is the step to the
            data; such as `denoising_errors.step_costs`.
        num_inference_steps: K in 1 … T.
        at_most: whether the chain may have fewer steps if these cost less.

    Returns:
        Ascending times, the last of them T.

    Raises:
        ValueError: for costs of another shape, a NaN among them, or K out of range.
    """
    if costs.ndim != 2 or costs.shape[0] != costs.shape[1] or len(costs) < 2:
        raise ValueError(f"`costs` must be [T + 1, T + 1], but are {list(costs.shape)}.")
    T, K = len(costs) - 1, num_inference_steps
    _check_count(K, T)
    forwards = torch.ones_like(costs, dtype=torch.bool).triu(1)
    costs = torch.where(forwards, costs.double(), math.inf)
    if bool(costs.isnan().any()):
        raise ValueError("`costs` must be numbers, but hold NaN.")
    best = torch.full_like(costs[0], math.inf)
    best[0] = 0.0
    totals, origins = [], []
    for _ in range(K):
        best, origin = (best[:, None] + costs).min(dim=0)
        totals.append(best[T].item())
        origins.append(origin)
    steps = min(range(K), key=totals.__getitem__) + 1 if at_most else K
    if not totals[steps - 1] < math.inf:
        raise ValueError(f"`costs` allow no chain of {steps} steps.")
    times = [T]
    for origin in reversed(origins[1:steps]):
        times.append(int(origin[times[-1]]))
    return times[::-1]


def custom_times(times: Sequence[int], T: int) -> list[int]:
    """A hand-picked chain, given in the order of sampling (descending), as a list of ascending times.

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


def _check_count(K: int, T: int) -> None:
    if isinstance(K, bool) or not isinstance(K, int) or not 1 <= K <= T:
        raise ValueError(f"`num_inference_steps` must be an int in 1 ... {T} (the training timesteps), but is {K!r}.")


def _even_in_log_snr(schedule: NoiseSchedule, K: int) -> list[float]:
    """Real times at which the log-SNR takes K evenly spaced values between those at t = 1 and t = T."""
    log_snr = schedule.log_snr[1:].tolist()
    if math.isinf(log_snr[-1]):  # no signal at all: one more step like the one before it
        log_snr[-1] = 2 * log_snr[-2] - log_snr[-3] if len(log_snr) > 2 else log_snr[0] - 1
    high, low = log_snr[0], log_snr[-1]
    ideal, t = [], 1
    for k in range(K):
        target = high + k / max(K - 1, 1) * (low - high)
        while t < schedule.T and log_snr[t] >= target:
            t += 1
        before, after = log_snr[t - 1], log_snr[min(t, schedule.T - 1)]
        ideal.append(t + ((before - target) / (before - after) if before > after else 0.0))
    return ideal


def _nearest(ideal: Sequence[float], T: int) -> list[int]:
    """The integers nearest to ascending numbers in 1 … T, moved apart where two would be equal."""
    times: list[int] = []
    for k, place in enumerate(ideal):
        earliest = times[-1] + 1 if times else 1
        times.append(min(max(round(place), earliest), T - (len(ideal) - 1 - k)))
    return times


def _round_half_even(numerator: int, denominator: int) -> int:
    """numerator/denominator to the nearest integer, ties to the even one, as `numpy.round` does; exact."""
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    return quotient + (twice > denominator or (twice == denominator and quotient % 2 == 1))
