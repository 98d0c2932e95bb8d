# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The stated errors of bounds against the spread of repeated computations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_hf.diffusion.denoising_errors import DenoisingErrors
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.likelihood import bits_per_dim
from ddpm_hf.likelihood.importance_weighting import importance_weighted_bits_per_dim
from ddpm_hf.likelihood.ode import ode_bits_per_dim
from ddpm_hf.schedulers.scheduling_ddpm_paper import DDPMPaperScheduler


Denoise = Callable[[Tensor, Tensor], Tensor]
Examples = Callable[[torch.Generator], Tensor]


def seen_and_stated(
    denoise: Denoise, scheduler: DDPMPaperScheduler, examples: Examples, name: str, count: int = 100, **options: object
) -> tuple[float, float]:
    """The standard deviation of `total` over repetitions, and the root mean square of the error that it states."""
    totals, errors = [], []
    for seed in range(count):
        generator = torch.Generator().manual_seed(1000 + seed)  # not that of the examples
        result = bits_per_dim(denoise, scheduler, [examples(generator)], generator=generator, **options)
        totals.append(result.total)
        errors.append(getattr(result, name))
    return float(np.std(totals, ddof=1)), math.sqrt(np.mean(np.square(errors)))


def always(x_0: Tensor) -> Examples:
    return lambda generator: x_0


def fresh(*shape: int, scale: float = 0.5) -> Examples:
    return lambda generator: scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def scheduler_of(schedule: NoiseSchedule, **options: object) -> DDPMPaperScheduler:
    options = {"num_levels": None, "clip_sample": False, "prediction_type": "sample", **options}
    return DDPMPaperScheduler.from_schedule(schedule, **options)


SHORT = scheduler_of(NoiseSchedule.from_betas([0.5, 0.9, 0.9]), variance_type="fixed_small", first_variance=1.0)


def off_at(timestep: int) -> Denoise:
    """A model of data 0 that predicts x_t at one timestep, and is right at all others."""
    return lambda x_t, timesteps: torch.where((timesteps == timestep)[:, None], x_t, 0.0)


VARIANCE = 0.25


def optimal(scheduler: DDPMPaperScheduler) -> Denoise:
    """The optimal denoiser of data N(0, VARIANCE)."""

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        abar = scheduler.alphas_cumprod[timesteps].reshape(-1, *[1] * (x_t.ndim - 1))
        return abar.sqrt() * VARIANCE / (abar * VARIANCE + 1 - abar) * x_t

    return denoise


def informed(schedule: NoiseSchedule, errors: Tensor, **options: object) -> DDPMPaperScheduler:
    """A scheduler that expects terms by these errors at the times 1 … T."""
    measured = DenoisingErrors(schedule.log_snr[1:].tolist(), errors.tolist())
    return scheduler_of(schedule, denoising_errors=measured, **options)


def well_informed(**options: object) -> DDPMPaperScheduler:
    schedule = NoiseSchedule.linear(6, 0.02, 0.6)
    snr = schedule.log_snr[1:].exp()
    return informed(schedule, VARIANCE / (1 + VARIANCE * snr), **options)


# --- of these examples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "timestep", "num_evaluations"), [(2, 1, None), (2, 1, 2), (8, 1, 2), (8, 2, None), (8, 2, 2)]
)
def test_the_noise_of_a_stratum_that_dominates_is_stated(num_evaluations: int | None, count: int, timestep: int):
    # The examples do not differ: there is nothing else to state.
    x_0 = torch.zeros(count, 1, dtype=torch.float64)
    seen, stated = seen_and_stated(
        off_at(timestep), SHORT, always(x_0), "estimation_error", 200, num_evaluations=num_evaluations
    )
    assert 0.85 * seen < stated < 1.3 * seen


@pytest.mark.parametrize(("count", "num_evaluations"), [(2, None), (2, 4), (8, 4), (32, None)])
def test_the_noise_and_the_times_are_stated_for_few_examples_and_many(count: int, num_evaluations: int | None):
    scheduler = well_informed(variance_type="optimal")
    x_0 = fresh(count, 16)(torch.Generator().manual_seed(1))
    seen, stated = seen_and_stated(
        optimal(scheduler), scheduler, always(x_0), "estimation_error", num_evaluations=num_evaluations
    )
    assert 0.85 * seen < stated < 2.5 * seen


@pytest.mark.parametrize("num_evaluations", [None, 4])
def test_what_one_example_says_of_its_noise_is_not_too_little(num_evaluations: int | None):
    scheduler = well_informed(variance_type="optimal")
    x_0 = fresh(1, 16)(torch.Generator().manual_seed(1))
    seen, stated = seen_and_stated(
        optimal(scheduler), scheduler, always(x_0), "estimation_error", num_evaluations=num_evaluations
    )
    assert 0.85 * seen < stated


@pytest.mark.parametrize("timestep", [1, 2])
def test_a_stratum_that_dominates_a_single_example_is_stated(timestep: int):
    x_0 = torch.zeros(1, 1, dtype=torch.float64)
    seen, stated = seen_and_stated(off_at(timestep), SHORT, always(x_0), "estimation_error", 200)
    decoder = 0.5 * math.log2(2 * math.pi)  # always: nobody knows of one example that it does not vary
    assert 0.85 * seen < math.sqrt(stated**2 - decoder**2) < 2 * seen


@pytest.mark.parametrize("num_evaluations", [None, 4])
def test_the_noise_of_an_example_that_dominates_is_stated(num_evaluations: int | None):
    scheduler = well_informed(variance_type="fixed_large")

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:  # wrong about the first example alone
        wrong = torch.arange(len(x_t))[:, None] == 0
        return torch.where(wrong, -x_t, optimal(scheduler)(x_t, timesteps))

    x_0 = always(fresh(8, 4)(torch.Generator().manual_seed(1)))
    seen, stated = seen_and_stated(denoise, scheduler, x_0, "estimation_error", num_evaluations=num_evaluations)
    _, of_population = seen_and_stated(denoise, scheduler, x_0, "standard_error", 50, num_evaluations=num_evaluations)
    assert 0.85 * seen < stated < 1.1 * of_population


def test_times_are_stated_where_the_expected_costs_are_wrong():
    # The model is off where next to nothing is expected, so that few examples see it, and these with a large weight.
    schedule = NoiseSchedule.linear_log_snr(20, 6.0, -6.0)
    scheduler = informed(schedule, 0.01 * torch.exp(-0.5 * schedule.log_snr[1:]), first_variance=1.0)
    x_0 = torch.zeros(8, 4, dtype=torch.float64)
    seen, stated = seen_and_stated(off_at(18), scheduler, always(x_0), "estimation_error", 300, num_evaluations=3)
    assert 0.85 * seen < stated < 1.5 * seen


def test_errors_of_parts_add_up_to_the_error_of_all():
    x_0 = torch.zeros(4, 1, dtype=torch.float64)
    found = [
        bits_per_dim(off_at(1), SHORT, [x_0, x_0], generator=torch.Generator().manual_seed(1000 + k))
        for k in range(200)
    ]
    seen = np.std([each.total for each in found], ddof=1)
    assert 0.85 * seen < math.sqrt(np.mean([each.estimation_error**2 for each in found])) < 1.2 * seen


# --- of the population --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_evaluations", [None, 4])
@pytest.mark.parametrize("count", [2, 8])
def test_the_standard_error_is_that_of_fresh_examples(count: int, num_evaluations: int | None):
    scheduler = well_informed(variance_type="fixed_large")
    seen, stated = seen_and_stated(
        optimal(scheduler), scheduler, fresh(count, 4), "standard_error", num_evaluations=num_evaluations
    )
    assert 0.85 * seen < stated < 2 * seen


@pytest.mark.parametrize("name", ["standard_error", "estimation_error"])
def test_the_error_of_a_model_that_is_worse_at_every_other_time_is_stated(name: str):
    # Each stratum has twice as many terms as there are examples, all of which are expected to cost the same.
    schedule = NoiseSchedule.linear_log_snr(65, 6.0, -6.0)
    scale = torch.exp(-0.5 * schedule.log_snr[1:])
    scheduler = informed(schedule, 0.05 * scale**2, first_variance=1.0)

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        return ((timesteps % 2 == 1) * scale[timesteps])[:, None].expand_as(x_t)

    seen, stated = seen_and_stated(denoise, scheduler, fresh(8, 2, scale=0.01), name, num_evaluations=5)
    assert 0.85 * seen < stated < 1.5 * seen


def test_the_standard_error_of_weighted_paths_is_that_of_fresh_examples():
    scheduler = well_informed(variance_type="fixed_large")
    scheduler.set_timesteps(4, timestep_spacing="log_snr")
    found = [
        importance_weighted_bits_per_dim(
            optimal(scheduler),
            scheduler,
            [fresh(8, 4)(torch.Generator().manual_seed(1000 + seed))],
            num_paths=2,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in range(120)
    ]
    seen = np.std([each.total for each in found], ddof=1)
    assert 0.85 * seen < math.sqrt(np.mean([each.standard_error**2 for each in found])) < 1.15 * seen


def test_the_standard_error_of_the_ode_is_that_of_fresh_examples_and_probes():
    pytest.importorskip("torchdiffeq")
    scheduler = DDPMPaperScheduler(num_levels=17, clip_sample=False, prediction_type="sample")

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:  # its Jacobian is not diagonal: the probes matter
        return 0.2 * x_t + 0.3 * torch.tanh(x_t.flip(1))

    def examples(seed: int) -> Tensor:
        return (8 * fresh(8, 4)(torch.Generator().manual_seed(seed)).clamp(-1, 1)).round() / 8

    found = [
        ode_bits_per_dim(
            denoise, scheduler, [examples(seed)], num_steps=2, generator=torch.Generator().manual_seed(1000 + seed)
        )
        for seed in range(120)
    ]
    seen = np.std([each.total for each in found], ddof=1)
    assert 0.85 * seen < math.sqrt(np.mean([each.standard_error**2 for each in found])) < 1.15 * seen
