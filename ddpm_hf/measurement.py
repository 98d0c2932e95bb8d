# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The denoising errors of a model, measured on data: what the optimal variance and the optimal times rest on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .denoising_errors import DenoisingErrors
from .likelihood import Denoiser, check_levels, discretized_gaussian_log_likelihood, randn_like
from .noise_schedule import NoiseSchedule
from .numerics import to_float64
from .reverse_process import ReverseProcess
from .timesteps import log_snr_times


CANDIDATES = torch.linspace(-5.0, 2.0, 29, dtype=torch.float64, device="cpu")  # of log σ²/e, for the decoder


class MeasuredScheduler(Protocol):
    """What `measure_denoising_errors` asks of a scheduler; `DDPMPaperScheduler` has it all."""

    schedule: NoiseSchedule
    process: ReverseProcess
    num_levels: int | None

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...


@torch.no_grad()
def measure_denoising_errors(
    denoise: Denoiser,
    scheduler: MeasuredScheduler,
    batches: Iterable[Tensor | tuple[Tensor, Mapping[str, Any]]],
    *,
    num_noise_levels: int = 64,
    num_evaluations: int = 8,
    generator: torch.Generator | None = None,
) -> DenoisingErrors:
    """A model's mean squared error of x̂_0, constrained as the scheduler does it, by noise level.

    Measure it on training data: the bound of a model must not have seen the data that it is taken on. For any
    prediction type and any weights, those of stock models too.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)`, the model in evaluation mode.
        scheduler: a `DDPMPaperScheduler`, whatever times it visits.
        batches: as for `bits_per_dim`; all of them are kept in main memory until the end, `num_evaluations` times.
        num_noise_levels: at most so many, evenly spaced in log-SNR over the schedule's times.
        num_evaluations: model calls per example, each at another level; examples take the levels by turns.
        generator: for the noise; on the device of the batches, or the CPU.

    Raises:
        ValueError: for counts below 1, fewer examples than it takes to visit every level, or values that are not
            levels of the data.
    """
    if num_noise_levels < 1 or num_evaluations < 1:
        raise ValueError(
            "`num_noise_levels` and `num_evaluations` must be at least 1, but are"
            f" {num_noise_levels} and {num_evaluations}."
        )
    times, process = _times_and_process(scheduler, num_noise_levels)
    count, seen = len(times), 0
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(count)]  # x_0 and x̂_0 by level
    for batch in batches:
        x_0, conditioning = batch if isinstance(batch, (tuple, list)) else (batch, {})
        check_levels(x_0, scheduler.num_levels)
        for turn in range(num_evaluations):
            level = (torch.arange(seen, seen + len(x_0)) + turn * count // num_evaluations) % count
            t = times[level] - 1
            x_t = scheduler.add_noise(x_0, randn_like(x_0, generator), t)
            output = denoise(x_t, t.to(x_0.device, non_blocking=True), **conditioning)
            _, predicted, _ = process.predict(output, x_t, process.coefficients(t))
            known, predicted = x_0.cpu(), predicted.cpu()
            for k in level.unique().tolist():
                found[k].append((known[level == k], predicted[level == k]))
        seen += len(x_0)
    if not all(found):
        raise ValueError(
            f"`batches` must hold at least {math.ceil(count / num_evaluations)} examples to visit {count} noise levels"
            f" with `num_evaluations` {num_evaluations}, but there are {seen}."
        )
    pairs = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in found]
    return _errors(scheduler.schedule.log_snr[times].tolist(), pairs, scheduler.num_levels)


def _times_and_process(scheduler: MeasuredScheduler, count: int) -> tuple[Tensor, ReverseProcess]:
    """The times to measure at, and the process that visits all times, whose variance is of no account."""
    schedule = scheduler.schedule
    times = torch.tensor(log_snr_times(min(count, schedule.T), schedule), device="cpu")
    variance_type = scheduler.process.variance_type if scheduler.process.learns_variance else "fixed_small"
    process = dataclasses.replace(scheduler.process, times=range(1, schedule.T + 1), variance_type=variance_type)
    return times[schedule.log_snr[times].isfinite()], process


def _errors(log_snr: list[float], pairs: list[tuple[Tensor, Tensor]], num_levels: int | None) -> DenoisingErrors:
    # A model that makes no error at all would have a variance of 0; the least positive number stands for it.
    errors = [max(((to_float64(x_0) - x) ** 2).mean().item(), 1e-300) for x_0, x in pairs]
    if num_levels is None:
        return DenoisingErrors(log_snr, errors)
    decoders = [_best_decoder(*pair, error, num_levels) for pair, error in zip(pairs, errors, strict=True)]
    variances, costs = zip(*decoders, strict=True)
    return DenoisingErrors(log_snr, errors, variances, costs)


def _best_decoder(x_0: Tensor, predicted: Tensor, error: float, num_levels: int) -> tuple[float, float]:
    """The variance under which the levels cost the least, and what they cost, nats per dimension.

    The vertex of the parabola through the best of the candidates and its neighbours.
    """

    def cost(log_variance: Tensor) -> float:
        return -discretized_gaussian_log_likelihood(x_0, predicted, log_variance, num_levels).mean().item()

    # Far below a bin all variances are one: the level's own bin has it all, or the cost is without bound.
    candidates = math.log(max(error, 1e-3 / (num_levels - 1) ** 2)) + CANDIDATES
    costs = torch.tensor([cost(candidate) for candidate in candidates], dtype=torch.float64, device="cpu")
    best = int(costs[1:-1].argmin()) + 1
    left, middle, right = costs[best - 1 : best + 2].tolist()
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend > 0 else 0.0
    vertex = candidates[best] + min(max(shift, -1.0), 1.0) * (CANDIDATES[1] - CANDIDATES[0])
    return math.exp(vertex), cost(vertex)
