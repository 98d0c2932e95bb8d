# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The column of a data set that holds the class of each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets

from ..conditioning.classes import LABELS, is_class
from ..data.data_columns import Column, FindColumns


WEBDATASET_LABEL = "cls"  # the column of classes in WebDataset shards


def class_column(label_column: str | None) -> FindColumns:
    """Finds the column of classes: the named one, else the first of type ClassLabel, else `cls` of a WebDataset."""

    def find(features: Mapping[str, Any], name: str) -> tuple[Column, ...]:
        if label_column is not None and label_column not in features:
            known = list(features)
            raise ValueError(f"`label_column` {label_column} is not a column of {name}; its columns are {known}.")
        found = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        if not found and features.get(WEBDATASET_LABEL) == datasets.Value("int64"):
            found = [WEBDATASET_LABEL]
        source = label_column or next(iter(found), None)
        asked_by = None if label_column is None else "label_column"
        return () if source is None else (Column(LABELS, source, _fault, asked_by),)

    return find


def _fault(value: Any) -> str | None:
    return None if is_class(value) else f"has the class {value!r}, which is not an integer >= 0"
