# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Tensors that are computed once and kept on disk, in files whose names follow from what they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..runtime.output_folder import write_file


def folder_in_cache(cache_dir: str | None, name: str) -> Path:
    """The folder of this name in `cache_dir`, or in the cache of Hugging Face."""
    return Path(cache_dir or datasets.config.HF_CACHE_HOME).expanduser() / name


def hash_of(strings: list[str]) -> str:
    """A hash of strings in this order."""
    return hashlib.sha256(json.dumps(strings).encode()).hexdigest()


def stored(folder: Path, key: Mapping[str, str], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors, by name, of the file for this key; they are computed if there is none, or it is damaged.

    Args:
        folder: of the file; it is created.
        key: what the tensors depend on.
        compute: makes them; of several processes one calls it, and the others wait.
    """
    path = folder / f"{hash_of(list(key.values()))[:32]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        found = _read(path, key)
        if found is None:
            write_file(path, lambda partial: save_file(compute(), partial, metadata=dict(key)))
            found = _read(path, key)
    return found


def _read(path: Path, key: Mapping[str, str]) -> dict[str, Tensor] | None:
    """The tensors of a file, in mapped memory; None if it is not there, is damaged, or is of something else."""
    with contextlib.suppress(FileNotFoundError, SafetensorError), safe_open(path, framework="pt") as file:
        if file.metadata() == key:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    return None
