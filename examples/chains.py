# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What a model is worth in other ways than by its whole chain: chains of few steps, and the probability-flow ODE."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from arguments import EvaluationArguments
from image_data import LevelImages
from quality import IMAGES_OF_A_DATA_SET
from reporting import paths_report, quality_of
from sampling import draw_images
from scoring import by_batches, denoiser, score, score_by_paths

from ddpm_hf import BitsPerDim, DDPMPaperPipeline, DDPMPaperScheduler, flow_bits_per_dim
from ddpm_hf.likelihood import Batches
from ddpm_hf.probability_flow import FlowBitsPerDim


FLOW_TOLERANCE = 1e-3  # of the solver, relative and absolute: tighter ones move bits/dim by less than their error


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


def score_chain_by_paths(
    pipeline: DDPMPaperPipeline,
    images: LevelImages,
    evaluation: EvaluationArguments,
    accelerator: Accelerator,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> dict[str, Any] | None:
    """The importance-weighted bound of the chain that the pipeline's scheduler visits, if it is asked for."""
    if not evaluation.num_paths:
        return None
    result = score_by_paths(
        pipeline.unet,
        pipeline.scheduler,
        images,
        accelerator,
        evaluation.batch_size,
        evaluation.num_paths,
        evaluation.seed,
        progress,
    )
    return paths_report(result)


def score_few_steps(
    pipeline: DDPMPaperPipeline,
    images: LevelImages,
    train: LevelImages | None,
    evaluation: EvaluationArguments,
    accelerator: Accelerator,
) -> list[dict[str, Any]]:
    """A row for every number of steps asked for and every spacing of the times that the model knows.

    Args:
        train: what samples are compared with; None for no samples.
    """
    scheduler, count, rows = pipeline.scheduler, evaluation.num_quality_samples, []
    real = [
        torch.cat(list(part.batches(evaluation.batch_size, IMAGES_OF_A_DATA_SET)))
        for part in ((train, images) if train is not None else ())
    ]
    spacings = ("linspace",) if scheduler.denoising_errors is None else ("linspace", "optimal")
    for steps, spacing in itertools.product(evaluation.few_steps, spacings):
        chain = DDPMPaperScheduler.from_config(scheduler.config)
        chain.set_timesteps(steps, timestep_spacing=spacing)
        chained = DDPMPaperPipeline(pipeline.unet, chain)
        chained.set_progress_bar_config(disable=True)
        result = score_chain(chained, images, evaluation, accelerator)
        row = {
            "steps": steps,
            "timestep_spacing": spacing,
            "timesteps_visited": len(result.timesteps),  # "optimal" may find fewer that cost less
            "bits_per_dim": result.total,
            "bits_per_dim_standard_error": result.standard_error,
        }
        weighted = score_chain_by_paths(chained, images, evaluation, accelerator)
        if weighted is not None:
            row["importance_weighted"] = weighted
        if real:
            size = evaluation.batch_size
            samples = draw_images(chained, count, size, steps, evaluation.seed, accelerator, None, spacing)
            row |= quality_of(samples, steps, *real)
        rows.append(row)
    return rows


def score_by_flow(
    pipeline: DDPMPaperPipeline, images: LevelImages, evaluation: EvaluationArguments, accelerator: Accelerator
) -> dict[str, Any] | None:
    """The likelihood by the probability-flow ODE, if it is asked for: each batch is one process's."""
    if not evaluation.num_flow_images:
        return None
    images = images.first(evaluation.num_flow_images)

    def part(batches: Batches, generator: torch.Generator) -> FlowBitsPerDim:
        options = {"rtol": FLOW_TOLERANCE, "atol": FLOW_TOLERANCE, "generator": generator}
        return flow_bits_per_dim(denoiser(pipeline.unet), pipeline.scheduler, batches, **options)

    parts = by_batches(pipeline.unet, images, accelerator, evaluation.batch_size, evaluation.seed, part)
    result = FlowBitsPerDim.merged(parts)
    return {
        "bits_per_dim": result.total,
        "bits_per_dim_standard_error": result.standard_error if len(images) > 1 else None,
        "images": len(images),
        "model_calls_per_image": result.num_model_evaluations / len(images),
        "tolerance": FLOW_TOLERANCE,
        "log_snr_at_the_start": pipeline.scheduler.schedule.log_snr[1].item(),
        "dequantisation": "uniform",
    }


def few_steps_table(rows: list[dict[str, Any]]) -> str:
    """A line for every chain."""
    lines = ["steps  times      bits/dim  by paths  Fréchet distance of pixels"]
    for row in rows:
        weighted = f"{row['importance_weighted']['bits_per_dim']:.4f}" if "importance_weighted" in row else "–"
        distance = f"{row['frechet_distance_pixels']:.4f}" if "frechet_distance_pixels" in row else "–"
        lines.append(
            f"{row['steps']:5}  {row['timestep_spacing']:9}  {row['bits_per_dim']:8.4f}  {weighted:>8}  {distance}"
        )
    return "\n".join(lines)
