# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The hash of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path


BLOCK = 2**20


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
