# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Timesteps of every integer type work like int64: none overflows, is refused, or is treated as a mask."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_hf import DDPMPaperScheduler, DenoisingErrors, NoiseSchedule
from ddpm_hf.diffusion.gaussian_process import (
    StepCoefficients,
    convert_prediction,
    ddim_coefficients,
    q_mean_variance,
    q_posterior_mean_variance,
    q_sample,
    velocity,
)
from ddpm_hf.diffusion.losses import min_snr_weights, rate_loss, variance_loss
from ddpm_hf.diffusion.timestep_sampling import ImportanceTimesteps


# Each with a T whose last timestep is the last number of the type, or a thousand.
TYPES = {
    torch.uint8: 256,
    torch.int8: 128,
    torch.int16: 1000,
    torch.int32: 1000,
    torch.uint16: 1000,
    torch.uint32: 1000,
    torch.uint64: 1000,
}
SHAPE = (5, 2, 3)


@pytest.fixture(params=TYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def scheduler_for(dtype: torch.dtype, **options: object) -> DDPMPaperScheduler:
    return DDPMPaperScheduler(TYPES[dtype], clip_sample=False, **options)


def timesteps_for(dtype: torch.dtype) -> Tensor:
    T = TYPES[dtype]
    return torch.tensor([T - 1, 0, 1, T // 2, T - 2])


def pair() -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, y


def test_the_last_timestep_of_a_byte_has_its_noise():
    """√(1 − ᾱ) of the 256th step of the linear schedule, on data that are 0."""
    expected = math.sqrt(1 - np.prod(1 - np.linspace(1e-4, 0.02, 256)))
    assert expected == pytest.approx(0.9618, abs=5e-5)
    zeros, ones = torch.zeros(2, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    for t in (torch.tensor([255, 255], dtype=torch.uint8), torch.tensor(255, dtype=torch.uint8), np.uint8(255)):
        noisy = DDPMPaperScheduler(256).add_noise(zeros, ones, t)
        assert noisy.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-12)


METHODS: dict[str, Callable[[DDPMPaperScheduler, Tensor, Tensor, Tensor], object]] = {
    "add_noise": lambda s, x, y, t: s.add_noise(x, y, t),
    "get_velocity": lambda s, x, y, t: s.get_velocity(x, y, t),
    "q_mean_variance": lambda s, x, y, t: s.q_mean_variance(x, t),
    "q_posterior_mean_variance": lambda s, x, y, t: s.q_posterior_mean_variance(x, y, t),
    "p_mean_variance": lambda s, x, y, t: s.p_mean_variance(x, y, t),
    "training_target": lambda s, x, y, t: s.training_target(x, y, t),
    "min_snr_weights": lambda s, x, y, t: s.min_snr_weights(t),
    "score": lambda s, x, y, t: s.score(x, y, t),
    "step": lambda s, x, y, t: s.step(x, t, y, torch.Generator().manual_seed(0), return_dict=False),
    "ddim_step": lambda s, x, y, t: s.ddim_step(x, t, y, 0.5, torch.Generator().manual_seed(0), return_dict=False),
    "vlb_loss": lambda s, x, y, t: s.vlb_loss(x, y, x, t),
    "previous_timestep": lambda s, x, y, t: s.previous_timestep(t),
}


def assert_equal(found: object, expected: object) -> None:
    if isinstance(found, Tensor):
        assert torch.equal(found, expected)
    else:
        for mine, theirs in zip(found, expected, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("chain", ["all", "some"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "mean"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_the_scheduler(method: str, prediction_type: str, chain: str, dtype: torch.dtype):
    scheduler, t = scheduler_for(dtype, prediction_type=prediction_type, num_levels=None), timesteps_for(dtype)
    if chain == "some":
        scheduler.set_timesteps(timesteps=sorted(t.tolist(), reverse=True))
    call, (x, y) = METHODS[method], pair()
    assert_equal(call(scheduler, x, y, t.to(dtype)), call(scheduler, x, y, t))
    for one in t:
        assert_equal(call(scheduler, x, y, one[None].to(dtype)), call(scheduler, x, y, one[None]))
        assert_equal(call(scheduler, x, y, one.to(dtype)), call(scheduler, x, y, one))


def test_chosen_timesteps(dtype: torch.dtype):
    t = timesteps_for(dtype).sort(descending=True).values
    chosen, assigned = scheduler_for(dtype), scheduler_for(dtype)
    chosen.set_timesteps(timesteps=t.to(dtype))
    assigned.timesteps = t.to(dtype)
    assert torch.equal(chosen.timesteps, t)
    assert torch.equal(assigned.timesteps, t)


def test_a_variance_by_element(dtype: torch.dtype):
    """A byte as an index is no mask."""
    errors = DenoisingErrors((5.0, -5.0), (torch.rand(SHAPE[1:]).tolist(), torch.rand(SHAPE[1:]).tolist()))
    scheduler = scheduler_for(dtype, variance_type="optimal", denoising_errors=errors, num_levels=None)
    (x, y), t = pair(), timesteps_for(dtype)
    assert_equal(scheduler.p_mean_variance(x, y, t.to(dtype)), scheduler.p_mean_variance(x, y, t))
    process = scheduler.process
    assert_equal(process.p_mean_variance(x, y, t.to(dtype)), process.p_mean_variance(x, y, t))


def test_functions_of_the_forward_process(dtype: torch.dtype):
    schedule, (x, y) = NoiseSchedule.linear(TYPES[dtype] - 1, 1e-4, 0.02), pair()
    s, t = torch.tensor([0, 1, 2, 3, TYPES[dtype] - 2]), torch.tensor([1, 2, 3, 9, TYPES[dtype] - 1])
    for function in (
        lambda s, t: q_sample(schedule, x, y, t),
        lambda s, t: velocity(schedule, x, y, t),
        lambda s, t: q_mean_variance(schedule, x, t),
        lambda s, t: q_posterior_mean_variance(schedule, x, y, s, t),
        lambda s, t: ddim_coefficients(schedule, t, s, 0.5),
        lambda s, t: convert_prediction(x, y, "epsilon", "mean", schedule, t),
        lambda s, t: min_snr_weights(schedule, t, "mean"),
        lambda s, t: vars(StepCoefficients.between(schedule, s, t)).values(),
    ):
        assert_equal(function(s.to(dtype), t.to(dtype)), function(s, t))


def test_losses(dtype: torch.dtype):
    (x, y), t = pair(), timesteps_for(dtype)
    process = scheduler_for(dtype).process
    assert_equal(rate_loss(process, x, y, x, t.to(dtype)), rate_loss(process, x, y, x, t))
    learned, output = scheduler_for(dtype, variance_type="learned_range").process, torch.cat(pair(), dim=1)
    found, expected = (variance_loss(learned, output, x, y, each, None, stride=2) for each in (t.to(dtype), t))
    assert_equal(found, expected)


def test_importance_of_timesteps(dtype: torch.dtype):
    t, losses = timesteps_for(dtype), torch.tensor([1.0, 5.0, 2.0, 9.0, 4.0])
    found, expected = ImportanceTimesteps(TYPES[dtype]), ImportanceTimesteps(TYPES[dtype])
    found.update(t.to(dtype), losses)
    expected.update(t, losses)
    assert torch.equal(found.second_moments, expected.second_moments)


def test_what_a_type_cannot_hold_is_still_out_of_range():
    scheduler, (x, y) = DDPMPaperScheduler(100), pair()
    with pytest.raises(ValueError, match=r"must lie in 0 \.\.\. 99, but 255"):
        scheduler.add_noise(x, y, torch.tensor([255, 0, 0, 0, 0], dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"must lie in 0 \.\.\. 99, but -1"):
        scheduler.add_noise(x, y, torch.tensor([-1, 0, 0, 0, 0], dtype=torch.int8))
    with pytest.raises(ValueError, match="Timestep 255 is not among"):
        scheduler.step(x, torch.tensor([255, 0, 0, 0, 0], dtype=torch.uint8), y)
