# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Ends of a run before its time: asked for by a signal, or because it cannot go on. Each is told in one sentence."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from arguments import parse
from torch import distributed


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


class Interrupted(BaseException):  # which no `except Exception` of a library swallows
    """A signal came where the process is left at once."""

    def __init__(self, number: signal.Signals):
        super().__init__(f"{number.name} stopped it")
        self.status = 128 + number


class Signals:
    """SIGTERM and SIGINT (Ctrl-C): raised as `Interrupted`, or noted where that is asked for.

    A second Ctrl-C ends the process at once; a second SIGTERM, which some schedulers send, does nothing.

    Attributes:
        caught: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._are_noted = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._catch)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, a signal that comes can be seen in `caught`; it is raised at the end."""
        self._are_noted = True
        yield
        self._are_noted = False
        if self.caught is not None:
            raise Interrupted(self.caught)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not self._are_noted:
            raise Interrupted(self.caught)


@contextlib.contextmanager
def run_errors(script: str) -> Iterator[None]:
    """Inside, what ends a run before its time ends the process with one sentence in place of a traceback."""
    try:
        yield
    except RunStopped as stop:
        _leave(stop.status, f"{script}: {stop}")
    except Interrupted as stop:
        _leave(stop.status, f"{script}: {stop} before it trained; the same command starts it again.")
    except OSError as error:
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
    if "DataLoader worker" in str(error):
        return "A process that reads images was killed, as happens when memory is full; fewer workers need less."
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "The device has no memory left; a smaller --train_batch_size with as many more"
            " --gradient_accumulation_steps trains the same, or --gradient_checkpointing."
        )
    return None


def run_script(file: str, work: Callable[..., None], *classes: type) -> None:
    """A script from its arguments, filled into `classes`, to its end: `work(script, *arguments)`."""
    script = Path(file).name
    arguments = parse(script, *classes)
    with run_errors(script):
        work(script, *arguments)
        end()


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
