# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Score a saved model, or one on the Hub, in bits/dim: the variational bound over a data set (Ho et al. 2020, Eq. 5).

    python examples/evaluate.py --model_name_or_path runs/digits --output_dir digits_evaluation
    python examples/evaluate.py --few_steps 5 10 25 50 100 --num_quality_samples 500 --num_flow_images 128
    accelerate launch --multi_gpu examples/evaluate.py …      the same figures, from several processes

Leaves evaluation.json, with one row per timestep, and evaluation.png: where the bits are spent, and the forward
process next to the reverse. With --few_steps also few_steps.png: what chains of so many steps are worth. The data are
named as for train.py; without a name, the digits.
"""

from __future__ import annotations


from threads import use_all_cores  # isort: skip - before torch

import functools
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from arguments import (
    DataArguments,
    EvaluationArguments,
    ModelPathArguments,
    check_num_evaluations,
    user_errors,
)
from figures import save_evaluation, save_few_steps
from image_data import LevelImages
from output_folder import claim_folder, write_json
from quality import IMAGES_OF_A_DATA_SET
from randomness import Use, generator_of
from reporting import evaluation_report, quality_of
from sampling import draw_images
from scoring import check_fit, conditioning, denoiser, images_as_they_are, load_pipeline, score
from sharing import shared
from stopping import run_script
from tqdm.auto import tqdm

from ddpm_hf import BitsPerDim, DDPMPaperPipeline, DDPMPaperScheduler, flow_bits_per_dim
from ddpm_hf.probability_flow import FlowBitsPerDim


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
        for steps in evaluation.few_steps:  # that there are so many is found out now
            DDPMPaperScheduler.from_config(pipeline.scheduler.config).set_timesteps(steps)
        folder = claim_folder(evaluation.output_dir, evaluation.overwrite_output_dir)
        accelerator.wait_for_everyone()  # all have looked before anything is written
    use_all_cores(accelerator.device)
    progress = functools.partial(tqdm, desc="scoring", unit="batch", disable=not accelerator.is_main_process)
    result = score_chain(pipeline, images, evaluation, accelerator, progress)
    chains = score_few_steps(pipeline, data, images, evaluation, accelerator)
    flow = score_by_flow(pipeline, images, evaluation, accelerator)
    if accelerator.is_main_process:
        write_evaluation(result, pipeline, images, folder, model, evaluation, {"few_steps": chains, "flow": flow})


def score_chain(
    pipeline: DDPMPaperPipeline,
    images: LevelImages,
    evaluation: EvaluationArguments,
    accelerator: Accelerator,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> BitsPerDim:
    """Bits/dim of the chain that the pipeline's scheduler visits."""
    return score(
        pipeline.unet,
        pipeline.scheduler,
        images,
        accelerator,
        evaluation.batch_size,
        evaluation.num_evaluations,
        evaluation.seed,
        progress,
    )


def score_few_steps(
    pipeline: DDPMPaperPipeline,
    data: DataArguments,
    images: LevelImages,
    evaluation: EvaluationArguments,
    accelerator: Accelerator,
) -> list[dict[str, Any]]:
    """A row for every number of steps asked for and every spacing of the times that the model knows."""
    scheduler, count, rows = pipeline.scheduler, evaluation.num_quality_samples, []
    spacings = ("linspace",) if scheduler.denoising_errors is None else ("linspace", "optimal")
    train = images_as_they_are(data, "train") if evaluation.few_steps and count else None
    for steps, spacing in itertools.product(evaluation.few_steps, spacings):
        chain = DDPMPaperScheduler.from_config(scheduler.config)
        chain.set_timesteps(steps, timestep_spacing=spacing)
        chained = DDPMPaperPipeline(pipeline.unet, chain)
        chained.set_progress_bar_config(disable=True)
        result = score_chain(chained, images, evaluation, accelerator)
        row = {
            "steps": steps,
            "timestep_spacing": spacing,
            "bits_per_dim": result.total,
            "bits_per_dim_standard_error": result.standard_error,
        }
        if train is not None:
            size = evaluation.batch_size
            samples = draw_images(chained, count, size, steps, evaluation.seed, accelerator, None, spacing)
            real = [torch.cat(list(part.batches(size, IMAGES_OF_A_DATA_SET))) for part in (train, images)]
            row |= quality_of(samples, steps, *real)
        rows.append(row)
    return rows


def score_by_flow(
    pipeline: DDPMPaperPipeline, images: LevelImages, evaluation: EvaluationArguments, accelerator: Accelerator
) -> dict[str, Any] | None:
    """The likelihood by the probability-flow ODE, if it is asked for: each batch is one process's."""
    count, size = min(evaluation.num_flow_images, len(images)), evaluation.batch_size
    if not count:
        return None

    def of_batch(k: int) -> FlowBitsPerDim:
        x_0, labels = images.batch(k * size, min((k + 1) * size, count))
        batch = x_0.to(accelerator.device), conditioning(pipeline.unet, labels, accelerator.device)
        generator = generator_of(Use.SCORING, evaluation.seed, k)
        return flow_bits_per_dim(
            denoiser(pipeline.unet), pipeline.scheduler, [batch], rtol=1e-3, atol=1e-3, generator=generator
        )

    parts = shared(accelerator, -(-count // size), of_batch)
    bits = torch.tensor([each for part in parts for each in part.per_example], dtype=torch.float64)
    return {
        "bits_per_dim": bits.mean().item(),
        "bits_per_dim_standard_error": bits.std().item() / count**0.5 if count > 1 else None,
        "images": count,
        "model_calls_per_image": sum(part.num_model_evaluations for part in parts) / count,
    }


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
        save_few_steps(more["few_steps"], result, folder / "few_steps.png")
        print(few_steps_table(more["few_steps"]))
    if more["flow"] is not None:
        print(f"{more['flow']['bits_per_dim']:.4f} bits/dim by the ODE on {more['flow']['images']} images")
    print(
        f"{result.total:.4f} ± {result.standard_error:.4f} bits/dim on {result.num_examples} images"
        f" = prior {result.prior:.4f} + rate {result.rate:.4f} + decoder {result.decoder:.4f}; see {folder}"
    )


def few_steps_table(rows: list[dict[str, Any]]) -> str:
    """A line for every chain."""
    lines = ["steps  times      bits/dim  Fréchet distance of pixels"]
    for row in rows:
        distance = f"{row['frechet_distance_pixels']:.4f}" if "frechet_distance_pixels" in row else "–"
        lines.append(f"{row['steps']:5}  {row['timestep_spacing']:9}  {row['bits_per_dim']:8.4f}  {distance}")
    return "\n".join(lines)


def choose_images(data: DataArguments, evaluation: EvaluationArguments) -> LevelImages:
    """The split to score."""
    if evaluation.split not in ("train", "test"):
        raise ValueError(f"`split` must be 'train' or 'test', but is {evaluation.split!r}.")
    if evaluation.batch_size < 1 or (evaluation.max_images is not None and evaluation.max_images < 1):
        raise ValueError("`batch_size` and `max_images` must be at least 1.")
    check_num_evaluations(evaluation.num_evaluations)
    if evaluation.num_flow_images < 0 or evaluation.num_quality_samples < 0 or evaluation.num_quality_samples == 1:
        raise ValueError("`num_flow_images` must be at least 0, and `num_quality_samples` 0 or at least 2.")
    return images_as_they_are(data, evaluation.split)


def follow(scheduler: DDPMPaperScheduler, num_levels: int, evaluation: EvaluationArguments) -> DDPMPaperScheduler:
    """The model's scheduler for data of so many levels, on the chain that is to be scored."""
    scheduler = DDPMPaperScheduler.from_config(scheduler.config, num_levels=num_levels)
    steps = evaluation.num_inference_steps or len(scheduler)
    scheduler.set_timesteps(steps, timestep_spacing=evaluation.timestep_spacing)
    return scheduler


if __name__ == "__main__":
    main()
