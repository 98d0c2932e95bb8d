# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf sample --cascade` and `ddpm-hf evaluate --cascade`: several models, each of which enlarges images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..conditioning.captions import PROMPT
from ..conditioning.columns import Columns
from ..data.arguments import CaptionedDataArguments
from ..evaluation.arguments import EvaluationArguments, GuidanceArguments, ModelPathArguments, SampleArguments
from ..evaluation.cascade_few_steps import score_few_steps
from ..evaluation.cascades import (
    Stages,
    check_noise_level,
    draw_cascade,
    guidances_of,
    load_cascade,
    prepare_to_score,
    score_cascade,
    stage_of_data,
    told_of_most,
)
from ..evaluation.guiding import guidance_report
from ..evaluation.quality_features import load_quality_features
from ..evaluation.sample_quality import Judge
from ..evaluation.sampling import draw_images
from ..evaluation.scoring import check_few_steps, load_as_they_are, split_of
from ..evaluation.truncation import tell_of_truncation
from ..likelihood.cascade import CascadeBitsPerDim
from ..pipelines.guidance import Guidance
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..reporting.figures import check_picture, save_grid
from ..reporting.lines import quality_line
from ..reporting.tables import few_steps_table
from ..runtime.arguments import given_in
from ..runtime.errors import user_errors
from ..runtime.output_folder import claim_file, claim_folder, write_json
from ..runtime.progress import progress_bar, shows_bars
from ..runtime.threads import use_all_cores
from .sample_requests import asked_by_turns, captions_of, chain_of, check_call, check_sampling, steps_of


OF_ONE_MODEL = (
    *("num_paths", "guidance_scales", "num_flow_images", "rate_distortion"),
    *("gif", "image", "interpolate"),
)


def check_for_cascade(model: ModelPathArguments, arguments: EvaluationArguments | SampleArguments) -> None:
    """Raise ValueError for arguments that are for one model."""
    one = [name for name in OF_ONE_MODEL if getattr(arguments, name, None)] + sorted(given_in(model))
    if one:
        raise ValueError(f"`{one[0]}` is for one model; leave it out with `cascade`.")


def evaluate_cascade(
    script: str,
    model: ModelPathArguments,
    data: CaptionedDataArguments,
    evaluation: EvaluationArguments,
    guiding: GuidanceArguments,
) -> None:
    """Score the images by all stages, on all processes; the main process writes the results."""
    with user_errors(script):
        check_for_cascade(model, evaluation)
        accelerator = Accelerator()
        stages = load_cascade(evaluation.cascade, accelerator.device)
        loaded = load_as_they_are(data, stage_of_data(stages), stages[-1].image_shape)
        images = split_of(loaded, evaluation.split).spread(evaluation.max_images)
        prepare_to_score(stages, images, evaluation)
        guidances = guidances_of(stages, guiding)
        check_few_steps([stage.scheduler for stage in stages], evaluation.few_steps)
        train = split_of(loaded, "train") if evaluation.num_quality_samples else None
        tell_of_truncation(stages, images)
        folder = claim_folder(evaluation.output_dir, evaluation.overwrite_output_dir, accelerator)
    use_all_cores(accelerator.device)
    progress = functools.partial(progress_bar, desc="scoring", unit="batch", disable=not accelerator.is_main_process)
    result = score_cascade(stages, guidances, images, evaluation, accelerator, progress)
    judge = None
    if train is not None and accelerator.is_main_process:
        judge = Judge(train, images, load_quality_features(evaluation, accelerator.device))
    chains = score_few_steps(stages, guidances, images, evaluation, accelerator, judge)
    if accelerator.is_main_process:
        settings = {"split": evaluation.split, "num_levels": images.num_levels, **guidance_report(guiding)}
        compared = {} if judge is None else judge.report(images, evaluation.num_quality_samples)
        report = settings | cascade_report(result, stages, evaluation) | {"few_steps": chains} | compared
        write_json(folder / "evaluation.json", report)
        if chains:
            print(few_steps_table(chains))
        if judge is not None:
            real = compared["test_images_as_samples"]
            print(quality_line(evaluation.num_quality_samples, judge.images, real))
        print(f"{result}; see {folder}")
        if (note := note_on_captions(stages, guiding)) is not None:
            print(note)


def note_on_captions(stages: Stages, guiding: GuidanceArguments) -> str | None:
    """That the bits are given the captions, and how to do without these; None if no stage is told of captions."""
    told = [stage for stage in stages if PROMPT in stage.conditioners.columns]
    of_prior = any(stage.drawing_columns != stage.conditioners.columns for stage in told)  # which scale 0 still tells
    without = not of_prior and all(stage.conditioners.has_null for stage in told)
    if not told or (without and guiding.guidance_scale == 0):
        return None
    note = "These are the bits of the images given their captions"
    return f"{note}; --guidance_scale 0 scores the images without captions." if without else f"{note}."


def cascade_report(result: CascadeBitsPerDim, stages: Stages, evaluation: EvaluationArguments) -> dict[str, Any]:
    """The figures of a cascade, under their names in evaluation.json."""
    return {
        "bits_per_dim_cascade": result.total,
        "bits_per_dim_cascade_standard_error": result.standard_error,
        "bits_per_dim_cascade_estimation_error": result.estimation_error,
        "noise_level": evaluation.noise_level,
        "stages": [
            {
                "model": name,
                "image_shape": list(stage.image_shape),
                "conditioning": list(stage.conditioners.columns),
                "steps": len(stage.scheduler.timesteps),
                "bits_per_dim": bits.own,
                "bits_per_dim_of_the_cascade": bits.total,
                "bits_per_dim_of_the_cascade_standard_error": bits.standard_error,
            }
            for name, stage, bits in zip(evaluation.cascade, stages, result.stages, strict=True)
        ],
        "num_examples": result.num_examples,
        "num_model_evaluations": result.num_model_evaluations,
        "per_example": result.per_example,
    }


def sample_cascade(
    script: str, model: ModelPathArguments, sampling: SampleArguments, guiding: GuidanceArguments
) -> None:
    """Draw images stage after stage, on all processes; the main process writes the grid of the last."""
    with user_errors(script):
        check_sampling(sampling)
        check_for_cascade(model, sampling)
        output = claim_file(sampling.output)
        accelerator = Accelerator()
        stages = load_cascade(sampling.cascade, accelerator.device)
        for stage in stages:
            stage.scheduler.set_timesteps(
                steps_of(stage, sampling.num_inference_steps), timestep_spacing=sampling.timestep_spacing
            )
            stage.set_progress_bar_config(disable=not (accelerator.is_main_process and shows_bars()))
        check_noise_level(stages, sampling.noise_level)
        check_picture(output, stages[-1].example_shape[0])
        guidances = guidances_of(stages, guiding)
        most = told_of_most(stages)
        asked = asked_by_turns(most, sampling)
        turns = most.conditioners.variety() if asked is None else asked
        check_calls(stages, guidances, sampling, turns)
    use_all_cores(accelerator.device)
    draw = functools.partial(_draw_stage, sampling, accelerator)
    how = (sampling.num_images, sampling.seed, turns, sampling.noise_level)
    images = draw_cascade(stages, guidances, *how, draw)
    if accelerator.is_main_process:
        save_grid(images, Path(output), captions=captions_of(sampling))
        print(f"{sampling.num_images} samples in {output}")


def check_calls(stages: Stages, guidances: Sequence[Guidance], sampling: SampleArguments, turns: Columns) -> None:
    """Raise ValueError, as the stages do, for arguments that one of them cannot draw an image with."""
    if sampling.negative_prompt is not None and not any(each.is_classifier_free for each in guidances):
        raise ValueError("`negative_prompt` needs a `guidance_scale` other than 1.")

    def check(stage: SamplingPipeline, guidance: Guidance, seed: int, columns: Columns) -> Tensor:
        steps = steps_of(stage, sampling.num_inference_steps)
        check_call(stage, _of_stage(sampling, guidance), steps, columns, guidance)
        return torch.zeros(1, *stage.image_shape, device="cpu")

    draw_cascade(stages, guidances, 1, sampling.seed, turns, sampling.noise_level, check)


def _draw_stage(
    sampling: SampleArguments,
    accelerator: Accelerator,
    stage: SamplingPipeline,
    guidance: Guidance,
    seed: int,
    turns: Columns,
) -> Tensor:
    how = (sampling.num_images, sampling.batch_size, sampling.num_inference_steps, seed, accelerator, turns)
    return draw_images(stage, *how, guidance=guidance, **chain_of(_of_stage(sampling, guidance)))


def _of_stage(sampling: SampleArguments, guidance: Guidance) -> SampleArguments:
    """What is asked of a stage: a stage that is not guided needs no negative prompt."""
    return sampling if guidance.is_classifier_free else dataclasses.replace(sampling, negative_prompt=None)
