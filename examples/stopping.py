# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Ends of a run before its time: asked for by a signal, or because it cannot go on. Each is told in one sentence."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType


class RunStopped(Exception):
    """The run ends here.

    Args:
        sentence: what happened, and what to do next.
        status: of the process.
    """

    def __init__(self, sentence: str, status: int = 1):
        super().__init__(sentence)
        self.status = status


class Signals:
    """Notes SIGTERM and SIGINT (Ctrl-C) for the training to see; a second one ends the process at once.

    Attributes:
        caught: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._catch)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number)
        self.restore()

    def restore(self) -> None:
        """From now on signals do what they do by themselves."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def run_errors(script: str) -> Iterator[None]:
    """Inside, what ends a run before its time ends the process with one sentence in place of a traceback."""
    try:
        yield
    except RunStopped as stop:
        print(f"{script}: {stop}", file=sys.stderr, flush=True)
        sys.exit(stop.status)
    except OSError as error:
        print(f"{script}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(1)
