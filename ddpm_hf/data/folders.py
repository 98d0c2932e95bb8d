# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A local folder of images as a data set without a copy in a cache: only paths are read at first, pixels on demand.

The images are in the order of their paths, or of the rows of the metadata files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import yaml
from datasets.iterable_dataset import ExamplesIterable

from .folder_files import DANGLING, NO_IMAGE, UNREADABLE, FolderFiles
from .folder_metadata import FILE_NAME, IMAGE, image_columns, read_metadata
from .folder_splits import find_splits


LABEL = "label"  # the name of the column of classes in `datasets`
TABLES = (".parquet", ".arrow", ".tar", ".zip", ".gz", ".zst", ".py")  # data that `datasets` reads
CONFIGURED = ("configs", "dataset_info")  # keys of a data card that describe the files
NOT_NAMED = "image that the metadata do not name", "images that the metadata do not name"
ARCHIVE = "archive next to the images", "archives next to the images"
ROWS_AT_ONCE = 1000
SHOWN = 3  # names of unused files that a note lists


class ImageFolder:
    """A local folder of images.

    Args:
        files: the files in the folder.

    Attributes:
        splits: undecoded images and their columns, by the name of the split.
        notes: sentences on what was found and what was left out.

    Raises:
        ValueError: if the folder or a metadata file in it cannot be read, or there are no images.
    """

    def __init__(self, files: FolderFiles):
        if files.metadata:
            tables, notes, classes = *_from_metadata(files), ()
        else:
            tables, notes, classes = _from_paths(files)
        if not tables:
            raise ValueError(f"{files.root} holds no images. {left_out(files)}".strip())
        self.splits = {split: _data_set(table, classes) for split, table in tables.items()}
        named = f"{len(classes)} classes, by folder: {first_few(classes, 10)}." if classes else ""
        self.notes = tuple(note for note in (*notes, named, left_out(files)) if note)


def as_stream(data: datasets.Dataset) -> datasets.IterableDataset:
    """The entries of a split as a stream. Its state is the same as that of `datasets`' own image folders.

    `IterableDataset.from_generator` would do the same, but hashes all paths and needs a writable cache.
    """
    entries = ExamplesIterable(_entries, {"data": data})
    return datasets.IterableDataset(entries, info=datasets.DatasetInfo(features=data.features))


def _entries(data: datasets.Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
    for first in range(0, len(data), ROWS_AT_ONCE):
        columns = data[first : first + ROWS_AT_ONCE]
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        yield from enumerate(rows, first)


def is_of_images(files: FolderFiles) -> bool:
    """Whether a folder holds image files without a data card, table or archive that describes them."""
    others = (name for names in files.left_out.values() for name in names)
    has_tables = bool(files.archives) or any(name.lower().endswith(TABLES) for name in others)
    return bool(files.images) and not has_tables and not _is_configured(files.root / "README.md")


def is_of_archives(files: FolderFiles) -> bool:
    """Whether a folder holds zip files and no images.

    Raises:
        ValueError: if one of them is not a valid zip file; the message names it.
    """
    if files.images or not files.archives:
        return False
    for archive in (files.root / name for name in files.archives):
        if not zipfile.is_zipfile(archive):
            raise ValueError(f"{archive} is not a readable zip file.")
    return True


def left_out(files: FolderFiles) -> str:
    """A sentence on everything that is left out, by reason, with the first few names; empty if nothing is."""
    reasons = dict(files.left_out)
    if files.archives:
        reasons[ARCHIVE] = files.archives
    parts = [
        f"{len(names)} {reason[len(names) > 1]} ({first_few(names, SHOWN)})"
        for reason, names in reasons.items()
        if names
    ]
    return f"Left out: {'; '.join(parts)}." if parts else ""


def first_few(names: Sequence[str], most: int) -> str:
    """The first of these names, for a note."""
    # A name may contain anything, even a line break.
    shown = [name.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n") for name in names[:most]]
    return ", ".join(shown) + (", …" if len(names) > most else "")


def _is_configured(card: Path) -> bool:
    """Whether a data card says how `datasets` reads the files."""
    try:
        head = card.read_text("utf-8").split("---")
        content = yaml.safe_load(head[1]) if len(head) > 2 and not head[0].strip() else None
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and any(key in content for key in CONFIGURED)


def _from_paths(files: FolderFiles) -> tuple[dict[str, pyarrow.Table], tuple[str, ...], tuple[str, ...]]:
    """A table for each split of its images and classes, notes on the splits, and the names of the classes."""
    found, tables = find_splits(files), {}
    for split, paths in found.images.items():
        columns = {IMAGE: _images(files, paths)}
        if found.classes:
            columns[LABEL] = pyarrow.array(found.classes_of(split), pyarrow.int64())
        tables[split] = pyarrow.table(columns)
    return tables, found.notes, found.classes


def _from_metadata(files: FolderFiles) -> tuple[dict[str, pyarrow.Table], tuple[str, ...]]:
    """A table of each split's rows of the metadata, and notes on the splits; images without a row are left out."""
    table = read_metadata(files)
    columns = image_columns(table)
    paths = table.column(FILE_NAME if FILE_NAME in columns else next(iter(columns))).to_pylist()
    named = {path for column in columns for path in table.column(column).to_pylist()} - {None}
    found = find_splits(files, named)
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        split = found.split_of(path)
        if split is not None:
            rows.setdefault(split, []).append(row)
    for reason in (UNREADABLE, NO_IMAGE, DANGLING):  # a file that a row names may have any name
        files.left_out[reason] = [path for path in files.left_out.get(reason, []) if path not in named]
    for path in (path for paths_of_split in found.images.values() for path in paths_of_split):
        if path not in named:
            files.leave_out(NOT_NAMED, path)
    for column, image in columns.items():
        images = _images(files, table.column(column).to_pylist())
        table = table.set_column(table.column_names.index(column), image, images)
    return {split: table.take(pyarrow.array(chosen)) for split, chosen in rows.items()}, found.notes


def _images(files: FolderFiles, paths: list[str | None]) -> pyarrow.Array:
    root = str(files.root)
    entries = [None if path is None else {"bytes": None, "path": f"{root}/{path}"} for path in paths]
    return pyarrow.array(entries, datasets.Image().pa_type)


def _data_set(table: pyarrow.Table, classes: tuple[str, ...]) -> datasets.Dataset:
    """A table as a data set in memory; its columns of images and classes have the types of `datasets`."""
    features = datasets.Features.from_arrow_schema(table.schema)
    for name, field in zip(table.column_names, table.schema, strict=True):
        if field.type == datasets.Image().pa_type:
            features[name] = datasets.Image(decode=False)
    if classes:
        features[LABEL] = datasets.ClassLabel(names=list(classes))
    return datasets.Dataset(
        datasets.table.InMemoryTable(table.cast(features.arrow_schema)), datasets.DatasetInfo(features=features)
    )
