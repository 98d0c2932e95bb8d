# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""SIGTERM and Ctrl-C, which are caught so that a run can save before it ends."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupted(BaseException):  # a library's `except Exception` does not catch it
    """A signal came where the process must end at once."""

    def __init__(self, number: signal.Signals):
        super().__init__(f"{number.name} stopped it")
        self.status = 128 + number


class Signals:
    """SIGTERM and SIGINT (Ctrl-C): raised as `Interrupted`, or noted inside `noted`.

    A second Ctrl-C ends the process at once; a second SIGTERM, which some schedulers send, has no effect.

    Attributes:
        caught: the signal that was received, or None.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._are_noted = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._catch)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """A context in which a signal only sets `caught`; it is raised at the end."""
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
