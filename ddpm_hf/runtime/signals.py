# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""SIGTERM and Ctrl-C, caught so that a run can save before it ends."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


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
