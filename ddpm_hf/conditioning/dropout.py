# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Conditioning dropped at random in training, so that one model learns p(x | c) and p(x) (Ho & Salimans 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..runtime.randomness import Use, generator_of


def draw_dropped(probability: float, size: int, seed: int, step: int, device: torch.device) -> Tensor | None:
    """Which examples of a training step lose their conditioning, booleans `[size]` on the device; None if none can.

    They are drawn for the whole step, so that they do not depend on how its batch is divided among processes and
    accumulation windows. They have their own random stream, so that no other random number depends on `probability`.

    Args:
        probability: the probability of losing it, the same for every example, in [0, 1).
        size: number of examples in the step, over all processes and windows.
    """
    if probability == 0:
        return None
    generator = generator_of(Use.CONDITIONING, seed, step, device=device)
    return torch.rand(size, generator=generator, device=device) < probability
