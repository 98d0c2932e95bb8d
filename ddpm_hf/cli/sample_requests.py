# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What a user asks `ddpm-hf sample` for: checks, classes, prompts and files by turns, masks, and captions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..conditioning.captions import PROMPT
from ..conditioning.classes import number_of_classes, of_classes
from ..conditioning.columns import Columns, chosen, in_turn
from ..conditioning.embeddings import IMAGE_EMBEDS
from ..conditioning.low_resolution import IMAGE, NOISE_LEVEL
from ..data.image_files import BadImage, decoded
from ..diffusion.gaussian_process import check_eta
from ..diffusion.multistep import check_solver_order
from ..evaluation.arguments import SampleArguments
from ..evaluation.cascades import check_noise_asked
from ..evaluation.truncation import truncation_is_counted
from ..pipelines.guidance import Guidance
from ..pipelines.image_starts import mask_of
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
    for name in ("mask_image", "strength"):
        if getattr(sampling, name) and not sampling.image:
            raise ValueError(f"`{name}` needs the files of `image`.")
    if sampling.mask_image and sampling.gif is not None:
        raise ValueError("`gif` must be left out with `mask_image`: the chain goes back and forth.")
    check_interpolation(sampling)


def check_interpolation(sampling: SampleArguments) -> None:
    """Raise ValueError for arguments that do not go with `interpolate`."""
    if not sampling.interpolate:
        return
    if len(sampling.interpolate) != 2:
        raise ValueError(f"`interpolate` must be two files, but is {sampling.interpolate}.")
    for name in ("image", "gif", "eta"):
        if getattr(sampling, name) not in (None, [], 0.0):
            raise ValueError(f"`{name}` must be left out with `interpolate`.")
    if sampling.num_images < 2:
        raise ValueError(f"`num_images` must be at least 2 with `interpolate`, but is {sampling.num_images}.")


def asked_by_turns(pipeline: SamplingPipeline, sampling: SampleArguments) -> Columns | None:
    """The column of the requested classes or prompts; None if none are requested.

    Raises:
        ValueError: for prompts of a model without text, or classes that the model does not know.
    """
    is_told_of_text = PROMPT in pipeline.conditioners.columns
    for name in ("prompt", "negative_prompt"):
        if getattr(sampling, name) is not None and not is_told_of_text:
            raise ValueError(f"`{name}` is {getattr(sampling, name)!r}, but the model is not conditional on text.")
    asked, known = sampling.class_labels, None if is_told_of_text else number_of_classes(pipeline.unet.config)
    if asked is not None and not (known and asked and all(0 <= label < known for label in asked)):
        what = f"knows the classes 0 ... {known - 1}" if known else "is not class-conditional"
        raise ValueError(f"`class_labels` are {asked}, but the model {what}.")
    if sampling.prompt is not None:
        return {PROMPT: sampling.prompt}
    return None if asked is None else of_classes(asked)


def with_count_of_files(sampling: SampleArguments) -> SampleArguments:
    """The arguments with as many images as there are files to enlarge, unless the user says how many."""
    if not sampling.image or "num_images" in given_in(sampling):
        return sampling
    return dataclasses.replace(sampling, num_images=len(sampling.image))


def with_files(pipeline: SamplingPipeline, sampling: SampleArguments, asked: Columns | None) -> Columns | None:
    """The columns `asked`, with the image files by turns: to enlarge, to vary, or to start from, with masks.

    Raises:
        ValueError: for no files for a model that enlarges images, a noise level for another model, masks for a model
            that enlarges or varies images, or files that cannot be read or differ in size.
    """
    check_noise_asked(pipeline, sampling.noise_level)
    columns = pipeline.conditioners.columns
    enlarges, varies = NOISE_LEVEL in columns, IMAGE_EMBEDS in columns
    if not enlarges and not varies:
        return asked if not sampling.image else _with_starts(pipeline, sampling, asked)
    if sampling.mask_image:
        what = "enlarges" if enlarges else "varies"
        raise ValueError(f"`mask_image` is {sampling.mask_image}, but the model {what} whole images.")
    if not sampling.image and varies:
        return asked
    if not sampling.image:
        raise ValueError(
            "The model enlarges images: name their files in --image, or name the model in --cascade after one that"
            " draws them."
        )
    given: Columns = {IMAGE: batch_of_images("image", pictures_in("image", sampling.image), pipeline.image_channels)}
    if enlarges:
        given = {**given, NOISE_LEVEL: torch.full((len(sampling.image),), sampling.noise_level, device="cpu")}
    numbers = range(sampling.num_images)
    return {**in_turn(given, numbers), **in_turn(asked or {}, numbers)}


def pictures_in(argument: str, files: list[str]) -> list[Image.Image]:
    """The pictures in files that an argument names; ValueError for one that cannot be read."""
    try:
        return [decoded(Path(name).read_bytes(), name)[0] for name in files]
    except BadImage as error:
        raise ValueError(f"`{argument}`: {error}") from error


def steps_of(pipeline: SamplingPipeline, asked: int | None) -> int:
    """The number of steps; by default all timesteps of the model."""
    return len(pipeline.scheduler) if asked is None else asked


def chain_of(sampling: SampleArguments) -> dict[str, Any]:
    """The arguments of a pipeline's call that are the same for all images."""
    chain: dict[str, Any] = {
        "timestep_spacing": sampling.timestep_spacing,
        "eta": sampling.eta,
        "solver_order": sampling.solver_order,
    }
    chain |= options_of_starts(sampling)
    return chain if sampling.negative_prompt is None else {**chain, "negative_prompt": sampling.negative_prompt}


def check_call(
    pipeline: SamplingPipeline, sampling: SampleArguments, steps: int, turns: Columns | None, guidance: Guidance
) -> None:
    """Raise ValueError, as the pipeline does, for arguments that it cannot draw an image with."""
    one = chosen(pipeline.conditioners.variety() if turns is None else turns, [0])
    with truncation_is_counted():  # the call itself tells of it
        pipeline.iterate(batch_size=1, num_inference_steps=steps, **one, **chain_of(sampling), **guidance.options)


def options_of_starts(sampling: SampleArguments) -> dict[str, Any]:
    """The arguments of a pipeline's call that belong to its `image`; none without image files to start from."""
    options: dict[str, Any] = {} if sampling.strength is None else {"strength": sampling.strength}
    if sampling.mask_image:
        options |= {"jump_length": sampling.jump_length, "jump_n_sample": sampling.jump_n_sample}
    return options


def _with_starts(pipeline: SamplingPipeline, sampling: SampleArguments, asked: Columns | None) -> Columns:
    """The columns `asked`, or the model's variety, with images to start from, and their masks."""
    pictures = pictures_in("image", sampling.image)
    each: list[Columns] = [
        pipeline.conditioners.variety() if asked is None else asked,
        {"image": batch_of_images("image", pictures, pipeline.image_channels)},
    ]
    if sampling.mask_image:
        each.append({"mask_image": mask_of(pictures_in("mask_image", sampling.mask_image)).float()})
    numbers = range(sampling.num_images)
    return {name: values for columns in each for name, values in in_turn(columns, numbers).items()}
