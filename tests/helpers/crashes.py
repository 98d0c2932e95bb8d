# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The state of a folder that a kill would leave, for every moment at which a process changes it.

A kill leaves the files as they are and runs no more code. So no process has to be killed: the folder is read at every
flush, renaming, creation and removal, which gives the state after a kill at that moment. A kill in the middle of
writing leaves part of a file: half of each file that was created or changed in between is one more state.
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
    """The states that a folder goes through.

    Attributes:
        states: all that were seen, each once, in their order.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.states: dict[Tree, None] = {}
        self._last = tree_of(folder)
        self._is_looking = False

    def look(self) -> None:
        """Note the folder as it is now, and with each new file half written."""
        if self._is_looking:
            return
        self._is_looking = True
        now = tree_of(self.folder)
        for half in half_written(self._last, now):
            self.states.setdefault(half)
        self.states.setdefault(now)
        self._last, self._is_looking = now, False


def tree_of(folder: Path) -> Tree:
    """All in a folder but its lock, which a process holds only while it lives."""
    paths = sorted(path for path in folder.rglob("*") if path.name != LOCK)
    return tuple((str(path.relative_to(folder)), None if path.is_dir() else path.read_bytes()) for path in paths)


def make_tree(tree: Tree, folder: Path) -> None:
    """A folder with all of this in it."""
    folder.mkdir()
    for name, content in tree:
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def half_written(before: Tree, after: Tree) -> Iterator[Tree]:
    """The states in which one of the files that came, or changed, was written to its middle."""
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
    """Inside, every state of the folder is noted."""
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
