# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The work between two training steps: validation, checkpoints, sample grids, saved models, pushes."""

from __future__ import annotations

import functools
import signal

from ..runtime.errors import RunStopped
from ..runtime.signals import Interrupted
from .checkpoint_contents import is_finite, write_state
from .checkpoints import how_to_resume, last_step, save_checkpoint
from .finish import draw_grid, push_snapshot, save_model, validate
from .plan import checkpoint_bytes
from .report import START_ANEW
from .run_clock import SAVING
from .run_state import RunState, gather_bad_images


def is_anything_due(state: RunState) -> bool:
    """Whether anything is due after the last step."""
    training = state.training
    steps = (training.validation_steps, training.checkpointing_steps, state.push_steps)
    epochs = (training.save_images_epochs, training.save_model_epochs)
    return state.step == state.steps or any(map(state.is_due, steps)) or any(map(state.ends_epoch, epochs))


def what_is_due(state: RunState, caught: signal.Signals | None) -> None:
    """Do what is due after the step. After the last step, `finish` draws, saves and pushes instead.

    Raises:
        Interrupted: if a signal was caught, after saving.
        RunStopped: if weights are not finite.
    """
    training, is_last = state.training, state.step == state.steps
    if (caught or is_anything_due(state)) and not is_finite(state):
        raise RunStopped(f"After step {state.step} not all weights are finite. {START_ANEW}")
    if state.is_due(training.validation_steps):
        validate(state)
    if caught or state.is_due(training.checkpointing_steps) or (is_last and training.checkpointing_steps):
        save(state)
    if caught:
        raise Interrupted(caught)
    if not is_last:
        at_the_end_of_an_epoch(state)


def at_the_end_of_an_epoch(state: RunState) -> None:
    """Draw sample grids, save the model and push it, if these are due after the step."""
    training = state.training
    if state.ends_epoch(training.save_images_epochs):
        draw_grid(state)
    is_saved = state.ends_epoch(training.save_model_epochs)
    if is_saved:
        save_model(state)
    if state.is_pushed and (is_saved or state.is_due(state.push_steps)):
        push_snapshot(state)


def saved_before_stopping(state: RunState) -> str:
    """Save a run that cannot take its next step, if that is possible; returns a sentence on how to resume it.

    One of several processes cannot save on its own, since every process writes a part of the checkpoint.
    """
    is_alone = state.accelerator.num_processes == 1
    if is_alone and 0 < state.step > last_step(state.folder) and is_finite(state):
        save(state)
    return how_to_resume(state.folder)


def save(state: RunState) -> None:
    """Save a checkpoint of the current state."""
    gather_bad_images(state)
    limit = state.training.checkpoints_total_limit
    write = functools.partial(write_state, state)
    with state.clock.phase(SAVING):
        save_checkpoint(state.accelerator, state.folder, state.step, write, limit, is_together=state.is_divided)
        state.clock.advance(checkpoint_bytes(state))
