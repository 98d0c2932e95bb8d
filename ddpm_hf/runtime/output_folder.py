# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Writing results so that nothing is lost: no run over another, no half-written file under a final name.

Whatever is written is written beside its place, flushed to the disk, and renamed: it is whole, or it is not there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from .distributed import on_all


LOCK = ".lock"
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # what such file systems answer
_LOCKS: dict[Path, FileLock] = {}  # those of this process, which keeps them as long as it lives


def claim_folder(path: str, overwrite: bool, accelerator: Accelerator | None = None) -> Path:
    """The folder of a run, made if need be, which no other run can claim while this process lives.

    Args:
        overwrite: whether it may hold something already.
        accelerator: of several processes, which all call this; the main one claims.

    Raises:
        ValueError: if it holds anything, unless `overwrite`, if another process writes into it, or if it is not a
            folder.
    """
    folder = Path(path)

    def claim() -> None:
        if accelerator is not None and not accelerator.is_main_process:
            return
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"`output_dir` {path} exists and is not a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        lock_folder(folder)
        if not overwrite and any(entry.name != LOCK for entry in folder.iterdir()):
            raise ValueError(
                f"`output_dir` {path} already holds another run; choose another or pass --overwrite_output_dir."
            )

    if accelerator is None:
        claim()
    else:
        on_all(claim, ValueError)  # and nothing is written before all know
    return folder


def lock_folder(folder: Path) -> None:
    """Keep other processes from a folder for as long as this one lives, however it ends.

    A file system without locks is told of in one line, and gone on with.

    Raises:
        ValueError: if another process has it.
    """
    file = folder.resolve() / LOCK
    lock = _LOCKS.setdefault(file, FileLock(file, timeout=0, thread_local=False))
    if lock.is_locked and file.exists():
        return
    lock.release(force=True)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"`output_dir` {folder} is being written by another run; wait for its end, or choose another."
        ) from None
    except NotImplementedError:
        _tell_unlocked(folder)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        _tell_unlocked(folder)


def _tell_unlocked(folder: Path) -> None:
    print(
        f"`output_dir` {folder} is on a file system without locks; take care that no other run writes into it.",
        file=sys.stderr,
    )


def claim_file(path: str) -> Path:
    """The path of a file that does not exist yet, in a folder that is made if need be.

    Raises:
        ValueError: if the file, or a file in the place of its folder, exists.
    """
    file = Path(path)
    if file.exists():
        raise ValueError(f"`output` {path} already exists; choose another name.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"`output` {path} cannot be made: {file.parent} is not a folder.") from None
    return file


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make the file beside, under a name of the same ending, and rename it when it is whole.

    Raises:
        OSError: if it cannot be written; what was there before is there still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    with _removed_if_it_fails(partial, path):
        write(partial)
        flush(partial)
    put(partial, path)


def write_json(path: Path, content: Any) -> None:
    """JSON with an indent, whole or not at all; numbers that are not finite, which JSON has not, as null."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_file(path, lambda partial: partial.write_text(text, "utf-8"))


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_folder(folder: Path, write: Callable[[Path], Any], last: str) -> None:
    """Let `write` fill a folder beside, then move its entries into `folder`, the one that readers look for last."""
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    with _removed_if_it_fails(partial, folder):
        write(partial)
        flush(partial)
    for entry in sorted(partial.iterdir(), key=lambda entry: entry.name == last):
        put(entry, folder / entry.name)
    partial.rmdir()


def replace_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a folder beside, then put it in the place of `folder`: whole, or not there."""
    partial = partial_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    with _removed_if_it_fails(partial, folder):
        write(partial)
        flush(partial)
    put(partial, folder)


def clear_remains(folder: Path) -> None:
    """Remove what a process that was killed left half written or half removed in a folder, and put back what it moved.

    What was there before under the same name is put back if nothing has taken its place.
    """
    for doomed in folder.glob(".*.old"):
        target = folder / doomed.name[1 : -len(".old")]
        if target.exists() or target.name.startswith("checkpoint-"):  # a checkpoint goes since another stands
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            os.replace(doomed, target)
    for partial in (*folder.glob(".*.partial"), *folder.glob(".*.partial.*"), folder / ".partial"):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def partial_of(folder: Path) -> Path:
    """Where a folder is filled before it stands."""
    return folder.with_name(f".{folder.name}.partial")


def remove_folder(folder: Path) -> None:
    """Remove a folder, which at no time looks whole while half of it is gone."""
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def put(entry: Path, target: Path) -> None:
    """Rename a file or folder that is whole, over what was there."""
    doomed = target.with_name(f".{target.name}.old")
    if target.is_dir():
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(target, doomed)
    os.replace(entry, target)
    _flush_one(target.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def flush(path: Path) -> None:
    """Have a file, or a folder and all in it, on the disk: a machine that loses power finds it as it is now."""
    if path.is_dir():
        for entry in path.iterdir():
            flush(entry)
    _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


OF_FILES = ("PytorchStreamWriter", "inline_container", "iostream", "cannot be opened", "does not exist")


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Inside, what torch and safetensors raise for a file that cannot be written is an OSError."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if not any(sign in reason for sign in OF_FILES):
            raise
        raise OSError(f"torch could not write a file to its end; is the disk full? ({reason})") from error


@contextlib.contextmanager
def _removed_if_it_fails(partial: Path, target: Path) -> Iterator[None]:
    """Inside, `partial` is filled; an OSError names its `target`."""
    try:
        with disk_errors():
            yield
    except BaseException as error:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(f"{target}: {error.strerror or error}") from error
        raise
