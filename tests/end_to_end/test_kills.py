# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A few kills of a real process; tests/training/test_survival.py covers kills at every moment."""

from __future__ import annotations

import functools
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from script_server import Script, ScriptServer
from training_runs import LATEST, TINY, assert_same, ended, start


STEPS = 30
SAVING = [
    *TINY,
    *shlex.split(f"--max_train_steps {STEPS} --checkpointing_steps 2 --dropout 0.1 --random_flip"),
]


def steps_of(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, as a user sees them."""
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))


def wait_until(holds: Callable[[], object], run: Script) -> None:
    """Until it holds, or the run has ended."""
    while run.code is None and not holds():
        time.sleep(0.0005)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_as_one_never_killed(scripts: ScriptServer, tmp_path: Path) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    unstopped = start(scripts, whole, *SAVING, "--checkpoints_total_limit", -1)
    ended(unstopped)
    moments: dict[str, Callable[[int, Script], object]] = {
        "has begun to train": lambda last, run: "training:" in run.output,
        "writes a checkpoint": lambda last, run: list(folder.glob(".checkpoint-*.partial/optimizer.bin")),
        "has written two more": lambda last, run: steps_of(folder)[-1:] >= [last + 4],
        "finishes": lambda last, run: f"{STEPS}/{STEPS}" in run.output,
    }
    for moment, holds in moments.items():
        last = max(steps_of(folder), default=0)
        run = start(scripts, folder, *SAVING, *LATEST)
        wait_until(functools.partial(holds, last, run), run)
        run.kill()
        assert run.wait() == -signal.SIGKILL, (moment, run.output)
        told = f"Going on from {folder / f'checkpoint-{last}'}, after step {last} of {STEPS}."
        assert (told if last else f"There is no checkpoint in {folder} yet") in run.output
        for step in steps_of(folder):
            assert_same(folder / f"checkpoint-{step}", whole / f"checkpoint-{step}")
    ended(start(scripts, folder, *SAVING, *LATEST))
    for name in ("unet", "scheduler", "samples.png", f"checkpoint-{STEPS}"):
        assert_same_part(folder / name, whole / name)


def assert_same_part(one: Path, other: Path) -> None:
    if one.is_dir():
        assert_same(one, other)
    else:
        assert one.read_bytes() == other.read_bytes()
