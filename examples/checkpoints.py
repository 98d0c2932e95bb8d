# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints: all that a run needs to go on as if it had never stopped, complete or absent.

    checkpoint-500/
        unet/                     the weights, as diffusers saves them
        optimizer.bin scheduler.bin random_states_<rank>.pkl (scaler.pt)     as Accelerate saves them
        ema-<i>.safetensors       the averaged weights of the i-th decay
        importance.safetensors    the second moments of the loss, where times are drawn by it
        data_<rank>.json          where a stream of images goes on
        training.json             the step, and the settings that decide the course of the run

Tensors are safetensors, or files that torch loads with weights only; the rest is JSON. Where an engine divides the
model (FSDP, DeepSpeed), weights and optimizer are in its own format.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from arguments import LATEST
from output_folder import disk_errors, flush, partial_of, put, remove_folder
from safetensors import SafetensorError
from stopping import RunStopped


NAME = re.compile(r"checkpoint-(\d+)")


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, the earliest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of optimisation steps that were made before it."""
    return int(NAME.fullmatch(checkpoint.name)[1])


def find_checkpoint(folder: Path, name: str) -> Path | None:
    """The checkpoint to go on from: a path, a name in the run's folder, or the latest; None if there is no latest.

    Raises:
        ValueError: if there is none of this name.
    """
    if name == LATEST:
        return next(reversed(checkpoints(folder)), None)
    for path in (Path(name), folder / name):
        if NAME.fullmatch(path.name) and path.is_dir():
            return path
    there = ", ".join(path.name for path in checkpoints(folder)) or "none"
    raise ValueError(f"`resume_from_checkpoint` {name} is no checkpoint; {folder} holds {there}.")


def save_checkpoint(
    accelerator: Accelerator, folder: Path, step: int, write: Callable[[Path], Any], limit: int | None
) -> Path:
    """Let every process write its part of a checkpoint; older ones go when it stands.

    Args:
        folder: the run's, which all processes see.
        write: called on every process with the folder to write into.
        limit: checkpoints to keep, the new one included; None or a negative one for all.

    Raises:
        RunStopped: on every process, if one of them could not write; the checkpoints before it are as they were.
    """
    target = folder / f"checkpoint-{step}"
    partial = partial_of(target)

    def make() -> None:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)

    def fill() -> None:
        write(partial)
        flush(partial)

    try:
        for part in (make, fill):
            _on_all(accelerator, part)
    except OSError as error:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        last = next(reversed(checkpoints(folder)), None)
        rest = "There is no checkpoint before it." if last is None else f"{last} is whole; go on from it with {GO_ON}."
        raise RunStopped(f"The checkpoint of step {step} could not be written: {error}. {rest}") from error
    if accelerator.is_main_process:
        put(partial, target)
        for old in checkpoints(folder)[: -limit if limit is not None and limit > 0 else 0]:
            if old != target:
                remove_folder(old)
    accelerator.wait_for_everyone()
    return target


GO_ON = "--resume_from_checkpoint latest"


def _on_all(accelerator: Accelerator, part: Callable[[], None]) -> None:
    """Do a part on every process; an OSError on all of them if it fails on one."""
    failure = None
    try:
        with disk_errors():
            part()
    except OSError as error:
        failure = error.strerror or str(error)
    failures = [each for each in gather_object([failure]) if each is not None]
    if failures:
        raise OSError(failures[0])


def clear_remains(folder: Path) -> None:
    """Remove what a process that was killed left half written or half removed."""
    for pattern in (".checkpoint-*.partial", ".checkpoint-*.old"):
        for remains in folder.glob(pattern):
            shutil.rmtree(remains, ignore_errors=True)


def read_checkpoint(checkpoint: Path, read: Callable[[], Any]) -> None:
    """Let `read` restore a run from a checkpoint.

    Raises:
        ValueError: if it cannot be read, or is another run's.
    """
    failures = (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError)
    try:
        read()
    except failures as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{checkpoint} cannot be gone on from: {reason[:500]}") from error


def check_course(recorded: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError if a run with these settings does not go on the one that was recorded."""
    names = sorted(name for name in recorded.keys() | now.keys() if recorded.get(name) != now.get(name))
    if names:
        told = "; ".join(f"{name} was {recorded.get(name)!r} and is {now.get(name)!r}" for name in names)
        raise ValueError(f"its settings are others: {told}.")


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text("utf-8"))
