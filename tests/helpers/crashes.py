# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The states that a kill could leave a folder in, one for every moment at which a process changes the folder.

A kill stops the code and leaves the files as they are, so no process has to be killed: the folder is read at every
flush, renaming, creation and removal, which gives its state after a kill at that moment. A kill while a file is
written leaves a part of it: for each file that was created or changed, there is one more state with half of that file.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from ddpm_hf.runtime.output_folder import LOCK


Tree = tuple[tuple[str, bytes | None], ...]  # sorted names with contents; None for a folder
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}
_watching: list[Watch] = []


class Watch:
    """Records the states of a folder.

    Attributes:
        states: all recorded states, each once, in order.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.states: dict[Tree, None] = {}
        self._last = tree_of(folder)
        self._is_looking = False

    def look(self) -> None:
        """Record the current state of the folder, and the states with one of the new files half written."""
        if self._is_looking:
            return
        self._is_looking = True
        now = tree_of(self.folder)
        for half in half_written(self._last, now):
            self.states.setdefault(half)
        self.states.setdefault(now)
        self._last, self._is_looking = now, False


def tree_of(folder: Path) -> Tree:
    """The content of a folder, without its lock, which a killed process does not hold."""
    paths = sorted(path for path in folder.rglob("*") if path.name != LOCK)
    return tuple((str(path.relative_to(folder)), None if path.is_dir() else path.read_bytes()) for path in paths)


def make_tree(tree: Tree, folder: Path) -> None:
    """Create a folder with this content."""
    folder.mkdir()
    for name, content in tree:
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def half_written(before: Tree, after: Tree) -> Iterator[Tree]:
    """The states in which one of the new or changed files is half written."""
    known = dict(before)
    moved = set(known.values())  # as a whole, by a renaming
    for name, content in after:
        if content and content not in moved:
            yield tuple((n, c[: len(c) // 2] if n == name else c) for n, c in after)


def _changes_files(event: str, arguments: tuple[Any, ...]) -> bool:
    if event != "open":
        return event in CHANGES
    _, mode, flags = arguments
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and _changes_files(event, arguments):
        for watch in _watching:
            watch.look()


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Watch]:
    """A context in which every state of the folder is recorded."""
    _install()
    watch, fsync = Watch(folder), os.fsync

    def flushed(descriptor: int) -> None:
        watch.look()
        fsync(descriptor)

    _watching.append(watch)
    with mock.patch.object(os, "fsync", flushed):
        yield watch
    _watching.remove(watch)
    watch.look()


def _install(installed: list[bool] = []) -> None:  # noqa: B006  # once: such a hook stays as long as the process
    if not installed:
        sys.addaudithook(_audit)
        installed.append(True)
