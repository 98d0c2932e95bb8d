# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""One step of a chain, as a pipeline yields it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DenoisingStep:
    """One reverse step of a batch, as `DDPMPaperPipeline.iterate` yields it.

    Attributes:
        timestep: the diffusers timestep t − 1 at which the step starts.
        sample: x_t, `[B, C, H, W]`; pure noise at the first step.
        prev_sample: x_s, the result of the step; the image in [−1, 1] at the last step.
        pred_original_sample: x̂_0, the image that the model predicts from x_t.
    """

    timestep: int
    sample: Tensor
    prev_sample: Tensor
    pred_original_sample: Tensor
