# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Cascades of saved models: the first draws small images, and each other one enlarges those of the one before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from ..conditioning.captions import PROMPT
from ..conditioning.classes import LABELS
from ..conditioning.columns import Columns, in_turn
from ..conditioning.low_resolution import IMAGE, NOISE_LEVEL, LowResolutionConditioner, LowResolutionSettings
from ..data.level_images import LevelImages
from ..likelihood.cascade import CascadeBitsPerDim, cascade_bits_per_dim
from ..pipelines.guidance import Guidance
from ..pipelines.pipeline_ddpm_paper_super_resolution import DDPMPaperSuperResolutionPipeline
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..runtime.randomness import Use, seed_of
from .arguments import EvaluationArguments, GuidanceArguments, ModelPathArguments
from .conditioning_worth import GROUP
from .guiding import load_guidance
from .scoring import check_fit, follow, load_pipeline
from .subject import Subject


Stages = Sequence[SamplingPipeline]


def load_cascade(names: Sequence[str], device: torch.device) -> list[SamplingPipeline]:
    """The models of a cascade, from the lowest resolution to the highest.

    Raises:
        ValueError, OSError: for a model that cannot be loaded, or models that do not follow each other.
    """
    if len(names) < 2:
        raise ValueError(f"`cascade` must name at least two models, but names {len(names)}.")
    stages = [load_pipeline(ModelPathArguments(name), device, "cascade") for name in names]
    if isinstance(stages[0], DDPMPaperSuperResolutionPipeline):
        raise ValueError(f"`cascade`: {names[0]} enlarges images, so it cannot be the first stage.")
    for k in range(1, len(stages)):
        _check_follows(stages[k], stages[k - 1], names[k], names[k - 1])
        if LABELS in stages[0].conditioners.columns and PROMPT in stages[k].conditioners.columns:
            raise ValueError(
                f"`cascade`: {names[k]} is told of text and {names[0]} of classes; the stages must be told the same."
            )
    return stages


def _check_follows(stage: SamplingPipeline, before: SamplingPipeline, name: str, name_before: str) -> None:
    """Raise ValueError unless a stage enlarges the images of the one before."""
    if not isinstance(stage, DDPMPaperSuperResolutionPipeline):
        raise ValueError(f"`cascade`: {name} does not enlarge images, so it must be the first stage.")
    settings = LowResolutionSettings.of(stage.unet.config)
    if settings.factor is None:
        raise ValueError(f"`cascade`: the configuration of {name} does not say by which factor it enlarges images.")
    channels, height, width = stage.example_shape
    taken, given = (channels, height // settings.factor, width // settings.factor), tuple(before.image_shape)
    if taken != given:
        raise ValueError(
            f"`cascade`: {name} enlarges images of {taken[1]}x{taken[2]} pixels and {channels} channels, but those of"
            f" {name_before} have {given[1]}x{given[2]} and {given[0]}."
        )
    levels = before.scheduler.num_levels
    if levels != before.levels_of_examples(settings.num_levels):
        raise ValueError(
            f"`cascade`: {name} enlarges images of {settings.num_levels} levels, but those of {name_before} have"
            f" {levels}."
        )


def check_noise_level(stages: Stages, level: int) -> None:
    """Raise ValueError for a noise level that one of the stages was not trained with."""
    for stage in stages[1:]:
        settings = LowResolutionSettings.of(stage.unet.config)
        LowResolutionConditioner(settings).check({NOISE_LEVEL: torch.tensor([level])})


def told_of_most(stages: Stages) -> SamplingPipeline:
    """The stage that knows what all of them are told: one that is told of text if there is one, else the first."""
    return next((each for each in stages if PROMPT in each.conditioners.columns), stages[0])


def stage_of_data(stages: Stages) -> SamplingPipeline:
    """The stage whose data the cascade is scored on: the one told of most, or the last if that is told nothing."""
    most = told_of_most(stages)
    return most if most.conditioners.columns else stages[-1]


def at_noise_level(images: LevelImages, level: int) -> LevelImages:
    """The images, whose low-resolution versions are given to the model with noise of this level."""
    return images.with_columns({**images.columns, NOISE_LEVEL: torch.full((len(images),), level)})


def with_noise_asked(images: LevelImages, pipeline: SamplingPipeline, evaluation: EvaluationArguments) -> LevelImages:
    """The images, whose low-resolution versions have the noise level asked for, for a model that enlarges images.

    Raises:
        ValueError: for a noise level of another model.
    """
    check_noise_asked(pipeline, evaluation.noise_level)
    return at_noise_level(images, evaluation.noise_level) if evaluation.noise_level else images


def check_noise_asked(pipeline: SamplingPipeline, level: int) -> None:
    """Raise ValueError for a noise level other than 0 for a model that does not enlarge images."""
    if level and NOISE_LEVEL not in pipeline.conditioners.columns:
        raise ValueError(f"`noise_level` must be 0 for a model that does not enlarge images, but is {level}.")


def images_of_stages(images: LevelImages, stages: Stages) -> list[LevelImages]:
    """Each stage's own images, from those of the last stage: each is the low resolution of the next.

    Raises:
        ValueError: if the images do not fit the last stage.
    """
    check_fit(stages[-1], images)
    of_stages = [images]
    for stage in reversed(stages[1:]):
        factor = LowResolutionSettings.of(stage.unet.config).factor
        of_stages.insert(0, of_stages[0].reduced(factor or 1))
    return of_stages


def score_cascade(
    stages: Stages,
    guidances: Sequence[Guidance],
    images: LevelImages,
    evaluation: EvaluationArguments,
    accelerator: Accelerator,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> CascadeBitsPerDim:
    """The bound of the cascade on images of its last stage; the schedulers of the stages are set to the chain."""
    of_stages, results = images_of_stages(images, stages), []
    for number, (stage, own, guidance) in enumerate(zip(stages, of_stages, guidances, strict=True)):
        given = own if number == 0 else at_noise_level(own, evaluation.noise_level)
        results.append(Subject(stage, given, evaluation, accelerator, guidance).bound(progress))
    dimensions = [each.shape[0] * each.shape[1] * each.shape[2] for each in of_stages]
    return cascade_bits_per_dim(results, dimensions, images.columns.get(GROUP))


def prepare_to_score(stages: Stages, images: LevelImages, evaluation: EvaluationArguments) -> None:
    """Set the schedulers of the stages to the chain.

    Raises:
        ValueError: for images that do not fit the stages, or a chain or noise level that they do not have.
    """
    for number, (stage, own) in enumerate(zip(stages, images_of_stages(images, stages), strict=True)):
        check_fit(stage, own if number == 0 else at_noise_level(own, evaluation.noise_level))
        stage.require_likelihood(images.num_levels)
        stage.scheduler = follow(stage.scheduler, stage.levels_of_examples(images.num_levels), evaluation)


def guidances_of(stages: Stages, guiding: GuidanceArguments) -> list[Guidance]:
    """The guidance of each stage; a stage that cannot be guided has none, unless no stage can.

    Raises:
        ValueError: if none of the stages can be guided as asked, or for a weaker model.
    """
    if guiding.guidance_model_name_or_path is not None:
        raise ValueError("`guidance_model_name_or_path` is for one model; leave it out with `cascade`.")
    can = [stage.conditioners.has_null for stage in stages]
    plain = dataclasses.replace(guiding, guidance_scale=1.0)
    return [
        load_guidance(guiding if able or not any(can) else plain, stage)
        for stage, able in zip(stages, can, strict=True)
    ]


def rounded(images: Tensor, num_levels: int) -> Tensor:
    """Images in [0, 1] rounded to evenly spaced levels, as float32 in [−1, 1]."""
    return (images.float() * (num_levels - 1)).round() * (2 / (num_levels - 1)) - 1


def draw_cascade(
    stages: Stages,
    guidances: Sequence[Guidance],
    count: int,
    seed: int,
    turns: Columns,
    noise_level: int,
    draw: Callable[..., Tensor],
) -> Tensor:
    """Images of the last stage `[count, C, H, W]` in [0, 1]; each stage enlarges those of the one before.

    Between the stages images are rounded to the levels of the data. Image i depends on the seed and i alone.

    Args:
        turns: columns of the examples that the images take their conditioning from in turn; each stage gets those
            that it is told of.
        noise_level: of the noise in images that are enlarged.
        draw: draw(stage, guidance, seed, turns) draws `count` images in [0, 1].
    """
    told = in_turn(turns, range(count))
    images = draw(stages[0], guidances[0], seed, stages[0].conditioners.read(told))
    for number, (stage, guidance) in enumerate(zip(stages[1:], guidances[1:], strict=True), 1):
        levels = LowResolutionSettings.of(stage.unet.config).num_levels
        own: Columns = {
            **stage.conditioners.read(told),
            IMAGE: rounded(images, levels),
            NOISE_LEVEL: torch.full((count,), noise_level),
        }
        images = draw(stage, guidance, seed_of(Use.SAMPLING, seed, number), own)  # noise of its own
    return images
