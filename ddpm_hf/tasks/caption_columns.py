# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The column of a data set that holds the caption, or several captions, of each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets

from ..conditioning.captions import PROMPT, caption_fault
from ..data.class_names import STRINGS
from ..data.data_columns import Column, FindColumns


USUAL_NAMES = ("text", "caption", "captions", "prompt", "txt")  # `txt` is that of WebDataset shards


def caption_column(name: str | None) -> FindColumns:
    """Finds the column of captions: the named one, else the first of `USUAL_NAMES` that holds text.

    Every image needs a caption: an image without one is bad, as one that cannot be read.

    Args:
        name: the column, or None.

    Returns:
        A function that raises ValueError if there is no such column, or it holds no text.
    """

    def find(features: Mapping[str, Any], data: str) -> tuple[Column, ...]:
        texts = [column for column, feature in features.items() if _may_hold_text(feature)]
        if name is not None and name not in texts:
            what = "is not a column of text" if name in features else "is not a column"
            raise ValueError(
                f"`caption_column` {name} {what} of {data}; its columns of text are {texts}, of {list(features)}."
            )
        source = name or next((usual for usual in USUAL_NAMES if usual in texts), None)
        if source is None:
            advice = (
                ". Pass --caption_column with one of them that holds text" if texts else ", none of which holds text"
            )
            raise ValueError(f"{data} has no column of captions; its columns are {list(features)}{advice}.")
        column = Column(
            PROMPT,
            source,
            caption_fault,
            asked_by=None if name is None else "caption_column",
            is_required=True,
            has_alternatives=True,
            plural="captions",
        )
        return (column,)

    return find


def _may_hold_text(feature: Any) -> bool:
    """Whether values are strings or lists of strings, or all missing, or of several types, which only values tell."""
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        feature = feature.feature
    return feature in (*STRINGS, datasets.Value("null")) or isinstance(feature, datasets.Json)
