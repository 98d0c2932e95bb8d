# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Opens the source of the images: a local folder, which is read in place, or anything that `datasets` reads."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from .arguments import DataArguments
from .class_names import numbered
from .folder_files import FolderFiles, find_files
from .folders import ImageFolder, as_stream, is_of_archives, is_of_images
from .identity import Identity, identity_of
from .image_files import READ_ERRORS


SPLITS = ("train", "test", "validation")
CLASS_FOLDERS = "Invalid string class label"  # the error of `datasets` for archives with class folders
CACHE_DIR = "pass --cache_dir with a writable folder, or set HF_HOME"


class Source(NamedTuple):
    """Opened data.

    Attributes:
        name: the name that the user gave.
        splits: entries by the names of their splits.
        notes: sentences on what was found and what was left out.
        listed: number of training images in a local folder; None for other data.
        identity: the identity of the images of a local folder; None for other data.
    """

    name: str
    splits: Mapping[str, datasets.Dataset | datasets.IterableDataset]
    notes: tuple[str, ...] = ()
    listed: int | None = None
    identity: Identity | None = None


def open_source(arguments: DataArguments) -> Source:
    """The data that the arguments name.

    Raises:
        ValueError: if there are no training images; the message gives the reason.
    """
    name = arguments.train_data_dir if arguments.dataset_name is None else arguments.dataset_name
    options, files = _named(arguments)
    listed = identity = None
    if files is not None:
        folder = ImageFolder(files)
        splits, more = numbered(folder.splits, arguments, name)
        notes, listed = (*more, *folder.notes), len(splits.get("train", ()))
        if listed:
            identity = identity_of(splits["train"], str(files.root), arguments.skip_bad_images)
        if arguments.streaming:
            splits = {split: as_stream(data) for split, data in splits.items()}
    else:
        try:
            splits = datasets.load_dataset(**options, cache_dir=arguments.cache_dir, streaming=arguments.streaming)
        except (*READ_ERRORS, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise ValueError(reason(name, error, arguments)) from error
        splits, notes = (splits, ()) if arguments.streaming else numbered(splits, arguments, name)
    if "train" not in splits:
        raise ValueError(f"{name} holds no training images (split 'train'); it has {list(splits)}.")
    return Source(name, {split: data for split, data in splits.items() if split in SPLITS}, notes, listed, identity)


def _named(arguments: DataArguments) -> tuple[dict[str, Any], FolderFiles | None]:
    """The arguments of `load_dataset`, or the files of a local folder that is read in place."""
    if arguments.dataset_name is not None:
        name = arguments.dataset_name
        if arguments.dataset_config_name is None and Path(name).is_dir():
            files = find_files(name)
            if is_of_images(files):
                return {}, files
        _check_no_pattern("dataset_name", name)
        return {"path": name, "name": arguments.dataset_config_name}, None
    name = arguments.train_data_dir
    if not Path(name).is_dir():
        raise ValueError(f"`train_data_dir` {name} is not a folder.")
    files = find_files(name)
    if not is_of_archives(files):
        return {}, files
    _check_no_pattern("train_data_dir", name)
    return {"path": "imagefolder", "data_dir": name}, None


def _check_no_pattern(argument: str, name: str) -> None:
    """Raise ValueError for a local path that `datasets` would take for a pattern."""
    if Path(name).exists() and glob.has_magic(os.path.abspath(name)):
        raise ValueError(
            f"`{argument}` {name} holds tables or archives, which `datasets` reads; it takes [, * and ? in a path for"
            " a pattern. Rename the folder."
        )


@contextlib.contextmanager
def told_of_archives(name: str) -> Iterator[None]:
    """A context that explains the error of `datasets` for an archive with class folders; a stream raises it late."""
    try:
        yield
    except (ValueError, OSError) as error:
        if any(CLASS_FOLDERS in str(cause) for cause in _causes(error)):
            raise ValueError(_of_class_folders(name)) from error
        raise


def _of_class_folders(name: str) -> str:
    return (
        f"{name} holds an archive with class folders, which `datasets` does not read; unpack it, and name the folder"
        " by --train_data_dir."
    )


def reason(name: str, error: BaseException, arguments: DataArguments) -> str:
    """The message for data that `datasets` cannot read, from the first cause of its error."""
    causes = list(_causes(error))
    detail = " ".join(str(causes[-1]).split()) or type(causes[-1]).__name__
    if any(CLASS_FOLDERS in str(cause) for cause in causes):
        return _of_class_folders(name)
    numbers = {cause.errno for cause in causes if isinstance(cause, OSError)}
    cache = arguments.cache_dir or str(datasets.config.HF_DATASETS_CACHE)
    if numbers & {errno.ENOSPC, errno.EDQUOT} or any("enough disk space" in str(cause) for cause in causes):
        return f"The disk of the cache {cache} is full; free some of it, or {CACHE_DIR} ({detail})."
    if any(_is_of_the_cache(cause, cache) for cause in causes):
        return f"The cache {cache} cannot be written: {detail}; {CACHE_DIR}."
    return f"{name} holds no images that can be read: {detail}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, with the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__


def _is_of_the_cache(error: BaseException, cache: str) -> bool:
    """Whether the operating system has refused to write to the cache of `datasets`."""
    if not isinstance(error, OSError) or error.errno is None:
        return False
    places = {os.path.abspath(place) for place in (cache, str(datasets.config.HF_CACHE_HOME))}
    names = [os.path.abspath(os.fsdecode(name)) for name in (error.filename, error.filename2) if name is not None]
    is_refused = isinstance(error, (PermissionError, FileExistsError, NotADirectoryError))
    is_refused = is_refused or error.errno == errno.EROFS
    return is_refused and any(_is_within(name, place) or _is_within(place, name) for name in names for place in places)


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder


def image_column(features: Mapping[str, Any], name: str, asked: str | None) -> str:
    """The column of images: the one that the user names, the one called `image`, or the only one.

    Raises:
        ValueError: if there is no such column, or there are several.
    """
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    if asked is not None and asked not in images:
        what = "is not a column of images" if asked in features else "is not a column"
        raise ValueError(f"`image_column` {asked} {what} of {name}; its columns of images are {images}.")
    if not images:
        raise ValueError(f"{name} has no column of images; its columns are {list(features)}.")
    if asked is None and len(images) > 1 and "image" not in images:
        raise ValueError(f"{name} has several columns of images, {images}; pass --image_column with one of them.")
    return asked or ("image" if "image" in images else images[0])
