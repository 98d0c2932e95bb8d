# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Measures a model's denoising errors on data; the optimal variance and the optimal times follow from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser, check_generator, randn_like
from ..diffusion.denoising_errors import DenoisingErrors
from ..diffusion.discretized_likelihood import discrete_normal_log_likelihood
from ..diffusion.finiteness import FiniteTerms
from ..diffusion.gaussian_diffusion import DiffusionSource, GaussianDiffusion, diffusion_of
from ..diffusion.noise_schedule import NoiseSchedule
from ..diffusion.numerics import require_count, to_float64
from ..diffusion.timestep_spacing import log_snr_times
from .batches import Batches, checked_batches, require_no_dropout


CANDIDATES = 6  # values of the decoder's v that are tried,
MARGIN = 0.7  # reaching this far, in log v, beyond its expected range
LOG_SPAN = math.log(4.0)  # log of the squared range of levels in [−1, 1]

# Elements that a level's decoder is fitted on, per example and in total.
ELEMENTS_OF_AN_EXAMPLE = 64
ELEMENTS_FOR_A_DECODER = 2**15
ELEMENTS_FOR_V = 2**12  # elements that v is chosen on: fewer suffice, since the cost is flat around the minimum

NEARBY = 1.2  # log-SNR distance within which the decoder's costs are smoothed together

EXAMPLES_OF_THE_MEAN = 10  # weight of the prior for each element: a pixel constant so far may still change


@torch.no_grad()
def measure_denoising_errors(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    batches: Batches,
    *,
    num_noise_levels: int = 64,
    num_evaluations: int = 8,
    per_element: bool = False,
    generator: torch.Generator | None = None,
) -> DenoisingErrors:
    """A model's mean squared error of x̂_0 at each noise level, with the scheduler's constraint on x̂_0.

    Measure it on training data: the variances that follow from it must not depend on the data that the bound is
    evaluated on. It works for every prediction type and for stock models (Bao et al. 2022).

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)`, the model in evaluation mode.
        scheduler: a `DDPMPaperScheduler` or a `GaussianDiffusion`; the times that it visits do not matter.
        batches: as for `bits_per_dim`.
        num_noise_levels: the largest number of levels, evenly spaced in log-SNR over the schedule's times.
        num_evaluations: model calls per example, each at another level; examples take turns over the levels.
        per_element: whether every element of an example (pixel and channel) has its own error. Each error is shrunk
            towards the mean over elements, as if `EXAMPLES_OF_THE_MEAN` more examples had shown this mean.
        generator: for the noise; on the device of the batches, or on the CPU.

    Raises:
        ValueError: if a count is not an int ≥ 1, there are too few examples to visit every level, values are not
            levels of the data, the model's dropout is active, or its output is not finite; the message names the
            timesteps.
    """
    require_no_dropout(denoise)
    check_generator(generator)
    require_count(num_noise_levels=num_noise_levels, num_evaluations=num_evaluations)
    diffusion = _visiting_all_times(diffusion_of(scheduler))
    times = _times_to_measure_at(diffusion.schedule, num_noise_levels)
    count, seen = len(times), 0
    seen_by_level = [_LevelStatistics(per_element, diffusion.num_levels) for _ in range(count)]
    for x_0, conditioning in checked_batches(batches, diffusion.num_levels):
        known = x_0.cpu()
        for turn in range(num_evaluations):
            level = (torch.arange(seen, seen + len(x_0), device="cpu") + turn * count // num_evaluations) % count
            t = times[level]
            x_t = diffusion.q_sample(x_0, randn_like(x_0, generator), t)
            output = diffusion.model_output(denoise, x_t, t, conditioning)
            _, predicted, _ = diffusion.predict(output, x_t, diffusion.coefficients(t - 1))
            predicted = predicted.cpu()
            FiniteTerms.require([FiniteTerms.of(predicted, output, t - 1)], "The error")
            for k in level.unique().tolist():
                seen_by_level[k].add(known[level == k], predicted[level == k])
        seen += len(x_0)
    if not all(level.count for level in seen_by_level):
        raise ValueError(
            f"`batches` must hold at least {math.ceil(count / num_evaluations)} examples to visit {count} noise levels"
            f" with `num_evaluations` {num_evaluations}, but there are {seen}."
        )
    log_snr = diffusion.schedule.log_snr[times].tolist()
    columns = zip(*(seen.summary(level) for seen, level in zip(seen_by_level, log_snr, strict=True)), strict=True)
    errors, *of_decoder = columns
    if not of_decoder:
        return DenoisingErrors(log_snr, errors)
    variances, costs = of_decoder
    return DenoisingErrors(log_snr, errors, variances, _smoothed(log_snr, costs), diffusion.num_levels)


def _times_to_measure_at(schedule: NoiseSchedule, count: int) -> Tensor:
    """At most `count` times, even in log-SNR, without times of SNR 0."""
    times = torch.tensor(log_snr_times(min(count, schedule.T), schedule), device="cpu")
    return times[schedule.log_snr[times].isfinite()]


def _visiting_all_times(diffusion: GaussianDiffusion) -> GaussianDiffusion:
    """The same diffusion over all times, with a variance type that needs no errors: the variance has no effect."""
    variance_type = diffusion.variance_type if diffusion.learns_variance else "fixed_small"
    return dataclasses.replace(
        diffusion, times=range(1, diffusion.schedule.T + 1), variance_type=variance_type, first_variance=None
    )


class _LevelStatistics:
    """The data of one noise level: sums of squared errors, and elements of x_0 and x̂_0 to fit the decoder on."""

    def __init__(self, per_element: bool, num_levels: int | None):
        self.per_element, self.num_levels = per_element, num_levels
        self.count = 0
        self._sum = torch.zeros((), dtype=torch.float64, device="cpu")
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._kept = 0

    def add(self, x_0: Tensor, predicted: Tensor) -> None:
        """Add examples `[n, *shape]` and their predictions."""
        self._sum = self._sum + ((to_float64(x_0) - predicted) ** 2).sum(0)
        self.count += len(x_0)
        if self.num_levels is None or self._kept >= ELEMENTS_FOR_A_DECODER:
            return
        # A few elements of many examples are more informative than all elements of a few.
        chosen = fixed_subset(x_0[0].numel(), ELEMENTS_OF_AN_EXAMPLE)
        known, found = (x.reshape(len(x), -1)[:, chosen].flatten() for x in (x_0, predicted))
        self._pairs.append((known, found))
        self._kept += known.numel()

    def summary(self, log_snr: float) -> tuple[Any, ...]:
        """The error; for discrete data also the decoder's best variance and its cost, nats per dimension."""
        mean = self._sum / self.count
        error = _shrunk_to_the_mean(mean, self.count) if self.per_element else mean.mean()
        # A model without any error would get a variance of 0; the smallest positive number replaces it.
        error = error.clamp(min=1e-300)
        if self.num_levels is None:
            return (error.tolist(),)
        x_0, predicted = (torch.cat(column) for column in zip(*self._pairs, strict=True))
        return error.tolist(), *_best_decoder(x_0, predicted, log_snr, self.num_levels)


def _shrunk_to_the_mean(of_elements: Tensor, count: int) -> Tensor:
    """Means over `count` examples, shrunk as if `EXAMPLES_OF_THE_MEAN` more had shown the mean over all elements."""
    prior = EXAMPLES_OF_THE_MEAN
    return (count * of_elements + prior * of_elements.mean()) / (count + prior)


def fixed_subset(count: int, most: int) -> Tensor:
    """Up to `most` of `count` indices, the same ones at every call."""
    if count <= most:
        return torch.arange(count, device="cpu")
    generator = torch.Generator(device="cpu").manual_seed(0)
    return torch.randperm(count, generator=generator, device="cpu")[:most]


def _best_decoder(x_0: Tensor, predicted: Tensor, log_snr: float, num_levels: int) -> tuple[float, float]:
    """The v of the discrete normal law that minimises the mean cost of the levels, and this cost in nats.

    v is the vertex of the parabola through the best candidate and its neighbours. The candidates lie between the
    model's error, which is below 1/SNR if the prior is informative, and 1/SNR, or the range of all levels.
    """

    def cost(log_variance: Tensor, chosen: Tensor | slice = slice(None)) -> Tensor:
        return -discrete_normal_log_likelihood(x_0[chosen], predicted[chosen], log_variance, num_levels).mean()

    # Far below the level spacing all v give the same law.
    low = ((to_float64(x_0) - predicted) ** 2).mean().clamp(min=1e-3 / (num_levels - 1) ** 2).log().item()
    high = max(low, min(-log_snr, LOG_SPAN))
    candidates = torch.linspace(low - MARGIN, high + MARGIN, CANDIDATES, dtype=torch.float64, device="cpu")
    some = fixed_subset(len(x_0), ELEMENTS_FOR_V)
    costs = torch.stack([cost(candidate, some) for candidate in candidates])
    best = int(costs[1:-1].argmin()) + 1
    left, least, right = costs[best - 1 : best + 2]
    bend = left - 2 * least + right
    shift = (0.5 * (left - right) / bend).clamp(-1, 1) if bend > 0 else torch.zeros_like(bend)
    vertex = candidates[best] + shift * (candidates[1] - candidates[0])
    return vertex.exp().item(), cost(vertex).item()


def _smoothed(log_snr: list[float], costs: Sequence[float]) -> list[float]:
    """The costs smoothed by a local linear fit over nearby levels, if there are any.

    Every level was measured on other examples. Without smoothing, optimal chains would end at levels whose examples
    happened to be cheap.
    """
    x, y = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (log_snr, costs))
    distance = x - x[:, None]
    weight = (1 - (distance.abs() / NEARBY).clamp(max=1) ** 3) ** 3
    total, first, second = ((weight * distance**power).sum(1) for power in range(3))
    value, slope = (weight * y).sum(1), (weight * distance * y).sum(1)
    is_alone = (weight > 0).sum(1) == 1
    spread = torch.where(is_alone, 1.0, total * second - first**2)
    return torch.where(is_alone, y, (second * value - first * slope) / spread).tolist()
