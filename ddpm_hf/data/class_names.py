# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Classes from a column of strings: their names in sorted order, numbered from 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets

from .arguments import DataArguments
from .folders import first_few


STRINGS = [datasets.Value(kind) for kind in ("string", "large_string", "string_view")]


def is_of_strings(features: Mapping[str, Any], column: str | None) -> bool:
    """Whether there is such a column, and it holds strings."""
    return column in features and features[column] in STRINGS


def numbered(
    splits: Mapping[str, datasets.Dataset], arguments: DataArguments, name: str
) -> tuple[dict[str, datasets.Dataset], tuple[str, ...]]:
    """The splits with the numbers of the classes in the place of their names, and a note on them.

    Nothing changes where the column holds no strings.

    Args:
        arguments: which name the column of classes, or none.
        name: what to call the data.

    Raises:
        ValueError: if an image has no class.
    """
    column = arguments.label_column
    found = {split: data for split, data in splits.items() if is_of_strings(data.features, column)}
    if not found:
        return dict(splits), ()
    values = {split: list(data[column]) for split, data in found.items()}
    missing = sum(value is None for of_split in values.values() for value in of_split)
    if missing:
        raise ValueError(f"`label_column` {column} of {name} has no value for {missing} of the images.")
    names = sorted({value for of_split in values.values() for value in of_split})
    numbers = {value: number for number, value in enumerate(names)}
    changed = {
        split: data.remove_columns(column).add_column(column, [numbers[value] for value in values[split]])
        for split, data in found.items()
    }
    note = f"{len(names)} classes, by `label_column` {column}, sorted and numbered from 0: {first_few(names, 10)}."
    return {**splits, **changed}, (note,)


def check_stream(features: Mapping[str, Any], arguments: DataArguments, name: str) -> None:
    """Raise ValueError for names of classes in a stream, which would have to be read to its end to number them."""
    column = arguments.label_column
    if is_of_strings(features, column):
        raise ValueError(
            f"`label_column` {column} of {name} holds strings, which a stream cannot number before it has seen all of"
            " them; leave --streaming, or name a column of whole numbers."
        )
