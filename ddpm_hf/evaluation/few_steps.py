# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Chains of few steps, DDIM, DPM-Solver++ and the probability-flow ODE, compared by likelihoods and samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .sample_quality import Judge
from .scoring import spacings_of
from .subject import Subject


LEAST_CALLS_OF_ODE = 25  # with fewer, its likelihood is wrong by several tenths of bits/dim


def score_few_steps(subject: Subject, judge: Judge | None) -> list[dict[str, Any]]:
    """One row per number of steps for each available timestep spacing, for chains without noise, and for the ODE.

    Chains have a bound. DDIM and DPM-Solver++(2M), the latter at the optimal times if they are known, have none, so
    their rows have only sample quality. The ODE has a row if its likelihood is requested.

    Args:
        subject: the model under evaluation.
        judge: measures the samples; None on processes that do not write.
    """
    spacings = spacings_of([subject.pipeline.scheduler])
    draws_samples = subject.evaluation.num_quality_samples > 0

    def judged(draw: Callable[..., Tensor], *arguments: Any) -> dict[str, float]:
        samples = draw(*arguments) if draws_samples else None
        return {} if judge is None or samples is None else judge.figures(samples)

    rows = []
    for steps in subject.evaluation.few_steps:
        for spacing in spacings:
            row = {"sampler": "ancestral", "steps": steps, "timestep_spacing": spacing}
            row |= _bound_of(subject.on_chain(steps, spacing))
            rows.append(row | judged(subject.samples, steps, spacing))
        if draws_samples:
            row = {"sampler": "DDIM", "steps": steps, "timestep_spacing": "linspace"}
            rows.append(row | judged(subject.samples, steps, "linspace", 0.0))
            row = {"sampler": "DPM-Solver++(2M)", "steps": steps, "timestep_spacing": spacings[-1]}
            rows.append(row | judged(subject.samples, steps, spacings[-1], 0.0, 2))
        if subject.evaluation.num_flow_images:
            row = {"sampler": "ODE", "steps": steps}
            row |= subject.likelihood_by_ode(steps) if steps >= LEAST_CALLS_OF_ODE else {}
            rows.append(row | (judged(subject.samples_by_ode, steps) if steps > 1 else {}))
    return rows


def _bound_of(subject: Subject) -> dict[str, Any]:
    result, weighted = subject.bound(), subject.bound_by_paths()
    return {
        "timesteps_visited": len(result.timesteps),  # "optimal" may choose fewer, if these cost less
        "bits_per_dim": result.total,
        "bits_per_dim_standard_error": result.standard_error,
        **({} if weighted is None else {"importance_weighted": weighted}),
    }
