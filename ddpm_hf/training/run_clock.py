# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The time of a run by phase: the time that each phase has taken, and the time that is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from ..runtime.progress import RunProgress, Shown


TRAINING, MEASURING, SAMPLING, SCORING, SAVING = PHASES = ("training", "measuring", "sampling", "scoring", "saving")
ENOUGH = 0.02  # share of a phase's work after which its own speed is a better guide than that of other phases
ENOUGH_SECONDS = 5.0


class Work(NamedTuple):
    """Numbers of model calls and of images that go through the model in them; for saving, files and bytes."""

    calls: float = 0
    images: float = 0

    def times(self, count: float) -> Work:
        return Work(count * self.calls, count * self.images)

    def plus(self, other: Work) -> Work:
        return Work(self.calls + other.calls, self.images + other.images)


@dataclass
class Phase:
    """The work of a phase in this process, in units of a forward pass of one image; for saving, in bytes.

    Attributes:
        work: all work of the phase.
        expected: seconds that it should take, estimated before it begins; None if there is no estimate.
        done: the part of the work that is done.
        spent: seconds spent so far.
        first: work and seconds of the first piece, which is slower than the rest and does not count for the speed.
    """

    work: float = 0.0
    expected: float | None = 0.0
    done: float = 0.0
    spent: float = 0.0
    first: tuple[float, float] | None = None

    @property
    def rate(self) -> float | None:
        """Measured seconds per unit of work; None if they have not been measured yet."""
        if self.first is None or self.done <= self.first[0]:
            return None
        return (self.spent - self.first[1]) / (self.done - self.first[0])

    @property
    def is_measured(self) -> bool:
        """Whether enough of the work is done to rely on the measured rate."""
        return self.rate is not None and (self.done >= ENOUGH * self.work or self.spent > ENOUGH_SECONDS)

    @property
    def slowness(self) -> float:
        """Measured time divided by expected time; 1 if one of them is unknown."""
        return self.rate * self.work / self.expected if self.rate and self.expected else 1.0

    def left(self, slowness: float, rate: float | None) -> float | None:
        """Seconds that the rest of the phase will take; None if they cannot be estimated.

        Args:
            slowness: the slowness of the training phase.
            rate: the rate of the training phase; None if it is not known yet.
        """
        rest = max(0.0, self.work - self.done)
        if not rest:
            return 0.0
        if self.is_measured:
            return self.rate * rest
        if self.expected is not None:
            return self.expected * rest / self.work * slowness
        return None if rate is None else rate * rest


@dataclass
class RunClock:
    """Measures the time of a run by phase. Phases may be nested; time counts for the innermost.

    Attributes:
        progress: shows how far the run is.
        seconds: seconds of each phase, including those before the run was resumed.
        phases: the work of each phase in this process.
    """

    progress: RunProgress = field(default_factory=lambda: RunProgress(is_hidden=True))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    phases: dict[str, Phase] = field(default_factory=lambda: {name: Phase() for name in PHASES})
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    def expect(self, phases: Mapping[str, Phase]) -> None:
        """Set the remaining work of the phases."""
        self.phases |= phases

    @contextlib.contextmanager
    def phase(self, name: str, is_last: bool = False) -> Iterator[None]:
        """A context whose time counts for this phase.

        Args:
            is_last: whether the phase is finished at the end of the context.
        """
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()
        if is_last:
            self.phases[name].work = self.phases[name].done

    @contextlib.contextmanager
    def counting(self, model: nn.Module) -> Iterator[None]:
        """A context in which each call of the model counts as work of the present phase."""
        hook = model.register_forward_hook(lambda *call: self.advance(len(call[-1][0])))
        try:
            yield
        finally:
            hook.remove()

    def advance(self, work: float, steps: tuple[int, int] | None = None, note: str = "") -> None:
        """Count finished work of the present phase, and show how far the run is.

        Args:
            steps: number of finished steps and of all steps, if the phase is shown in steps.
            note: additional text to show.
        """
        self._count()
        if not self._open:
            return
        phase = self.phases[self._open[-1]]
        phase.done += work
        if phase.first is None:
            phase.first = phase.done, phase.spent
        self.show(steps, note)

    def show(self, steps: tuple[int, int] | None = None, note: str = "", at_once: bool = False) -> None:
        """Show how far the run is; arguments as in `advance`."""
        if self.progress.is_hidden or not self._open:
            return
        name, left = self._open[-1], self.left
        phase, total = self.phases[name], self.total
        done, all_, unit = (phase.done, phase.work, "") if steps is None else (*steps, "steps")
        run = None if left is None else total / (total + left) if total else 0.0
        self.progress.show(Shown(name, min(done, all_), all_, unit, run, left, note), at_once)

    @property
    def left(self) -> float | None:
        """Seconds that the rest of the run will take; None if they are not known yet."""
        training = self.phases[TRAINING]
        each = [phase.left(training.slowness, training.rate) for phase in self.phases.values()]
        return None if None in each else sum(each)

    @property
    def total(self) -> float:
        """Seconds of all phases so far."""
        return sum(self.seconds.values())

    def spent(self, name: str) -> float:
        """Seconds spent on a phase so far."""
        self._count()
        return self.seconds[name]

    def close(self) -> None:
        """Remove the progress bars."""
        self.progress.close()

    def _count(self) -> None:
        now = time.monotonic()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
            self.phases[self._open[-1]].spent += now - self._since
        self._since = now
