# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Columns of a data set that accompany its images. The task decides which columns to look for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..conditioning.columns import Alternatives, Values, stacked
from .image_files import BadImage


@dataclass(frozen=True)
class Column:
    """A column that accompanies the images.

    Attributes:
        name: its name in a batch.
        source: its name in the data set.
        fault: a function that returns why a value cannot be used, as the end of a sentence about its image, or None.
        asked_by: the argument by which the user asked for the column; None if it was found automatically.
        is_required: whether an image without a good value is bad, and not the column.
        has_alternatives: whether a list is several values of one image, and not a value.
        plural: the noun for its values, in notes.
    """

    name: str
    source: str
    fault: Callable[[Any], str | None]
    asked_by: str | None = None
    is_required: bool = False
    has_alternatives: bool = False
    plural: str = "values"

    def check(self, value: Any, image: str) -> None:
        """Raise BadImage for a bad value of this image if the column is required."""
        fault = self.fault(value) if self.is_required else None
        if fault is not None:
            raise BadImage(f"{image} {fault}.")

    def value(self, value: Any) -> Any:
        """A good value as it is in a batch: several values of one image become `Alternatives`."""
        return Alternatives(value) if self.has_alternatives and isinstance(value, list) else value

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
"""find(features of a data set by column, its name in messages) -> the columns that accompany the images."""


def no_columns(features: Mapping[str, Any], name: str) -> tuple[Column, ...]:
    """No columns: images only."""
    return ()


def usable(columns: Sequence[Column], values: Mapping[str, list[Any]]) -> dict[str, Values]:
    """The columns that have a good value for every image, by their names in a batch.

    Args:
        values: the values of each column, by its name in the data set.

    Raises:
        ValueError: for a bad value in a column that the user asked for.
    """
    return {
        column.name: stacked([column.value(value) for value in values[column.source]])
        for column in columns
        if values[column.source] and all(map(column.is_good, values[column.source]))
    }
