# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Columns of a data set that go along with its images. The task decides which ones to look for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..conditioning.columns import Values, stacked


@dataclass(frozen=True)
class Column:
    """A column that goes along with the images.

    Attributes:
        name: in a batch.
        source: in the data set.
        fault: why a value cannot be used, as the end of a sentence that begins with its image; None if it can.
    """

    name: str
    source: str
    fault: Callable[[Any], str | None]


FindColumns = Callable[[Mapping[str, Any], str], tuple[Column, ...]]
"""find(the features of a data set by column, what to call the data set) -> the columns to go along with the images."""


def no_columns(features: Mapping[str, Any], name: str) -> tuple[Column, ...]:
    """Images alone."""
    return ()


def usable(columns: Sequence[Column], values: Mapping[str, list[Any]]) -> dict[str, Values]:
    """The columns that have a good value for every image, by their names in a batch.

    Args:
        values: of each column, by its name in the data set.
    """
    return {
        column.name: stacked(values[column.source])
        for column in columns
        if values[column.source] and all(column.fault(value) is None for value in values[column.source])
    }
