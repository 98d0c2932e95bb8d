# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints: everything that a run needs to be resumed exactly. A checkpoint is complete or does not exist.

    checkpoint-500/
        unet/ (or vae/)           the weights, as diffusers saves them
        optimizer.bin scheduler.bin random_states_<rank>.pkl (scaler.pt)     as Accelerate saves them
        ema-<i>.safetensors       the averaged weights of the i-th decay
        importance.safetensors    the second moments of the loss, if timesteps are drawn by importance
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

from ..hub.autoencoder_card import AUTOENCODER_INDEX
from ..hub.image_encoder_card import TEXT_PROJECTION
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
PARTS = ("unet", "unet_ema_*", "scheduler", "tokenizer", "text_encoder", "vae", "vae_ema_*")
PARTS += (AUTOENCODER_INDEX, "diffusion_pytorch_model*")  # of an autoencoder alone
PARTS += ("model*.safetensors", TEXT_PROJECTION)  # of an image encoder alone
PARTS += ("image_encoder", "prior", "prior_ema_*", "prior_scheduler", "decoder", "decoder_scheduler")
PICTURES = ("*_information.png", "variations.png", "interpolations.png")
LEFT = ("samples", *PARTS, INDEX, CARD, SAMPLES, METRICS, *PICTURES)  # by a run, besides checkpoints


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, the earliest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of optimisation steps before a checkpoint."""
    return int(NAME.fullmatch(checkpoint.name)[1])


def agreed_checkpoint(accelerator: Accelerator, folder: Path, name: str) -> Path | None:
    """The result of `find_checkpoint` on the main process, sent to all processes; all raise its errors."""
    found: list[Path | None] = [None]

    def find() -> None:
        if accelerator.is_main_process:
            found[0] = find_checkpoint(folder, name)

    on_all(find, ValueError)
    return broadcast_object_list(found)[0]


def find_checkpoint(folder: Path, name: str) -> Path | None:
    """The checkpoint to resume from: a path, a name in the run's folder, or the latest undamaged checkpoint.

    Returns None if the latest is requested and the folder has no checkpoints.

    Raises:
        ValueError: if there is no checkpoint of this name, if it is damaged, or if all checkpoints are damaged.
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
    """The latest undamaged checkpoint; prints a line for each damaged one that is skipped."""
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

    The oldest checkpoints are removed, and those of later steps, which remain if a run is resumed at an earlier step.

    Args:
        folder: the run's folder, which all processes can access.
        write: writes into the folder that it is given; called on every process.
        limit: number of checkpoints to keep, including the new one; None or a negative number keeps all.
        is_together: whether processes wait for each other while they write, as they do if an engine divides the
            model.

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

    def flush_all() -> None:  # after all processes have written, since files come and go until then
        flush(partial)

    def publish() -> None:
        if accelerator.is_main_process:
            put(partial, target)

    def tidy() -> None:
        if accelerator.is_main_process:
            _remove_beyond(folder, step, limit)

    try:
        _on_all(make)
        # If the processes wait for each other while they write, one that fails must not wait in `on_all` as well.
        disk_errors()(fill)() if is_together else _on_all(fill)
        for part in (seal, flush_all, publish):
            _on_all(part)
    except OSError as error:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        what = f"The checkpoint of step {step} could not be written: {error}."
        raise RunStopped(f"{what} {how_to_resume(folder)}") from error
    _on_all(tidy)
    return target


def _remove_beyond(folder: Path, step: int, limit: int | None) -> None:
    """Remove checkpoints of later steps, and the oldest checkpoints beyond the limit."""
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
    """Call `read`, which reads from a checkpoint, and return its result.

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
