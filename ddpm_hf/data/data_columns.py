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
        asked_by: the argument by which the user asked for the column; None for one that was found.
    """

    name: str
    source: str
    fault: Callable[[Any], str | None]
    asked_by: str | None = None

    def is_good(self, value: Any) -> bool:
        """Whether a value can be used.

        Raises:
            ValueError: if it cannot, and the user asked for the column.
        """
        fault = self.fault(value)
        if fault is not None and self.asked_by is not None:
            raise ValueError(f"`{self.asked_by}` {self.source} cannot be used: an image {fault}.")
        return fault is None


FindColumns = Callable[[Mapping[str, Any], str], tuple[Column, ...]]
"""find(the features of a data set by column, what to call the data set) -> the columns to go along with the images."""


def no_columns(features: Mapping[str, Any], name: str) -> tuple[Column, ...]:
    """Images alone."""
    return ()


def usable(columns: Sequence[Column], values: Mapping[str, list[Any]]) -> dict[str, Values]:
    """The columns that have a good value for every image, by their names in a batch.

    Args:
        values: of each column, by its name in the data set.

    Raises:
        ValueError: for a bad value in a column that the user asked for.
    """
    return {
        column.name: stacked(values[column.source])
        for column in columns
        if values[column.source] and all(map(column.is_good, values[column.source]))
    }
