# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Score a saved model, or one on the Hub, in bits/dim: the variational bound over a data set (Ho et al. 2020, Eq. 5).

    python examples/evaluate.py --model_name_or_path runs/digits --output_dir digits_evaluation
    accelerate launch --multi_gpu examples/evaluate.py …      the same figures, from several processes

Leaves evaluation.json, with one row per timestep, and evaluation.png: where the bits are spent, and the forward
process next to the reverse. The data are named as for train.py; without a name, the digits.
"""

from __future__ import annotations


from threads import use_all_cores  # isort: skip - before torch

import functools
from pathlib import Path

from accelerate import Accelerator
from arguments import (
    DataArguments,
    EvaluationArguments,
    ModelPathArguments,
    check_num_evaluations,
    user_errors,
)
from figures import save_evaluation
from image_data import LevelImages
from output_folder import claim_folder, write_json
from reporting import evaluation_report
from scoring import check_fit, images_as_they_are, load_pipeline, score
from stopping import run_script
from tqdm.auto import tqdm

from ddpm_hf import BitsPerDim, DDPMPaperPipeline, DDPMPaperScheduler


def main() -> None:
    run_script(__file__, evaluate, ModelPathArguments, DataArguments, EvaluationArguments)


def evaluate(script: str, model: ModelPathArguments, data: DataArguments, evaluation: EvaluationArguments) -> None:
    """Score, with all processes together; the main one writes."""
    with user_errors(script):
        accelerator = Accelerator()
        images = choose_images(data, evaluation).first(evaluation.max_images)
        pipeline = load_pipeline(model, accelerator.device)
        check_fit(pipeline, images)
        pipeline.scheduler = follow(pipeline.scheduler, images.num_levels, evaluation)
        folder = claim_folder(evaluation.output_dir, evaluation.overwrite_output_dir)
        accelerator.wait_for_everyone()  # all have looked before anything is written
    use_all_cores(accelerator.device)
    result = score(
        pipeline.unet,
        pipeline.scheduler,
        images,
        accelerator,
        evaluation.batch_size,
        evaluation.num_evaluations,
        evaluation.seed,
        functools.partial(tqdm, desc="scoring", unit="batch", disable=not accelerator.is_main_process),
    )
    if accelerator.is_main_process:
        write_evaluation(result, pipeline, images, folder, model, evaluation)


def write_evaluation(
    result: BitsPerDim,
    pipeline: DDPMPaperPipeline,
    images: LevelImages,
    folder: Path,
    model: ModelPathArguments,
    evaluation: EvaluationArguments,
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
    )
    write_json(folder / "evaluation.json", report)
    save_evaluation(result, pipeline, *images.batch(0, 3), folder / "evaluation.png", evaluation.seed)
    print(
        f"{result.total:.4f} ± {result.standard_error:.4f} bits/dim on {result.num_examples} images"
        f" = prior {result.prior:.4f} + rate {result.rate:.4f} + decoder {result.decoder:.4f}; see {folder}"
    )


def choose_images(data: DataArguments, evaluation: EvaluationArguments) -> LevelImages:
    """The split to score."""
    if evaluation.split not in ("train", "test"):
        raise ValueError(f"`split` must be 'train' or 'test', but is {evaluation.split!r}.")
    if evaluation.batch_size < 1 or (evaluation.max_images is not None and evaluation.max_images < 1):
        raise ValueError("`batch_size` and `max_images` must be at least 1.")
    check_num_evaluations(evaluation.num_evaluations)
    return images_as_they_are(data, evaluation.split)


def follow(scheduler: DDPMPaperScheduler, num_levels: int, evaluation: EvaluationArguments) -> DDPMPaperScheduler:
    """The model's scheduler for data of so many levels, on the chain that is to be scored."""
    scheduler = DDPMPaperScheduler.from_config(scheduler.config, num_levels=num_levels)
    steps = evaluation.num_inference_steps or len(scheduler)
    scheduler.set_timesteps(steps, timestep_spacing=evaluation.timestep_spacing)
    return scheduler


if __name__ == "__main__":
    main()
