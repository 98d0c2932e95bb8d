# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf train`: train a DDPM, draw samples, score it and save it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from ..hub.arguments import HubArguments
from ..runtime.errors import end, run_errors, user_errors
from ..runtime.signals import Signals
from ..tasks.base import Task
from ..tasks.images import ImageTask
from ..training.arguments import TrainingArguments
from ..training.checkpoints import telling_how_to_resume
from ..training.finish import finish
from ..training.loop import train
from ..training.setup import prepare
from ..training.start import announce
from ..training.state import TrainState
from ..training.step import TrainingStep, training_step
from .parsing import parse
from .running import program


def run_arguments(
    task: type[Task] = ImageTask, training: type[TrainingArguments] = TrainingArguments
) -> tuple[type, ...]:
    """The dataclasses that the command line fills for a training."""
    return (*task.arguments, training, HubArguments)


def prepare_run(arguments: Sequence[Any], task: type[Task] = ImageTask) -> TrainState:
    """A training run from its dataclasses, checked and built; errors as `prepare`."""
    model, data, diffusion, training, hub = arguments
    return prepare(task(model, data, diffusion), diffusion, training, hub)


def main(
    training_step: TrainingStep = training_step,
    task: type[Task] = ImageTask,
    training: type[TrainingArguments] = TrainingArguments,
) -> None:
    """A training from the command line to its end.

    Args:
        training_step: takes one optimisation step; Algorithm 1 if not given.
        task: the family of models.
        training: the arguments of the training, or a subclass with other defaults.
    """
    script = program()
    arguments = parse(script, *run_arguments(task, training))
    with run_errors(script):
        signals = Signals()
        with user_errors(script):
            state = prepare_run(arguments, task)
        with (
            telling_how_to_resume(state.folder),
            contextlib.closing(state.trackers),
            contextlib.closing(state.clock),
        ):
            announce(state)
            with signals.noted():
                train(state, signals, training_step)
            finish(state)
        end()
