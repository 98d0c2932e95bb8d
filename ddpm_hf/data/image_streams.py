# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Streams of images that need not fit in memory: `datasets` in streaming mode, divided among processes and workers.

A reader is one worker of one process. The data come in parts: files, or the row groups of a few parquet files. Every
epoch shuffles the parts and distributes them again. If their number is a multiple of the number of processes, each
process reads its own parts; otherwise every process reads all parts and takes every n-th image. A process distributes
its parts among its workers. A reader takes images from several parts in turn and shuffles them in blocks of
`shuffle_buffer_size`. Unlike a reservoir, a block can be restored: its order follows from the position at which it
begins, which the data set's own state records.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor

from ..conditioning.columns import Alternatives, Derive, Values
from ..conditioning.conditioner import Conditioners
from ..runtime.randomness import BatchAddress
from .arguments import DataArguments
from .data_columns import Column, usable
from .image_files import BadImage, Header, ImageShape, content_of, usable_header
from .levels import scaled
from .stream_parts import PLACES_PER_IMAGE, PartsByTurns, place_of


FEW_FILES, MANY_PARTS = 32, 2000  # at most 32 files are divided into row groups, and at most into 2000


@dataclass(frozen=True)
class ImageStream:
    """Training images that are read on demand.

    Attributes:
        data: undecoded images and labels, in parts.
        image: the column of images.
        columns: the columns that accompany the images.
        form: the shape that every image is converted to.
        held_out: share of the images, chosen by their content, that is held out for testing and validation.
        buffer: number of entries that a process shuffles together.
        is_listing: whether the entries are paths of files, which are read one by one.
        size: number of images, or None if it is unknown.
        read: the columns that batches carry.
        derive: makes the columns that follow from the images themselves; None if there are none.
    """

    data: datasets.IterableDataset
    image: str
    columns: tuple[Column, ...]
    form: ImageShape
    held_out: float
    buffer: int
    is_listing: bool
    size: int | None
    read: tuple[Column, ...] = ()
    derive: Derive | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        return self.form.of_tensor

    @property
    def num_levels(self) -> int:
        return self.form.num_levels

    def examples(self, levels: Tensor, address: BatchAddress) -> Tensor:
        """x_0 of a training batch of integers `[B, C, H, W]`; see `LevelImages.examples`."""
        return scaled(levels, self.num_levels)

    @property
    def epoch_size(self) -> int | None:
        """Number of training images in an epoch; None if it is unknown."""
        return self.size

    @property
    def num_parts(self) -> int:
        """Parts that `datasets` can read independently."""
        return self.data.num_shards

    def reading(self, conditioners: Conditioners) -> ImageStream:
        """The stream with batches that carry the columns of the conditioning; an image with a bad value is bad.

        Raises:
            ValueError: if a column is missing.
        """
        read = tuple(
            dataclasses.replace(column, fault=functools.partial(_fault, column, conditioners))
            for column in self.columns
            if column.name in conditioners.columns
        )
        if len(read) < len(conditioners.columns):
            conditioners.check({column.name: [] for column in read})
        return dataclasses.replace(self, read=read, derive=conditioners.derive_for_training)

    def num_workers(self, asked: int, processes: int) -> int:
        """The number of usable workers: at most `asked`, and at most the number of parts unless entries are paths."""
        parts = self.num_parts
        return asked if self.is_listing else min(asked, parts // processes if parts % processes == 0 else parts)

    def share(self, order: list[int], rank: int, processes: int, worker: int, workers: int) -> tuple[list[int], slice]:
        """The parts in `order` that a reader reads, and the slice of their images that it takes."""
        first, step = 0, 1
        if len(order) % processes == 0:
            order = order[rank::processes]
        else:
            first, step = rank, processes
        if len(order) >= workers:
            order = order[worker::workers]
        else:
            first, step = first * workers + worker, step * workers
        return order, slice(first, None, step)


def _fault(column: Column, conditioners: Conditioners, value: Any) -> str | None:
    """What is wrong with a value of the column, or with one of its alternatives; None for a good one."""
    own = column.fault(value) if column.is_required else None
    if own is not None:
        return own
    value = column.value(value)
    each = value if isinstance(value, Alternatives) else (value,)
    return next(filter(None, (conditioners.fault(column.name, one) for one in each)), None)


def open_stream(
    splits: dict[str, datasets.IterableDataset],
    image: str,
    columns: tuple[Column, ...],
    name: str,
    arguments: DataArguments,
    counted: Callable[[Iterable[Header]], Iterable[Header]] = iter,
) -> tuple[ImageStream, dict[str, tuple[list[Tensor], dict[str, Values]]], list[str]]:
    """The training images as a stream, up to `max_held_out_images` test and validation images with their columns, and
    one sentence for each image that cannot be read.

    If there are no such splits, test and validation images are taken from the training split. The content of an image
    decides, so that all copies of an image are in the same split.

    Args:
        counted: a function that passes on the headers that determine the shape of all images, and counts them.
    """
    bad: list[str] = []
    splits = {split: _in_parts(data) for split, data in splits.items()}
    stream = _whole_stream(splits["train"], image, columns, name, arguments, bad, counted)
    own = own_splits(splits)
    bounds, held_out = {}, 0.0
    for part, share in (("test", arguments.test_fraction), ("validation", arguments.validation_fraction)):
        if part not in own and share > 0:
            bounds[part] = (held_out, held_out + share)
            held_out += share
    if held_out >= 1:
        raise ValueError("`test_fraction` and `validation_fraction` leave no images to train on.")
    kept = {part: _kept(stream, data, (0.0, 1.0), arguments, bad) for part, data in own.items()}
    kept |= {part: _kept(stream, splits["train"], bound, arguments, bad) for part, bound in bounds.items()}
    if "test" in kept and not kept["test"][0]:
        raise ValueError(f"{name} has no test images; pass a larger `test_fraction`, or more images.")
    size = None if stream.size is None else round(stream.size * (1 - held_out))
    kept = {part: found for part, found in kept.items() if found[0]}
    return dataclasses.replace(stream, held_out=held_out, size=size), kept, list(dict.fromkeys(bad))


def own_splits(splits: dict[str, Any]) -> dict[str, Any]:
    """The data set's own test and validation splits; a validation split alone is used for testing."""
    if "test" in splits:
        return {part: splits[part] for part in ("test", "validation") if part in splits}
    return {"test": splits["validation"]} if "validation" in splits else {}


def _in_parts(data: datasets.IterableDataset) -> datasets.IterableDataset:
    """The data divided into row groups, unless there are too many."""
    parts = data.reshard() if data.num_shards <= FEW_FILES else data
    return parts if parts.num_shards <= MANY_PARTS else data


def _whole_stream(
    data: datasets.IterableDataset,
    image: str,
    columns: tuple[Column, ...],
    name: str,
    arguments: DataArguments,
    bad: list[str],
    counted: Callable[[Iterable[Header]], Iterable[Header]],
) -> ImageStream:
    """All images of the split, in the shape of the first image, with the columns in which it has a good value."""
    for entry, where in PartsByTurns(data, list(range(data.num_shards)), image, at_once=1):
        try:
            header = usable_header(entry[image], where, arguments)
            for column in columns:
                column.check(entry[column.source], where)
        except BadImage as error:
            if not arguments.skip_bad_images:
                raise
            bad.append(str(error))
            continue
        info = (data.info.splits or {}).get("train")
        return ImageStream(
            data,
            image,
            tuple(column for column in columns if column.is_good(entry[column.source])),
            ImageShape.of(counted([header]), arguments),
            held_out=0.0,
            buffer=arguments.shuffle_buffer_size * (PLACES_PER_IMAGE if entry[image]["bytes"] is None else 1),
            is_listing=entry[image]["bytes"] is None,
            size=info.num_examples if info is not None and info.num_examples else None,
        )
    raise ValueError(" ".join([f"{name} holds no training images that can be read.", *bad[:1]]))


def _kept(
    stream: ImageStream,
    data: datasets.IterableDataset,
    bounds: tuple[float, float],
    arguments: DataArguments,
    bad: list[str],
) -> tuple[list[Tensor], dict[str, Values]]:
    """Images whose place is within the bounds, spread over the data, and their columns; the same at every call."""
    images: list[Tensor] = []
    values: dict[str, list[Any]] = {column.source: [] for column in stream.columns}
    for entry, name in _mixed(stream, data):
        if len(images) == arguments.max_held_out_images:
            break
        try:
            content = content_of(entry[stream.image], name)
            if bounds[0] <= place_of(content) < bounds[1]:
                for column in stream.columns:
                    column.check(entry[column.source], name)
                images.append(stream.form.levels(content, name))
                for column in stream.columns:
                    values[column.source].append(entry[column.source])
        except BadImage as error:
            if not arguments.skip_bad_images:
                raise
            bad.append(str(error))
    return images, usable(stream.columns, values)


def _mixed(stream: ImageStream, data: datasets.IterableDataset) -> Iterator[tuple[dict[str, Any], str]]:
    """The entries of the data in a fixed mixed order."""
    generator = torch.Generator().manual_seed(0)
    source = PartsByTurns(data, torch.randperm(data.num_shards, generator=generator).tolist(), stream.image)
    while block := list(itertools.islice(source, stream.buffer)):
        yield from (block[k] for k in torch.randperm(len(block), generator=generator).tolist())
