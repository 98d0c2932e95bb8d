# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Lines on the data, told at the start of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .arguments import DataArguments
from .image_files import DEEP, Header
from .image_streams import ImageStream


def split_note(name: str, parts: Mapping[str, Any], listed: int | None) -> str:
    """How many images there are to train on, to validate and to test with.

    Args:
        listed: images in the folder that a stream reads, with those that it holds out; None for other streams.
    """
    train, validation, test = (parts[part] for part in ("train", "validation", "test"))
    if isinstance(train, ImageStream):
        count = listed or train.epoch_size
        told = f"{'those' if count is None else count} to train on as they come"
        told += ", but for the share that is held out" if listed and train.held_out else ""
    else:
        told = f"{len(train)} to train on"
    own = f", {len(validation)} to validate with" if validation is not test else ""
    return f"Images of {name}: {told}{own}, {len(test)} to test with."


class HeaderCounts:
    """Counts training images of which not all is used as it is in the file."""

    def __init__(self) -> None:
        self.images = self.transparent = self.profiles = self.animated = 0

    def counted(self, headers: Iterable[Header]) -> Iterator[Header]:
        """The same headers, which are counted as they pass."""
        for header in headers:
            self.images += 1
            self.transparent += header.is_transparent
            self.profiles += header.has_profile and header.mode not in DEEP
            self.animated += header.is_animated
            yield header

    def notes(self, arguments: DataArguments, is_stream: bool = False) -> tuple[str, ...]:
        """What is made of the images that were counted; of a stream this is the first one."""
        told = {
            "transparency": (
                self.transparent if arguments.channels != 4 else 0,
                f"is put on a background of {arguments.background} (--background); --channels 4 keeps transparency",
            ),
            "a colour profile": (self.profiles, "is converted to sRGB"),
            "several frames": (self.animated, "gives its first one alone"),
        }
        return tuple(
            f"The first image has {what}: such an image {then}."
            if is_stream
            else f"{count} of {self.images} training images have {what}: such an image {then}."
            for what, (count, then) in told.items()
            if count
        )
