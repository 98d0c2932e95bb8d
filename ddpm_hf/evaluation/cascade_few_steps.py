# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Cascades whose stages take few steps, by their bounds and by the quality of their samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from ..conditioning.columns import Columns
from ..data.level_images import LevelImages
from ..pipelines.guidance import Guidance
from ..pipelines.sampling_pipeline import SamplingPipeline
from .arguments import EvaluationArguments
from .cascades import Stages, draw_cascade, score_cascade, told_of_most
from .sample_quality import Judge
from .sampling import draw_images, turns_of
from .scoring import on_chain, spacings_of


def score_few_steps(
    stages: Stages,
    guidances: Sequence[Guidance],
    images: LevelImages,
    evaluation: EvaluationArguments,
    accelerator: Accelerator,
    judge: Judge | None,
) -> list[dict[str, Any]]:
    """One row per number of steps, which every stage takes, for each available timestep spacing.

    Args:
        judge: measures the samples; None on processes that do not write.
    """
    rows = []
    for steps in evaluation.few_steps:
        for spacing in spacings_of([stage.scheduler for stage in stages]):
            chains = [on_chain(stage, steps, spacing) for stage in stages]
            result = score_cascade(chains, guidances, images, evaluation, accelerator)
            row = {
                "sampler": "ancestral",
                "steps": steps,
                "timestep_spacing": spacing,
                "bits_per_dim": result.total,
                "bits_per_dim_standard_error": result.standard_error,
            }
            if evaluation.num_quality_samples:
                samples = _samples(chains, guidances, images, steps, spacing, evaluation, accelerator)
                row |= {} if judge is None else judge.figures(samples)
            rows.append(row)
    return rows


def _samples(
    stages: Stages,
    guidances: Sequence[Guidance],
    images: LevelImages,
    steps: int,
    spacing: str,
    evaluation: EvaluationArguments,
    accelerator: Accelerator,
) -> Tensor:
    """Samples of the cascade in [0, 1], as many as `num_quality_samples`, conditioned as those of one model."""
    count, size = evaluation.num_quality_samples, evaluation.batch_size
    told = turns_of(told_of_most(stages), images)

    def draw(stage: SamplingPipeline, guidance: Guidance, seed: int, turns: Columns | None) -> Tensor:
        how = {"timestep_spacing": spacing, "guidance": guidance}
        return draw_images(stage, count, size, steps, seed, accelerator, turns, **how)

    return draw_cascade(stages, guidances, count, evaluation.seed, told, evaluation.noise_level, draw)
