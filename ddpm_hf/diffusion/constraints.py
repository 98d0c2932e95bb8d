# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Constraints on the predicted x_0: clipping, and dynamic thresholding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .numerics import upcast


def clip_sample(max_magnitude: float) -> Callable[[Tensor], Tensor]:
    """x̂_0 ↦ x̂_0 clipped to [−max_magnitude, max_magnitude], the known range of the data."""
    return partial(torch.clamp, min=-max_magnitude, max=max_magnitude)


def dynamic_threshold(ratio: float, max_value: float) -> Callable[[Tensor], Tensor]:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3): clip to s and divide by s, example by example.

    s is the `ratio` quantile of |x̂_0|, at least 1 and at most `max_value`; if `max_value` < 1, s = `max_value`.
    """
    return partial(_threshold, ratio=ratio, max_value=max_value)


def _threshold(x_0: Tensor, ratio: float, max_value: float) -> Tensor:
    flat = upcast(x_0).reshape(len(x_0), -1)
    s = torch.quantile(flat.abs(), ratio, dim=1, keepdim=True).clamp(min=1, max=max_value)
    return (torch.maximum(torch.minimum(flat, s), -s) / s).reshape(x_0.shape).to(x_0.dtype)
