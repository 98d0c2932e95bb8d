# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Ends of a training before its time: each is one sentence, which tells what happened and how to go on."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from accelerate.utils.other import load
from safetensors.torch import load_file
from script_server import ScriptServer
from training_runs import EVERYTHING, LATEST, TINY, assert_same, ended, last_line, nan_at, signal_at, signal_in, start


SHORT = [*TINY, *shlex.split("--checkpointing_steps 4 --checkpoints_total_limit -1 --num_quality_samples 0")]
GOES_ON = "The same command with --resume_from_checkpoint latest goes on from there."


# --- signals ---------------------------------------------------------------------------------------------------------


def test_a_signal_wherever_it_comes_is_told_and_gone_on_from(
    scripts: ScriptServer, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for function, call, name, step in [
        ("ddpm_hf.training.finish._score", 1, "SIGINT", 7),  # the validation of step 6
        ("ddpm_hf.training.checkpoint_contents.write_state", 1, "SIGTERM", 9),  # the checkpoint of step 8
        ("ddpm_hf.training.finish.draw", 1, "SIGTERM", 16),  # the sample grid of step 15
        ("ddpm_hf.training.checkpoint_contents.is_finite", 2, "SIGTERM", 20),  # after the last step
        ("ddpm_hf.training.finish._score", 2, "SIGINT", 20),  # the validations of the averages at the end
        ("ddpm_hf.training.finish.measured_errors", 1, "SIGTERM", 20),
        ("ddpm_hf.evaluation.frechet_distance.quality_of", 1, "SIGINT", 20),
    ]:
        run = start(scripts, folder, *EVERYTHING, *LATEST, prelude=signal_in(function, name, call))
        sentence = last_line(ended(run, 143 if name == "SIGTERM" else 130))
        assert sentence == f"train.py: {name} stopped it. {folder / f'checkpoint-{step}'} is whole. {GOES_ON}"
    ended(start(scripts, folder, *EVERYTHING, *LATEST))
    assert_same(folder, whole)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_before_the_training(
    scripts: ScriptServer, whole: Path, tmp_path: Path, name: str, code: int
) -> None:
    sentence = f"train.py: {name} stopped it before it trained; the same command starts it again."
    run = start(scripts, tmp_path / "run", *TINY, prelude=signal_in("ddpm_hf.tasks.images.load_images", name))
    assert last_line(ended(run, code)) == sentence
    folder = shutil.copytree(whole, tmp_path / "resumed")
    run = start(scripts, folder, *EVERYTHING, *LATEST, prelude=signal_in("ddpm_hf.training.setup.restore", name))
    assert last_line(ended(run, code)) == sentence
    assert_same(folder, whole)


def test_a_second_interruption_ends_the_run_at_once_but_a_second_termination_does_not(
    scripts: ScriptServer, tmp_path: Path
) -> None:
    twice = start(scripts, tmp_path / "twice", *TINY, prelude=signal_at(3, "SIGINT") + signal_at(3, "SIGINT"))
    ended(twice, -2)
    assert not list((tmp_path / "twice").glob("checkpoint*"))
    output = ended(start(scripts, tmp_path / "run", *TINY, prelude=2 * signal_at(3, "SIGTERM")), 143)
    assert f"{tmp_path / 'run' / 'checkpoint-3'} is whole." in last_line(output)


# --- a full disk -----------------------------------------------------------------------------------------------------


def small_disk(folder: Path, size: int, copy: Path) -> str:
    """A prelude: the folder is a disk of its own, of so many bytes; what is on it at the end is copied."""
    return f"""
import atexit, ctypes, shutil
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments):
        print(name, os.strerror(ctypes.get_errno()), flush=True)
        os._exit(77)
user, group, new_user, new_mounts, private = os.getuid(), os.getgid(), 0x10000000, 0x20000, 0x44000
call("unshare", new_mounts | (new_user if user else 0))
if user:
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {{user}} 1"), ("gid_map", f"0 {{group}} 1")):
        with open(f"/proc/self/{{name}}", "w") as file:
            file.write(line)
call("mount", b"none", b"/", None, private, None)
os.mkdir({str(folder)!r})
call("mount", b"none", {str(folder)!r}.encode(), b"tmpfs", 0, b"size={size}")
atexit.register(shutil.copytree, {str(folder)!r}, {str(copy)!r})
"""


def pages(*paths: Path) -> int:
    """Bytes that files need on a disk of pages."""
    files = [path for each in paths for path in (each.rglob("*") if each.is_dir() else [each]) if path.is_file()]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)


@pytest.fixture(scope="module")
def short(scripts: ScriptServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that was never stopped."""
    folder = tmp_path_factory.mktemp("short") / "run"
    ended(start(scripts, folder, *SHORT, "--max_train_steps", 8))
    return folder


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "optimizer.bin", "ema-0.safetensors"])
def test_a_disk_that_is_full_keeps_the_last_checkpoint(
    scripts: ScriptServer, short: Path, tmp_path: Path, file: str
) -> None:
    # Room for a checkpoint, and for the next one up to the middle of this file.
    checkpoint = short / "checkpoint-8"
    before = pages(checkpoint / "unet") if file != "unet/diffusion_pytorch_model.safetensors" else 0
    before += pages(checkpoint / "optimizer.bin", checkpoint / "scheduler.bin") if "ema" in file else 0
    size = pages(checkpoint) + before + pages(checkpoint / file) // 2
    disk, folder = tmp_path / "disk", tmp_path / "run"
    run = start(scripts, disk, *SHORT, "--max_train_steps", 8, prelude=small_disk(disk, size, folder))
    if run.wait() == 77:
        pytest.skip(f"no disk can be mounted: {run.output.strip()}")
    sentence = last_line(ended(run, 1))
    assert sentence.startswith("train.py: The checkpoint of step 8 could not be written: ")
    assert "No space left on device" in sentence or "is the disk full?" in sentence
    assert sentence.endswith(f"{disk / 'checkpoint-4'} is whole. {GOES_ON}")
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-4"]
    assert_same(folder / "checkpoint-4", short / "checkpoint-4")


@pytest.mark.parametrize("file", ["unet", "samples.png", "metrics.json", "unet again"])
def test_a_disk_that_is_full_at_the_end_holds_nothing_half_written(
    scripts: ScriptServer, short: Path, tmp_path: Path, file: str
) -> None:
    # The model is saved first, and again when what is measured on it is known.
    model = ["unet", "scheduler", "model_index.json"]
    written = {
        "unet": [],
        "samples.png": model,
        "metrics.json": [*model, "samples.png"],
        "unet again": [*model, "samples.png", "metrics.json"],
    }[file]
    size = pages(short / "checkpoint-8", *(short / name for name in written if name != "scheduler"))
    size += 4096 if "scheduler" in written else 0  # which is short as long as nothing is measured
    disk, folder = tmp_path / "disk", tmp_path / "run"
    arguments = [*SHORT, "--max_train_steps", 8, "--checkpointing_steps", 8]
    run = start(scripts, disk, *arguments, prelude=small_disk(disk, size, folder))
    if run.wait() == 77:
        pytest.skip(f"no disk can be mounted: {run.output.strip()}")
    sentence = last_line(ended(run, 1))
    assert sentence.startswith("train.py: error: ") and "No space left on device" in sentence
    assert file.startswith("unet") or str(disk / file) in sentence
    assert sentence.endswith(f"{disk / 'checkpoint-8'} is whole. {GOES_ON}")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["checkpoint-8", *written])
    assert_same(folder / "checkpoint-8", short / "checkpoint-8")


def test_files_that_may_not_grow_keep_the_last_checkpoint(scripts: ScriptServer, short: Path, tmp_path: Path) -> None:
    folder, arguments = Path(shutil.copytree(short, tmp_path / "run")), [*SHORT, "--max_train_steps", 8, *LATEST]
    shutil.rmtree(folder / "checkpoint-8")
    largest = (folder / "checkpoint-4" / "optimizer.bin").stat().st_size
    sentence = last_line(ended(start(scripts, folder, *arguments, limits={"RLIMIT_FSIZE": largest // 2}), 1))
    assert "The checkpoint of step 8 could not be written: " in sentence
    assert sentence.endswith(f"{folder / 'checkpoint-4'} is whole. {GOES_ON}")
    assert not list(folder.glob("*checkpoint-8*"))
    ended(start(scripts, folder, *arguments))
    assert_same(folder, short)


# --- numbers that are none -------------------------------------------------------------------------------------------


def assert_finite(checkpoint: Path) -> None:
    tensors = [tensor for path in checkpoint.rglob("*.safetensors") for tensor in load_file(path).values()]
    states = load(checkpoint / "optimizer.bin")["state"].values()
    tensors += [value for state in states for value in state.values()]
    assert len(tensors) > 100 and all(bool(tensor.isfinite().all()) for tensor in tensors)


def test_a_loss_that_is_no_number_names_its_step_and_keeps_the_last_checkpoint(
    scripts: ScriptServer, tmp_path: Path
) -> None:
    # Of the third step after a checkpoint, read when the next one is due, before a report is.
    folder, arguments = tmp_path / "run", [*SHORT, "--max_train_steps", 12]
    sentence = last_line(ended(start(scripts, folder, *arguments, prelude=nan_at(7)), 1))
    assert sentence.startswith("train.py: The loss of step 7 is nan, the norm of its gradient nan. ")
    assert sentence.endswith("start anew with a lower learning rate, say.")
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-4"]
    assert_finite(folder / "checkpoint-4")


def test_gradients_that_overflow_at_every_scale_stop_the_run(scripts: ScriptServer, tmp_path: Path) -> None:
    # As on a GPU in fp16, where steps whose gradient is not finite are left out.
    overflowing = """
import torch
from ddpm_hf.training import setup as preparation, tracking
def scaled(*arguments, made=preparation.Accelerator, **options):
    accelerator = made(*arguments, **options)
    accelerator.scaler = torch.amp.GradScaler("cpu", enabled=False)
    return accelerator
preparation.Accelerator = scaled
def infinite(self, t, losses, weights, norm, add=tracking.Progress.add):
    add(self, t, losses, weights, norm if len(steps) in (3, 5) else float("inf"))
    steps.append(1)
steps, tracking.Progress.add = [], infinite
"""
    arguments = [*SHORT, "--max_train_steps", 100, "--checkpointing_steps", 30]
    sentence = last_line(ended(start(scripts, tmp_path / "run", *arguments, prelude=overflowing), 1))
    assert sentence.startswith("train.py: The gradients of the last 50 steps are not finite, at any scale.")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-30"]


@pytest.mark.parametrize(
    ("learning_rate", "told"),
    [
        (1e30, "The loss of step 3 is nan, the norm of its gradient "),
        (3e38, "After step 2 not all weights are finite"),
    ],
)
def test_a_learning_rate_that_is_far_too_large(
    scripts: ScriptServer, tmp_path: Path, learning_rate: float, told: str
) -> None:
    # It is 0 in the first step.
    rate = ["--lr_warmup_steps", 1, "--lr_scheduler", "constant_with_warmup", "--learning_rate", learning_rate]
    arguments = [*SHORT, *rate, "--max_train_steps", 9, "--checkpointing_steps", 1, "--checkpoints_total_limit", -1]
    assert told in last_line(ended(start(scripts, tmp_path / "run", *arguments), 1))
    kept = sorted((tmp_path / "run").iterdir())
    assert 1 <= len(kept) <= 2 and kept[0].name == "checkpoint-1"
    for checkpoint in kept:
        assert_finite(checkpoint)
