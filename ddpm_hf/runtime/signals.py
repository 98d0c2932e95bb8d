# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""SIGTERM and Ctrl-C, which are caught so that a run can save before it ends."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TypeVar


T = TypeVar("T")
PATIENCE = 10.0  # seconds; clusters often grant 30 from SIGTERM to SIGKILL, in which a checkpoint is to be written


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
        self._are_noted = self._is_waiting = False
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

    def awaited(self, items: Iterator[T]) -> Iterator[T]:
        """The items. After a signal, which may come while one is waited for, it has `PATIENCE` seconds to come.

        Raises:
            Interrupted: if it does not.
        """
        while True:
            self._is_waiting = True
            try:
                self._limit_the_wait()
                item = next(items)
            except StopIteration:
                return
            finally:
                self._is_waiting = False
                if self.caught is not None:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            yield item

    def _limit_the_wait(self) -> None:
        if self.caught is not None and self._is_waiting:
            signal.signal(signal.SIGALRM, self._give_up)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _give_up(self, number: int, frame: FrameType | None) -> None:
        if self._is_waiting:
            raise Interrupted(self.caught)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not self._are_noted:
            raise Interrupted(self.caught)
        self._limit_the_wait()
