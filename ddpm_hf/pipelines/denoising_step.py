# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A step of a chain, as a pipeline shows it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DenoisingStep:
    """One reverse step of a batch, as `DDPMPaperPipeline.iterate` yields it.

    Attributes:
        timestep: the diffusers timestep that the step starts from.
        sample: x_t, `[B, C, H, W]`; noise at the first step.
        prev_sample: x_s, what the step arrives at; the image in [−1, 1] at the last step.
        pred_original_sample: x̂_0, the image that the model sees in x_t.
    """

    timestep: int
    sample: Tensor
    prev_sample: Tensor
    pred_original_sample: Tensor
