# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The chain follows an assignment to `scheduler.timesteps`, which must be a valid chain."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from oracles import Mixture, model_output
from package_bound import package_bound
from torch import Tensor

from ddpm_hf import DDPMPaperScheduler, bits_per_dim
from ddpm_hf.diffusion.denoising_errors import DenoisingErrors, step_costs
from ddpm_hf.diffusion.timestep_spacing import optimal_times
from ddpm_hf.schedulers import configured_chain


FIFTY = list(range(980, -1, -20))


def assigned(timesteps: object = FIFTY, **options: object) -> DDPMPaperScheduler:
    scheduler = DDPMPaperScheduler(**options)
    scheduler.step(torch.zeros(1, 1), 999, torch.zeros(1, 1))
    scheduler.timesteps = timesteps
    return scheduler


def chosen(timesteps: list[int] = FIFTY, **options: object) -> DDPMPaperScheduler:
    scheduler = DDPMPaperScheduler(**options)
    scheduler.set_timesteps(timesteps=timesteps)
    return scheduler


def assert_same_chain(first: DDPMPaperScheduler, second: DDPMPaperScheduler) -> None:
    assert torch.equal(first.timesteps, second.timesteps)
    assert first.timesteps.dtype == second.timesteps.dtype == torch.int64
    assert list(first.process.times) == list(second.process.times)
    x_0, output = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    t = first.timesteps[[0, 1, -1]]
    for found, expected in (
        (scheduler.step(output, t, x_0, torch.Generator().manual_seed(0))[0] for scheduler in (first, second)),
        (scheduler.vlb_loss(output, x_0.sign(), x_0, t) for scheduler in (first, second)),
        (scheduler.previous_timestep(t) for scheduler in (first, second)),
        (scheduler.expected_terms for scheduler in (first, second)),
    ):
        assert torch.equal(found, expected)


def test_the_bound_is_that_of_the_assigned_chain():
    """Of N(0, .09), whose entropy is .310: .413 bits/dim with σ² = β in 50 steps."""
    data = Mixture.gaussian(0.0, 0.09)
    options = {"clip_sample": False, "num_levels": None, "variance_type": "fixed_large"}
    scheduler = DDPMPaperScheduler(**options)
    scheduler.timesteps = scheduler.timesteps[19::20]
    assert package_bound(scheduler.process, data).total / math.log(2) == pytest.approx(0.41275, abs=1e-5)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        log_abar = scheduler.schedule.log_alpha_cumprod(t + 1)
        return model_output("epsilon", data.denoise(x_t[:, 0], log_abar), x_t[:, 0], log_abar)[:, None]

    x_0 = 0.3 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for each in (scheduler, chosen(**options)):
        results.append(bits_per_dim(denoise, each, [x_0], generator=torch.Generator().manual_seed(1)))
    assert results[0] == results[1]
    assert results[0].timesteps == FIFTY[::-1]
    assert results[0].total == pytest.approx(0.41275, abs=4 * results[0].standard_error)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda x: torch.tensor(x, dtype=torch.int16)])
def test_any_list_of_timesteps_may_be_assigned(kind: object):
    assert_same_chain(assigned(kind(FIFTY)), chosen())


def test_it_counts_as_chosen_by_hand():
    scheduler = DDPMPaperScheduler()
    scheduler.set_timesteps(100)
    scheduler.timesteps = scheduler.timesteps[::2]
    assert (scheduler.num_inference_steps, scheduler.custom_timesteps) == (None, True)
    assert scheduler.previous_timestep(scheduler.timesteps[0]) == scheduler.timesteps[1]


def test_the_same_timesteps_on_another_device_are_no_other_chain():
    scheduler = DDPMPaperScheduler()
    scheduler.set_timesteps(50)
    process = scheduler.process
    scheduler.timesteps = scheduler.timesteps.to("cpu", torch.int32)
    assert scheduler.process is process
    assert (scheduler.num_inference_steps, scheduler.custom_timesteps) == (50, False)


def test_all_timesteps_again_follow_their_number():
    scheduler = DDPMPaperScheduler()
    scheduler.timesteps = scheduler.timesteps.clone()
    scheduler.register_to_config(num_train_timesteps=10)
    assert scheduler.timesteps.tolist() == list(range(9, -1, -1))


@pytest.mark.parametrize("inference", [False, True])
def test_a_change_in_place_counts(inference: bool):
    scheduler = DDPMPaperScheduler()
    with torch.inference_mode(inference):
        scheduler.set_timesteps(timesteps=[900, 500, 100])
        scheduler.timesteps[0] = 800
        scheduler.timesteps -= 5
        scheduler.timesteps[-1:] = 3
    assert_same_chain(scheduler, chosen([795, 495, 3]))


def test_a_change_in_place_to_no_chain_is_refused_when_it_is_used():
    scheduler, x = chosen(), torch.zeros(1, 1)
    scheduler.timesteps[0] = 20
    for _ in range(2):
        with pytest.raises(ValueError, match="`timesteps` must be in descending order"):
            scheduler.step(x, 20, x)
    scheduler.set_timesteps(50)
    scheduler.step(x, 20, x)


def test_a_list_that_changes_afterwards_changes_nothing():
    timesteps = torch.tensor(FIFTY)
    scheduler = assigned(timesteps)
    timesteps[0] = 999
    assert_same_chain(scheduler, chosen())


def test_copies_have_chains_of_their_own():
    scheduler = chosen()
    for duplicate in (copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))):
        other = duplicate(scheduler)
        other.timesteps = [30, 20, 10]
        assert_same_chain(other, chosen([30, 20, 10]))
        assert_same_chain(scheduler, chosen())


@pytest.mark.parametrize(
    ("timesteps", "complaint"),
    [
        ([0, 20, 40], "descending order"),
        ([40, 40, 0], "descending order"),
        ([1000, 0], "must lie among the 1000 training timesteps"),
        ([10, -1], "must lie among the 1000 training timesteps"),
        ([], "at least one timestep"),
        (torch.tensor([], dtype=torch.int64), "at least one timestep"),
        (torch.linspace(999, 0, 10), "must be an int"),
        (torch.tensor([[2], [1]]), "must be a list of timesteps"),
        (torch.tensor(5), "must be a list of timesteps"),
        (7, "must be a list of timesteps"),
        (None, "must be a list of timesteps"),
    ],
    ids=str,
)
def test_what_is_no_chain_is_refused(timesteps: object, complaint: str):
    scheduler = chosen()
    with pytest.raises(ValueError, match=f"`timesteps` .*{complaint}"):
        scheduler.timesteps = timesteps
    assert_same_chain(scheduler, chosen())
    with pytest.raises(ValueError, match=f"`timesteps` .*{complaint}" if timesteps is not None else "Pass one"):
        scheduler.set_timesteps(timesteps=timesteps)


def test_a_chain_that_the_configuration_cannot_walk_is_refused():
    scheduler = DDPMPaperScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="signal-to-noise ratio is 0"):
        scheduler.timesteps = [999, 500, 0]
    scheduler.timesteps = [998, 500, 0]
    with pytest.raises(ValueError, match="all 20 must be visited"):
        DDPMPaperScheduler(20, variance_type="learned").timesteps = [19, 3]


def test_what_a_step_costs_is_computed_once_for_all_numbers_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = DDPMPaperScheduler(num_train_timesteps=30, beta_end=0.3)
    log_snr = scheduler.schedule.log_snr[1:].tolist()
    errors = DenoisingErrors(log_snr, [[0.01 * t, 0.02 * t] for t in range(1, 31)])
    scheduler = DDPMPaperScheduler.from_config(scheduler.config, denoising_errors=errors, variance_type="optimal")
    computed = []

    def counted(*arguments: object) -> torch.Tensor:
        computed.append(arguments)
        return step_costs(*arguments)

    monkeypatch.setattr(configured_chain, "step_costs", counted)
    for steps in (3, 5, 3, 9):
        scheduler.set_timesteps(steps, timestep_spacing="optimal")
        expected = optimal_times(step_costs(scheduler.schedule, errors), steps, at_most=True)
        assert [t + 1 for t in reversed(scheduler.timesteps.tolist())] == expected
    assert len(computed) == 1
