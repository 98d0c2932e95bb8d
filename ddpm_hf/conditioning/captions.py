# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Captions: the column of data that holds them, and what a caption must be."""

from __future__ import annotations

from typing import Any


PROMPT = "prompt"  # the column, and the argument of a pipeline


def caption_fault(value: Any) -> str | None:
    """What is wrong with the caption of an image, as the end of a sentence; None for a good one."""
    if value is None:
        return "has no caption"
    if not isinstance(value, str):
        return f"has the caption {value!r}, which is not a string"
    return None if value.strip() else "has an empty caption"
