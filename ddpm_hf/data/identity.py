# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Which images a run is trained on, by their names and sizes, so that it is not resumed on others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import NamedTuple

import datasets


class Identity(NamedTuple):
    """What tells the images of a folder from others.

    Attributes:
        names: a digest of the names of their files, in their order.
        sizes: a digest of the sizes of these; None where files may break without ending a run, and with it change.
    """

    names: str
    sizes: str | None


def identity_of(data: datasets.Dataset, root: str, may_break: bool) -> Identity:
    """The identity of the images of a folder.

    Args:
        data: entries of undecoded images in files.
        root: the folder, which may be elsewhere when the run is resumed.
        may_break: whether images that cannot be read are left out.
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
    """The size of a file in bytes; −1 for one that is not there, which training tells of."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
