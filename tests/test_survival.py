# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A training that is killed, at any moment and again and again, ends as one that was never stopped."""

from __future__ import annotations

import json
import random
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from script_server import Script, ScriptServer
from training_runs import LATEST, TINY, assert_same, ended, last_line, left, start


SAVING = [
    *TINY,
    *shlex.split("--max_train_steps 80 --checkpointing_steps 2 --train_batch_size 16 --dropout 0.1 --random_flip"),
]


def steps_of(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, as a user sees them."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name.removeprefix("checkpoint-")) for name in names if name.startswith("checkpoint-"))


def wait_until(holds: Callable[[], object], run: Script) -> None:
    while run.code is None and not holds():
        time.sleep(0.001)


def test_a_run_killed_at_twenty_moments_ends_as_one_never_stopped(scripts: ScriptServer, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    unstopped = start(scripts, whole, *SAVING, "--checkpoints_total_limit", -1)
    chance, hits = random.Random(0), 0
    ended(unstopped)

    def partial() -> list[Path]:
        return list(folder.glob(".checkpoint-*.partial"))

    def kill(moment: str) -> str:
        """Go on with the run, and kill it at such a moment; what it had printed."""
        last = max(steps_of(folder), default=0)
        run = start(scripts, folder, *SAVING, *LATEST)
        if moment == "saving":  # the first, the second or the third checkpoint from here
            for _ in range(chance.randrange(1, 4)):
                wait_until(lambda: not partial(), run)
                wait_until(partial, run)
            time.sleep(chance.uniform(0, 0.06))
        elif moment == "finishing":
            wait_until(lambda: "80/80" in run.output, run)
            time.sleep(chance.uniform(0, 0.7))
        else:
            time.sleep(chance.uniform(0, 1.2))
        run.kill()
        assert run.wait() == -signal.SIGKILL, run.output
        if "training:" in run.output:
            told = f"Going on from {folder / f'checkpoint-{last}'}, after step {last} of 80."
            assert (told if last else f"There is no checkpoint in {folder} yet") in run.output
        return run.output

    for moment in ["saving", "anywhere"] * 8:
        kill(moment)
        hits += len(partial())
        for step in steps_of(folder):
            assert_same(folder / f"checkpoint-{step}", whole / f"checkpoint-{step}")
    reached = max(steps_of(folder))
    for _ in range(4):
        assert "80/80" in kill("finishing")
    ended(start(scripts, folder, *SAVING, *LATEST))
    assert_left(folder, whole)
    assert hits >= 4 and 10 < reached < 80, (hits, reached)  # while a checkpoint was written, and all along the way


def assert_left(folder: Path, whole: Path) -> None:
    """Assert that a run with the default limit of checkpoints left the same as one that kept them all."""
    one, two = left(folder), left(whole)
    kept = {f"checkpoint-{step}" for step in (78, 80)}
    two = {name: content for name, content in two.items() if "checkpoint-" not in name or Path(name).parts[0] in kept}
    two["metrics.json"]["settings"]["checkpoints_total_limit"] = 2
    assert one.keys() == two.keys()
    others = [name for name in one if one[name] != two[name]]
    assert not others, others


RECORDED = """
import atexit, json, shutil
seen, fsync, replace, rmtree = [], os.fsync, os.replace, shutil.rmtree
def recorded_fsync(descriptor):
    fsync(descriptor)
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    seen.append(["flush", path, os.stat(path).st_mtime_ns])
def recorded_replace(source, target):
    replace(source, target)
    seen.append(["rename", os.path.realpath(source), os.path.realpath(target)])
def recorded_rmtree(path, *arguments, **options):
    if os.path.isdir(path):
        seen.append(["remove", os.path.realpath(path), None])
    rmtree(path, *arguments, **options)
os.fsync, os.replace, shutil.rmtree = recorded_fsync, recorded_replace, recorded_rmtree
atexit.register(lambda: print(json.dumps(seen)))
"""


@pytest.fixture(scope="module")
def events(scripts: ScriptServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list]]:
    """A run's folder, and every flush, renaming and removal in the order in which it did them."""
    folder = tmp_path_factory.mktemp("events").resolve() / "run"
    arguments = ["--max_train_steps", 4, "--checkpointing_steps", 2, "--checkpoints_total_limit", 1]
    output = ended(start(scripts, folder, *TINY, *arguments, prelude=RECORDED))
    return folder, json.loads(last_line(output))


def test_whatever_a_run_leaves_is_flushed_before_it_stands(events: tuple[Path, list[list]]) -> None:
    folder, seen = events
    renamed = {target: (k, source) for k, (what, source, target) in enumerate(seen) if what == "rename"}
    for path in folder.rglob("*"):
        # It came with the folder, in the run's own, that it lies in, or by itself.
        top = folder / path.relative_to(folder).parts[0]
        k, source = renamed[str(top)]
        before = source + str(path).removeprefix(str(top))
        flushed = [when for what, name, when in seen[:k] if (what, name) == ("flush", before)]
        assert flushed and flushed[-1] == path.stat().st_mtime_ns, path  # and not written afterwards
        assert ["flush", str(folder)] in [event[:2] for event in seen[k:]], path


def test_a_checkpoint_goes_only_when_the_next_one_stands(events: tuple[Path, list[list]]) -> None:
    folder, seen = events
    first, second = str(folder / "checkpoint-2"), str(folder / "checkpoint-4")
    stands = next(k for k, (what, _, target) in enumerate(seen) if (what, target) == ("rename", second))
    secured = next(k for k, event in enumerate(seen) if k > stands and event[:2] == ["flush", str(folder)])
    touched = [
        k
        for k, (_, name, target) in enumerate(seen)
        if first == name or (name.startswith(str(folder)) and target == first)
    ]
    gone = next(k for k, (what, source, _) in enumerate(seen) if (what, source) == ("rename", first))
    assert touched[-1] == gone > secured
    # Renamed first: half of it never stands under its name.
    assert [what for what, name, _ in seen if name == str(folder / ".checkpoint-2.old")] == ["remove"]
    assert steps_of(folder) == [4]
