# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A mistyped path of a model: one sentence with the nearest folder, and no warnings before it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from in_process import run

from ddpm_hf import DDPMPaperPipeline, HubError
from ddpm_hf.hub_errors import hub_errors


DIFFUSERS = "diffusers.pipelines.pipeline_utils"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with runs, and no Hub to ask."""
    for name in ("runs/digits", "runs/faces", "a/b/cde"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "runs/digit.txt").write_text("a file is no model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("runs/digit", "runs/digits"),
        ("run/digits", "runs/digits"),
        ("run/face", "runs/faces"),
        ("./runs/digit", "runs/digits"),
        ("a/b/cdf", "a/b/cde"),
        ("runs/landscapes", None),
        ("google/ddpm-cat-256", None),
    ],
)
def test_the_nearest_folder_is_suggested(name: str, near: str | None) -> None:
    with pytest.raises(HubError) as failure:
        DDPMPaperPipeline.from_pretrained(name)
    told = str(failure.value)
    assert told.startswith(f"Could not load {name}: ")
    assert near is not None or "Did you mean" not in told
    assert near is None or told.endswith(f" Did you mean the folder {near}?")


def test_an_absolute_path_is_compared_with_folders_too(folder: Path) -> None:
    with pytest.raises(HubError, match="Did you mean the folder") as failure:
        DDPMPaperPipeline.from_pretrained(folder / "runs" / "digit")
    assert str(failure.value).endswith(f"{folder / 'runs' / 'digits'}?")


def test_the_sentence_is_all_that_a_command_prints() -> None:
    code, output = run("sample.py", "--model_name_or_path", "runs/digit")
    assert code == 2
    (line,) = output.strip().splitlines()
    assert line.startswith("sample.py: error: Could not load runs/digit: ")


class Records(logging.Handler):
    """The messages that reach a logger's handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.mark.parametrize("fails", [True, False])
def test_a_warning_about_the_hub_is_shown_only_if_the_model_loads(fails: bool) -> None:
    logger, shown = logging.getLogger(DIFFUSERS), Records()
    filters = list(logger.filters)
    logger.addHandler(shown)
    try:
        with hub_errors("owner/model"):
            logger.warning("Couldn't connect to the Hub: refused.")
            logger.warning("Another warning.")
            assert shown.messages == ["Another warning."]
            if fails:
                raise OSError("Consistency check failed")
    except HubError:
        assert fails
    finally:
        logger.removeHandler(shown)
    assert shown.messages == ["Another warning."] + ["Couldn't connect to the Hub: refused."] * (not fails)
    assert logger.filters == filters
