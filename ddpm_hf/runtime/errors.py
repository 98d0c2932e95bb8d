# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What ends a run before its time, each told in one sentence."""

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
    """The run ends here.

    Args:
        sentence: what happened, and what to do next.
        status: of the process.
    """

    def __init__(self, sentence: str, status: int = 1):
        super().__init__(sentence)
        self.status = status


class DataUnreadable(RunStopped):
    """The run ends here, since it cannot read what it is to train on; what it has done is as good as ever."""


@contextlib.contextmanager
def run_errors(script: str) -> Iterator[None]:
    """Inside, what ends a run before its time ends the process with one sentence in place of a traceback."""
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
    """The sentence on what torch raises when the machine fails it; None if it is anything else."""
    if distributed.is_available() and (isinstance(error, distributed.DistError) or "gloo" in str(error)):
        return "Another process has ended, and this one cannot go on without it."
    if "shared memory" in str(error) and "No space" in str(error):
        return f"There is no room left in {SHARED_MEMORY}. {FEWER_WORKERS}"
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "The device has no memory left; a smaller --train_batch_size with as many more"
            " --gradient_accumulation_steps trains the same, or --gradient_checkpointing."
        )
    return None


def end() -> None:
    """End the process, at the end of its script, if it is one of several."""
    if _is_one_of_several():
        _leave(0)


def _leave(status: int, sentence: str | None = None) -> NoReturn:
    if sentence is not None:
        print(sentence, file=sys.stderr)
    if _is_one_of_several():
        # Without tidying up, where torch may wait for ever: for a thread of gloo that waits for the interpreter.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _is_one_of_several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@contextlib.contextmanager
def user_errors(script: str) -> Iterator[None]:
    """Inside, what a user got wrong ends the process with status 2 and one sentence in place of a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"{script}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
