# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints: everything that a run needs to be resumed exactly. A checkpoint is complete, or it is not there.

    checkpoint-500/
        unet/                     the weights, as diffusers saves them
        optimizer.bin scheduler.bin random_states_<rank>.pkl (scaler.pt)     as Accelerate saves them
        ema-<i>.safetensors       the averaged weights of the i-th decay
        importance.safetensors    the second moments of the loss, where times are drawn by it
        data_<rank>.json          the position in a stream of images
        training.json             the step, and the settings that determine the result of the run
    checksums.json            the SHA-256 of every other file

Tensors are safetensors, or files that torch loads with weights only; the rest is JSON. Where an engine divides the
model (FSDP, DeepSpeed), weights and optimizer are in its own format.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from ..hub.model_card import CARD, SAMPLES
from ..hub.push import INDEX
from ..results import METRICS
from ..runtime.checksums import damage_of, write_checksums
from ..runtime.distributed import on_all
from ..runtime.errors import RunStopped, told
from ..runtime.output_folder import disk_errors, flush, partial_of, put, remove_folder
from ..runtime.signals import Interrupted
from .arguments import LATEST
from .tracking import tell


Read = TypeVar("Read")
NAME = re.compile(r"checkpoint-(\d+)")
PARTS = ("unet", "unet_ema_*", "scheduler", "tokenizer", "text_encoder")
LEFT = ("samples", *PARTS, INDEX, CARD, SAMPLES, METRICS, "*_information.png")  # by a run, besides checkpoints


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, the earliest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of optimisation steps that were made before it."""
    return int(NAME.fullmatch(checkpoint.name)[1])


def agreed_checkpoint(accelerator: Accelerator, folder: Path, name: str) -> Path | None:
    """What `find_checkpoint` finds on the main process, on all of them, with its errors."""
    found: list[Path | None] = [None]

    def find() -> None:
        if accelerator.is_main_process:
            found[0] = find_checkpoint(folder, name)

    on_all(find, ValueError)
    return broadcast_object_list(found)[0]


def find_checkpoint(folder: Path, name: str) -> Path | None:
    """The checkpoint to resume from: a path, a name in the run's folder, or the latest that is not damaged.

    None if there is no checkpoint at all, and the latest is asked for.

    Raises:
        ValueError: if there is none of this name, or it is damaged, or all are.
    """
    if name == LATEST:
        return _latest(folder)
    for path in (Path(name), folder / name):
        if NAME.fullmatch(path.name) and path.is_dir():
            damage = damage_of(path)
            if damage is not None:
                raise ValueError(f"`resume_from_checkpoint` {path} is damaged: {damage}; choose another, or latest.")
            return path
    there = ", ".join(path.name for path in checkpoints(folder)) or "none"
    raise ValueError(f"`resume_from_checkpoint` {name} is no checkpoint; {folder} holds {there}.")


def _latest(folder: Path) -> Path | None:
    """The latest checkpoint that is not damaged; those that are are told of."""
    there = checkpoints(folder)
    for path in reversed(there):
        damage = damage_of(path)
        if damage is None:
            return path
        tell(f"{path} is damaged and is left out: {damage}.")
    if there:
        raise ValueError(f"`resume_from_checkpoint` latest: all checkpoints of {folder} are damaged.")
    return None


def remove_run(folder: Path) -> None:
    """Remove what an earlier run left in the folder, except its logs."""
    for old in (*checkpoints(folder), *(path for pattern in LEFT for path in folder.glob(pattern))):
        if old.is_dir():
            remove_folder(old)
        else:
            old.unlink(missing_ok=True)


def last_step(folder: Path) -> int:
    """The step of the last checkpoint; 0 without any."""
    return max(map(step_of, checkpoints(folder)), default=0)


def save_checkpoint(
    accelerator: Accelerator,
    folder: Path,
    step: int,
    write: Callable[[Path], Any],
    limit: int | None,
    is_together: bool = False,
) -> Path:
    """Let every process write its part of a checkpoint, and then remove checkpoints beyond the limit.

    The oldest ones are removed, and those of later steps: the run was resumed from before them.

    Args:
        folder: the run's, which all processes see.
        write: called on every process with the folder to write into.
        limit: checkpoints to keep, the new one included; None or a negative one for all.
        is_together: whether processes wait for each other while they write, as where an engine divides the model.

    Raises:
        RunStopped: if a process could not write. All processes raise it, except where they write together. Earlier
            checkpoints are unchanged.
    """
    target = folder / f"checkpoint-{step}"
    partial = partial_of(target)

    def make() -> None:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)

    def fill() -> None:
        write(partial)

    def seal() -> None:
        if accelerator.is_main_process:
            write_checksums(partial)

    def secure() -> None:  # when nobody writes any more: files come and go while they are written
        flush(partial)

    def stand() -> None:
        if accelerator.is_main_process:
            put(partial, target)

    def tidy() -> None:
        if accelerator.is_main_process:
            _remove_beyond(folder, step, limit)

    try:
        _on_all(make)
        # Where it is waited for in the midst of writing, a process that cannot goes on to nobody.
        disk_errors()(fill)() if is_together else _on_all(fill)
        for part in (seal, secure, stand):
            _on_all(part)
    except OSError as error:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        what = f"The checkpoint of step {step} could not be written: {error}."
        raise RunStopped(f"{what} {how_to_resume(folder)}") from error
    _on_all(tidy)
    return target


def _remove_beyond(folder: Path, step: int, limit: int | None) -> None:
    """Remove checkpoints of later steps, and the oldest ones beyond the limit."""
    until = [checkpoint for checkpoint in checkpoints(folder) if step_of(checkpoint) <= step]
    kept = until[-limit:] if limit is not None and limit > 0 else until
    for other in set(checkpoints(folder)).difference(kept):
        remove_folder(other)


GO_ON = "--resume_from_checkpoint latest"


def how_to_resume(folder: Path) -> str:
    """A sentence on how to resume a run that has stopped."""
    last = next(reversed(checkpoints(folder)), None)
    if last is None:
        return "There is no checkpoint to go on from."
    return f"{last} is whole. The same command with {GO_ON} goes on from there."


@contextlib.contextmanager
def telling_how_to_resume(folder: Path) -> Iterator[None]:
    """Inside, an error that ends the run is followed by a sentence on how to resume it.

    Raises:
        RunStopped: for a signal, a file that cannot be written, a process that has ended, or full memory.
    """
    try:
        yield
    except Interrupted as stop:
        raise RunStopped(f"{stop}. {how_to_resume(folder)}", stop.status) from stop
    except OSError as error:
        raise RunStopped(f"error: {' '.join(str(error).split())}. {how_to_resume(folder)}") from error
    except RuntimeError as error:
        what = told(error)
        if what is None:
            raise
        raise RunStopped(f"{what} {how_to_resume(folder)}") from error


def _on_all(part: Callable[[], None]) -> None:
    """Do a part of the writing on every process; if it fails on one, raise OSError on all of them."""
    on_all(disk_errors()(part), OSError, lambda error: error.strerror or str(error))


def read_checkpoint(checkpoint: Path, read: Callable[[], Read]) -> Read:
    """What `read` reads of a checkpoint, or restores a run from.

    Raises:
        ValueError: if the checkpoint cannot be read, or belongs to another run.
    """
    failures = (OSError, LookupError, TypeError, ValueError, AttributeError, EOFError, RuntimeError)
    failures += (SafetensorError, pickle.UnpicklingError)
    try:
        return read()
    except failures as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{checkpoint} cannot be gone on from: {reason[:500]}") from error
