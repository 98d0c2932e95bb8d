# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The decoder p_θ(x_0 | x_1): what the last step of a chain makes of the data, whose cost is L_0.

For data of K levels in [−1, 1] it has a probability for every level, element by element:

    bins             ∫ of a Gaussian over the bin of the level                               (Ho et al. 2020, Eq. 13)
    discrete normal  ∝ exp(η l − l²/2v) over the levels l, with the η under which the mean is x̂_0    (Kemp 1997)

The second is the posterior of a level seen in noise. By Bayes' rule p(x_0 = l | x_1) ∝ π(l) N(x_1; √ᾱ l, 1 − ᾱ), for
a flat π the decoder of Kingma et al. (2021, section 3.2); what the model has learned of π, from all of x_1, is in x̂_0.
For a log π of up to second degree in l this leaves one number open besides the mean: v, which is 1/SNR for one of
first. It holds whether the levels are far apart against the noise or near; bins cost more, the noisier x_1 is.

For continuous data the decoder is a Gaussian density.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .numerics import check_num_levels, log1mexp, mean_flat, to_float64
from .reverse_process import ReverseStep


LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)

EDGE = 1 / 512  # of a level's distance to its neighbour: nearer to an outer level no mean is taken to lie
MAX_PRECISION = 100.0  # (distance of levels)²/v: narrower still, and only the two levels next to the mean are left
MOST_LEVELS = 1024
ITERATIONS = 12  # at most 8 are needed; on the CPU the search ends as soon as all have been found
TOLERANCE = 1e-7  # of the tilt; one more Newton step squares it
REACH = 10.0  # deviations from the mean beyond which levels weigh less than e^−50
LOWEST = -700.0  # exponents: e to a lower one is slow to compute, and as good as this
NUMBERS_AT_ONCE = 2**16  # elements times levels: what caches hold;
NUMBERS_ON_A_DEVICE = 2**24  # elsewhere, where every call takes time, many


def discretized_gaussian_log_likelihood(x_0: Tensor, mean: Tensor, log_variance: Tensor, num_levels: int) -> Tensor:
    r"""log P(the bin of x_0) under N(mean, e^log_variance), elementwise in nats, for data of levels in [−1, 1].

    The bins are 2/(num_levels − 1) wide with the levels in their middle, the two outer ones reaching to ±∞ (Ho et al.
    2020, Eq. 13). Computed in float64 with relative accuracy 1e-12 however far in the tail: by log Φ with both
    arguments in the same tail, and for bins that are narrow against the Gaussian by a series. Differentiable in
    `mean` and `log_variance`.

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
    lowest = torch.special.log_ndtr(upper)  # all that is below the bin's upper edge
    highest = torch.special.log_ndtr(-lower)  # all that is above its lower edge
    return torch.where(level == 0, lowest, torch.where(level == intervals, highest, inner))


def _nearest_level(x_0: Tensor, intervals: int) -> Tensor:
    """0 … intervals, in float64."""
    return torch.round((to_float64(x_0) + 1) / 2 * intervals).clamp(0, intervals)


def _from_mean(half_bins: Tensor, mean: Tensor, intervals: int) -> Tensor:
    """How far a place, counted in half-bins from the lowest level, lies above the mean, in half-bins.

    It does not round: the mean is cut into two parts whose products with an integer are exact.
    """
    coarse = mean.detach().float().to(mean.dtype)
    return (half_bins - intervals - coarse * intervals) - (mean - coarse) * intervals


def _log_gaussian_interval(middle: Tensor, lower: Tensor, upper: Tensor, half_width: Tensor) -> Tensor:
    """log(Φ(upper) − Φ(lower)) for an interval given by its edges, and by its middle and half its width."""
    m = middle.abs()
    # By symmetry in the lower tail, where log Φ has all its digits: `far` is the edge that is deeper in it.
    near = torch.where(middle > 0, -lower, upper)
    far = torch.where(middle > 0, -upper, lower)
    narrow = half_width * m.clamp(min=1) < 0.05
    # Each branch sees harmless numbers where the other is used, so that no NaN reaches a gradient.
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
    r"""log P(x_0) under the discrete normal law on the levels whose mean is `mean`, elementwise in nats.

        P(l) ∝ exp(η l − l²/2v),    η such that Σ_l l P(l) = `mean`,    v = e^log_variance

    (Kemp 1997.) For levels close together it is N(mean, v) cut off at −1 and 1; for v → 0 the two levels next to the
    mean share all of it. A mean at an outer level, or beyond, is taken to lie `EDGE` of a level inside, so that every
    level is possible. Of more than `MOST_LEVELS`, as good as a continuum, bins of N(mean, v) take its place.
    Computed in float64; differentiable in `mean` and `log_variance`.

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
    intervals = num_levels - 1
    mean = to_float64(mean).clamp(-2, 2)  # beyond 1 all are the same
    nearest = _nearest_level(mean.detach(), intervals)
    delta = -0.5 * _from_mean(2 * nearest, mean, intervals)
    delta = delta.clamp(EDGE - nearest, intervals - EDGE - nearest)
    level = _nearest_level(x_0, intervals) - nearest
    precision = (4 * torch.exp(-to_float64(log_variance)) / intervals**2).clamp(1e-30, MAX_PRECISION)
    level, nearest, delta, precision = torch.broadcast_tensors(level, nearest, delta, precision)
    order = torch.argsort(nearest.reshape(-1))  # side by side those that need the same levels
    at_once = max(1, (NUMBERS_AT_ONCE if mean.device.type == "cpu" else NUMBERS_ON_A_DEVICE) // num_levels)
    columns = (column.reshape(-1)[order].split(at_once) for column in (level, nearest, delta, precision))
    found = [_discrete_normal(*part, intervals) for part in zip(*columns, strict=True)]
    return torch.zeros_like(delta).reshape(-1).index_put((order,), torch.cat(found)).reshape(delta.shape)


def _discrete_normal(level: Tensor, nearest: Tensor, delta: Tensor, precision: Tensor, intervals: int) -> Tensor:
    """log P at `level` under the law with the mean δ, both counted in levels from the one nearest the mean; all `[N]`.

    Counted from there, a mean next to a level keeps all its digits, and so do the small probabilities that make it.
    """
    j = _levels_around(nearest, precision, intervals)
    exist = ((j >= -nearest) & (j <= intervals - nearest)).to(delta.dtype)
    tilt = _tilt(j, exist, delta.detach(), precision.detach())
    # One more Newton step, towards Σ (j − δ) P(j) = 0, brings the derivatives of the tilt.
    weights, _ = _weights(tilt, j, exist, precision)
    off = (j - delta) * weights
    tilt = tilt - off.sum(0) / ((j - delta) * off).sum(0).detach()
    weights, top = _weights(tilt, j, exist, precision)
    return tilt * level - 0.5 * precision * level**2 - top - torch.log(weights.sum(0))


def _levels_around(nearest: Tensor, precision: Tensor, intervals: int) -> Tensor:
    """Levels counted from the nearest, `[J, 1]`: those that weigh at all. A device is not asked, and takes all."""
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

    It is the root of log Σ_{j>δ} (j − δ) P(j) − log Σ_{j<δ} (δ − j) P(j), by Newton's method. No sum cancels. The
    slope, the mean level in the first sum less that in the second, is at least 1, so the root is no farther than the
    value: that gives the bracket.
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
        p: the step to x_0.
        x_0: `[B, *anything]`.
        num_levels: of the data; None for continuous data, whose decoder is a density.
        is_discrete_normal: whether the levels have the discrete normal law in the place of a Gaussian's bins.
    """
    if num_levels is None:
        return -mean_flat(gaussian_log_density(x_0, p.mean, p.log_variance))
    law = discrete_normal_log_likelihood if is_discrete_normal else discretized_gaussian_log_likelihood
    return -mean_flat(law(x_0, p.mean, p.log_variance, num_levels))
