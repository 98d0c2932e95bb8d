# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Lines about the data, printed at the start of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..conditioning.columns import Alternatives
from .arguments import DataArguments
from .data_columns import Column
from .image_files import DEEP, Header
from .image_streams import ImageStream
from .level_images import LevelImages


def split_note(name: str, parts: Mapping[str, Any], listed: int | None) -> str:
    """The number of images for training, validation and testing.

    Args:
        listed: number of images in the folder that a stream reads, including held-out ones; None for other streams.
    """
    train, validation, test = (parts[part] for part in ("train", "validation", "test"))
    if isinstance(train, ImageStream):
        count = listed or train.epoch_size
        told = f"{'a stream' if count is None else f'a stream of {count}'} to train on"
        told += ", without the held-out share" if listed and train.held_out else ""
    else:
        told = f"{len(train)} to train on"
    own = f", {len(validation)} to validate with" if validation is not test else ""
    return f"Images of {name}: {told}{own}, {len(test)} to test with."


def alternatives_notes(columns: Iterable[Column], parts: Mapping[str, Any]) -> tuple[str, ...]:
    """A line on each column in which images have several values: of the training images, or of a stream's test images.

    Args:
        parts: training and test images.
    """
    images, use = (
        (parts["train"], "train on") if isinstance(parts["train"], LevelImages) else (parts["test"], "test with")
    )
    notes = []
    for column in columns:
        values = images.columns.get(column.name, ())
        count = sum(len(value) if isinstance(value, Alternatives) else 1 for value in values)
        if count > len(images):
            notes.append(
                f"The {len(images)} images to {use} have {count} {column.plural}. Training draws one of an image's"
                f" {column.plural} at random for each use; scores take the first."
            )
    return tuple(notes)


class HeaderCounts:
    """Counts training images that are changed when they are read."""

    def __init__(self) -> None:
        self.images = self.oblong = self.transparent = self.profiles = self.animated = 0

    def counted(self, headers: Iterable[Header]) -> Iterator[Header]:
        """The same headers, counted as they pass."""
        for header in headers:
            self.images += 1
            self.oblong += header.size[0] != header.size[1]
            self.transparent += header.is_transparent
            self.profiles += header.has_profile and header.mode not in DEEP
            self.animated += header.is_animated
            yield header

    def notes(self, arguments: DataArguments, is_stream: bool = False) -> tuple[str, ...]:
        """How the counted images are read; of a stream only the first image was counted."""
        where = (
            "in the middle"
            if arguments.center_crop
            else "at random places in training; --center_crop takes the middle"
        )
        treated = {
            "unequal sides": (
                0 if arguments.resolution is None else self.oblong,  # without a resolution images keep their size
                f"cropped to squares {where}",
            ),
            "transparency": (
                self.transparent if arguments.channels != 4 else 0,
                f"put on a background of {arguments.background} (--background); --channels 4 keeps the transparency",
            ),
            "a colour profile": (self.profiles, "converted to sRGB"),
            "several frames": (self.animated, "reduced to their first frame"),
        }
        return tuple(
            f"The first image has {what}. Such images are {how}."
            if is_stream
            else f"{count} of {self.images} training images have {what}. They are {how}."
            for what, (count, how) in treated.items()
            if count
        )
