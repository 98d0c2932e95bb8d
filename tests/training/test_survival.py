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


def wait_until(holds: Callable[[], object], run: Script) -> float:
    """Until it holds, or the run has ended; the time."""
    while run.code is None and not holds():
        time.sleep(0.0005)
    return time.monotonic()


def test_a_run_killed_at_twenty_moments_ends_as_one_never_stopped(scripts: ScriptServer, tmp_path: Path) -> None:
    whole, folder, chance = tmp_path / "whole", tmp_path / "run", random.Random(0)
    unstopped = start(scripts, whole, *SAVING, "--checkpoints_total_limit", -1)
    begun = time.monotonic()
    trains = wait_until(lambda: "training:" in unstopped.output, unstopped)
    finishes = wait_until(lambda: "80/80" in unstopped.output, unstopped)
    ended(unstopped)
    until_it_trains, of_a_step = trains - begun, (finishes - trains) / 80
    of_the_finish = time.monotonic() - finishes

    def saves(stage: str) -> Callable[[], object]:
        """Whether a checkpoint is being written, and this file of it is there, or it has just come to stand."""
        if stage == "stands":
            known = steps_of(folder)
            return lambda: steps_of(folder)[-1:] not in ([], known[-1:])
        return lambda: list(folder.glob(f".checkpoint-*.partial/{stage}"))

    def kill(moment: str) -> bool:
        """Go on with the run and kill it at such a moment, unless it ends before."""
        last = max(steps_of(folder), default=0)
        run = start(scripts, folder, *SAVING, *LATEST)
        if moment == "anywhere":  # by the clock, unless it is faster than the first was
            end = time.monotonic() + chance.uniform(0, until_it_trains + 6 * of_a_step)
            wait_until(lambda: time.monotonic() > end or max(steps_of(folder), default=0) > last + 2, run)
        elif moment == "finishing":
            wait_until(lambda: "80/80" in run.output, run)
            time.sleep(chance.uniform(0, of_the_finish))
        else:
            for _ in range(chance.randrange(1, 3)):  # the first checkpoint from here, or the second
                wait_until(lambda: not saves("")(), run)
                wait_until(saves(moment), run)
        run.kill()
        assert run.wait() in (-signal.SIGKILL, 0), run.output
        if "training:" in run.output:
            told = f"Going on from {folder / f'checkpoint-{last}'}, after step {last} of 80."
            assert (told if last else f"There is no checkpoint in {folder} yet") in run.output
        return run.code != 0

    hits = 0
    for stage in ["unet", "stands", "optimizer.bin", "random_states_0.pkl", "ema-0.safetensors", "training.json"]:
        assert kill(stage)
        hits += bool(saves("")())
        assert kill("anywhere") and kill("anywhere")
        for step in steps_of(folder):
            assert_same(folder / f"checkpoint-{step}", whole / f"checkpoint-{step}")
    reached = max(steps_of(folder))
    assert 4 < reached < 80 and hits >= 2, (reached, hits)
    finishing = 0
    while finishing < 2:
        finishing += kill("finishing")
    ended(start(scripts, folder, *SAVING, *LATEST))
    assert_left(folder, whole)


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
