# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The hash of a file, and of a model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


BLOCK = 2**20


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def add_weights(digest: Any, weights: Mapping[str, Tensor]) -> None:
    """Add a model's weights and their names to a digest of hashlib."""
    for name, weight in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
