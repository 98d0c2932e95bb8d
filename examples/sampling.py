# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Samples by number: image i depends on the seed and i alone, whatever the batch around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from randomness import Use, generator_of
from sharing import shared
from torch import Tensor

from ddpm_hf import DDPMPaperPipeline
from ddpm_hf.model_card import number_of_classes


def draw_images(
    pipeline: DDPMPaperPipeline,
    count: int,
    batch_size: int,
    steps: int | None,
    seed: int,
    accelerator: Accelerator,
    classes: Sequence[int] | None = None,
    timestep_spacing: str | None = None,
    eta: float | None = None,
) -> Tensor:
    """Images `[count, C, H, W]` in [0, 1], in main memory, drawn by all processes together.

    Args:
        steps: of the chain; all timesteps if None.
        classes: of a class-conditional model, which are drawn by turns; all of them if None.
        timestep_spacing: of the steps; the scheduler's own if None.
        eta: of DDIM; the scheduler's variance if None.
    """
    turns = classes or range(number_of_classes(pipeline.unet.config) or 0)

    def draw(batch: int) -> Tensor:
        numbers = range(batch * batch_size, min((batch + 1) * batch_size, count))
        generators = [generator_of(Use.SAMPLING, seed, i) for i in numbers]
        labels = [turns[i % len(turns)] for i in numbers] if turns else None
        options = {"class_labels": labels, "timestep_spacing": timestep_spacing, "eta": eta}
        return pipeline(len(numbers), generators, steps, output_type="pt", **options).images.cpu()

    return torch.cat(shared(accelerator, -(-count // batch_size), draw))
