# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Checksums of the files in a folder, which show whether they are as they were written."""

from __future__ import annotations

import json
from pathlib import Path

from .hashing import sha256_of
from .output_folder import write_json


CHECKSUMS = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file in a folder and its subfolders into the folder."""
    write_json(folder / CHECKSUMS, {name: sha256_of(folder / name) for name in _files(folder)})


def damage_of(folder: Path) -> str | None:
    """A short description of the damage to a folder's files; None if there is none, or there are no checksums."""
    try:
        known = json.loads((folder / CHECKSUMS).read_text("utf-8"))
        expected = {str(name): str(checksum) for name, checksum in known.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError):
        return f"{CHECKSUMS} cannot be read"
    for name, checksum in expected.items():
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
        if found != checksum:
            return f"{name} differs from what was written"
    return None


def _files(folder: Path) -> list[str]:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(names - {CHECKSUMS})
