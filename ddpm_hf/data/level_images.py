# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images as levels: float tensors of evenly spaced values in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..conditioning.columns import Columns, chosen
from ..conditioning.conditioner import Conditioners
from .image_files import BadImage
from .image_streams import ImageStream


class LevelImages:
    """Images as float32 tensors `[C, H, W]` of `num_levels` evenly spaced levels in [−1, 1].

    Args:
        size: number of images.
        read: `read(i, crop)` gives image i as integers `[C, H, W]` in 0 … num_levels − 1, and raises `BadImage`; two
            numbers in [0, 1) place the crop, which is in the middle if there are none. Not needed with `pixels`.
        num_levels: levels of the data.
        shape: C, H, W.
        columns: what else is known of every image, by name, such as its class.
        pixels: all that `read` gives, `[size, C, H, W]`, if crops change nothing and memory holds it.
        row: the images that training goes through, int64: all, and where one was bad the next that is not; None for
            all of them, each once. So a run goes on when an image breaks on the way.
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
    ):
        self.size, self.read, self.num_levels, self.shape = size, read, num_levels, shape
        self.columns, self.pixels, self.row = columns or {}, pixels, row

    @classmethod
    def none_like(cls, images: LevelImages | ImageStream) -> LevelImages:
        """No images, of the kind of others."""
        return cls.in_memory(torch.empty(0, *images.shape, dtype=torch.uint8), images.num_levels)

    @classmethod
    def in_memory(cls, pixels: Tensor, num_levels: int, columns: Columns | None = None) -> LevelImages:
        """Images that are there already, integers `[N, C, H, W]`."""
        return cls(len(pixels), None, num_levels, tuple(pixels.shape[1:]), columns, pixels)

    def __len__(self) -> int:
        return self.size

    @property
    def epoch_size(self) -> int:
        """Images that training sees in an epoch."""
        return self.size if self.row is None else len(self.row)

    def __getitem__(self, i: int) -> Tensor:
        return scaled(self.levels(i), self.num_levels)

    def levels(self, i: int, crop: tuple[float, float] | None = None) -> Tensor:
        """Image i as integers."""
        return self.read(i, crop) if self.pixels is None else self.pixels[i]

    def batch(self, first: int, last: int, skip_bad: bool = False) -> tuple[Tensor, Columns]:
        """Images first … last − 1, `[B, C, H, W]`, cropped in the middle if at all, and their columns.

        Raises:
            BadImage: for one that cannot be read, unless these are left out.
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
        return scaled(levels, self.num_levels), chosen(self.columns, some)

    def batches_with_columns(
        self, batch_size: int, limit: int | None = None, skip_bad: bool = False
    ) -> Iterator[tuple[Tensor, Columns]]:
        """Images in order, those of `spread(limit)`, in batches, as `batch` gives them."""
        images = self.spread(limit)
        for start in range(0, images.size, batch_size):
            yield images.batch(start, min(start + batch_size, images.size), skip_bad)

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Tensor]:
        """The same without columns."""
        return (images for images, _ in self.batches_with_columns(batch_size, limit))

    def spread(self, count: int | None) -> LevelImages:
        """So many of them, or all, evenly spread over their order: data sets often have one class after the other."""
        if count is None or count >= self.size:
            return self
        index = torch.arange(count) * self.size // count
        pixels = None if self.pixels is None else self.pixels[index]
        read = None if self.read is None else Chosen(self.read, index)
        return LevelImages(count, read, self.num_levels, self.shape, chosen(self.columns, index), pixels)

    def reading(self, conditioners: Conditioners) -> LevelImages:
        """The images themselves.

        Raises:
            ValueError: if there are any, and their conditioning cannot be made from their columns.
        """
        if self.size:
            conditioners.check(self.columns)
        return self

    def with_columns(self, columns: Columns) -> LevelImages:
        """The same images with other columns."""
        return LevelImages(self.size, self.read, self.num_levels, self.shape, columns, self.pixels)


@dataclass(frozen=True)
class Chosen:
    """Reads some of the images that another reader has."""

    read: Callable[[int, tuple[float, float] | None], Tensor]
    index: Tensor

    def __call__(self, i: int, crop: tuple[float, float] | None = None) -> Tensor:
        return self.read(int(self.index[i]), crop)


def scaled(levels: Tensor, num_levels: int) -> Tensor:
    """Levels 0 … num_levels − 1 as float32 in [−1, 1]."""
    return levels.float() * (2 / (num_levels - 1)) - 1


@dataclass(frozen=True)
class ImageData:
    """Training and test images of one shape and number of levels.

    Attributes:
        name: what to call them; of data on this machine the folder's name, and not where it lies.
        train: a stream if they are not to be counted or kept.
        test: for the score at the end.
        validation: to watch the training by; the test images where there are no others.
        hub_name: their name on the Hub, if that is where they come from.
        bad_images: sentences on those that were left out.
    """

    name: str
    train: LevelImages | ImageStream
    test: LevelImages
    validation: LevelImages
    hub_name: str | None = None
    bad_images: tuple[str, ...] = ()

    def reading(self, conditioners: Conditioners) -> ImageData:
        """The data with batches that carry the columns of the conditioning.

        Raises:
            ValueError: if a column is missing, or has values that the model does not know. A stream checks its values
                as they come.
        """
        parts = {name: getattr(self, name).reading(conditioners) for name in ("train", "test", "validation")}
        return replace(self, **parts)
