# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The command `ddpm-hf`, run in the test's own process; tests/end_to_end/test_wheel.py installs it."""

from __future__ import annotations

import runpy
import sys

import pytest

from ddpm_hf.cli import VERBS, main


def test_the_command_tells_its_verbs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["ddpm-hf", "--help"])
    main()
    told = capsys.readouterr().out
    for verb in ("train", "text_to_image", "sample", "evaluate", "measure", "classify", "push"):
        assert f"  {verb} " in told
    monkeypatch.setattr(sys, "argv", ["ddpm-hf"])
    runpy.run_module("ddpm_hf", run_name="__main__")  # `python -m ddpm_hf`
    assert capsys.readouterr().out == told


def test_another_verb_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["ddpm-hf", "nonsense"])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr()
    assert (stopped.value.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert "'nonsense'" in told.err and ", ".join(VERBS) in told.err


def test_a_verb_gets_the_arguments_after_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["ddpm-hf", "sample", "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0 and capsys.readouterr().out.startswith("usage: ddpm-hf sample ")
