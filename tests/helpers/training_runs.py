# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Small trainings for tests: their arguments, and a comparison of their results byte by byte."""

from __future__ import annotations

import contextlib
import itertools
import json
import shlex
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import in_process
import torch
from hooks import few_digits
from safetensors.torch import load_file
from script_server import EXAMPLES, Script, ScriptServer

from ddpm_hf.runtime.output_folder import LOCK


# Without attention, with few digits and a chain of six steps, a run is done in a second.
TINY_MODEL = shlex.split(
    "--block_out_channels 8 8 --down_block_types DownBlock2D DownBlock2D --up_block_types UpBlock2D UpBlock2D"
    " --layers_per_block 1 --norm_num_groups 4"
)
TINY = [
    *TINY_MODEL,
    *shlex.split(
        "--ddpm_num_steps 6 --train_batch_size 16 --eval_batch_size 4 --num_quality_samples 4 --num_paths 0"
        " --num_evaluations 2 --save_images_epochs 0 --max_measured_images 4"
    ),
]
# Of 150 images, 15 steps make an epoch. Checkpoints, validations and the ends of epochs come at steps of their own.
EVERYTHING = [
    *TINY,
    *shlex.split(
        "--max_train_steps 20 --train_batch_size 5 --gradient_accumulation_steps 2 --dropout 0.1 --random_flip"
        " --ema_max_decay 0.99 0.9 --checkpointing_steps 8 --validation_steps 6 --max_validation_images 16"
        " --num_validation_evaluations 2 --save_images_epochs 1"
    ),
]
SCORED = [
    *TINY_MODEL,
    *shlex.split(
        "--ddpm_num_steps 20 --max_train_steps 4 --train_batch_size 64 --eval_batch_size 4 --max_measured_images 64"
        " --num_paths 4 --save_images_epochs 1 --num_quality_samples 8"
    ),
]
LATEST = ["--resume_from_checkpoint", "latest"]
GOES_ON = "The same command with --resume_from_checkpoint latest goes on from there."
TIMES = {"seconds", "train_seconds", "seconds_by_phase"}
BY_CHANCE = {"run_id", "training.json"}  # the second in checksums.json, since it holds times
_numbers = itertools.count()


# --- in the test's own process ---------------------------------------------------------------------------------------


def train(
    folder: Path,
    *arguments: object,
    code: int = 0,
    during: tuple[AbstractContextManager, ...] = (),
    digits: AbstractContextManager | None = None,
) -> str:
    """Train into the folder, with hooks; asserts the exit code and returns the output.

    Trains on a few digits unless the arguments name other data.
    """
    with contextlib.ExitStack() as stack:
        for hook in (digits or few_digits(), *during):
            stack.enter_context(hook)
        done = in_process.run("train.py", *arguments, "--output_dir", folder)
    assert done.code == code, done.output
    return done.output


def refused(folder: Path, *arguments: object) -> str:
    """The sentence with which a training refuses its arguments."""
    sentence = last_line(train(folder, *arguments, code=2))
    assert sentence.startswith("train.py: error: "), sentence
    return sentence


# --- in processes of their own ---------------------------------------------------------------------------------------


def start(scripts: ScriptServer, folder: Path, *arguments: object, hooks: str = "", **options: Any) -> Script:
    """Start a training into the folder with one process, on a few digits unless the arguments name other data."""
    return scripts.start(_hooked(folder, hooks), *arguments, "--output_dir", folder, **options)


def start_together(
    scripts: ScriptServer, processes: int, folder: Path, *arguments: object, hooks: str = ""
) -> list[Script]:
    """Start a training into the folder with several processes."""
    return scripts.start_together(processes, _hooked(folder, hooks), *arguments, "--output_dir", folder)


def _hooked(folder: Path, hooks: str) -> Path:
    return after(folder.parent, f"import hooks\nhooks.install(hooks.few_digits(), {hooks})\n")


def after(folder: Path, prelude: str, script: str | Path = "train.py") -> Path:
    """A script that runs one of the examples after a prelude, which may import the helpers of tests."""
    path = folder / f"after-{next(_numbers)}.py"
    first = f"import os, runpy, signal, sys\nsys.path.append({str(Path(__file__).parent)!r})\n"
    last = f"\nsys.argv[0] = {str(EXAMPLES / script)!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    path.write_text(first + prelude + last)
    return path


def ended(run: Script, code: int = 0) -> str:
    """Wait for the end of a run; asserts its exit code and that there is no traceback, and returns its output."""
    assert run.wait() == code, run.output
    assert "Traceback" not in run.output, run.output
    return run.output


# --- what they leave -------------------------------------------------------------------------------------------------


def last_line(output: str) -> str:
    return output.rstrip().splitlines()[-1]


def left(folder: Path) -> dict[str, Any]:
    """The files of a run: JSON without times and random names, all other files as bytes.

    It leaves out the card, which follows from the rest, and the logs of trackers.
    """
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        str(name): json_without_times(path) if path.suffix == ".json" else path.read_bytes()
        for name, path in files.items()
        if name.name not in ("README.md", LOCK) and name.parts[0] != "logs"
    }


def names_in(folder: Path) -> list[str]:
    """The sorted names in a run's folder, without the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


def json_without_times(path: Path) -> Any:
    content = json.loads(path.read_text())
    return {name: value for name, value in content.items() if name not in TIMES | BY_CHANCE}


def assert_same(folder: Path, other: Path) -> None:
    """Assert that two runs or two checkpoints have the same files."""
    one, two = left(folder), left(other)
    assert sorted(one) == sorted(two), sorted(one.keys() ^ two.keys())
    others = [name for name in one if one[name] != two[name]]
    assert not others, others


def reports_of_equal_weights(one: Path, two: Path, atol: float) -> list[Any]:
    """What metrics.json has of two runs, whose models must have the same weights."""
    weights = [load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (one, two)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=0, atol=atol)
    return [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
