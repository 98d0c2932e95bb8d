# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What a user asks `ddpm-hf sample` for: checks, classes and prompts by turns, and captions."""

from __future__ import annotations

from ..conditioning.captions import PROMPT
from ..conditioning.classes import number_of_classes, of_classes
from ..conditioning.columns import Columns
from ..diffusion.gaussian_process import check_eta
from ..diffusion.multistep import check_solver_order
from ..evaluation.arguments import SampleArguments
from ..pipelines.sampling_pipeline import SamplingPipeline


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
