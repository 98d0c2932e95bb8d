# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Captions of images: the column that holds them, and the values that it may have."""

from __future__ import annotations

from typing import Any

from ..runtime.words import plural


PROMPT = "prompt"  # the column, and the argument of a pipeline
ADVICE = "; --tokenizer_max_length changes that"  # for whoever trains a model that truncates captions


def caption_fault(value: Any) -> str | None:
    """What is wrong with the caption of one image, as the end of a sentence about the image; None for a good one.

    Args:
        value: a string that is not empty, or a list or tuple of at least one such string, the captions of one image.
            White space alone is empty.
    """
    if not isinstance(value, (list, tuple)):
        return _fault(value)
    return next(filter(None, map(_fault, value)), None) if value else _fault(None)


def truncation_of(count: int, most: int, noun: str = "caption") -> str:
    """Says that `count` captions have more than `most` tokens, without a full stop."""
    return f"{plural(count, noun)} {'is' if count == 1 else 'are'} longer than {most} tokens, and truncated"


def _fault(value: Any) -> str | None:
    if value is None:
        return "has no caption"
    if not isinstance(value, str):
        return f"has the caption {value!r}, which is not a string"
    return None if value.strip() else "has an empty caption"
