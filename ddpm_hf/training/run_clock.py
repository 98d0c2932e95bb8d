# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The time of a run by phase: what each has taken, and what all of them will still take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from ..runtime.progress import RunProgress, Shown


TRAINING, MEASURING, SAMPLING, SCORING, SAVING = PHASES = ("training", "measuring", "sampling", "scoring", "saving")
ENOUGH = 0.02  # of the work of a phase: then its own speed tells more than that of the others
ENOUGH_SECONDS = 5.0


@dataclass
class Phase:
    """The work of a phase in this process, in forward passes of one image; of saving, in bytes.

    Attributes:
        work: all of it.
        expected: seconds for it, by what is known before it begins; None if nothing is.
        done: of the work.
        spent: seconds on it.
        first: work and seconds of its first piece, which tells little: caches fill.
    """

    work: float = 0.0
    expected: float | None = 0.0
    done: float = 0.0
    spent: float = 0.0
    first: tuple[float, float] | None = None

    @property
    def rate(self) -> float | None:
        """Seconds for one unit of the work, as measured; None if it was not yet."""
        if self.first is None or self.done <= self.first[0]:
            return None
        return (self.spent - self.first[1]) / (self.done - self.first[0])

    @property
    def is_measured(self) -> bool:
        """Whether enough was done to know the rate."""
        return self.rate is not None and (self.done >= ENOUGH * self.work or self.spent > ENOUGH_SECONDS)

    @property
    def slowness(self) -> float:
        """How many times as long as expected it takes."""
        return self.rate * self.work / self.expected if self.rate and self.expected else 1.0

    def left(self, slowness: float, rate: float | None) -> float | None:
        """Seconds that the rest will take; None if nothing is known.

        Args:
            slowness: of the training.
            rate: of the training; None if it is not known yet.
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
    """Tells the time of a run by phase. Phases may lie inside each other; time counts for the innermost.

    Attributes:
        progress: shows it.
        seconds: of every phase, with those before the run was resumed.
        phases: the work in this process.
    """

    progress: RunProgress = field(default_factory=lambda: RunProgress(is_hidden=True))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    phases: dict[str, Phase] = field(default_factory=lambda: {name: Phase() for name in PHASES})
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    def expect(self, phases: Mapping[str, Phase]) -> None:
        """Take the work to come."""
        self.phases |= phases

    @contextlib.contextmanager
    def phase(self, name: str, is_last: bool = False) -> Iterator[None]:
        """Inside, time counts for this phase.

        Args:
            is_last: no more of this phase comes afterwards.
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
        """Inside, calls of the model are work that is done."""
        hook = model.register_forward_hook(lambda *call: self.advance(len(call[-1][0])))
        try:
            yield
        finally:
            hook.remove()

    def advance(self, work: float, steps: tuple[int, int] | None = None, note: str = "") -> None:
        """Count work of the present phase that is done, and show how far the run is.

        Args:
            steps: how many are made and to be made, if the phase is told in steps.
            note: more to show.
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
        """Seconds of all phases to come; None if they are not known yet."""
        training = self.phases[TRAINING]
        each = [phase.left(training.slowness, training.rate) for phase in self.phases.values()]
        return None if None in each else sum(each)

    @property
    def total(self) -> float:
        """Seconds of all phases so far."""
        return sum(self.seconds.values())

    def spent(self, name: str) -> float:
        """Seconds of a phase up to now."""
        self._count()
        return self.seconds[name]

    def close(self) -> None:
        """Take the bars away."""
        self.progress.close()

    def _count(self) -> None:
        now = time.monotonic()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
            self.phases[self._open[-1]].spent += now - self._since
        self._since = now
