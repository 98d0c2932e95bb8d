# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Measures the denoising errors of a model on training images, and sets the variance that follows from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..conditioning.columns import Columns
from ..conditioning.denoiser import ConditionalDenoiser
from ..diffusion.denoising_errors import DenoisingErrors
from ..likelihood.measurement import measure_denoising_errors
from ..runtime.randomness import Use, generator_of
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler


EVALUATIONS = 8  # model calls for an image
MOST_ELEMENTS = 1024  # largest images with one variance per element: they are stored as text, at every noise level

Batches = Iterable[tuple[Tensor, Columns]]
"""Images and their columns."""


def measured_errors(
    denoiser: ConditionalDenoiser,
    scheduler: DDPMPaperScheduler,
    batches: Batches,
    num_images: int,
    shape: tuple[int, ...],
    seed: int,
    device: torch.device,
    num_noise_levels: int = 64,
    num_evaluations: int = EVALUATIONS,
    per_element: bool | None = None,
    examples_of: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> DenoisingErrors:
    """The denoising errors of the model.

    Args:
        num_images: number of images in the batches; few images allow only few noise levels.
        shape: shape of an example, x_0.
        per_element: whether every element of an example has its own error; None means for images with at most
            `MOST_ELEMENTS`. Never with a learned variance.
        examples_of: examples_of(images, generator) -> x_0, on the device; None if x_0 are the images.
    """
    if scheduler.process.learns_variance:
        per_element = False
    elif per_element is None:
        per_element = math.prod(shape) <= MOST_ELEMENTS
    generator = generator_of(Use.MEASURING, seed)

    def batch(images: Tensor, columns: Columns) -> tuple[Tensor, dict[str, Tensor]]:
        x_0, conditioning = denoiser.batch(images, columns, device, generator)
        return (x_0 if examples_of is None else examples_of(x_0, generator)), conditioning

    return measure_denoising_errors(
        denoiser,
        scheduler,
        itertools.starmap(batch, batches),
        num_noise_levels=min(num_noise_levels, num_images * num_evaluations),
        num_evaluations=num_evaluations,
        per_element=per_element,
        generator=generator,
    )


def with_errors(
    scheduler: DDPMPaperScheduler, errors: DenoisingErrors, keeps_variance: bool = False
) -> DDPMPaperScheduler:
    """The scheduler with these errors, and with the optimal variance unless it is learned.

    With `keeps_variance` a fixed variance stays as it is, and only the decoder uses the errors.
    """
    options: dict[str, str | None] = {}
    if not scheduler.process.learns_variance:
        options["first_variance"] = "measured" if keeps_variance else None
        if not keeps_variance:
            options["variance_type"] = "optimal"
    return DDPMPaperScheduler.from_config(scheduler.config, denoising_errors=errors, **options)
