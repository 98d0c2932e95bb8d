# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Bins of the logistic distribution (Salimans et al. 2017), whose tails are heavier than a Gaussian's.

    P(l) = σ((l + h − m)/s) − σ((l − h − m)/s),    h half the level spacing, σ the logistic function

The difference is computed as a product, so that nothing cancels, however far the bin is in the tail:

    σ(b) − σ(a) = σ(b) σ(−a) (1 − e^(a−b))
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .numerics import check_num_levels, log1mexp, to_float64


def discretized_logistic_log_likelihood(x_0: Tensor, mean: Tensor, log_scale: Tensor, num_levels: int) -> Tensor:
    """log P(the bin of x_0) under the logistic distribution, elementwise in nats, for discrete levels in [−1, 1].

    The bins are 2/(num_levels − 1) wide and centred on the levels; the two outer bins extend to ±∞. Computed in
    float64; differentiable in `mean` and `log_scale`.

    Args:
        x_0: levels in [−1, 1] (a value between levels counts as the nearest), any shape.
        mean: the middle m of the distribution, broadcastable to x_0.
        log_scale: log s, broadcastable to x_0; the standard deviation is π s/√3.
        num_levels: K ≥ 2, such as 256 for 8-bit images.

    Returns:
        float64 tensor of the common shape.

    Raises:
        ValueError: if `num_levels` is not an int ≥ 2.
    """
    check_num_levels(num_levels)
    intervals = num_levels - 1
    level = torch.round((to_float64(x_0) + 1) / 2 * intervals).clamp(0, intervals)
    inverse = torch.exp(-to_float64(log_scale))
    half_width = inverse / intervals
    middle = (2 * level / intervals - 1 - to_float64(mean)) * inverse
    below_upper, above_lower = logsigmoid(middle + half_width), logsigmoid(half_width - middle)
    inner = below_upper + above_lower + log1mexp(-2 * half_width)
    return torch.where(level == 0, below_upper, torch.where(level == intervals, above_lower, inner))
