# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Progress: bars on a terminal and in a notebook, and elsewhere, as in a log file, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, TextIO

from tqdm import std
from tqdm.auto import tqdm


SECONDS = 30  # between two lines
REFRESH = 0.1  # seconds between two drawings of a bar
LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} gone, {remaining} left{postfix}"


class LineFile:
    """Where tqdm's bars become lines: without carriage returns, and none twice."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.encoding, self.last = getattr(stream, "encoding", None), ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self.last:
            self.stream.write(f"{line}\n")
            self.last = line

    def flush(self) -> None:
        self.stream.flush()


def shows_bars() -> bool:
    """Whether a bar can be drawn over again: on a terminal, and in a notebook."""
    return sys.stderr.isatty() or any(each.__module__ == "tqdm.notebook" for each in tqdm.__mro__)


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> std.tqdm:
    """`tqdm(iterable, **options)`, which writes a line every half minute where no bar can be drawn."""
    if shows_bars():
        return tqdm(iterable, **options)
    lines = {"file": LineFile(sys.stderr), "mininterval": SECONDS, "maxinterval": 2 * SECONDS, "bar_format": LINE}
    return std.tqdm(iterable, **{**options, **lines, "leave": True})


def duration(seconds: float) -> str:
    """Such as 7 s, 5 min 20 s, 3 h 20 min, or 2 d 4 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    first = next(i for i, (_, size) in enumerate(units) if round(seconds) >= size)
    (large, size), (small, part) = units[first : first + 2]
    count, rest = divmod(round(seconds / part), size // part)
    return f"{count} {large} {rest} {small}" if rest else f"{count} {large}"


class Shown(NamedTuple):
    """How far a run is.

    Attributes:
        phase: that it is in.
        done, total: of the phase, in its unit.
        unit: what is counted; "" for work that is told as a share.
        run: share of the run's expected time that is over, in [0, 1]; None if that is not known yet.
        left: seconds of the whole run; None if they are not known yet.
        note: more on the phase.
    """

    phase: str
    done: float
    total: float
    unit: str = ""
    run: float | None = None
    left: float | None = None
    note: str = ""

    @property
    def counted(self) -> str:
        """Such as 20/100 steps, or 20 %."""
        if self.unit:
            return f"{self.done:.0f}/{self.total:.0f} {self.unit}"
        return f"{100 * self.done / self.total if self.total else 100:.0f} %"

    @property
    def time(self) -> str:
        """What is left of the run."""
        return "time left not known yet" if self.left is None else f"{duration(self.left)} left"

    @property
    def line(self) -> str:
        """All of it, for a log file."""
        parts = (f"{self.phase}: {self.counted}", self.note)
        run = () if self.run is None else (f"run {100 * self.run:.0f} % done",)
        return f"{', '.join(filter(None, parts))}; {', '.join((*run, self.time))}"


class RunProgress:
    """Shows how far a run of several phases is: a bar for the run and one for the phase, or a line now and then.

    Args:
        is_hidden: nothing is shown, as on all processes but one.
    """

    def __init__(self, is_hidden: bool = False):
        self.is_hidden, self.has_bars = is_hidden, not is_hidden and shows_bars()
        self._last, self._line, self._bars = -float("inf"), "", ()

    def show(self, shown: Shown, at_once: bool = False) -> None:
        """Show this, unless something was shown just now.

        Args:
            at_once: show it whenever the last was.
        """
        now = time.monotonic()
        if self.is_hidden or not (at_once or now - self._last >= (REFRESH if self.has_bars else SECONDS)):
            return
        self._last = now
        if self.has_bars:
            self._draw(shown)
        elif shown.line != self._line:
            self._line = shown.line
            print(shown.line, file=sys.stderr, flush=True)

    def _draw(self, shown: Shown) -> None:
        """Draw the bars of the run and of its phase."""
        if not self._bars:
            form = "{desc}: {percentage:3.0f}%|{bar}| {postfix}"
            self._bars = tuple(tqdm(total=1.0, bar_format=form, leave=False) for _ in range(2))
        of_run, of_phase = self._bars
        share = shown.done / shown.total if shown.total else 1.0
        for bar, name, part, text in (
            (of_run, "run", shown.run or 0.0, shown.time),
            (of_phase, shown.phase, share, ", ".join(filter(None, (shown.counted, shown.note)))),
        ):
            bar.n = min(1.0, part)
            bar.set_description_str(name, refresh=False)
            bar.set_postfix_str(text, refresh=False)
            bar.refresh()

    def close(self) -> None:
        """Take the bars away."""
        for bar in reversed(self._bars):
            bar.close()
        self._bars = ()
