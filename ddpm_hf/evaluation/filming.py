# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The reverse process of the first samples, filmed while they are drawn."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from ..conditioning.columns import Columns
from ..pipelines.images import require_finite_images
from ..pipelines.sampling_pipeline import SamplingPipeline
from .sampling import by_number


FRAMES = 25  # at most, the images at the end among them


class Film(NamedTuple):
    """What happens to images on their way from noise.

    Attributes:
        frames: x_t and the predicted x_0, `[N, F, 2, C, H, W]` in [0, 1]; in the last frame both are the image.
        timesteps: of all frames but the last, descending.
    """

    frames: Tensor
    timesteps: list[int]

    @property
    def images(self) -> Tensor:
        """What the chain ends in, `[N, C, H, W]`."""
        return self.frames[:, -1, 0]


def draw_film(
    pipeline: SamplingPipeline,
    count: int,
    batch_size: int,
    seed: int,
    accelerator: Accelerator,
    turns: Columns | None = None,
    **chain: Any,
) -> Film:
    """The film of the images that `draw_images` draws, by all processes together, in up to `FRAMES` even steps.

    Args:
        chain: the arguments of `DDPMPaperPipeline.iterate` that choose the steps, the noise and the guidance.
        count, batch_size, seed, accelerator, turns: as in `draw_images`.
    """
    timesteps: list[int] = []

    def draw(generators: list[torch.Generator], columns: Columns) -> Tensor:
        steps = pipeline.iterate(batch_size=len(generators), generator=generators, **columns, **chain)
        timesteps[:] = evenly(pipeline.scheduler.timesteps.tolist(), FRAMES - 1)
        seen = []
        for step in steps:
            if step.timestep in timesteps:
                states = (step.sample, step.pred_original_sample)
                seen.append(torch.stack([pipeline.images_of(state) for state in states], dim=1).cpu())
        require_finite_images(step.prev_sample, step.sample, step.timestep, pipeline.unet.config)
        seen.append(torch.stack([pipeline.images_of(step.prev_sample)] * 2, dim=1).cpu())
        return (torch.stack(seen, dim=1).float() / 2 + 0.5).clamp(0, 1)

    turns = pipeline.conditioners.variety() if turns is None else turns
    return Film(by_number(draw, count, batch_size, seed, accelerator, turns), timesteps)


def evenly(values: list[int], most: int) -> list[int]:
    """Up to `most` of the values, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return values
    return [values[round(k * (len(values) - 1) / (most - 1))] for k in range(most)]
