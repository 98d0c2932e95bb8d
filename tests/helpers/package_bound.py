# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The package's bound of the optimal denoiser, computed on an oracle's quadrature nodes as a batch."""

from __future__ import annotations

import torch
from oracles import LOG_2, Bound, Grid, Mixture, double, model_output, optimal_log_variance
from torch import Tensor

from ddpm_hf.diffusion.bound_terms import prior_kl, vlb_terms
from ddpm_hf.diffusion.reverse_process import ReverseProcess


def log_abar_of(process: ReverseProcess) -> Tensor:
    """log ᾱ of time 0 and of the visited times, `[K + 1]`."""
    return process.schedule.log_alphas_cumprod[[0, *process.times]]


def package_bound(
    process: ReverseProcess,
    data: Mixture,
    num_levels: int | None = None,
    log_variance: Tensor | None = None,
    grid: Grid | None = None,
) -> Bound:
    """The bound of the optimal denoiser through `vlb_terms` and `prior_kl`.

    Args:
        log_variance: `[K]`, for a process that learns it; the optimal one if not given.
        grid: `data.grid` of the visited times; computed if not given.
    """
    log_abar = log_abar_of(process)
    grid = data.grid(log_abar[1:]) if grid is None else grid
    if process.learns_variance and log_variance is None:
        log_variance = optimal_log_variance(log_abar, grid.sum_per_time(grid.variance))

    def terms(grid: Grid, x_0: Tensor) -> Tensor:
        output = model_output(process.prediction_type, grid.mean, grid.x_t, grid.log_abar)[:, None]
        if log_variance is not None:
            output = torch.cat([output, log_variance[grid.index][:, None]], dim=1)
        return LOG_2 * vlb_terms(process, output, x_0[:, None], grid.x_t[:, None], grid.index, num_levels)

    # Two values with the posterior's mean and variance are exact for what is quadratic in x_0: all but levels.
    deviation = grid.variance.clamp(min=0).sqrt()
    values = (terms(grid, grid.mean + deviation) + terms(grid, grid.mean - deviation)) / 2
    per_time = grid.sum_per_time(values)
    if num_levels is not None:
        first = Grid(*(column[grid.index == 0] for column in grid))
        posterior = data.components(first.x_t, first.log_abar)[1]  # of the levels, [N, levels]
        rows = torch.arange(len(first.x_t)).repeat_interleave(len(data.means))
        x_0 = data.means.repeat(len(first.x_t))
        repeated = Grid(*(column[rows] for column in first))
        per_time[0] = (repeated.weight * posterior.flatten() * terms(repeated, x_0)).sum()
    second_moment = float((data.weights * (data.means**2 + data.variances)).sum())
    prior = prior_kl(process.schedule, double([[second_moment**0.5]]), process.times[-1])
    return Bound(float(prior), per_time)
