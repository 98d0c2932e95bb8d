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
ITERATIONS = 40  # more than it takes; it ends before where that can be told without waiting for a device
TOLERANCE = 1e-9  # of the mean, in levels
NUMBERS_AT_ONCE = 2**16  # of elements times levels: what caches hold;
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
    # Distances from the mean in half-bins do not round: it is cut in two parts whose products with an int are exact.
    coarse = mean.detach().float().to(mean.dtype)
    middle, lower, upper = (
        ((2 * level - intervals + edge - coarse * intervals) - (mean - coarse) * intervals) * half_width
        for edge in (0, -1, 1)
    )
    inner = _log_gaussian_interval(middle, lower, upper, half_width)
    lowest = torch.special.log_ndtr(upper)  # all that is below the bin's upper edge
    highest = torch.special.log_ndtr(-lower)  # all that is above its lower edge
    return torch.where(level == 0, lowest, torch.where(level == intervals, highest, inner))


def _nearest_level(x_0: Tensor, intervals: int) -> Tensor:
    """0 … intervals, in float64."""
    return torch.round((to_float64(x_0) + 1) / 2 * intervals).clamp(0, intervals)


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
    # Counted in levels from the middle: −reach … reach.
    reach = (num_levels - 1) / 2
    level = _nearest_level(x_0, num_levels - 1) - reach
    place = (to_float64(mean) * reach).clamp(EDGE - reach, reach - EDGE)
    precision = (torch.exp(-to_float64(log_variance)) / reach**2).clamp(max=MAX_PRECISION)
    level, place, precision = torch.broadcast_tensors(level, place, precision)
    powers = torch.arange(num_levels, dtype=place.dtype, device=place.device) - reach
    powers = torch.stack([powers**0, powers, powers**2], dim=1)  # [K, 3]
    order = torch.argsort(place.detach().reshape(-1))  # side by side those that take as many iterations
    at_once = max(1, (NUMBERS_AT_ONCE if place.device.type == "cpu" else NUMBERS_ON_A_DEVICE) // num_levels)
    columns = [x.reshape(-1)[order].split(at_once) for x in (level, place, precision)]
    parts = [_discrete_normal(*part, powers) for part in zip(*columns, strict=True)]
    return torch.zeros_like(place).reshape(-1).index_put((order,), torch.cat(parts)).reshape(place.shape)


def _discrete_normal(level: Tensor, place: Tensor, precision: Tensor, powers: Tensor) -> Tensor:
    """log P at `level` for the mean `place`, counted as `powers` are; all `[N]`."""
    tilt = _tilt(place.detach(), precision.detach(), powers)
    # One more step of Newton's method changes nothing but brings the derivatives of the tilt.
    _, mean, variance = _moments(tilt, precision, powers)
    tilt = tilt - (mean - place) / variance.detach()
    log_sum, _, _ = _moments(tilt, precision, powers)
    return tilt * level - 0.5 * precision * level**2 - log_sum


def _moments(tilt: Tensor, precision: Tensor, powers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log Σ_j, and the mean and the variance, > 0, of the law ∝ e^(tilt · j − precision · j²/2); all `[N]`."""
    reach = powers[-1, 1]
    peak = torch.clamp((tilt / precision).detach(), -reach, reach)
    top = (tilt * peak - 0.5 * precision * peak**2).detach()
    total, first, second = powers.T @ torch.exp(powers @ torch.stack([-top, tilt, -0.5 * precision]))
    mean = first / total
    return top + torch.log(total), mean, (second / total - mean**2).clamp(min=1e-12)


@torch.no_grad()
def _tilt(place: Tensor, precision: Tensor, powers: Tensor) -> Tensor:
    """The tilt at which the law has the mean `place`, by Newton's method within a bracket; all `[N]`."""
    # Beyond these ends one level on one side of the mean outweighs all levels on its other side.
    reach = powers[-1, 1]
    odds = torch.logit(0.5 * place / reach + 0.5)
    tilt = precision * place
    step = precision + 2 * math.log(3 / EDGE)
    low, high = tilt - 0.5 * step, tilt + 0.5 * step
    for _ in range(ITERATIONS):
        _, mean, variance = _moments(tilt, precision, powers)
        off = mean - place
        found = off.abs() < TOLERANCE
        if found.device.type == "cpu" and bool(found.all()):
            break
        low, high = torch.where(off < 0, tilt, low), torch.where(off < 0, high, tilt)
        # Of the mean's log-odds between the outer levels, which for two levels are linear in the tilt.
        newton = (odds - torch.logit(0.5 * mean / reach + 0.5)) * (reach**2 - mean**2) / (2 * reach * variance)
        fits = (tilt + newton > low) & (tilt + newton < high) & (newton.abs() < 0.5 * step.abs())
        step = torch.where(fits, newton, 0.5 * (low + high) - tilt)
        tilt = torch.where(found, tilt, tilt + step)
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
