# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Progress is a bar on a terminal, and an occasional line in a log file."""

from __future__ import annotations

import io
import sys

import pytest

from ddpm_hf.runtime import progress
from ddpm_hf.runtime.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def walked(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> str:
    """What a walk over a thousand steps writes to a stream."""
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(total=1000, desc="training", unit="step") as bar:
        for step in range(1000):
            bar.set_postfix_str(f"loss {step}", refresh=progress.shows_bars())
            bar.update()
    return stream.getvalue()


def test_a_log_file_gets_a_first_and_a_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = walked(monkeypatch, io.StringIO()).splitlines(keepends=True)
    assert len(lines) == 2 and all(line.endswith("\n") and "\r" not in line for line in lines)
    assert lines[0].startswith("training: 0/1000 step") and lines[1].startswith("training: 1000/1000 step")


def test_a_log_file_gets_lines_as_time_goes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0)
    lines = walked(monkeypatch, io.StringIO()).splitlines()
    assert len(lines) > 500 and "training: 500/1000 step" in lines[500] and "loss 499" in lines[500]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    text = walked(monkeypatch, Terminal())
    assert text.count("\r") > 1 and "%|" in text


def test_an_iteration_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress_bar(range(3), desc="scoring", unit="batch", leave=False)) == [0, 1, 2]
    assert stream.getvalue().splitlines()[-1].startswith("scoring: 3/3 batch")
