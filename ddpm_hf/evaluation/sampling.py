# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Samples by number: image i depends on the seed and i alone, whatever the batch around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..diffusion.probability_flow import flow_sample
from ..hub.model_card import number_of_classes
from ..pipelines.pipeline_ddpm_paper import DDPMPaperPipeline
from ..runtime.distributed import shared
from ..runtime.randomness import Use, generator_of
from .scoring import conditioning, denoiser, image_shape


LEAST_CALLS_OF_HEUN = 20  # two a step: of fewer calls Euler's method, with its steps of one, makes better use


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

    def draw(generators: list[torch.Generator], labels: list[int] | None) -> Tensor:
        options = {"class_labels": labels, "timestep_spacing": timestep_spacing, "eta": eta}
        return pipeline(len(generators), generators, steps, output_type="pt", **options).images

    turns = classes or range(number_of_classes(pipeline.unet.config) or 0)
    return by_number(draw, count, batch_size, seed, accelerator, turns)


def draw_images_by_flow(
    pipeline: DDPMPaperPipeline, count: int, batch_size: int, calls: int, seed: int, accelerator: Accelerator
) -> Tensor:
    """The same along the probability-flow ODE, in at most so many model calls, from the same noise.

    Args:
        calls: at least 2, one of which is the last.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler

    def draw(generators: list[torch.Generator], labels: list[int] | None) -> Tensor:
        x_T = randn_tensor((len(generators), *image_shape(unet)), generators, accelerator.device)
        told = conditioning(unet, None if labels is None else torch.tensor(labels), accelerator.device)
        sample = flow_sample(denoiser(unet), scheduler, x_T, told, **_steps_of_flow(calls - 1)).sample
        return (sample / 2 + 0.5).clamp(0, 1)

    turns = range(number_of_classes(unet.config) or 0)
    return by_number(draw, count, batch_size, seed, accelerator, turns)


def _steps_of_flow(calls: int) -> dict[str, object]:
    """The method that makes the best of so many model calls, and its steps."""
    if calls < LEAST_CALLS_OF_HEUN:
        return {"method": "euler", "num_steps": calls}
    return {"method": "heun2", "num_steps": calls // 2}


def by_number(
    draw: Callable[[list[torch.Generator], list[int] | None], Tensor],
    count: int,
    batch_size: int,
    seed: int,
    accelerator: Accelerator,
    turns: Sequence[int] = (),
) -> Tensor:
    """Images `[count, …]` in main memory, by draw(the generators of a batch's images, their classes or None).

    Args:
        turns: the classes, by turns; none for a model that knows none.
    """

    def draw_batch(batch: int) -> Tensor:
        numbers = range(batch * batch_size, min((batch + 1) * batch_size, count))
        generators = [generator_of(Use.SAMPLING, seed, i) for i in numbers]
        return draw(generators, [turns[i % len(turns)] for i in numbers] if turns else None).cpu()

    return torch.cat(shared(accelerator, -(-count // batch_size), draw_batch))
