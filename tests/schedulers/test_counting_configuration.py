# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A step compares no configuration values until one is set, and notices every change, also on shared copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

from ddpm_hf import DDPMPaperScheduler
from ddpm_hf.schedulers.configuration import SeenConfig


X = torch.full((1, 1), 2.0)


def predicted(scheduler: DDPMPaperScheduler) -> float:
    """x̂_0 at timestep 0, where it is x_t itself for "sample" and √ᾱ x_t − √(1 − ᾱ) v for "v_prediction"."""
    return scheduler.step(X, 0, X).pred_original_sample.item()


def by_attribute(scheduler: DDPMPaperScheduler, kind: str) -> None:
    scheduler.config.prediction_type = kind


def by_item(scheduler: DDPMPaperScheduler, kind: str) -> None:
    scheduler.config["prediction_type"] = kind


SET = pytest.mark.parametrize("set_kind", [by_attribute, by_item], ids=lambda each: each.__name__)


def test_values_are_compared_only_when_something_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, compared = DDPMPaperScheduler(clip_sample=False), []
    predicted(scheduler)
    is_current = SeenConfig.is_current

    def counted(seen: SeenConfig, config: FrozenDict) -> bool:
        compared.append(config)
        return is_current(seen, config)

    monkeypatch.setattr(SeenConfig, "is_current", counted)
    scheduler.set_timesteps(50)
    assert predicted(scheduler) == predicted(scheduler) and compared == []
    scheduler.config["clip_sample"] = False  # the value that it has
    predicted(scheduler)
    assert predicted(scheduler) and len(compared) == 1
    scheduler.config.prediction_type = "sample"
    assert predicted(scheduler) == predicted(scheduler) == 2.0 and len(compared) == 2


@SET
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))], ids=["deepcopy", "pickle"]
)
def test_a_copy_with_a_configuration_of_its_own(duplicate: Callable, set_kind: Callable) -> None:
    scheduler = DDPMPaperScheduler(clip_sample=False, prediction_type="v_prediction")
    before, other = predicted(scheduler), duplicate(scheduler)
    assert predicted(other) == before != 2.0
    set_kind(other, "sample")
    assert (predicted(other), predicted(scheduler)) == (2.0, before)


@SET
def test_copies_that_share_a_configuration_both_follow_it(set_kind: Callable) -> None:
    scheduler = DDPMPaperScheduler(clip_sample=False, prediction_type="v_prediction")
    before, other = predicted(scheduler), copy.copy(scheduler)
    assert predicted(other) == before != 2.0 and other.config is scheduler.config
    set_kind(other, "sample")
    assert (predicted(scheduler), predicted(other)) == (2.0, 2.0)


@SET
def test_a_configuration_that_does_not_count_is_compared_every_time(set_kind: Callable) -> None:
    scheduler = DDPMPaperScheduler(clip_sample=False, prediction_type="v_prediction")
    before = predicted(scheduler)
    scheduler._internal_dict = FrozenDict(dict(scheduler.config))
    assert predicted(scheduler) == before != 2.0
    set_kind(scheduler, "sample")
    assert predicted(scheduler) == 2.0


def test_the_tables_of_a_chain_are_kept_when_it_is_chosen_again() -> None:
    scheduler = DDPMPaperScheduler()
    scheduler.set_timesteps(50)
    diffusion = scheduler.diffusion
    scheduler.set_timesteps(50)
    assert scheduler.diffusion is diffusion
    scheduler.set_timesteps(25)
    assert scheduler.diffusion is not diffusion and len(scheduler.diffusion.times) == 25


def test_a_chain_of_all_timesteps_is_refused_though_nothing_about_it_changes() -> None:
    scheduler = DDPMPaperScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="signal-to-noise ratio is 0"):
        scheduler.set_timesteps(1000)
