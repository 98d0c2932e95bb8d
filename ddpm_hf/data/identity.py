# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Which images a run is trained on, by their names and sizes, so that it is not resumed on others."""

from __future__ import annotations

import hashlib
import os

import datasets


def names_and_sizes(data: datasets.Dataset, root: str) -> str:
    """A digest of the names and sizes, in bytes, of the image files of a folder, in their order.

    Args:
        data: entries of undecoded images in files.
        root: the folder, which may be elsewhere when the run is resumed.
    """
    digest = hashlib.sha256()
    columns = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
    for name in columns:
        for entry in data[:][name]:
            path = "" if entry is None else entry["path"]
            line = f"{os.path.relpath(path, root) if path else ''}\0{_size(path)}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _size(path: str) -> int:
    """The size of a file in bytes; −1 for one that is not there, which training tells of."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
