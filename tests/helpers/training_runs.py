# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Small trainings for tests: what they are told, and what they leave compared byte by byte."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from script_server import EXAMPLES, Script, ScriptServer


TINY = shlex.split(
    "--block_out_channels 8 8 --layers_per_block 1 --norm_num_groups 4 --ddpm_num_steps 20 --train_batch_size 64"
    " --eval_batch_size 4 --num_quality_samples 4 --num_paths 0 --num_evaluations 2 --save_images_epochs 0"
    " --max_measured_images 64"
)
# 15 steps make an epoch; checkpoints, validations, sample grids and the ends of epochs come at steps of their own.
EVERYTHING = [
    *TINY,
    *shlex.split(
        "--max_train_steps 20 --train_batch_size 50 --gradient_accumulation_steps 2 --dropout 0.1 --random_flip"
        " --ema_max_decay 0.99 0.9 --checkpointing_steps 8 --validation_steps 6 --max_validation_images 64"
        " --num_validation_evaluations 2 --save_images_epochs 1"
    ),
]
LATEST = ["--resume_from_checkpoint", "latest"]
TIMES = {"seconds", "train_seconds"}
_numbers = itertools.count()


def start(scripts: ScriptServer, folder: Path, *arguments: object, prelude: str = "", **options: Any) -> Script:
    """A training into the folder, with one process."""
    script = after(folder.parent, prelude) if prelude else "train.py"
    return scripts.start(script, *arguments, "--output_dir", folder, **options)


def start_together(
    scripts: ScriptServer, processes: int, folder: Path, *arguments: object, prelude: str = ""
) -> list[Script]:
    """A training into the folder, with several processes."""
    script = after(folder.parent, prelude) if prelude else "train.py"
    return scripts.start_together(processes, script, *arguments, "--output_dir", folder)


def ended(run: Script, code: int = 0) -> str:
    """What a run printed, when it has ended with this code and without a traceback."""
    assert run.wait() == code, run.output
    assert "Traceback" not in run.output, run.output
    return run.output


def refused(scripts: ScriptServer, folder: Path, *arguments: object) -> str:
    """The sentence with which a training is refused."""
    sentence = last_line(ended(start(scripts, folder, *arguments), 2))
    assert sentence.startswith("train.py: error: "), sentence
    return sentence


def after(folder: Path, prelude: str, script: str = "train.py") -> Path:
    """A script that does what one of the examples does, after the prelude."""
    path = folder / f"after-{next(_numbers)}.py"
    first = "import os, runpy, signal, sys\nimport ddpm_hf.runtime.threads\n"
    last = f"\nsys.argv[0] = {str(EXAMPLES / script)!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    path.write_text(first + prelude + last)
    return path


def signal_at(batch: int, name: str, ranks: Iterable[int] = (0, 1)) -> str:
    """A prelude: the process, with its workers, gets the signal when it has read so many training batches."""
    return f"""
from ddpm_hf.data import batches
def signalled(self, read=batches.TrainingBatches.__iter__):
    for k, batch in enumerate(read(self), 1):
        if k == {batch} and int(os.environ.get("RANK", 0)) in {tuple(ranks)}:
            os.killpg(0, signal.{name})
        yield batch
batches.TrainingBatches.__iter__ = signalled
"""


def signal_in(function: str, name: str, call: int = 1, ranks: Iterable[int] = (0, 1)) -> str:
    """A prelude: the process gets the signal when it calls the function, `module.name`, for this time."""
    return done_in(function, f"os.kill(os.getpid(), signal.{name})", call, ranks)


def done_in(function: str, what: str, call: int = 1, ranks: Iterable[int] = (0, 1)) -> str:
    """A prelude: the process does this first when it calls the function, `module.name`, for this time."""
    module, _, function = function.rpartition(".")
    return f"""
import {module}, itertools
def doing(*arguments, _function={module}.{function}, _calls=itertools.count(1), **options):
    if next(_calls) == {call} and int(os.environ.get("RANK", 0)) in {tuple(ranks)}:
        {what}
    return _function(*arguments, **options)
{module}.{function} = doing
"""


def nan_at(batch: int, rank: int = 0) -> str:
    """A prelude: the images of this batch, on one process, are no numbers."""
    return f"""
from ddpm_hf.data import batches
def broken(self, read=batches.TrainingBatches.__iter__):
    for k, batch in enumerate(read(self), 1):
        is_broken = k == {batch} and int(os.environ.get("RANK", 0)) == {rank}
        yield batch._replace(x_0=batch.x_0 * float("nan")) if is_broken else batch
batches.TrainingBatches.__iter__ = broken
"""


def losses_to(file: Path) -> str:
    """A prelude: the process writes the loss of every step of all processes into a file."""
    return f"""
from ddpm_hf.training import tracking
add = tracking.Progress.add
def recorded(self, t, losses, weights, norm):
    add(self, t, losses, weights, norm)
    if int(os.environ.get("RANK", 0)) == 0:
        with open({str(file)!r}, "a") as file:
            print(float(self.losses[-1]), file=file)
tracking.Progress.add = recorded
"""


def losses_in(file: Path) -> list[float]:
    return [float(line) for line in file.read_text().splitlines()]


def last_line(output: str) -> str:
    return output.rstrip().splitlines()[-1]


def left(folder: Path) -> dict[str, Any]:
    """What a run left: JSON without times and names by chance, all else byte by byte.

    Not the card, which is made of the rest, nor what was told to trackers.
    """
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        str(name): json_without_times(path) if path.suffix == ".json" else path.read_bytes()
        for name, path in files.items()
        if name.name != "README.md" and name.parts[0] != "logs"
    }


def json_without_times(path: Path) -> Any:
    content = json.loads(path.read_text())
    return {name: value for name, value in content.items() if name not in TIMES | {"run_id"}}


def assert_same(folder: Path, other: Path) -> None:
    """Assert that two runs, or checkpoints, left the same."""
    one, two = left(folder), left(other)
    assert sorted(one) == sorted(two), sorted(one.keys() ^ two.keys())
    others = [name for name in one if one[name] != two[name]]
    assert not others, others
