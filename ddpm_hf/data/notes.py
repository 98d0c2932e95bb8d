# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Lines on the data, told at the start of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .image_streams import ImageStream


def split_note(name: str, parts: Mapping[str, Any]) -> str:
    """How many images there are to train on, to validate and to test with."""
    train, validation, test = (parts[part] for part in ("train", "validation", "test"))
    told = "images to train on, as they come" if isinstance(train, ImageStream) else f"{len(train)} to train on"
    own = f", {len(validation)} to validate with" if validation is not test else ""
    return f"Images of {name}: {told}{own}, {len(test)} to test with."
