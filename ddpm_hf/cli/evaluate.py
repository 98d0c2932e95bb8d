# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf evaluate`: score a saved model in bits/dim."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm.auto import tqdm

from ..data.arguments import DataArguments
from ..data.level_images import LevelImages
from ..evaluation.arguments import EvaluationArguments, ModelPathArguments, check_scoring
from ..evaluation.few_steps import score_by_flow, score_chain, score_chain_by_paths, score_few_steps
from ..evaluation.sample_quality import Judge
from ..evaluation.scoring import check_fit, follow, images_as_they_are, load_pipeline
from ..likelihood.variational import BitsPerDim
from ..pipelines.pipeline_ddpm_paper import DDPMPaperPipeline
from ..reporting.figures import save_evaluation, save_few_steps
from ..reporting.lines import evaluation_report, weighted_line
from ..reporting.tables import few_steps_table
from ..runtime.errors import user_errors
from ..runtime.output_folder import claim_folder, write_json
from ..runtime.threads import use_all_cores
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .running import run_script


def main() -> None:
    run_script(evaluate, ModelPathArguments, DataArguments, EvaluationArguments)


def evaluate(script: str, model: ModelPathArguments, data: DataArguments, evaluation: EvaluationArguments) -> None:
    """Score, with all processes together; the main one writes."""
    with user_errors(script):
        accelerator = Accelerator()
        images = choose_images(data, evaluation).spread(evaluation.max_images)
        pipeline = load_pipeline(model, accelerator.device)
        check_fit(pipeline, images)
        if evaluation.num_flow_images and pipeline.scheduler.config.prediction_type == "mean":
            raise ValueError("`num_flow_images` asks for the ODE, which a model that predicts the 'mean' has not.")
        pipeline.scheduler = follow(pipeline.scheduler, images.num_levels, evaluation)
        for steps in evaluation.few_steps:  # that there are so many is found out now
            DDPMPaperScheduler.from_config(pipeline.scheduler.config).set_timesteps(steps)
        train = images_as_they_are(data, "train") if evaluation.num_quality_samples else None
        folder = claim_folder(evaluation.output_dir, evaluation.overwrite_output_dir)
        accelerator.wait_for_everyone()  # all have looked before anything is written
    use_all_cores(accelerator.device)
    progress = functools.partial(tqdm, desc="scoring", unit="batch", disable=not accelerator.is_main_process)
    result = score_chain(pipeline, images, evaluation, accelerator, progress)
    weighted = score_chain_by_paths(pipeline, images, evaluation, accelerator, progress)
    judge = Judge(train, images) if train is not None and accelerator.is_main_process else None
    chains = score_few_steps(pipeline, images, judge, evaluation, accelerator)
    flow = score_by_flow(pipeline, images, evaluation, accelerator) if evaluation.num_flow_images else None
    if accelerator.is_main_process:
        references = {} if judge is None else judge.references(images, evaluation.num_quality_samples)
        more = {
            "importance_weighted": weighted,
            "few_steps": chains,
            "test_images_as_samples": references,
            "flow": flow,
        }
        write_evaluation(result, pipeline, images, folder, model, evaluation, more)


def write_evaluation(
    result: BitsPerDim,
    pipeline: DDPMPaperPipeline,
    images: LevelImages,
    folder: Path,
    model: ModelPathArguments,
    evaluation: EvaluationArguments,
    more: dict[str, Any],
) -> None:
    """The figures, the pictures, and a line on the screen."""
    report = evaluation_report(
        result,
        model=model.model_name_or_path,
        split=evaluation.split,
        num_levels=images.num_levels,
        variance_type=pipeline.scheduler.variance_type,
        first_variance=pipeline.scheduler.first_variance,
        clip_sample=pipeline.scheduler.config.clip_sample,
        **more,
    )
    write_json(folder / "evaluation.json", report)
    save_evaluation(result, pipeline, *images.batch(0, 3), folder / "evaluation.png", evaluation.seed)
    if more["few_steps"]:
        references = {"bits_per_dim": result.total} | more["test_images_as_samples"]
        save_few_steps(more["few_steps"], references, folder / "few_steps.png")
        print(few_steps_table(more["few_steps"]))
    if more["flow"] is not None:
        print(f"{more['flow']['flow_bits_per_dim']:.4f} bits/dim by the ODE on {more['flow']['images']} images")
    if more["importance_weighted"] is not None:
        print(weighted_line(more["importance_weighted"]))
    print(
        f"{result.total:.4f} ± {result.standard_error:.4f} bits/dim on {result.num_examples} images"
        f" = prior {result.prior:.4f} + rate {result.rate:.4f} + decoder {result.decoder:.4f}; see {folder}"
    )


def choose_images(data: DataArguments, evaluation: EvaluationArguments) -> LevelImages:
    """The split to score."""
    if evaluation.split not in ("train", "test"):
        raise ValueError(f"`split` must be 'train' or 'test', but is {evaluation.split!r}.")
    check_scoring(evaluation)
    if evaluation.num_flow_images < 0 or evaluation.num_quality_samples < 0 or evaluation.num_quality_samples == 1:
        raise ValueError("`num_flow_images` must be at least 0, and `num_quality_samples` 0 or at least 2.")
    if evaluation.num_quality_samples and not evaluation.few_steps:
        raise ValueError("`num_quality_samples` are drawn along the chains of `few_steps`; pass these too.")
    if evaluation.num_flow_images and importlib.util.find_spec("torchdiffeq") is None:
        raise ValueError("`num_flow_images` needs torchdiffeq, which is not installed: `pip install torchdiffeq`.")
    return images_as_they_are(data, evaluation.split)
