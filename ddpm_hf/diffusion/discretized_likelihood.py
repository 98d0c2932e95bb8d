# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The decoder p_θ(x_0 | x_1): the last step of a chain, whose cost is the decoder term L_0.

For data with K levels in [−1, 1] the decoder gives every level a probability, element by element:

    bins             ∫ of a Gaussian over the bin of the level                               (Ho et al. 2020, Eq. 13)
    discrete normal  ∝ exp(η l − l²/2v) over the levels l, with η such that the mean is x̂_0            (Kemp 1997)

The discrete normal law is the posterior of a level given its noisy observation. By Bayes' rule
p(x_0 = l | x_1) ∝ π(l) N(x_1; √ᾱ l, 1 − ᾱ). With a flat prior π this is the decoder of Kingma et al. (2021,
section 3.2); here x̂_0 carries what the model has learned about π from all of x_1. If log π is at most quadratic in l,
the mean leaves one parameter, v; if log π is linear, v = 1/SNR. The law is exact for any ratio of noise to level
spacing, whereas bins cost more, the noisier x_1 is.

For continuous data the decoder is a Gaussian density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .numerics import check_num_levels, log1mexp, mean_flat, to_float64
from .reverse_process import ReverseStep


LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)

EDGE = 1 / 512  # least distance of a mean from the outer levels, in units of the level spacing
MAX_PRECISION = 100.0  # of (level spacing)²/v: beyond it only the two levels next to the mean have any probability
MOST_LEVELS = 1024
ITERATIONS = 12  # at most 8 are needed; on the CPU the search ends as soon as all elements have converged
TOLERANCE = 1e-7  # of the tilt; one more Newton step squares it
REACH = 10.0  # standard deviations from the mean beyond which a level's weight is below e^−50
LOWEST = -700.0  # least exponent: a lower one is slow to compute and changes nothing
NUMBERS_AT_ONCE = 2**16  # elements times levels on the CPU, so that they fit its caches
NUMBERS_ON_A_DEVICE = 2**24  # more on other devices, where every call has a fixed cost


def discretized_gaussian_log_likelihood(x_0: Tensor, mean: Tensor, log_variance: Tensor, num_levels: int) -> Tensor:
    r"""log P(the bin of x_0) under N(mean, e^log_variance), elementwise in nats, for discrete levels in [−1, 1].

    The bins are 2/(num_levels − 1) wide and centred on the levels; the two outer bins extend to ±∞ (Ho et al. 2020,
    Eq. 13). The relative accuracy is 1e-12 even far in the tail: wide bins use log Φ with both arguments in the same
    tail, bins that are narrow compared with the Gaussian use a series. Computed in float64; differentiable in `mean`
    and `log_variance`.

    Args:
        x_0: levels in [−1, 1] (a value between levels counts as the nearest), any shape.
        mean, log_variance: broadcastable to x_0.
        num_levels: K ≥ 2, such as 256 for 8-bit images.

    Returns:
        float64 tensor of the common shape.
    """
    check_num_levels(num_levels)
    intervals = num_levels - 1
    level = _nearest_level(x_0, intervals)
    mean = to_float64(mean)
    half_width = torch.exp(-0.5 * to_float64(log_variance)) / intervals
    level, mean, half_width = torch.broadcast_tensors(level, mean, half_width)
    middle, lower, upper = (_from_mean(2 * level + edge, mean, intervals) * half_width for edge in (0, -1, 1))
    inner = _log_gaussian_interval(middle, lower, upper, half_width)
    lowest = torch.special.log_ndtr(upper)  # the probability below the bin's upper edge
    highest = torch.special.log_ndtr(-lower)  # the probability above its lower edge
    return torch.where(level == 0, lowest, torch.where(level == intervals, highest, inner))


def _nearest_level(x_0: Tensor, intervals: int) -> Tensor:
    """Index of the nearest level, 0 … intervals, in float64."""
    return torch.round((to_float64(x_0) + 1) / 2 * intervals).clamp(0, intervals)


def _from_mean(half_bins: Tensor, mean: Tensor, intervals: int) -> Tensor:
    """The distance of a position above the mean, in half-bins; the position is in half-bins above the lowest level.

    There is no rounding error: the mean is split into two parts whose products with an integer are exact.
    """
    coarse = mean.detach().float().to(mean.dtype)
    return (half_bins - intervals - coarse * intervals) - (mean - coarse) * intervals


def _log_gaussian_interval(middle: Tensor, lower: Tensor, upper: Tensor, half_width: Tensor) -> Tensor:
    """log(Φ(upper) − Φ(lower)); the interval is given by its edges, and also by its middle and half its width."""
    m = middle.abs()
    # Mirrored into the lower tail, where log Φ has all its digits; `far` is the edge deeper in the tail.
    near = torch.where(middle > 0, -lower, upper)
    far = torch.where(middle > 0, -upper, lower)
    narrow = half_width * m.clamp(min=1) < 0.05
    # Each branch gets harmless inputs where the other is used, so that no NaN reaches a gradient.
    m_series, h_series = torch.where(narrow, m, 0.0), torch.where(narrow, half_width, 0.01)
    # ∫ φ over [m − h, m + h] = 2h φ(m) Σ_k He_2k(m) h^2k / (2k + 1)!, up to k = 3
    m2, h2 = m_series**2, h_series**2
    series = h2 * ((m2 - 1) / 6 + h2 * ((m2 * (m2 - 6) + 3) / 120 + h2 * (m2 * (m2 * (m2 - 15) + 45) - 15) / 5040))
    log_series = torch.log(2 * h_series) - 0.5 * m2 - LOG_SQRT_2PI + torch.log1p(series)
    log_near = torch.special.log_ndtr(torch.where(narrow, 1.0, near))
    log_far = torch.special.log_ndtr(torch.where(narrow, -1.0, far))
    return torch.where(narrow, log_series, log_near + log1mexp(log_far - log_near))


def gaussian_log_density(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(x_0; mean, e^log_variance), nats, elementwise; shapes broadcast."""
    x_0, mean, log_variance = to_float64(x_0), to_float64(mean), to_float64(log_variance)
    return -0.5 * ((x_0 - mean) ** 2 * torch.exp(-log_variance) + log_variance) - LOG_SQRT_2PI


def discrete_normal_log_likelihood(x_0: Tensor, mean: Tensor, log_variance: Tensor, num_levels: int) -> Tensor:
    r"""log P(x_0) under the discrete normal law with the given mean on the levels, elementwise in nats.

        P(l) ∝ exp(η l − l²/2v),    η such that Σ_l l P(l) = `mean`,    v = e^log_variance

    (Kemp 1997.) For dense levels it tends to N(mean, v) truncated to [−1, 1]; for v → 0 the two levels next to the
    mean share all probability. A mean at an outer level, or beyond it, is moved inside by `EDGE` times the level
    spacing, so that every level remains possible. With more than `MOST_LEVELS` levels, bins of N(mean, v) approximate
    the law. Computed in float64; differentiable in `mean` and `log_variance`.

    Args:
        x_0: levels in [−1, 1] (a value between levels counts as the nearest), any shape.
        mean, log_variance: broadcastable to x_0.
        num_levels: K ≥ 2, such as 256 for 8-bit images.

    Returns:
        float64 tensor of the common shape.
    """
    check_num_levels(num_levels)
    if num_levels > MOST_LEVELS:
        return discretized_gaussian_log_likelihood(x_0, mean, log_variance, num_levels)
    nearest, delta, precision = _around_mean(mean, log_variance, num_levels - 1)
    level = _nearest_level(x_0, num_levels - 1) - nearest
    level, nearest, delta, precision = torch.broadcast_tensors(level, nearest, delta, precision)
    order = torch.argsort(nearest.reshape(-1))  # groups elements that need the same levels
    columns = [column.reshape(-1)[order] for column in (level, nearest, delta, precision)]
    found = _in_parts(columns, num_levels)
    return torch.zeros_like(delta).reshape(-1).index_put((order,), found).reshape(delta.shape)


def level_log_probabilities(p: ReverseStep, num_levels: int, is_discrete_normal: bool = False) -> Tensor:
    """log P of every level under the decoder p_θ(x_0 | x_1), nats, float64 `[K, *shape of p.mean]`.

    An entropy coder needs all of them, whereas the bound needs that of x_0 alone.

    Args:
        p: the reverse step to x_0.
        num_levels: K ≥ 2.
        is_discrete_normal: whether the law is the discrete normal one instead of a Gaussian's bins.
    """
    check_num_levels(num_levels)
    shape = (num_levels, *[1] * p.mean.ndim)
    levels = torch.arange(num_levels, dtype=torch.float64, device=p.mean.device).reshape(shape)
    if not is_discrete_normal or num_levels > MOST_LEVELS:
        x_0 = 2 * levels / (num_levels - 1) - 1
        return discretized_gaussian_log_likelihood(x_0, p.mean, p.log_variance, num_levels)
    around = torch.broadcast_tensors(*_around_mean(p.mean, p.log_variance, num_levels - 1))
    nearest, delta, precision = (each.reshape(-1) for each in around)
    level = levels.reshape(-1, 1) - nearest
    return _in_parts([level, nearest, delta, precision], num_levels).reshape(num_levels, *p.mean.shape)


def _around_mean(mean: Tensor, log_variance: Tensor, intervals: int) -> tuple[Tensor, Tensor, Tensor]:
    """The level nearest to the mean, the mean's distance δ above it, and the precision, in units of the spacing."""
    mean = to_float64(mean).clamp(-2, 2)  # all means beyond ±1 give the same law
    nearest = _nearest_level(mean.detach(), intervals)
    delta = -0.5 * _from_mean(2 * nearest, mean, intervals)
    delta = delta.clamp(EDGE - nearest, intervals - EDGE - nearest)
    precision = (4 * torch.exp(-to_float64(log_variance)) / intervals**2).clamp(1e-30, MAX_PRECISION)
    return nearest, delta, precision


def _in_parts(columns: Sequence[Tensor], num_levels: int) -> Tensor:
    """`_discrete_normal` of level, nearest, δ and precision of N elements, few at a time."""
    on_cpu = columns[0].device.type == "cpu"
    at_once = max(1, (NUMBERS_AT_ONCE if on_cpu else NUMBERS_ON_A_DEVICE) // num_levels)
    parts = zip(*(column.split(at_once, dim=-1) for column in columns), strict=True)
    return torch.cat([_discrete_normal(l, n, d, p, num_levels - 1) for l, n, d, p in parts], dim=-1)


def _discrete_normal(level: Tensor, nearest: Tensor, delta: Tensor, precision: Tensor, intervals: int) -> Tensor:
    """log P at `level` under the law with the mean δ, both counted from the level nearest to the mean.

    `level` is `[N]`, or `[L, N]` for L levels of each element; the others are `[N]`.

    With this origin, a mean close to a level keeps all its digits, and so do the small probabilities of other levels.
    """
    j = _levels_around(nearest, precision, intervals)
    exist = ((j >= -nearest) & (j <= intervals - nearest)).to(delta.dtype)
    tilt = _tilt(j, exist, delta.detach(), precision.detach())
    # One more Newton step, towards Σ (j − δ) P(j) = 0, carries the derivatives of the tilt.
    weights, _ = _weights(tilt, j, exist, precision)
    off = (j - delta) * weights
    tilt = tilt - off.sum(0) / ((j - delta) * off).sum(0).detach()
    weights, top = _weights(tilt, j, exist, precision)
    return tilt * level - 0.5 * precision * level**2 - top - torch.log(weights.sum(0))


def _levels_around(nearest: Tensor, precision: Tensor, intervals: int) -> Tensor:
    """The levels with any weight, counted from the nearest, `[J, 1]`; off the CPU all levels, without a transfer."""
    below = above = intervals
    if nearest.device.type == "cpu":
        reach = math.ceil(REACH / math.sqrt(precision.detach().nan_to_num(nan=1.0).min())) + 3
        known = nearest.nan_to_num()
        below, above = min(int(known.max()), reach), min(int(intervals - known.min()), reach)
    return torch.arange(-below, above + 1, dtype=nearest.dtype, device=nearest.device)[:, None]


def _weights(tilt: Tensor, j: Tensor, exist: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """e^(tilt · j − precision · j²/2 − top), `[J, N]`, and top `[N]`, which is at least the largest exponent."""
    peak = (tilt / precision).detach().clamp(j[0], j[-1])
    top = (peak * (tilt - 0.5 * precision * peak)).detach()
    exponents = torch.addcmul(-top, j, torch.addcmul(tilt, j, precision, value=-0.5))
    return torch.exp(exponents.clamp(min=LOWEST)) * exist, top


@torch.no_grad()
def _tilt(j: Tensor, exist: Tensor, delta: Tensor, precision: Tensor) -> Tensor:
    """The tilt at which the law has the mean δ, `[N]`.

    Newton's method finds the root of log Σ_{j>δ} (j − δ) P(j) − log Σ_{j<δ} (δ − j) P(j). No sum cancels. The slope is
    the mean level of the first sum minus the mean level of the second, at least 1. So the distance to the root is at
    most the function's value, which gives the bracket.
    """
    above, below = (j - delta).clamp(min=0) * exist, (delta - j).clamp(min=0) * exist
    powers = torch.cat([torch.ones_like(j), j], dim=1).T  # [2, J]
    tilt = precision * delta
    low, high = torch.full_like(tilt, -math.inf), torch.full_like(tilt, math.inf)
    for _ in range(ITERATIONS):
        weights, _ = _weights(tilt, j, exist, precision)
        (right, right_first), (left, left_first) = powers @ (above * weights), powers @ (below * weights)
        value = torch.log(right) - torch.log(left)
        if value.device.type == "cpu" and bool((value.abs() < TOLERANCE).all()):
            break
        low = torch.maximum(low, torch.where(value < 0, tilt, tilt - value))
        high = torch.minimum(high, torch.where(value < 0, tilt - value, tilt))
        newton = tilt - value / (right_first / right - left_first / left)
        tilt = torch.where((newton >= low) & (newton <= high), newton, 0.5 * (low + high))
    return tilt


def decoder_nll(p: ReverseStep, x_0: Tensor, num_levels: int | None, is_discrete_normal: bool = False) -> Tensor:
    """L_0 = −log p_θ(x_0 | x_1), nats/dim, `[B]`.

    Args:
        p: the reverse step to x_0.
        x_0: `[B, *anything]`.
        num_levels: number of levels of the data; None for continuous data, whose decoder is a density.
        is_discrete_normal: whether discrete data use the discrete normal law instead of a Gaussian's bins.
    """
    if num_levels is None:
        return -mean_flat(gaussian_log_density(x_0, p.mean, p.log_variance))
    law = discrete_normal_log_likelihood if is_discrete_normal else discretized_gaussian_log_likelihood
    return -mean_flat(law(x_0, p.mean, p.log_variance, num_levels))
