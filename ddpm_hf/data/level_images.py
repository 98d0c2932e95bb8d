# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images as float tensors of evenly spaced levels in [−1, 1]."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..conditioning.box_means import box_mean
from ..conditioning.columns import Columns, Derive, chosen, joined, with_first
from ..conditioning.conditioner import Conditioners
from ..runtime.randomness import BatchAddress
from .identity import Identity
from .image_files import BadImage
from .image_streams import ImageStream
from .levels import scaled


class LevelImages:
    """Images as float32 tensors `[C, H, W]` of `num_levels` evenly spaced levels in [−1, 1].

    Args:
        size: number of images.
        read: `read(i, crop)` returns image i as integers `[C, H, W]` in 0 … num_levels − 1, or raises `BadImage`.
            `crop` is two numbers in [0, 1) for the position, or None for the middle. Not needed with `pixels`.
        num_levels: number of levels of the data.
        shape: C, H, W.
        columns: further values of every image, by name, such as its class; a value may be `Alternatives`.
        pixels: all results of `read`, `[size, C, H, W]`, if they do not depend on the crop and fit in memory.
        row: the images of a training epoch, int64, where the next good image replaces a bad one, so that a resumed run
            keeps its order when an image has become bad; None for every image once.
        derive: makes the columns of training batches that follow from the images themselves; None if there are none.
        groups: the number of the group of every image, int64 from 0 on without gaps, such as all variants of a
            picture; a training epoch has one image of each group, drawn anew. None for an epoch of all images.
    """

    def __init__(
        self,
        size: int,
        read: Callable[[int, tuple[float, float] | None], Tensor] | None,
        num_levels: int,
        shape: tuple[int, int, int],
        columns: Columns | None = None,
        pixels: Tensor | None = None,
        row: Tensor | None = None,
        derive: Derive | None = None,
        groups: Tensor | None = None,
    ):
        self.size, self.read, self.num_levels, self.shape = size, read, num_levels, shape
        self.columns, self.pixels, self.row, self.derive = columns or {}, pixels, row, derive
        self.groups = groups

    @classmethod
    def none_like(cls, images: LevelImages | ImageStream) -> LevelImages:
        """An empty set of images with the same shape and levels."""
        return cls.in_memory(torch.empty(0, *images.shape, dtype=torch.uint8), images.num_levels)

    @classmethod
    def in_memory(cls, pixels: Tensor, num_levels: int, columns: Columns | None = None) -> LevelImages:
        """Images in memory, integers `[N, C, H, W]`."""
        return cls(len(pixels), None, num_levels, tuple(pixels.shape[1:]), columns, pixels)

    def __len__(self) -> int:
        return self.size

    @property
    def epoch_size(self) -> int:
        """Number of training images in an epoch."""
        if self.groups is not None:
            return int(self.groups.max()) + 1
        return self.size if self.row is None else len(self.row)

    def epoch(self, generator: torch.Generator) -> Tensor:
        """The images of a training epoch in random order, int64 `[epoch_size]`."""
        row = torch.arange(self.size) if self.row is None else self.row
        order = row[torch.randperm(len(row), generator=generator)]
        if self.groups is None:
            return order
        places = torch.full((self.epoch_size,), self.size)
        places.scatter_reduce_(0, self.groups[order], torch.arange(self.size), "amin")  # the first of each group
        return order[places.sort().values]

    def __getitem__(self, i: int) -> Tensor:
        return scaled(self.levels(i), self.num_levels)

    def examples(self, levels: Tensor, address: BatchAddress) -> Tensor:
        """x_0 of a training batch of what `read` and `pixels` give, `[B, …]`, on their device.

        Args:
            address: of the batch, for examples that are drawn at random.
        """
        return scaled(levels, self.num_levels)

    def mirrored(self, levels: Tensor) -> Tensor:
        """The mirror images of what `read` and `pixels` give, `[B, …]`."""
        return levels.flip(-1)

    def levels(self, i: int, crop: tuple[float, float] | None = None) -> Tensor:
        """Image i as integers."""
        return self.read(i, crop) if self.pixels is None else self.pixels[i]

    def batch(self, first: int, last: int, skip_bad: bool = False) -> tuple[Tensor, Columns]:
        """Images first … last − 1, `[B, C, H, W]`, with any crop in the middle, and their columns.

        Of several alternatives of an image, such as captions, the columns have the first.

        Raises:
            BadImage: for an image that cannot be read, unless `skip_bad`.
        """
        if self.pixels is not None:
            levels, some = self.pixels[first:last], slice(first, last)
        else:
            read, some = [], []
            for i in range(first, min(last, self.size)):
                try:
                    read.append(self.levels(i))
                    some.append(i)
                except BadImage:
                    if not skip_bad:
                        raise
            levels = torch.stack(read) if read else torch.empty(0, *self.shape)
        return scaled(levels, self.num_levels), with_first(chosen(self.columns, some))

    def batches_with_columns(
        self, batch_size: int, limit: int | None = None, skip_bad: bool = False
    ) -> Iterator[tuple[Tensor, Columns]]:
        """The images of `spread(limit)` in order, in batches, with their columns."""
        images = self.spread(limit)
        for start in range(0, images.size, batch_size):
            yield images.batch(start, min(start + batch_size, images.size), skip_bad)

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Tensor]:
        """The images of `spread(limit)` in order, in batches."""
        return (images for images, _ in self.batches_with_columns(batch_size, limit))

    def spread(self, count: int | None) -> LevelImages:
        """At most `count` images, evenly spread over the data set, which is often sorted by class; all if None."""
        if count is None or count >= self.size:
            return self
        return self.chosen(torch.arange(count) * self.size // count)

    def chosen(self, index: Tensor) -> LevelImages:
        """The images at these places, int64 `[M]`, in this order."""
        pixels = None if self.pixels is None else self.pixels[index]
        read = None if self.read is None else Chosen(self.read, index)
        return LevelImages(len(index), read, self.num_levels, self.shape, chosen(self.columns, index), pixels)

    def reading(self, conditioners: Conditioners) -> LevelImages:
        """The images, whose training batches carry all that the conditioning needs, after a check of their columns.

        Raises:
            ValueError: if there are images and their conditioning cannot be made from their columns.
        """
        if self.size:
            conditioners.check(self.columns)
        return self._with(derive=conditioners.derive_for_training)

    def in_groups(self, names: Sequence[Hashable]) -> LevelImages:
        """The same images; a training epoch has one image of each of these groups, of which every image has one."""
        number = {name: k for k, name in enumerate(dict.fromkeys(names))}
        return self._with(row=None, groups=torch.tensor([number[name] for name in names]))

    def with_columns(self, columns: Columns) -> LevelImages:
        """The same images with other columns."""
        return LevelImages(self.size, self.read, self.num_levels, self.shape, columns, self.pixels)

    def read_for(self, conditioners: Conditioners) -> Columns:
        """The columns of all images that the conditioners read, with those that follow from the images."""
        columns = dict(conditioners.read(self.columns))
        if not conditioners.derives:
            return columns
        parts = [conditioners.completed(x_0, some) for x_0, some in self.batches_with_columns(64)]
        return conditioners.read(joined(parts)) if parts else columns

    def reduced(self, factor: int) -> LevelImages:
        """The images in low resolution: the mean over boxes of pixels, rounded; see `box_mean`."""
        channels, height, width = self.shape
        shape = (channels, height // factor, width // factor)
        pixels = None if self.pixels is None else box_mean(self.pixels, factor)
        return self._with(read=Reduced(self, factor), shape=shape, pixels=pixels, derive=None)

    def cropped(self, side: int) -> LevelImages:
        """Squares of the images, in training at random places."""
        shape = (self.shape[0], side, side)
        return self._with(read=Cropped(self, side), shape=shape, pixels=None, derive=None)

    def _with(self, **attributes: Any) -> LevelImages:
        """A copy with these attributes in the place of its own."""
        other = copy.copy(self)
        vars(other).update(attributes)
        return other


@dataclass(frozen=True)
class Chosen:
    """Reads a selection of another reader's images."""

    read: Callable[[int, tuple[float, float] | None], Tensor]
    index: Tensor

    @property
    def fingerprint(self) -> str:
        """What the images depend on."""
        return repr((self.read.fingerprint, self.index.tolist()))

    def __call__(self, i: int, crop: tuple[float, float] | None = None) -> Tensor:
        return self.read(int(self.index[i]), crop)


@dataclass(frozen=True)
class Reduced:
    """Reads images in low resolution; see `box_mean`."""

    images: LevelImages
    factor: int

    def __call__(self, i: int, crop: tuple[float, float] | None = None) -> Tensor:
        return box_mean(self.images.levels(i, crop), self.factor)


@dataclass(frozen=True)
class Cropped:
    """Reads squares of images; the place of a square is `crop`, the middle if None."""

    images: LevelImages
    side: int

    def __call__(self, i: int, crop: tuple[float, float] | None = None) -> Tensor:
        levels = self.images.levels(i, crop)
        spare = [length - self.side for length in reversed(levels.shape[1:])]
        left, up = (s // 2 if crop is None else int(c * (s + 1)) for s, c in zip(spare, crop or spare, strict=True))
        return levels[:, up : up + self.side, left : left + self.side]


@dataclass(frozen=True)
class ImageData:
    """Training, test and validation images of one shape and number of levels.

    Attributes:
        name: the name of the data in messages; for local data the folder's name without its path.
        train: training images; a stream with --streaming.
        test: images for the final score.
        validation: images for the scores during training; the test images if there are no others.
        hub_name: the name on the Hub; None for other data.
        bad_images: one sentence for each image that was left out.
        notes: lines to print at the start: how many images there are, what was left out, and how images are converted.
        identity: the identity of the training images of a local folder; None for other data.
        attribution: whom the licence of the data asks to name, and the licence; None if it is unknown.
    """

    name: str
    train: LevelImages | ImageStream
    test: LevelImages
    validation: LevelImages
    hub_name: str | None = None
    bad_images: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    identity: Identity | None = None
    attribution: str | None = None

    def reading(self, conditioners: Conditioners) -> ImageData:
        """The data with batches that carry the columns of the conditioning, which is prepared for all known examples.

        Raises:
            ValueError: if a column is missing, or has values that the model does not know. A stream checks its values
                while it is read.
        """
        given = {name: getattr(self, name) for name in ("train", "test", "validation")}
        made = {id(part): part.reading(conditioners) for part in given.values()}
        parts = {name: made[id(part)] for name, part in given.items()}
        known = {id(part): part for part in parts.values() if isinstance(part, LevelImages) and len(part)}
        columns = [conditioners.read(part.columns) for part in known.values()]
        notes = conditioners.prepare(joined(columns)) if columns else ()
        if isinstance(self.train, ImageStream):  # which counts while it is read
            which = "test" if self.validation is self.test else "test and validation"
            notes = tuple(f"Of the {which} images, {note}" for note in notes)
        return replace(self, **parts, notes=(*self.notes, *notes))
