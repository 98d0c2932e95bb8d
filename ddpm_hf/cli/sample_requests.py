# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What a user asks `ddpm-hf sample` for: checks, classes, prompts and files by turns, and captions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ..conditioning.captions import PROMPT
from ..conditioning.classes import number_of_classes, of_classes
from ..conditioning.columns import Columns, in_turn
from ..conditioning.embeddings import IMAGE_EMBEDS
from ..conditioning.low_resolution import IMAGE, NOISE_LEVEL
from ..data.image_files import BadImage, decoded
from ..diffusion.gaussian_process import check_eta
from ..diffusion.multistep import check_solver_order
from ..evaluation.arguments import SampleArguments
from ..pipelines.images import batch_of_images
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..runtime.arguments import given_in


def captions_of(sampling: SampleArguments) -> list[str] | None:
    """The prompt of each image; None without prompts."""
    prompts = sampling.prompt
    return prompts and [prompts[k % len(prompts)] for k in range(sampling.num_images)]


def check_sampling(sampling: SampleArguments) -> None:
    """Raise ValueError, naming the argument, for arguments out of range."""
    for name in ("num_images", "batch_size"):
        if getattr(sampling, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {getattr(sampling, name)}.")
    if sampling.eta is not None:
        check_eta(sampling.eta)
    check_solver_order(sampling.solver_order, sampling.eta)


def asked_by_turns(pipeline: SamplingPipeline, sampling: SampleArguments) -> Columns | None:
    """The column of the requested classes or prompts; None if none are requested.

    Raises:
        ValueError: for prompts of a model without text, or classes that the model does not know.
    """
    is_told_of_text = PROMPT in pipeline.conditioners.columns
    for name in ("prompt", "negative_prompt"):
        if getattr(sampling, name) is not None and not is_told_of_text:
            raise ValueError(f"`{name}` is {getattr(sampling, name)!r}, but the model is not conditional on text.")
    if sampling.prompt is not None:
        return {PROMPT: sampling.prompt}
    asked, known = sampling.class_labels, None if is_told_of_text else number_of_classes(pipeline.unet.config)
    if asked is None:
        return None
    if not (known and asked and all(0 <= label < known for label in asked)):
        what = f"knows the classes 0 ... {known - 1}" if known else "is not class-conditional"
        raise ValueError(f"`class_labels` are {asked}, but the model {what}.")
    return of_classes(asked)


def with_count_of_files(sampling: SampleArguments) -> SampleArguments:
    """The arguments with as many images as there are files to enlarge, unless the user says how many."""
    if not sampling.image or "num_images" in given_in(sampling):
        return sampling
    return dataclasses.replace(sampling, num_images=len(sampling.image))


def with_files(pipeline: SamplingPipeline, sampling: SampleArguments, asked: Columns | None) -> Columns | None:
    """The columns `asked`, with the files to enlarge or to vary by turns for a model that does so.

    Raises:
        ValueError: for files of a model that takes none, no files for one that enlarges them, or files that cannot be
            read or differ in size.
    """
    columns = pipeline.conditioners.columns
    if not sampling.image and NOISE_LEVEL not in columns:
        return asked
    if NOISE_LEVEL not in columns and IMAGE_EMBEDS not in columns:
        raise ValueError(f"`image` is {sampling.image}, but the model neither enlarges nor varies images.")
    if not sampling.image:
        raise ValueError(
            "The model enlarges images: name their files in --image, or name the model in --cascade after one that"
            " draws them."
        )
    try:
        pictures = [decoded(Path(name).read_bytes(), name)[0] for name in sampling.image]
    except BadImage as error:
        raise ValueError(f"`image`: {error}") from error
    given: Columns = {IMAGE: batch_of_images("image", pictures, pipeline.num_channels)}
    if NOISE_LEVEL in columns:
        given = {**given, NOISE_LEVEL: torch.full((len(pictures),), sampling.noise_level, device="cpu")}
    numbers = range(sampling.num_images)
    return {**in_turn(given, numbers), **in_turn(asked or {}, numbers)}
