# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Sampling of numbered images: image i depends only on the seed and i, not on the batch size or the processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..conditioning.columns import Columns, in_turn, with_first
from ..data.level_images import LevelImages
from ..diffusion.probability_flow import ode_sample
from ..pipelines.guidance import Guidance
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..runtime.distributed import shared
from ..runtime.randomness import Use, generator_of


LEAST_CALLS_OF_HEUN = 20  # Heun's method takes two calls per step; with fewer calls Euler's method is better


def turns_of(pipeline: SamplingPipeline, images: LevelImages) -> Columns:
    """The conditioning that samples take in turn: the model's variety, or if it has none that of the images.

    Of several alternatives of an image, such as captions, it is the first.
    """
    known = pipeline.conditioners.variety() or with_first(images.read_for(pipeline.conditioners))
    return {name: known[name] for name in pipeline.drawing_columns if name in known}


def draw_images(
    pipeline: SamplingPipeline,
    count: int,
    batch_size: int,
    steps: int | None,
    seed: int,
    accelerator: Accelerator,
    turns: Columns | None = None,
    timestep_spacing: str | None = None,
    eta: float | None = None,
    guidance: Guidance | None = None,
    solver_order: int = 1,
    first: int = 0,
    **further: Any,
) -> Tensor:
    """Images `[count − first, C, H, W]` in [0, 1], on the CPU, drawn by all processes together.

    Args:
        steps: number of steps of the chain; None visits all timesteps.
        turns: columns of the examples that the images take their conditioning from in turn; None takes the
            conditioners' variety.
        timestep_spacing: how the steps are spaced; None takes the scheduler's own spacing.
        eta: DDIM's η; None takes the scheduler's variance.
        guidance: None for no guidance.
        solver_order: 2 for DPM-Solver++(2M), which needs an `eta` of 0.
        first: the number of the first image.
        further: further arguments of the pipeline's call, such as `negative_prompt`; None for those left out.
    """
    given = {name: value for name, value in further.items() if value is not None}
    guided = {**(guidance or Guidance()).options, **given}

    def draw(generators: list[torch.Generator], columns: Columns) -> Tensor:
        options = {**columns, **guided, "timestep_spacing": timestep_spacing, "eta": eta, "solver_order": solver_order}
        chain = {"batch_size": len(generators), "generator": generators, "num_inference_steps": steps}
        return pipeline(**chain, **options, output_type="pt").images

    turns = pipeline.conditioners.variety() if turns is None else turns
    return by_number(draw, count, batch_size, seed, accelerator, turns, first)


def draw_images_by_ode(
    pipeline: SamplingPipeline,
    count: int,
    batch_size: int,
    calls: int,
    seed: int,
    accelerator: Accelerator,
    turns: Columns | None = None,
    guidance: Guidance | None = None,
) -> Tensor:
    """Images as `draw_images` draws them, from the same noise, but along the probability-flow ODE.

    Args:
        calls: the largest number of model calls, at least 2.
        turns: as in `draw_images`.
    """
    denoiser, device = pipeline.denoiser(guidance), accelerator.device

    def draw(generators: list[torch.Generator], columns: Columns) -> Tensor:
        x_T = randn_tensor((len(generators), *pipeline.example_shape), generators, device)
        conditioning = denoiser.conditioners.make(pipeline.with_drawn_columns(columns, generators), device)
        sample = ode_sample(denoiser, pipeline.scheduler, x_T, conditioning, **_steps_of_ode(calls - 1)).sample
        return (pipeline.images_of(sample) / 2 + 0.5).clamp(0, 1)

    turns = pipeline.conditioners.variety() if turns is None else turns
    return by_number(draw, count, batch_size, seed, accelerator, turns)


def _steps_of_ode(calls: int) -> dict[str, object]:
    """The best method for this number of model calls, and its number of steps."""
    if calls < LEAST_CALLS_OF_HEUN:
        return {"method": "euler", "num_steps": calls}
    return {"method": "heun2", "num_steps": calls // 2}


def by_number(
    draw: Callable[[list[torch.Generator], Columns], Tensor],
    count: int,
    batch_size: int,
    seed: int,
    accelerator: Accelerator,
    turns: Columns,
    first: int = 0,
) -> Tensor:
    """Images number `first` … `count` − 1 on the CPU from draw(generators, columns), which draws one batch.

    Args:
        turns: columns of the examples that the images take their conditioning from in turn; {} for an unconditional
            model.
    """

    def draw_batch(batch: int) -> Tensor:
        start = first + batch * batch_size
        numbers = range(start, min(start + batch_size, count))
        generators = [generator_of(Use.SAMPLING, seed, i) for i in numbers]
        return draw(generators, in_turn(turns, numbers)).cpu()

    return torch.cat(shared(accelerator, -(-(count - first) // batch_size), draw_batch))
