# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The remaining work of a run: model calls by phase, and the time that they are expected to take."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..data.image_streams import ImageStream
from ..runtime.distributed import numbers_of
from .run_clock import SAVING, TRAINING, Phase, Work
from .run_state import RunState


FORWARD_AND_BACKWARD, RECOMPUTED = 3, 4  # in forward passes; the latter with gradient checkpointing
BYTES_PER_SECOND, SECONDS_OF_A_FILE = 150e6, 0.1  # of saving with checksums, roughly
LONG_ENOUGH = 0.5  # seconds of a forward pass from which its speed can be measured
REPETITIONS = 3


class Speed(NamedTuple):
    """Seconds of a model call: a constant part, and a part for each image."""

    call: float
    image: float

    def seconds(self, work: Work) -> float:
        return work.calls * self.call + work.images * self.image


def expected_phases(state: RunState) -> dict[str, Phase]:
    """The work after the current step, with its expected time if the model can be timed beforehand."""
    speed = None if state.is_divided or state.is_compiled else forward_speed(state)
    works = work_to_come(state)
    works[TRAINING] = works[TRAINING].times(_cost_of_a_gradient(state))
    phases = {name: Phase(work.images, speed and speed.seconds(work)) for name, work in works.items()}
    saving = saves_to_come(state)
    return phases | {SAVING: Phase(saving.images, Speed(SECONDS_OF_A_FILE, 1 / BYTES_PER_SECOND).seconds(saving))}


def step_work(state: RunState) -> float:
    """The work of a training step in this process, in units of a forward pass of one image."""
    return _cost_of_a_gradient(state) * state.shard.batch_size * state.shard.accumulation


def _cost_of_a_gradient(state: RunState) -> int:
    """The cost of a forward and a backward pass, in forward passes."""
    return RECOMPUTED if state.training.gradient_checkpointing else FORWARD_AND_BACKWARD


# --- how much there is to do -----------------------------------------------------------------------------------------


def work_to_come(state: RunState) -> dict[str, Work]:
    """The model calls of this process after the current step, by phase; saving makes none."""
    shard = state.shard
    of_step = Work(shard.accumulation, shard.batch_size * shard.accumulation)
    return {
        TRAINING: of_step.times(state.steps - state.step),
        **state.method.work(state),
    }


def saves_to_come(state: RunState) -> Work:
    """The files of weights that the main process has yet to write, and their bytes."""
    training, weights = state.training, state.bytes_of_weights
    every = training.checkpointing_steps
    checkpoints = times_due(state, every) + bool(every and state.step < state.steps and state.steps % every)
    models = 2 + len(state.averages[1:]) + ends_of_epochs(state, training.save_model_epochs)
    of_checkpoint = Work(3 + len(state.averages), checkpoint_bytes(state))
    return of_checkpoint.times(checkpoints).plus(Work(models, models * weights))


def checkpoint_bytes(state: RunState) -> int:
    """Bytes of a checkpoint: the weights, the two moments of the optimiser, and the averages."""
    return (3 + len(state.averages)) * state.bytes_of_weights


def pass_over_training_images(state: RunState, limit: int) -> Work:
    """The work of a call for each of up to `limit` training images, which every process does on its own."""
    known, size = state.images_per_epoch, state.training.train_batch_size
    is_in_order = not isinstance(state.data.train, ImageStream)
    images = limit if known is None else min(limit, len(state.data.train) if is_in_order else known)
    batches = -(-images // size)
    return Work(batches, images if is_in_order else batches * size)


def work_on(state: RunState, images: int) -> Work:
    """This process's share of the work of sampling or scoring this many images."""
    size = state.training.scoring_batch_size
    numbers = numbers_of(state.accelerator, -(-images // size))
    return Work(len(numbers), sum(min(size, images - number * size) for number in numbers))


def scoring_work(state: RunState, validation_calls: int = 1, test_calls: int = 1) -> Work:
    """The scores to come: of validation images along the way and for each of several averages, and of the test images.

    Args:
        validation_calls, test_calls: model calls for an image.
    """
    training, validation = state.training, len(state.data.validation)
    due = times_due(state, training.validation_steps)
    along_the_way = work_on(state, min(validation, training.max_validation_images)).times(validation_calls * due)
    averages = len(state.averages) if len(state.averages) > 1 else 0
    of_averages = work_on(state, validation).times(validation_calls * averages)
    return along_the_way.plus(of_averages).plus(work_on(state, len(state.data.test)).times(test_calls))


def times_due(state: RunState, interval: int) -> int:
    """How many more times something happens that is done every `interval` steps; 0 for an interval of 0."""
    return state.steps // interval - state.step // interval if interval else 0


def ends_of_epochs(state: RunState, interval: int) -> int:
    """How many more times something happens that is done every `interval` epochs; 0 for an interval of 0.

    The last step is left out, since `finish` follows it.
    """
    if not interval:
        return 0
    first = state.step if state.is_resumed and 0 < state.step < state.steps else state.step + 1
    numbers = [state.epochs_made(step) // interval for step in range(first - 1, state.steps)]
    return sum(now > before for before, now in itertools.pairwise(numbers))


# --- how long it takes -----------------------------------------------------------------------------------------------


@torch.no_grad()
def forward_speed(state: RunState) -> Speed:
    """The speed of the model in evaluation mode, measured in a few calls; random states do not change."""
    was_training = state.model.training
    state.model.eval()
    try:
        size, one = 1, _seconds(state, 1)
        several = one
        while size < state.training.train_batch_size and several < LONG_ENOUGH:
            size = min(2 * size, state.training.train_batch_size)
            several = _seconds(state, size)
    finally:
        state.model.train(was_training)
    image = several if size == 1 else max(several - one, 0.0) / (size - 1)
    return Speed(max(one - image, 0.0), image)


def _seconds(state: RunState, size: int) -> float:
    """Seconds of a call with a batch of `size` images."""
    return _shortest(state.method.example_call(state, size), state.accelerator.device)


def _shortest(call: Callable[[], Any], device: torch.device) -> float:
    """The shortest of a few calls, in seconds, after one warm-up call. Other load on the machine only slows calls."""
    taken = []
    for _ in range(1 + REPETITIONS):
        start = time.perf_counter()
        call()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
