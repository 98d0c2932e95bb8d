# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The model calls of a run of a diffusion model after its training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..conditioning.columns import in_turn
from ..evaluation.measuring import EVALUATIONS
from .diffusion_scores import number_of_paths, steps_of_a_path
from .plan import ends_of_epochs, pass_over_training_images, scoring_work, work_on
from .run_clock import MEASURING, SAMPLING, SCORING, Work
from .state import TrainState
from .worth import calls_of_worth


def work_of(state: TrainState) -> dict[str, Work]:
    """The model calls of this process after the current step, by phase, without those of the training."""
    return {
        MEASURING: pass_over_training_images(state, state.training.max_measured_images).times(EVALUATIONS),
        SAMPLING: _sampling(state),
        SCORING: _scoring(state),
    }


def example_call(state: TrainState, size: int) -> Callable[[], Any]:
    """A call of the model with a batch of `size` images."""
    denoise, device = state.task.denoiser(state.model), state.accelerator.device
    noise = torch.randn(size, *state.data.train.shape, generator=torch.Generator().manual_seed(0)).to(device)
    t = torch.arange(size, device=device) % len(state.scheduler)
    columns = in_turn(state.conditioners.variety(), range(size))
    conditioning = state.conditioners.make({**columns, **state.conditioners.completed(noise, {})}, device)
    return lambda: denoise(noise, t, **conditioning)


def _sampling(state: TrainState) -> Work:
    training = state.training
    grids = ends_of_epochs(state, training.save_images_epochs)
    of_grids = work_on(state, training.eval_batch_size).times(grids)
    of_end = work_on(state, max(training.eval_batch_size, training.num_quality_samples))
    return of_grids.plus(of_end).times(state.inference_steps)


def _scoring(state: TrainState) -> Work:
    training, test = state.training, len(state.data.test)
    of_test = _evaluations(state, training.num_evaluations) + number_of_paths(state) * steps_of_a_path(state)
    extra, of_retrieval = calls_of_worth(state)
    of_test += extra * _evaluations(state, training.num_evaluations)
    most = training.num_retrieval_images
    retrieved = sum(min(most, count) for count in (test, state.images_per_epoch or most))
    of_worth = work_on(state, retrieved).times(of_retrieval)
    of_validation = _evaluations(state, training.num_validation_evaluations)
    return scoring_work(state, of_validation, of_test).plus(of_worth)


def _evaluations(state: TrainState, asked: int) -> int:
    """Model calls per image for the bound."""
    every = len(state.scheduler.timesteps)
    return asked if 0 < asked < every else every
