# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What a model is worth in other ways than by its whole chain: chains of few steps, and the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.level_images import LevelImages
from ..likelihood.batches import Batches
from ..likelihood.ode import FlowBitsPerDim, flow_bits_per_dim
from ..likelihood.variational import BitsPerDim
from ..pipelines.pipeline_ddpm_paper import DDPMPaperPipeline
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .arguments import EvaluationArguments
from .sample_quality import Judge
from .sampling import draw_images, draw_images_by_flow
from .scoring import by_batches, paths_report, score, score_by_paths


LEAST_CALLS_OF_FLOW = 25  # from fewer its likelihood cannot be told, to within some tenths
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
        pipeline.denoiser(),
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
        pipeline.denoiser(),
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
    judge: Judge | None,
    evaluation: EvaluationArguments,
    accelerator: Accelerator,
) -> list[dict[str, Any]]:
    """Rows for every number of steps: of each spacing of the times that the model knows, of DDIM, and of the ODE.

    Chains have a bound. DDIM has none, and its row samples alone; the ODE is followed if its likelihood is asked for.

    Args:
        judge: of samples, on the process that writes.
    """
    spacings = ("linspace",) if pipeline.scheduler.denoising_errors is None else ("linspace", "optimal")
    count, size, seed, rows = evaluation.num_quality_samples, evaluation.batch_size, evaluation.seed, []

    def judged(samples: Tensor) -> dict[str, float]:
        return {} if judge is None else judge.figures(samples)

    for steps in evaluation.few_steps:
        for spacing in spacings:
            chained = on_chain(pipeline, steps, spacing)
            row = {"sampler": "ancestral", "steps": steps, "timestep_spacing": spacing}
            row |= _bound_of(chained, images, evaluation, accelerator)
            if count:
                row |= judged(draw_images(chained, count, size, steps, seed, accelerator, None, spacing))
            rows.append(row)
        if count:
            chained = on_chain(pipeline, steps, "linspace")
            samples = draw_images(chained, count, size, steps, seed, accelerator, None, "linspace", eta=0.0)
            rows.append({"sampler": "DDIM", "steps": steps, "timestep_spacing": "linspace"} | judged(samples))
        if evaluation.num_flow_images:
            row = {"sampler": "ODE", "steps": steps}
            if steps >= LEAST_CALLS_OF_FLOW:
                row |= score_by_flow(pipeline, images, evaluation, accelerator, steps)
            if count and steps > 1:
                row |= judged(draw_images_by_flow(pipeline, count, size, steps, seed, accelerator))
            rows.append(row)
    return rows


def on_chain(pipeline: DDPMPaperPipeline, steps: int, spacing: str) -> DDPMPaperPipeline:
    """The pipeline, on a chain of so many steps, with no bar of its own."""
    chain = DDPMPaperScheduler.from_config(pipeline.scheduler.config)
    chain.set_timesteps(steps, timestep_spacing=spacing)
    chained = DDPMPaperPipeline(pipeline.unet, chain)
    chained.set_progress_bar_config(disable=True)
    return chained


def _bound_of(
    chained: DDPMPaperPipeline, images: LevelImages, evaluation: EvaluationArguments, accelerator: Accelerator
) -> dict[str, Any]:
    result = score_chain(chained, images, evaluation, accelerator)
    weighted = score_chain_by_paths(chained, images, evaluation, accelerator)
    return {
        "timesteps_visited": len(result.timesteps),  # "optimal" may find fewer that cost less
        "bits_per_dim": result.total,
        "bits_per_dim_standard_error": result.standard_error,
        **({} if weighted is None else {"importance_weighted": weighted}),
    }


def score_by_flow(
    pipeline: DDPMPaperPipeline,
    images: LevelImages,
    evaluation: EvaluationArguments,
    accelerator: Accelerator,
    calls: int | None = None,
) -> dict[str, Any]:
    """The likelihood by the probability-flow ODE: each batch is one process's.

    Args:
        calls: of the model, at least 4 and at most so many; as many as the tolerance needs if None.
    """
    images, denoiser = images.spread(evaluation.num_flow_images), pipeline.denoiser()
    solver: dict[str, Any] = {"rtol": FLOW_TOLERANCE, "atol": FLOW_TOLERANCE}
    if calls is not None:
        solver = {"method": "rk4", "num_steps": calls // 4}

    def part(batches: Batches, generator: torch.Generator) -> FlowBitsPerDim:
        options = {**solver, "generator": generator}
        return flow_bits_per_dim(denoiser, pipeline.scheduler, batches, **options)

    parts = by_batches(denoiser, images, accelerator, evaluation.batch_size, evaluation.seed, part)
    result = FlowBitsPerDim.merged(parts)
    return {
        "flow_bits_per_dim": result.total,
        "flow_bits_per_dim_standard_error": result.standard_error if len(images) > 1 else None,
        "images": len(images),
        "model_calls_per_image": result.num_model_evaluations / len(images),
        **({"tolerance": FLOW_TOLERANCE} if calls is None else solver),
        "log_snr_at_the_start": pipeline.scheduler.schedule.log_snr[1].item(),
        "dequantisation": "uniform",
    }
