# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Reading the files of a saved model: configurations, and what the names and headers of weights say."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; ValueError if it is not a mapping of names to values."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of names to values.")
    return content


def readable_json(path: Path) -> dict[str, Any]:
    """As `read_json`, but empty for a file that is absent or cannot be read."""
    try:
        return read_json(path)
    except ValueError:
        return {}


def weights_of(path: str) -> tuple[str, str] | None:
    """Name and variant of the weights in a file, a shard or an index of shards; None for other files."""
    shard = r"(?:-\d+-of-\d+)?"
    file = re.fullmatch(rf"(.+?){shard}(?:\.([^./]+?))?{shard}\.(?:safetensors|bin)", path)
    index = re.fullmatch(r"(.+?)\.(?:safetensors|bin)\.index(?:\.([^./]+))?\.json", path)
    found = index or file
    return found and (found[1], found[2] or "")


def variants_of(paths: Iterable[str]) -> set[str]:
    return {found[1] for found in map(weights_of, paths) if found}


def count_parameters(path: Path) -> int:
    """The number of parameters in a weights file, from its header; ValueError if the file is incomplete."""
    try:
        with safe_open(path, "pt") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
