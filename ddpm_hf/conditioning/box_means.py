# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images in low resolution, in whole numbers, so that every device and every reader makes the same ones."""

from __future__ import annotations

import torch
from torch import Tensor


def box_mean(levels: Tensor, factor: int) -> Tensor:
    """The mean over boxes of `factor` x `factor` pixels, rounded to whole levels, halves up.

    Args:
        levels: integers `[..., H, W]` at least 0; H and W are multiples of the factor.

    Returns:
        Integers of the same type, `[..., H/factor, W/factor]`.
    """
    *others, height, width = levels.shape
    boxes = levels.long().reshape(*others, height // factor, factor, width // factor, factor)
    sums, count = boxes.sum(dim=(-3, -1)), factor**2
    return torch.div(2 * sums + count, 2 * count, rounding_mode="floor").to(levels.dtype)
