# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Divides the images of a folder into splits and classes. The rules, in this order:

- Folders directly in the data folder that are named train, test, or val, valid or validation, in upper or lower case,
  are the splits, and everything next to them is left out. No other name has a meaning.
- A single folder with one of these names next to other folders of images is a class like them.
- If all training images lie at the same depth in subfolders with more than one name, these names are the classes,
  unless all of them are names of splits, such as train2017 and val2017.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from .folder_files import FolderFiles


SPLIT_OF = {
    "train": "train",
    "test": "test",
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
LIKE_A_SPLIT = re.compile(
    r"(train|training|test|testing|val|valid|validation|dev|eval|evaluation)[-_. ]?\d*", re.IGNORECASE
)
BESIDE = "image next to the folders of the splits", "images next to the folders of the splits"


@dataclass(frozen=True)
class FolderSplits:
    """The splits of a folder.

    Attributes:
        images: paths of each split's images, in sorted order, by the split's name; without splits all are `train`.
        folders: the folders of the splits; empty if there are none.
        classes: names of the classes in sorted order; empty if there are none.
        notes: sentences on interpretations that the user may not have intended.
    """

    images: dict[str, list[str]]
    folders: dict[str, str]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def split_of(self, path: str) -> str | None:
        """The split that a path belongs to, or None."""
        return self.folders.get(PurePosixPath(path).parts[0]) if self.folders else "train"

    def classes_of(self, split: str) -> list[int | None]:
        """The class number of every image of a split; None for an image without a class."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        depth = _depth(self.images["train"][0])
        return [
            numbers[PurePosixPath(path).parent.name] if _depth(path) == depth else None for path in self.images[split]
        ]


def find_splits(files: FolderFiles, named: Iterable[str] = ()) -> FolderSplits:
    """Divide the images of a folder into splits, and note the images of no split as left out.

    Args:
        files: the files of the folder.
        named: paths that metadata files name; they are images even if their suffix does not say so.
    """
    everything = sorted({*files.images, *named})
    tops = {PurePosixPath(path).parts[0] for path in everything if _depth(path) > 1}
    folders = {top: SPLIT_OF[top.lower()] for top in sorted(tops) if top.lower() in SPLIT_OF}
    others, notes = sorted(tops - folders.keys()), []
    if others and len(set(folders.values())) == 1:
        (name, *_), folders = folders, {}
        notes.append(
            f"The folder {name} is not a split here but one of several folders of images ({_named([name, *others])})."
        )
    images: dict[str, list[str]] = {}
    for path in everything:
        split = folders.get(PurePosixPath(path).parts[0]) if folders else "train"
        if split is None:
            files.leave_out(BESIDE, path)
        else:
            images.setdefault(split, []).append(path)
    classes, more = _classes(images, skipped=1 if folders else 0)
    return FolderSplits(images, folders, classes, (*notes, *more))


def _classes(images: dict[str, list[str]], skipped: int) -> tuple[tuple[str, ...], list[str]]:
    """The classes, and notes on folders that are not classes.

    Args:
        images: paths of each split's images.
        skipped: the number of folders at the start of a path that belong to splits.
    """
    train = images.get("train", [])
    depths = {_depth(path) for path in train}
    named = {PurePosixPath(path).parent.name for path in train}
    if len(depths) != 1 or len(named) < 2 or min(depths) - 1 <= skipped:
        return (), []
    if all(LIKE_A_SPLIT.fullmatch(name) for name in named):
        return (), [
            f"The folders {_named(sorted(named))} are neither classes nor splits: splits are named train, test or val,"
            " directly in the data folder. All their images are used together."
        ]
    (depth,) = depths
    notes = []
    for split, paths in images.items():
        if any(_depth(path) != depth for path in paths):
            notes.append(f"Not all images for {split} lie in class folders like those for training.")
        named |= {PurePosixPath(path).parent.name for path in paths if _depth(path) == depth}
    return tuple(sorted(named)), notes


def _depth(path: str) -> int:
    return path.count("/") + 1


def _named(names: Iterable[str], most: int = 5) -> str:
    """The first few names, and the number of others."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
