# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The training loop: steps, and the work that is due after each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from accelerate.utils import gather_object

from ..data.batches import Batch
from ..data.image_files import TAKE_OUT
from ..runtime.errors import DataUnreadable, RunStopped
from ..runtime.signals import Interrupted, Signals
from .due import at_the_end_of_an_epoch, is_anything_due, saved_before_stopping, what_is_due
from .plan import step_work
from .report import report
from .run_clock import TRAINING
from .run_state import RunState
from .tracking import StepFigures, tell_passed_over
from .truncation import count_truncated


Step = Callable[[Any, Iterator[Batch]], Any]
"""step(state, batches) takes an optimisation step with the next `state.shard.accumulation` batches."""

STEPS_BETWEEN_REPORTS = 10  # reading the loss waits for the device


def train(state: RunState, signals: Signals, training_step: Step | None = None) -> None:
    """Train until the last step or a signal, with validation, checkpoints and samples when they are due.

    Args:
        training_step: takes one step; that of the run's method if not given, which is Algorithm 1 for a diffusion.
    """
    progress = state.method.progress(state)
    if state.is_resumed and state.step < state.steps:
        at_the_end_of_an_epoch(state)  # the run may have been stopped before it did this
    clock, reported, work, note = state.clock, state.seconds, step_work(state), ""
    with clock.phase(TRAINING, is_last=True), contextlib.closing(iter(state.batches)) as batches:
        state.prepared.train()
        clock.show((state.step, state.steps), at_once=True)
        awaited = signals.awaited(batches)
        while state.step < state.steps:
            place = state.batches.place()
            try:
                take_step(state, awaited, progress, training_step)
            except DataUnreadable as stop:
                state.batches.rewind(place)
                raise RunStopped(f"{stop} {saved_before_stopping(state)}") from stop
            except Interrupted:
                state.batches.rewind(place)
                saved_before_stopping(state)
                raise
            clock.advance(work, (state.step, state.steps), note)
            if is_time_to_report(state, progress, signals):
                reported, note = report(state, progress, reported)
                caught = next((each for each in gather_object([signals.caught]) if each is not None), None)
            else:
                caught = None
            what_is_due(state, caught)
        clock.show((state.step, state.steps), note, at_once=True)


def take_step(
    state: RunState, batches: Iterator[Batch], progress: StepFigures, training_step: Step | None = None
) -> None:
    """One training step, and the updates that follow it: of what the method keeps, averages, progress."""
    step = state.method.training_step if training_step is None else training_step
    result = step(state, _checked(state, batches))
    for average in state.averages:
        average.update()
    state.method.note(state, result, progress)
    state.step += 1


def is_time_to_report(state: RunState, progress: StepFigures, signals: Signals) -> bool:
    """Whether to read the losses now. The answer is the same on all processes."""
    is_stopped = state.accelerator.num_processes == 1 and signals.caught is not None
    return len(progress) == STEPS_BETWEEN_REPORTS or is_anything_due(state) or is_stopped


def _checked(state: RunState, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches. Each bad image is reported once, or ends the run; truncated captions of a stream are counted.

    Raises:
        DataUnreadable: at the first bad image, unless these are skipped.
    """
    for batch in batches:
        for sentence in batch.bad:
            if not state.task.skip_bad_examples:
                raise DataUnreadable(f"{sentence} {TAKE_OUT}")
            if sentence not in state.bad_images:
                state.bad_images.add(sentence)
                tell_passed_over(len(state.bad_images), sentence)
        count_truncated(state, batch)
        yield batch
