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
from ..training.arguments import RunArguments, TrainingArguments
from ..training.checkpoints import telling_how_to_resume
from ..training.diffusion import Diffusion
from ..training.finish import finish
from ..training.loop import Step, train
from ..training.method import Method, State
from ..training.setup import prepare
from ..training.start import announce
from .parsing import parse
from .running import program


DIFFUSION = Diffusion()


def run_arguments(task: type[Task] = ImageTask, training: type[RunArguments] = TrainingArguments) -> tuple[type, ...]:
    """The dataclasses that the command line fills for a training."""
    return (*task.arguments, training, HubArguments)


def prepare_run(
    arguments: Sequence[Any], task: type[Task] = ImageTask, method: Method[State, Any] = DIFFUSION
) -> State:
    """A training run from its dataclasses, checked and built; errors as `prepare`."""
    *of_task, training, hub = arguments
    return prepare(task(*of_task), method, training, hub)


def main(
    training_step: Step | None = None,
    task: type[Task] = ImageTask,
    training: type[RunArguments] = TrainingArguments,
    method: Method[Any, Any] = DIFFUSION,
) -> None:
    """A training from the command line to its end.

    Args:
        training_step: takes one optimisation step; the method's own if not given, Algorithm 1 for a diffusion.
        task: the family of models.
        training: the arguments of the training, or a subclass with other defaults.
        method: how models of this kind are trained and scored; as a diffusion if not given.
    """
    script = program()
    arguments = parse(script, *run_arguments(task, training))
    with run_errors(script):
        run(script, arguments, task, method, training_step)
        end()


def run(
    script: str,
    arguments: Sequence[Any],
    task: type[Task],
    method: Method[Any, Any] = DIFFUSION,
    training_step: Step | None = None,
) -> None:
    """A training from its dataclasses to its end, in a context of `run_errors`; other arguments as `main`."""
    signals = Signals()
    with user_errors(script):
        state = prepare_run(arguments, task, method)
    with (
        telling_how_to_resume(state.folder),
        contextlib.closing(state.trackers),
        contextlib.closing(state.clock),
    ):
        announce(state)
        with signals.noted():
            train(state, signals, training_step)
        finish(state)
