# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Evenly spaced levels as numbers in [−1, 1]."""

from __future__ import annotations

from torch import Tensor


def scaled(levels: Tensor, num_levels: int) -> Tensor:
    """Levels 0 … num_levels − 1 as float32 in [−1, 1]."""
    return levels.float() * (2 / (num_levels - 1)) - 1
