# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading saved models and scoring them."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator

from ..conditioning.captions import PROMPT
from ..conditioning.denoiser import ConditionalDenoiser
from ..data.arguments import CaptionedDataArguments
from ..data.digits import load_digits
from ..data.level_images import ImageData, LevelImages
from ..data.loading import loads
from ..data.openmoji import load_openmoji
from ..hub_errors import HubError
from ..likelihood.batches import Batches
from ..likelihood.importance_weighting import ImportanceWeightedBits, importance_weighted_bits_per_dim
from ..likelihood.latents import LatentBitsPerDim
from ..likelihood.variational import BitsPerDim, bits_per_dim
from ..pipelines.loading import load_pipeline as load_any
from ..pipelines.pipeline_ddpm_paper_latent import DDPMPaperLatentPipeline
from ..pipelines.pipeline_ddpm_paper_prior import DDPMPaperPriorPipeline
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..results import WeightedBound
from ..runtime.distributed import is_main_process, shared
from ..runtime.randomness import Use, generator_of
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from ..tasks.captioned_images import load_captioned_images, load_plain_images
from ..tasks.images import load_labelled_emoji, load_labelled_images
from .arguments import ChainArguments, ModelPathArguments


Part = TypeVar("Part")
Bound = TypeVar("Bound", BitsPerDim, LatentBitsPerDim)


def load_pipeline(
    model: ModelPathArguments, device: torch.device, argument: str = "model_name_or_path"
) -> SamplingPipeline:
    """A pipeline of any family from a folder or the Hub, in evaluation mode.

    Args:
        argument: the name of the user's argument, for error messages.

    Raises:
        ValueError, OSError: if there is no pipeline, or it is of none of the families.
    """
    name = model.model_name_or_path
    try:
        pipeline = load_any(name, revision=model.revision, variant=model.variant)
    except HubError:
        raise
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"`{argument}` {name} cannot be loaded: {error}") from error
    if isinstance(pipeline, DDPMPaperPriorPipeline):
        raise ValueError(f"`{argument}` {name} is a prior of embeddings, which has no images: name its decoder.")
    pipeline.unet.eval()
    return pipeline.to(device)


def follow(scheduler: DDPMPaperScheduler, num_levels: int | None, chain: ChainArguments) -> DDPMPaperScheduler:
    """A model's scheduler for x_0 with `num_levels` levels, set to the requested chain."""
    scheduler = DDPMPaperScheduler.from_config(scheduler.config, num_levels=num_levels)
    steps = len(scheduler) if chain.num_inference_steps is None else chain.num_inference_steps
    scheduler.set_timesteps(steps, timestep_spacing=chain.timestep_spacing)
    return scheduler


def on_chain(pipeline: SamplingPipeline, steps: int, spacing: str) -> SamplingPipeline:
    """The same model on a chain of `steps` steps, without a progress bar."""
    chain = DDPMPaperScheduler.from_config(pipeline.scheduler.config)
    chain.set_timesteps(steps, timestep_spacing=spacing)
    chained = pipeline.with_scheduler(chain)
    chained.set_progress_bar_config(disable=True)
    return chained


def check_few_steps(schedulers: Sequence[DDPMPaperScheduler], few_steps: Sequence[int]) -> None:
    """Raise ValueError for more steps than one of the chains has."""
    for scheduler, steps in itertools.product(schedulers, few_steps):
        DDPMPaperScheduler.from_config(scheduler.config).set_timesteps(steps)


def spacings_of(schedulers: Sequence[DDPMPaperScheduler]) -> tuple[str, ...]:
    """How short chains are spaced: evenly, and optimally where the errors of all models are known."""
    is_measured = all(scheduler.denoising_errors is not None for scheduler in schedulers)
    return ("linspace", "optimal") if is_measured else ("linspace",)


def score(
    denoiser: ConditionalDenoiser,
    scheduler: DDPMPaperScheduler,
    images: LevelImages,
    accelerator: Accelerator,
    batch_size: int,
    num_evaluations: int,
    seed: int,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
    count: Callable[..., Bound] = bits_per_dim,
) -> Bound:
    """Bits/dim over the images, scored by all processes together; the result does not depend on their number.

    Args:
        batch_size: images per batch; a batch has one random generator for its noise and times.
        num_evaluations: model calls per image, at most; 0 for all visited times.
        progress: a function that wraps the iteration over batches.
        count: computes the bits of a batch, with the arguments of `bits_per_dim`.
    """
    is_estimate = 0 < num_evaluations < len(scheduler.timesteps)

    def part(batches: Batches, generator: torch.Generator) -> Bound:
        calls = num_evaluations if is_estimate else None
        return count(denoiser, scheduler, batches, num_evaluations=calls, generator=generator)

    parts = by_batches(denoiser, images, accelerator, batch_size, seed, part, progress)
    return type(parts[0]).merged(parts)


def score_by_paths(
    denoiser: ConditionalDenoiser,
    scheduler: DDPMPaperScheduler,
    images: LevelImages,
    accelerator: Accelerator,
    batch_size: int,
    num_paths: int,
    seed: int,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
    count: Callable[..., ImportanceWeightedBits] = importance_weighted_bits_per_dim,
) -> ImportanceWeightedBits:
    """The importance-weighted bound of the scheduler's chain; arguments as in `score`."""

    def part(batches: Batches, generator: torch.Generator) -> ImportanceWeightedBits:
        return count(denoiser, scheduler, batches, num_paths=num_paths, generator=generator)

    return ImportanceWeightedBits.merged(by_batches(denoiser, images, accelerator, batch_size, seed, part, progress))


def by_batches(
    denoiser: ConditionalDenoiser,
    images: LevelImages,
    accelerator: Accelerator,
    batch_size: int,
    seed: int,
    part: Callable[[Batches, torch.Generator], Part],
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> list[Part]:
    """part([batch], generator) for every batch and its conditioning; batches are divided among the processes."""

    def of_batch(k: int) -> Part:
        examples = images.batch(k * batch_size, (k + 1) * batch_size)
        batch = denoiser.batch(*examples, accelerator.device, generator_of(Use.CONDITIONING_NOISE, seed, k))
        return part([batch], generator_of(Use.SCORING, seed, k))

    return shared(accelerator, -(-len(images) // batch_size), of_batch, progress)


def load_as_they_are(
    data: CaptionedDataArguments, pipeline: SamplingPipeline, image_shape: Sequence[int] | None = None
) -> ImageData:
    """The images without mirroring, with the columns that the model's conditioning needs.

    By default they are OpenMoji for a model of captions, of enlarged images or of latents, and else the digits. The
    main process reports how many there are and which are left out.

    Args:
        data: the data arguments.
        pipeline: the model.
        image_shape: (C, H, W) of the images, which OpenMoji is drawn for unless `resolution` is set; the model's own
            if unset.

    Raises:
        ValueError: for data that cannot be read or lack a column.
    """
    if data.random_flip:
        raise ValueError("`random_flip` is for training; scores are computed on the original images.")
    load, load_default = load_labelled_images, load_digits
    if PROMPT in pipeline.conditioners.columns:
        load, load_default = load_captioned_images, load_openmoji
    elif pipeline.conditioners.derives:
        load, load_default = load_plain_images, load_openmoji
    elif isinstance(pipeline, DDPMPaperLatentPipeline):
        load, load_default = load_labelled_emoji, load_openmoji
    if data.resolution is None and loads(data, load_default, load_openmoji):
        data = dataclasses.replace(data, resolution=max((image_shape or pipeline.image_shape)[1:]))
    loaded = load(data)
    if is_main_process():
        print(*loaded.notes, sep="\n", end="\n" if loaded.notes else "", file=sys.stderr)
    return loaded


def split_of(data: ImageData, split: str) -> LevelImages:
    """The images of a split, "train" or "test", in order.

    Raises:
        ValueError: if the split is empty, or is the "train" split of a stream.
    """
    images = getattr(data, split)
    if not isinstance(images, LevelImages):
        raise ValueError("The training images of a stream cannot be scored; pass --split test, or omit --streaming.")
    if not len(images):
        raise ValueError(f"There are no {split} images; pass a `test_fraction` above 0.")
    return images


def check_fit(pipeline: SamplingPipeline, images: LevelImages) -> None:
    """Raise ValueError unless the images have the model's shape and the columns that its conditioning needs."""
    expected, found = tuple(pipeline.image_shape), tuple(images.shape)
    if found != expected:
        raise ValueError(
            f"The model is for {expected[0]} channels of {expected[1]}x{expected[2]} pixels, the data have"
            f" {found[0]} of {found[1]}x{found[2]}; pass --channels and --resolution, or other data."
        )
    pipeline.conditioners.check(images.columns)


def paths_report(result: ImportanceWeightedBits) -> WeightedBound:
    """The importance-weighted bound in the schema of metrics.json."""
    return {
        "bits_per_dim": result.total,
        "bits_per_dim_standard_error": result.standard_error,
        "bits_per_dim_by_number_of_paths": result.by_num_paths,
        "paths": result.num_paths,
        "steps": result.num_model_evaluations // (result.num_examples * result.num_paths),
        "images": result.num_examples,
    }
