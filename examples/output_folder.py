# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Writing results so that nothing is lost: no run over another, no half-written file under a final name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def claim_folder(path: str, overwrite: bool) -> Path:
    """The folder, made if need be.

    Raises:
        ValueError: if it holds anything already, unless `overwrite`, or is not a folder.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output_dir` {path} exists and is not a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(
            f"`output_dir` {path} already holds another run; choose another or pass --overwrite_output_dir."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def claim_file(path: str) -> Path:
    """The path of a file that does not exist yet, in a folder that does.

    Raises:
        ValueError: if the file exists.
    """
    file = Path(path)
    if file.exists():
        raise ValueError(f"`output` {path} already exists; choose another name.")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make the file under another name, of the same ending, and rename it when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    write(partial)
    os.replace(partial, path)


def write_json(path: Path, content: Any) -> None:
    """JSON with an indent, whole or not at all."""
    write_file(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n"))


def write_folder(folder: Path, write: Callable[[Path], Any], last: str) -> None:
    """Let `write` fill a folder beside, then move its entries into `folder`, the one that readers look for last."""
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    for entry in sorted(partial.iterdir(), key=lambda entry: entry.name == last):
        target = folder / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(entry, target)
    partial.rmdir()


def replace_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a folder beside, then put it in the place of `folder`: whole, or not there."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)
