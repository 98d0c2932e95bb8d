# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Early ends of a training: each prints one sentence that says what happened and how to continue."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import resource
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import small_disks
from accelerate.utils.other import load
from hooks import at, kill_worker, nan_at, overflowing, signal_at, signal_in, stuck_after, twice
from safetensors.torch import load_file
from script_server import ScriptServer
from training_runs import EVERYTHING, GOES_ON, LATEST, TINY, assert_same, ended, last_line, names_in, start, train


pytestmark = pytest.mark.processes(3)


SHORT = [*TINY, *shlex.split("--checkpointing_steps 4 --checkpoints_total_limit -1 --num_quality_samples 0")]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that was never stopped."""
    folder = tmp_path_factory.mktemp("short") / "run"
    train(folder, *SHORT, "--max_train_steps", 8)
    return folder


# --- signals ---------------------------------------------------------------------------------------------------------


def test_a_signal_wherever_it_comes_is_told_and_gone_on_from(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for function, call, name, step in [
        ("diffusion.scored", 1, "SIGINT", 7),  # the validation of step 6
        ("due.write_state", 1, "SIGTERM", 9),  # the checkpoint of step 8
        ("finish.draw", 1, "SIGTERM", 16),  # the sample grid of step 15
        ("due.is_finite", 2, "SIGTERM", 20),  # after the last step
        ("diffusion.scored", 2, "SIGINT", 20),  # the validations of the averages at the end
        ("diffusion_scores.measured_errors", 1, "SIGTERM", 20),
        ("diffusion_scores.quality_of", 1, "SIGINT", 20),
    ]:
        hook = signal_in(f"ddpm_hf.training.{function}", name, call)
        code = 143 if name == "SIGTERM" else 130
        sentence = last_line(train(folder, *EVERYTHING, *LATEST, code=code, during=(hook,)))
        assert sentence == f"train.py: {name} stopped it. {folder / f'checkpoint-{step}'} is whole. {GOES_ON}"
    train(folder, *EVERYTHING, *LATEST)
    assert_same(folder, whole)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_before_the_training(whole: Path, tmp_path: Path, name: str, code: int) -> None:
    sentence = f"train.py: {name} stopped it before it trained; the same command starts it again."
    hook = signal_in("ddpm_hf.tasks.images.load_images", name)
    assert last_line(train(tmp_path / "run", *TINY, code=code, during=(hook,))) == sentence
    folder = shutil.copytree(whole, tmp_path / "resumed")
    hook = signal_in("ddpm_hf.training.setup.restore", name)
    assert last_line(train(folder, *EVERYTHING, *LATEST, code=code, during=(hook,))) == sentence
    assert_same(folder, whole)


def test_a_second_interruption_ends_the_run_at_once_but_a_second_termination_does_not(
    scripts: ScriptServer, tmp_path: Path
) -> None:
    ended(start(scripts, tmp_path / "twice", *TINY, hooks='hooks.signal_at(3, "SIGINT", send=hooks.twice)'), -2)
    assert not list((tmp_path / "twice").glob("checkpoint*"))
    output = train(tmp_path / "run", *TINY, code=143, during=(signal_at(3, "SIGTERM", send=twice),))
    assert f"{tmp_path / 'run' / 'checkpoint-3'} is whole." in last_line(output)


# --- processes that read images --------------------------------------------------------------------------------------


WITH_WORKERS = [*SHORT, "--max_train_steps", 8, "--checkpointing_steps", 8, "--dataloader_num_workers", 2]
FULL = "memory or shared memory (/dev/shm; docker run --shm-size sets its size) is full."


def assert_goes_on(folder: Path, whole: Path, sentence: str) -> None:
    """The run saved what it had done, said so, and goes on as if nothing had happened."""
    (stopped,) = folder.glob("checkpoint-*")
    assert sentence.endswith(f" {stopped} is whole. {GOES_ON}") and stopped.name != "checkpoint-8"
    train(folder, *WITH_WORKERS, *LATEST)
    shutil.rmtree(stopped)
    assert_same(folder / "checkpoint-8", whole / "checkpoint-8")


def test_when_a_worker_is_killed_the_run_saves_and_goes_on_exactly(short: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    output = train(folder, *WITH_WORKERS, code=1, during=(at(3, kill_worker),))
    sentence = last_line(output)
    assert sentence.startswith("train.py: DataLoader worker (pid ") and "Traceback" not in output
    assert f" is killed by signal: Killed, as happens when {FULL} Fewer --dataloader_num_workers" in sentence
    assert names_in(folder) == ["checkpoint-3"]  # the step that was on its way is whole
    assert_goes_on(folder, short, sentence)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_while_a_batch_does_not_come_saves_and_goes_on_exactly(
    short: Path, tmp_path: Path, workers: int
) -> None:
    folder, since = tmp_path / "run", time.monotonic()
    arguments = [*WITH_WORKERS, "--dataloader_num_workers", workers]
    output = train(folder, *arguments, code=143, during=(stuck_after(5),))
    assert last_line(output).startswith("train.py: SIGTERM stopped it. ") and "Traceback" not in output
    assert names_in(folder) == ["checkpoint-5"] and time.monotonic() - since < 30
    assert not multiprocessing.active_children()
    assert_goes_on(folder, short, last_line(output))


def test_without_room_in_shared_memory_a_run_saves_and_goes_on_exactly(
    scripts: ScriptServer, short: Path, tmp_path: Path
) -> None:
    folder, case = tmp_path / "run", tmp_path / "case.json"
    arguments = [*WITH_WORKERS, "--dataloader_num_workers", 1, "--output_dir", folder]
    case.write_text(json.dumps({"shared_memory": 2**20, "full_at": 3, "arguments": [*map(str, arguments)]}))
    run = scripts.run(small_disks.__file__, case)
    if run.code == small_disks.NO_MOUNTS:
        pytest.skip(f"no file system can be mounted: {run.output.strip()}")
    code, output = json.loads(last_line(ended(run)))
    assert code == 1 and "Traceback" not in output, output
    assert "train.py: There is no room left in shared memory (/dev/shm; docker run --shm-size" in last_line(output)
    assert "Fewer --dataloader_num_workers need less" in last_line(output)
    assert_goes_on(folder, short, last_line(output))


# --- a full disk -----------------------------------------------------------------------------------------------------


def pages(*paths: Path) -> int:
    """Bytes that files need on a disk of pages."""
    files = [path for each in paths for path in (each.rglob("*") if each.is_dir() else [each]) if path.is_file()]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
ALONG_THE_WAY = [WEIGHTS, "optimizer.bin", "ema-0.safetensors"]
# The model is saved first, and again when what is measured on it is known.
MODEL = ["unet", "scheduler", "model_index.json"]
AT_THE_END = {
    "unet": [],
    "samples.png": MODEL,
    "metrics.json": [*MODEL, "samples.png"],
    "unet again": [*MODEL, "samples.png", "metrics.json"],
}


def up_to(short: Path, file: str) -> int:
    """Room for a checkpoint, and for the next one up to the middle of this file."""
    checkpoint = short / "checkpoint-8"
    before = pages(checkpoint / "unet") if file != WEIGHTS else 0
    before += pages(checkpoint / "optimizer.bin", checkpoint / "scheduler.bin") if "ema" in file else 0
    return pages(checkpoint) + before + pages(checkpoint / file) // 2


def up_to_the_end(short: Path, file: str) -> int:
    """Room for a checkpoint, and for what comes before this file in the end."""
    written = AT_THE_END[file]
    size = pages(short / "checkpoint-8", *(short / name for name in written if name != "scheduler"))
    return size + (4096 if "scheduler" in written else 0)  # which is short as long as nothing is measured


class Filled(NamedTuple):
    """A training that filled its disk."""

    disk: Path
    left: Path  # a copy of what was on it in the end
    code: int
    output: str


@pytest.fixture(scope="module")
def filled(scripts: ScriptServer, short: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Filled]:
    """Trainings for which there was room up to some file."""
    folder, cases = tmp_path_factory.mktemp("disks"), {}
    arguments = [*map(str, SHORT), "--max_train_steps", "8"]
    for files, size, more in ((ALONG_THE_WAY, up_to, []), (AT_THE_END, up_to_the_end, ["--checkpointing_steps", "8"])):
        for file in files:
            names = {name: str(folder / f"{name}-{len(cases)}") for name in ("disk", "copy")}
            cases[file] = {**names, "size": size(short, file), "arguments": [*arguments, *more]}
    (folder / "cases.json").write_text(json.dumps(list(cases.values())))
    run = scripts.run(small_disks.__file__, folder / "cases.json")
    if run.code == small_disks.NO_MOUNTS:
        pytest.skip(f"no disk can be mounted: {run.output.strip()}")
    told = json.loads(last_line(ended(run)))
    return {
        file: Filled(Path(case["disk"]), Path(case["copy"]), *result)
        for (file, case), result in zip(cases.items(), told, strict=True)
    }


@pytest.mark.parametrize("file", ALONG_THE_WAY)
def test_a_disk_that_is_full_keeps_the_last_checkpoint(filled: dict[str, Filled], short: Path, file: str) -> None:
    disk, left, code, output = filled[file]
    assert code == 1 and "Traceback" not in output, output
    sentence = last_line(output)
    assert sentence.startswith("train.py: The checkpoint of step 8 could not be written: ")
    assert "No space left on device" in sentence or "is the disk full?" in sentence
    assert sentence.endswith(f"{disk / 'checkpoint-4'} is whole. {GOES_ON}")
    assert names_in(left) == ["checkpoint-4"]
    assert_same(left / "checkpoint-4", short / "checkpoint-4")


@pytest.mark.parametrize("file", AT_THE_END)
def test_a_disk_that_is_full_at_the_end_holds_nothing_half_written(
    filled: dict[str, Filled], short: Path, file: str
) -> None:
    disk, left, code, output = filled[file]
    assert code == 1 and "Traceback" not in output, output
    sentence = last_line(output)
    assert sentence.startswith("train.py: error: ") and "No space left on device" in sentence
    assert file.startswith("unet") or str(disk / file) in sentence
    assert sentence.endswith(f"{disk / 'checkpoint-8'} is whole. {GOES_ON}")
    assert names_in(left) == sorted(["checkpoint-8", *AT_THE_END[file]])
    assert_same(left / "checkpoint-8", short / "checkpoint-8")


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Inside, no file may grow beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_files_that_may_not_grow_keep_the_last_checkpoint(short: Path, tmp_path: Path) -> None:
    folder, arguments = Path(shutil.copytree(short, tmp_path / "run")), [*SHORT, "--max_train_steps", 8, *LATEST]
    shutil.rmtree(folder / "checkpoint-8")
    largest = (folder / "checkpoint-4" / "optimizer.bin").stat().st_size
    sentence = last_line(train(folder, *arguments, code=1, during=(files_of_at_most(largest // 2),)))
    assert "The checkpoint of step 8 could not be written: " in sentence
    assert sentence.endswith(f"{folder / 'checkpoint-4'} is whole. {GOES_ON}")
    assert not list(folder.glob("*checkpoint-8*"))
    train(folder, *arguments)
    assert_same(folder, short)


# --- numbers that are none -------------------------------------------------------------------------------------------


def assert_finite(checkpoint: Path) -> None:
    tensors = [tensor for path in checkpoint.rglob("*.safetensors") for tensor in load_file(path).values()]
    states = load(checkpoint / "optimizer.bin")["state"].values()
    tensors += [value for state in states for value in state.values()]
    assert len(tensors) > 100 and all(bool(tensor.isfinite().all()) for tensor in tensors)


def test_a_loss_that_is_no_number_names_its_step_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    # Of the third step after a checkpoint, read when the next one is due, before a report is.
    folder, arguments = tmp_path / "run", [*SHORT, "--max_train_steps", 12]
    sentence = last_line(train(folder, *arguments, code=1, during=(nan_at(7),)))
    assert sentence.startswith("train.py: The loss of step 7 is nan, the norm of its gradient nan. ")
    assert sentence.endswith("start anew with a lower learning rate, say.")
    assert names_in(folder) == ["checkpoint-4"]
    assert_finite(folder / "checkpoint-4")


def test_gradients_that_overflow_at_every_scale_stop_the_run(tmp_path: Path) -> None:
    arguments = [*SHORT, "--max_train_steps", 100, "--checkpointing_steps", 30, "--train_batch_size", 8]
    sentence = last_line(train(tmp_path / "run", *arguments, code=1, during=(overflowing({3, 5}),)))
    assert sentence.startswith("train.py: The gradients of the last 50 steps are not finite, at any scale.")
    assert names_in(tmp_path / "run") == ["checkpoint-30"]


@pytest.mark.parametrize(
    ("learning_rate", "told"),
    [
        (1e30, "The loss of step 3 is nan, the norm of its gradient "),
        (3e38, "After step 2 not all weights are finite"),
    ],
)
def test_a_learning_rate_that_is_far_too_large(tmp_path: Path, learning_rate: float, told: str) -> None:
    # It is 0 in the first step.
    rate = ["--lr_warmup_steps", 1, "--lr_scheduler", "constant_with_warmup", "--learning_rate", learning_rate]
    arguments = [*SHORT, *rate, "--max_train_steps", 9, "--checkpointing_steps", 1, "--checkpoints_total_limit", -1]
    assert told in last_line(train(tmp_path / "run", *arguments, code=1))
    kept = [tmp_path / "run" / name for name in names_in(tmp_path / "run")]
    assert 1 <= len(kept) <= 2 and kept[0].name == "checkpoint-1"
    for checkpoint in kept:
        assert_finite(checkpoint)
