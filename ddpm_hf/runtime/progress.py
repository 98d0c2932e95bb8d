# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Progress: a bar on a terminal and in a notebook, and elsewhere, as in a log file, a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import std
from tqdm.auto import tqdm


SECONDS = 30  # between two lines
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
