# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A training that is killed repeatedly, at any moment, ends with the same results as one that was never stopped."""

from __future__ import annotations

import collections
import contextlib
import os
import shlex
import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from crashes import make_tree, tree_of, watched
from hooks import few_digits
from in_process import forget_processes
from training_runs import LATEST, TINY, assert_same, train

from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.runtime.output_folder import LOCK
from ddpm_hf.runtime.signals import Signals
from ddpm_hf.training import loop, run_clock, setup
from ddpm_hf.training.finish import finish
from ddpm_hf.training.state import TrainState


# Four steps, of which three make an epoch, and every kind of file and folder that a run leaves.
FOUR_STEPS = [
    *TINY,
    *shlex.split(
        "--max_train_steps 4 --train_batch_size 4 --checkpointing_steps 2 --checkpoints_total_limit 1 --dropout 0.1"
        " --random_flip --ema_max_decay 0.99 0.9 --num_quality_samples 0 --max_measured_images 4 --ddpm_num_steps 4"
        " --eval_batch_size 1 --validation_steps 0 --save_images_epochs 1 --save_model_epochs 1"
    ),
]
# For many kills: every file more is several states more, of which each leads to others. With the fewest files they are
# thousands, of which so many are gone on with: all that one kill leads to, and then those of the next ones.
MOST_STATES = 300
FEWER_FILES = ["--use_ema", False, "--save_images_epochs", 0, "--save_model_epochs", 0]


# --- a kill at every moment ------------------------------------------------------------------------------------------


@pytest.fixture
def same_every_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a run leaves depends on its settings alone, without its times and a name by chance; its images are few."""
    monkeypatch.setattr(run_clock, "time", types.SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(setup.secrets, "token_hex", lambda count: "00" * count)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(os.cpu_count()))
    with few_digits(12, 4):
        yield


def prepared(arguments: tuple[Any, ...]) -> TrainState:
    """A run that has found what there is in its folder, and is about to go on with it."""
    forget_processes()
    return prepare_run(arguments)


def go_on(state: TrainState) -> None:
    loop.train(state, Signals())
    finish(state)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(None, id="again and again")])
def test_a_run_killed_at_every_moment_ends_as_one_never_stopped(
    same_every_time: None, tmp_path: Path, kills: int | None
) -> None:
    """From every state that a kill can leave the end is the same; if there are more kills, from later ones too.

    What a run does after it is prepared depends on the folder as it is then, and on nothing else: each such folder is
    gone on with once, all the way.
    """
    folder, whole, earlier = tmp_path / "run", tmp_path / "whole", tmp_path / "checkpoint-2"
    flags = [*FOUR_STEPS, *(FEWER_FILES if kills is None else []), *LATEST, "--output_dir", folder]
    arguments = parse("train.py", *run_arguments(), argv=list(map(str, flags)))
    with watched(folder) as watch:
        go_on(prepared(arguments))
    shutil.move(folder, whole)
    waiting, known, ends = collections.deque(watch.states), set(watch.states), set()
    first = len(known)
    for _ in range(first if kills else MOST_STATES):
        make_tree(waiting.popleft(), folder)
        with watched(folder) as watch:
            state = prepared(arguments)
            ready = tree_of(folder)
            is_new = ready not in ends
            if is_new:
                go_on(state)
        if is_new:
            ends.add(ready)
            keep_apart(folder / "checkpoint-2", earlier)
            assert_same(folder, whole)
        if kills is None:
            waiting += [state for state in watch.states if state not in known]
            known.update(watch.states)
        shutil.rmtree(folder)
    assert first > (100 if kills else 50) and len(ends) > 8, (first, len(ends))
    assert kills or len(known) > MOST_STATES > first, len(known)


def keep_apart(checkpoint: Path, first: Path) -> None:
    """What a kill left between two renamings: a checkpoint that was to go, since the next one stands; it is whole."""
    if not checkpoint.exists():
        return
    if first.exists():
        assert_same(checkpoint, first)
        shutil.rmtree(checkpoint)
    else:
        shutil.move(checkpoint, first)


# --- on the disk -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def recorded() -> Iterator[list[list]]:
    """Yields a list that gets every flush, renaming and removal, in the order in which they are done."""
    seen, fsync, replace, rmtree = [], os.fsync, os.replace, shutil.rmtree

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        seen.append(["flush", path, os.stat(path).st_mtime_ns])

    def recorded_replace(source: Any, target: Any) -> None:
        replace(source, target)
        seen.append(["rename", os.path.realpath(source), os.path.realpath(target)])

    def recorded_rmtree(path: Any, *arguments: Any, **options: Any) -> None:
        if os.path.isdir(path):
            seen.append(["remove", os.path.realpath(path), None])
        rmtree(path, *arguments, **options)

    doubles = {"fsync": recorded_fsync, "replace": recorded_replace}
    with mock.patch.multiple(os, **doubles), mock.patch.object(shutil, "rmtree", recorded_rmtree):
        yield seen


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list]]:
    """A run's folder, and what it did to it."""
    folder = tmp_path_factory.mktemp("events").resolve() / "run"
    arguments = ["--max_train_steps", 4, "--checkpointing_steps", 2, "--checkpoints_total_limit", 1]
    with recorded() as seen:
        train(folder, *TINY, *arguments)
    return folder, seen


def test_whatever_a_run_leaves_is_flushed_before_it_stands(events: tuple[Path, list[list]]) -> None:
    folder, seen = events
    renamed = {target: (k, source) for k, (what, source, target) in enumerate(seen) if what == "rename"}
    for path in folder.rglob("*"):
        if path.name == LOCK:
            continue
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
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"]
