# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Identifies the training images of a run by their names and sizes, so that it is not resumed on other images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import NamedTuple

import datasets


class Identity(NamedTuple):
    """Identifies the images of a folder.

    Attributes:
        names: a digest of the file names, in order.
        sizes: a digest of the file sizes; None if bad files are skipped, since these may change in size.
    """

    names: str
    sizes: str | None


def identity_of(data: datasets.Dataset, root: str, may_break: bool) -> Identity:
    """The identity of the images of a folder.

    Args:
        data: undecoded images in files.
        root: the folder, which may have moved when the run is resumed.
        may_break: whether images that cannot be read are skipped.
    """
    columns = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
    paths = [entry["path"] if entry else None for name in columns for entry in data.select_columns([name])[:][name]]
    names = _digest("" if path is None else os.path.relpath(path, root) for path in paths)
    return Identity(names, None if may_break else _digest(str(_size(path)) for path in paths if path))


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _size(path: str) -> int:
    """The size of a file in bytes; −1 if it does not exist, which training will report."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
