# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Classes from a column of strings: the names are sorted and numbered from 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets

from .arguments import DataArguments
from .folders import first_few


STRINGS = [datasets.Value(kind) for kind in ("string", "large_string", "string_view")]


def is_of_strings(features: Mapping[str, Any], column: str | None) -> bool:
    """Whether the column exists and holds strings."""
    return column in features and features[column] in STRINGS


def numbered(
    splits: Mapping[str, datasets.Dataset], arguments: DataArguments, name: str
) -> tuple[dict[str, datasets.Dataset], tuple[str, ...]]:
    """The splits with the names of classes replaced by their numbers, and a note on the classes.

    A column that does not hold strings is left unchanged.

    Args:
        arguments: these may name the column of classes.
        name: the name of the data in messages.

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
    """Raise ValueError if a stream has classes by name: numbering them would need a pass over the whole stream."""
    column = arguments.label_column
    if is_of_strings(features, column):
        raise ValueError(
            f"`label_column` {column} of {name} holds strings, which a stream cannot number before it has seen all of"
            " them; omit --streaming, or name a column of integers."
        )
