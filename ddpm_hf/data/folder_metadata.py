# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Metadata files in a folder of images, metadata.csv, metadata.jsonl or metadata.parquet, as in `datasets`.

The column `file_name` names each row's image; a column such as `depth_file_name` names another image, for the column
`depth`. Paths are relative to the metadata file and must stay within its folder.
"""

from __future__ import annotations

import posixpath
from pathlib import Path, PurePosixPath

import pyarrow
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from .folder_files import FolderFiles


FILE_NAME, IMAGE = "file_name", "image"


def read_metadata(files: FolderFiles) -> pyarrow.Table:
    """All rows of all metadata files; file names become paths relative to the data folder.

    Raises:
        ValueError: if a file cannot be read or is invalid; the message names it.
    """
    tables = [_with_paths(_read(files.root / path), path) for path in files.metadata]
    try:
        return pyarrow.concat_tables(tables, promote_options="permissive")
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The columns of {', '.join(files.metadata)} do not fit together: {reason}") from error


def image_columns(table: pyarrow.Table) -> dict[str, str]:
    """The names of the columns of images, each by its column of file names."""
    return {name: _image_of(name) for name in table.column_names if _is_of_names(name)}


def _image_of(column: str) -> str:
    return column.removesuffix(FILE_NAME).removesuffix("_") or IMAGE


def _is_of_names(column: str) -> bool:
    return column == FILE_NAME or column.endswith(f"_{FILE_NAME}")


def _read(path: Path) -> pyarrow.Table:
    try:
        if path.suffix == ".csv":
            return _read_csv(path)
        if path.suffix == ".jsonl":
            return pyarrow.json.read_json(path)
        return pyarrow.parquet.read_table(path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _read_csv(path: Path) -> pyarrow.Table:
    """A table with columns of numbers and strings. Only empty cells have no value; a class may be named NA or null."""
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with pyarrow.csv.open_csv(path, parse_options=parse) as reader:
        names = {name: pyarrow.string() for name in reader.schema.names if _is_of_names(name)}
    convert = pyarrow.csv.ConvertOptions(column_types=names, null_values=[""], strings_can_be_null=True)
    return pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert)


def _with_paths(table: pyarrow.Table, metadata: str) -> pyarrow.Table:
    """The table with its file names as paths."""
    columns = image_columns(table)
    if not columns:
        raise ValueError(f"{metadata} has no column `{FILE_NAME}` that names the images; it has {table.column_names}.")
    for column in columns:
        paths = [
            None if name is None and column != FILE_NAME else _path(name, metadata, row)
            for row, name in enumerate(table.column(column).to_pylist())
        ]
        place = table.column_names.index(column)
        table = table.set_column(place, column, pyarrow.array(paths, pyarrow.string()))
    return table


def _path(name: object, metadata: str, row: int) -> str:
    """A file name as a path relative to the data folder; it must stay within the metadata file's folder."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"Row {row} of {metadata} names no image: its file name is {name!r}.")
    path = posixpath.normpath(name.replace("\\", "/"))
    if "://" in name or posixpath.isabs(path) or path.split("/")[0] == "..":
        raise ValueError(f"Row {row} of {metadata} names {name!r}; it must be a path within the folder of this file.")
    return str(PurePosixPath(metadata).parent / path)
