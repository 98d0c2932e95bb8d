# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Errors that end a run early, each with a one-sentence message."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

import torch
from torch import distributed

from ..results import InvalidResult
from .signals import Interrupted


SHARED_MEMORY = "shared memory (/dev/shm; docker run --shm-size sets its size)"
FEWER_WORKERS = "Fewer --dataloader_num_workers need less, and with 0 hardly any is needed."


class RunStopped(Exception):
    """The run ends early.

    Args:
        sentence: what happened, and what to do next.
        status: the exit status of the process.
    """

    def __init__(self, sentence: str, status: int = 1):
        super().__init__(sentence)
        self.status = status


class DataUnreadable(RunStopped):
    """The run ends early because its training data cannot be read; its results so far are valid."""


@contextlib.contextmanager
def run_errors(script: str) -> Iterator[None]:
    """A context in which errors that end a run end the process with one sentence instead of a traceback."""
    try:
        yield
    except RunStopped as stop:
        _leave(stop.status, f"{script}: {stop}")
    except Interrupted as stop:
        _leave(stop.status, f"{script}: {stop} before it trained; the same command starts it again.")
    except (OSError, InvalidResult) as error:
        _leave(1, f"{script}: error: {' '.join(str(error).split())}")
    except SystemExit as end:
        _leave(end.code)
    except RuntimeError as error:
        what = told(error)
        if what is None:
            raise
        _leave(1, f"{script}: {what}")


def told(error: RuntimeError) -> str | None:
    """The message for an error that torch raises when the machine fails; None for other errors."""
    if distributed.is_available() and (isinstance(error, distributed.DistError) or "gloo" in str(error)):
        return "Another process has ended, and this one cannot go on without it."
    if "shared memory" in str(error) and "No space" in str(error):
        return f"There is no room left in {SHARED_MEMORY}. {FEWER_WORKERS}"
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "The device has no memory left; use --gradient_checkpointing, or a smaller --train_batch_size with more"
            " --gradient_accumulation_steps, which trains the same."
        )
    return None


def end() -> None:
    """End the process at the end of its script if it is one of several."""
    if _is_one_of_several():
        _leave(0)


def _leave(status: int, sentence: str | None = None) -> NoReturn:
    if sentence is not None:
        print(sentence, file=sys.stderr)
    if _is_one_of_several():
        # Skip the interpreter's shutdown, where torch may wait forever for a thread of gloo.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _is_one_of_several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@contextlib.contextmanager
def user_errors(script: str) -> Iterator[None]:
    """A context in which a user's mistake ends the process with status 2 and one sentence instead of a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"{script}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
