# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Writing results so that nothing is lost: no run overwrites another, no half-written file has a final name.

Everything is written under a temporary name next to its place, flushed to the disk, and renamed: it is complete, or it
does not exist.
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


WINDOWS = sys.platform == "win32"
LOCK = ".lock"
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # errors of file systems without locks
_LOCKS: dict[Path, FileLock] = {}  # this process holds them until it ends


def claim_folder(path: str, overwrite: bool, accelerator: Accelerator | None = None) -> Path:
    """The folder of a run, created if necessary; no other run can claim it while this process lives.

    Args:
        path: the folder.
        overwrite: whether the folder may already contain something.
        accelerator: Accelerate's, if several processes call this; the main process claims the folder.

    Raises:
        ValueError: if the folder is not empty and `overwrite` is False, if another process writes into it, or if it is
            not a folder.
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
        on_all(claim, ValueError)  # no process writes before all know the outcome
    return folder


def lock_folder(folder: Path) -> None:
    """Lock a folder against other processes until this process ends, also if it is killed.

    A file system without locks is told of in one line, and gone on with.

    Raises:
        ValueError: if another process holds the lock.
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


def claim_file(path: str, name: str = "output") -> Path:
    """The path of a file that does not exist yet; its folder is created if necessary.

    Args:
        name: of the argument that gives the path.

    Raises:
        ValueError: if the file exists, or a file has the name of its folder.
    """
    file = Path(path)
    if file.exists():
        raise ValueError(f"`{name}` {path} already exists; choose another name.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"`{name}` {path} cannot be created: {file.parent} is not a folder.") from None
    return file


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` create the file under a temporary name with the same ending, and rename it when it is complete.

    Raises:
        OSError: if it cannot be written; an existing file then stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    with _removed_if_it_fails(partial, path):
        write(partial)
        flush(partial)
    put(partial, path)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, completely or not at all; numbers that are not finite, which JSON lacks, become null."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_file(path, lambda partial: partial.write_text(text, "utf-8"))


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_folder(folder: Path, write: Callable[[Path], Any], last: str) -> None:
    """Let `write` fill a temporary folder, then move its entries into `folder`, with `last` as the last one."""
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    with _removed_if_it_fails(partial, folder):
        write(partial)
        flush(partial)
    for entry in sorted(partial.iterdir(), key=lambda entry: entry.name == last):
        put(entry, folder / entry.name)
    partial.rmdir()


def replace_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary folder, then replace `folder` by it, so that it is complete or does not exist."""
    partial = partial_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    with _removed_if_it_fails(partial, folder):
        write(partial)
        flush(partial)
    put(partial, folder)


def clear_remains(folder: Path) -> None:
    """Clean up after a killed process: remove what it left half written or half removed in a folder.

    An entry that it had moved away is put back if nothing has replaced it.
    """
    for doomed in folder.glob(".*.old"):
        target = folder / doomed.name[1 : -len(".old")]
        if target.exists() or target.name.startswith("checkpoint-"):  # a newer checkpoint exists
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            os.replace(doomed, target)
    for partial in (*folder.glob(".*.partial"), *folder.glob(".*.partial.*"), folder / ".partial"):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def partial_of(folder: Path) -> Path:
    """The temporary folder that is filled before it gets its final name."""
    return folder.with_name(f".{folder.name}.partial")


def remove_folder(folder: Path) -> None:
    """Remove a folder in such a way that it never looks complete when it is half removed."""
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def put(entry: Path, target: Path) -> None:
    """Rename a complete file or folder, and replace an existing one."""
    doomed = target.with_name(f".{target.name}.old")
    if target.is_dir():
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(target, doomed)
    os.replace(entry, target)
    _flush_one(target.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def flush(path: Path) -> None:
    """Flush a file, or a folder with everything in it, to the disk, so that it survives a power failure."""
    if path.is_dir():
        for entry in path.iterdir():
            flush(entry)
    _flush_one(path)


def _flush_one(path: Path) -> None:
    if WINDOWS and path.is_dir():  # which it cannot open
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)  # it flushes what can be written alone
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


OF_FILES = ("PytorchStreamWriter", "inline_container", "iostream", "cannot be opened", "does not exist")


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """A context in which errors of torch and safetensors about files that cannot be written become OSErrors."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if not any(sign in reason for sign in OF_FILES):
            raise
        raise OSError(f"torch could not write a whole file; is the disk full? ({reason})") from error


@contextlib.contextmanager
def _removed_if_it_fails(partial: Path, target: Path) -> Iterator[None]:
    """A context that fills `partial` and removes it on failure; an OSError names the `target`."""
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
