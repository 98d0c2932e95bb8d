# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images that pass by and are never all in memory: `datasets` in streaming mode, divided among processes and workers.

A reader is one worker of one process. The data come in parts: files, or the row groups of a few parquet files. In
every epoch the parts are put into another order and dealt out anew: to the processes as they are if their number
allows, or else every process reads all of them and takes every so many-th image; a process deals its parts to its
workers. A reader takes images from several parts by turns, and their order is random within blocks of
`shuffle_buffer_size`. Blocks in place of a reservoir, since the order of a block follows from the place where it
begins: a reader that was stopped finds that place by the data set's own state, and the next image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import fsspec.asyn
import pyarrow
import torch
from arguments import DataArguments
from huggingface_hub.utils import httpx
from image_files import BadImage, ImageShape, content_of, header_of, name_of
from randomness import Use, generator_of
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info


PARTS_AT_ONCE = 8  # that a process takes images from by turns
PLACES_PER_IMAGE = 16  # that are kept in the room of an encoded image
FEW_FILES, MANY_PARTS = 32, 2000  # a look at so few files is cheap, finding one of so many parts is not
READ_ERRORS = (OSError, ValueError, EOFError, tarfile.TarError, zlib.error, pyarrow.ArrowException, httpx.HTTPError)


@dataclass(frozen=True)
class ImageStream:
    """Training images that are read as they are needed.

    Attributes:
        data: entries of undecoded images and labels, in parts.
        image: the column of images.
        label: the column of their classes, or None.
        form: what every image is made into.
        held_out: the share of the images, by their content, that is kept for testing and validation.
        buffer: entries of a process among which the order is random.
        is_listing: whether entries are the places of files, which are read one by one.
        size: number of images, or None if nobody has counted them.
        num_classes: how many the model knows; labels are looked at only if there is a model that does.
    """

    data: datasets.IterableDataset
    image: str
    label: str | None
    form: ImageShape
    held_out: float
    buffer: int
    is_listing: bool
    size: int | None
    num_classes: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        return self.form.of_tensor

    @property
    def num_levels(self) -> int:
        return self.form.num_levels

    @property
    def epoch_size(self) -> int | None:
        """Images that training sees in an epoch."""
        return self.size

    @property
    def has_labels(self) -> bool:
        return self.label is not None

    @property
    def num_parts(self) -> int:
        """What `datasets` can read one without another."""
        return self.data.num_shards

    def num_workers(self, asked: int, processes: int) -> int:
        """How many of the workers asked for find parts of their own; all, if they need none."""
        parts = self.num_parts
        return asked if self.is_listing else min(asked, parts // processes if parts % processes == 0 else parts)

    def share(self, order: list[int], rank: int, processes: int, worker: int, workers: int) -> tuple[list[int], slice]:
        """What a reader reads of the parts in this order: some of them, and of the images in these a slice."""
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


def open_stream(
    splits: dict[str, datasets.IterableDataset],
    columns: tuple[str, str | None],
    name: str,
    arguments: DataArguments,
) -> tuple[ImageStream, dict[str, list[tuple[Tensor, int | None]]], list[str]]:
    """The training images as a stream, up to `max_held_out_images` test and validation images with their classes, and
    the sentences on those that cannot be read.

    Without splits of these names, they are images of the training split, chosen by their content, so that copies of
    one image are all on one side.
    """
    bad: list[str] = []
    splits = {split: _in_parts(data) for split, data in splits.items()}
    stream = _whole_stream(splits["train"], columns, name, arguments, bad)
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
    if not kept.get("test", [None]):
        raise ValueError(f"{name} has no test images; pass a larger `test_fraction`, or more images.")
    size = None if stream.size is None else round(stream.size * (1 - held_out))
    kept = {part: pairs for part, pairs in kept.items() if pairs}
    return dataclasses.replace(stream, held_out=held_out, size=size), kept, list(dict.fromkeys(bad))


def own_splits(splits: dict[str, Any]) -> dict[str, Any]:
    """What of a data set's splits is for testing, a validation split if nothing else is, and for validation."""
    if "test" in splits:
        return {part: splits[part] for part in ("test", "validation") if part in splits}
    return {"test": splits["validation"]} if "validation" in splits else {}


def _in_parts(data: datasets.IterableDataset) -> datasets.IterableDataset:
    """The data by row groups, if there are not too many of them."""
    parts = data.reshard() if data.num_shards <= FEW_FILES else data
    return parts if parts.num_shards <= MANY_PARTS else data


def _whole_stream(
    data: datasets.IterableDataset,
    columns: tuple[str, str | None],
    name: str,
    arguments: DataArguments,
    bad: list[str],
) -> ImageStream:
    """All images of the split, in the shape that the first one asks for."""
    image, label = columns
    for entry, where in PartsByTurns(data, list(range(data.num_shards)), image, at_once=1):
        try:
            header = header_of(entry[image], where)
        except BadImage as error:
            if not arguments.skip_bad_images:
                raise
            bad.append(str(error))
            continue
        info = (data.info.splits or {}).get("train")
        return ImageStream(
            data,
            image,
            label if label is not None and is_class(entry[label]) else None,
            ImageShape.of([header], arguments),
            held_out=0.0,
            buffer=arguments.shuffle_buffer_size * (PLACES_PER_IMAGE if entry[image]["bytes"] is None else 1),
            is_listing=entry[image]["bytes"] is None,
            size=info.num_examples if info is not None and info.num_examples else None,
        )
    raise ValueError(f"{name} holds no training images that can be read.")


def _kept(
    stream: ImageStream,
    data: datasets.IterableDataset,
    bounds: tuple[float, float],
    arguments: DataArguments,
    bad: list[str],
) -> list[tuple[Tensor, int | None]]:
    """Images whose place is within the bounds, from anywhere in the data, the same every time."""
    images: list[tuple[Tensor, int | None]] = []
    for entry, name in _mixed(stream, data):
        if len(images) == arguments.max_held_out_images:
            break
        try:
            content = content_of(entry[stream.image], name)
            if bounds[0] <= place_of(content) < bounds[1]:
                levels = stream.form.levels(content, name)
                images.append((levels, entry[stream.label] if stream.label else None))
        except BadImage as error:
            if not arguments.skip_bad_images:
                raise
            bad.append(str(error))
    return images if all(is_class(label) for _, label in images) else [(levels, None) for levels, _ in images]


def _mixed(stream: ImageStream, data: datasets.IterableDataset) -> Iterator[tuple[dict[str, Any], str]]:
    """The entries of data in an order that is always the same."""
    generator = torch.Generator().manual_seed(0)
    source = PartsByTurns(data, torch.randperm(data.num_shards, generator=generator).tolist(), stream.image)
    while block := list(itertools.islice(source, stream.buffer)):
        yield from (block[k] for k in torch.randperm(len(block), generator=generator).tolist())


def place_of(content: bytes) -> float:
    """A number in [0, 1) that the content of an image file decides."""
    return zlib.crc32(content) / 2**32


def is_class(label: Any) -> bool:
    """Whether a label is the number of a class; data sets say −1 where they do not know it."""
    return isinstance(label, int) and not isinstance(label, bool) and label >= 0


# --- reading --------------------------------------------------------------------------------------------------------


class PartsByTurns:
    """Entries of several parts, one of each by turns; a part that ends makes way for the next.

    An iterator of pairs: the entry, and what to call its image.

    Args:
        data: the data set.
        parts: numbers of its parts.
        image: the column of images.
        at_once: parts that are read by turns.
        state: where to go on, as `state` gave it.

    Raises:
        OSError: naming the part, for one that cannot be read.
    """

    def __init__(
        self,
        data: datasets.IterableDataset,
        parts: list[int],
        image: str,
        at_once: int = PARTS_AT_ONCE,
        state: dict[str, Any] | None = None,
    ):
        self.data, self.image, self.at_once = data, image, at_once
        self._waiting, self._turn = list(parts), 0
        self._open: list[_Part] = []
        if state is not None:
            self._waiting, self._turn = parts[state["begun"] :], state["turn"]
            self._open = [_Part(data, *place) for place in state["open"]]
        self._begun = len(parts) - len(self._waiting)

    @property
    def state(self) -> dict[str, Any]:
        """What finds the next entry, as JSON."""
        return {"begun": self._begun, "turn": self._turn, "open": [part.place for part in self._open]}

    def __iter__(self) -> PartsByTurns:
        return self

    def __next__(self) -> tuple[dict[str, Any], str]:
        while len(self._open) < self.at_once and self._waiting:
            self._open.append(self._begin())
        while self._open:
            self._turn %= len(self._open)
            entry = self._open[self._turn].read()
            if entry is None:
                self._open[self._turn : self._turn + 1] = [self._begin()] if self._waiting else []
                continue
            name = self._open[self._turn].name_of(entry[self.image])
            self._turn += 1
            return entry, name
        raise StopIteration

    def _begin(self) -> _Part:
        self._begun += 1
        return _Part(self.data, self._waiting.pop(0))


class _Part:
    """One part of a data set, `number` of all, of which `count` entries have been read."""

    def __init__(self, data: datasets.IterableDataset, number: int, count: int = 0, state: dict | None = None):
        self.number, self.count = number, count
        self._name = f"part {number}"
        with self._errors():
            part = data.shard(data.num_shards, number)
            self._name = _file_of(part) or self._name
            # By row groups where a file has them: pyarrow reads the whole of one that it is given as a whole.
            self._data = part.reshard()
        if state is not None:
            self._data.load_state_dict(state)
        # By `iter`, which leaves the dealing out to us: a data set in a worker gives that worker's files alone.
        self._entries = self._data.iter(batch_size=1)

    @property
    def place(self) -> list[Any]:
        """What finds the next entry."""
        return [self.number, self.count, self._data.state_dict()]

    def read(self) -> dict[str, Any] | None:
        """The next entry; None at the end."""
        with self._errors():
            batch = next(self._entries, None)
        if batch is None:
            return None
        self.count += 1
        return {column: values[0] for column, values in batch.items()}

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except READ_ERRORS as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise OSError(f"{self._name} cannot be read after {self.count} images: {reason}.") from error

    def name_of(self, entry: dict[str, Any] | None) -> str:
        """What to call the image that was read last."""
        return name_of(entry, f"Image {self.count - 1} of {self._name}")


def _file_of(part: datasets.IterableDataset) -> str | None:
    """The file, and perhaps the row group, that a part of a data set is read from, if `datasets` tells."""
    source = part._ex_iterable
    while hasattr(source, "ex_iterable"):
        source = source.ex_iterable
    told = getattr(source, "kwargs", {})
    files = next((list(told[key]) for key in ("files", "tar_paths") if key in told), [])
    if len(files) != 1:
        return None
    groups = told.get("row_groups_list") or [None]
    return str(files[0]) if not groups[0] else f"{files[0]}, row group {groups[0][0]}"


@dataclass(frozen=True)
class Position:
    """Where a reader goes on in an epoch."""

    block: int
    next: int  # image of the block
    data: dict[str, Any] | None  # where the block begins; None for the first


class Sample(NamedTuple):
    """An image of a stream, and where the reader goes on after it."""

    levels: Tensor | None  # integers [C, H, W]; None if it is bad
    label: int | None
    bad: str | None  # the sentence on it
    after: Position


class Piece(NamedTuple):
    """Samples that a reader hands over together: all that is good, and the sentence or None and the end of each."""

    levels: Tensor  # [B, C, H, W]
    labels: Tensor | None
    bad: list[str | None]
    after: list[Position]

    @classmethod
    def of(cls, samples: list[Sample], shape: tuple[int, int, int]) -> Piece:
        good = [sample for sample in samples if sample.bad is None]
        levels = torch.stack([sample.levels for sample in good]) if good else torch.empty(0, *shape, dtype=torch.uint8)
        labels = torch.tensor([sample.label for sample in good]) if good and good[0].label is not None else None
        return cls(levels, labels, [sample.bad for sample in samples], [sample.after for sample in samples])

    def split(self, count: int) -> tuple[Piece, Piece]:
        """The samples up to the last of so many good ones, and the rest."""
        ends = [k + 1 for k, bad in enumerate(self.bad) if bad is None]
        k = ends[count - 1] if count <= len(ends) else len(self.bad)
        labels = self.labels
        return (
            Piece(self.levels[:count], None if labels is None else labels[:count], self.bad[:k], self.after[:k]),
            Piece(self.levels[count:], None if labels is None else labels[count:], self.bad[k:], self.after[k:]),
        )


@dataclass(frozen=True)
class Failure:
    """Why a reader cannot go on; a value, since an exception comes out of a worker with its whole traceback."""

    sentence: str


class StreamReader(IterableDataset):
    """What the readers of one process read: an epoch each time it is iterated, in pieces, and then None for ever.

    Args:
        stream: what is read.
        batch_size: good images in a piece, but for the last.
        seed: of the order.
        random_flip: whether half of the images come mirrored.
        rank, processes: which process.
        workers: readers of the process.
        epoch: the first.
        positions: where each reader goes on in this epoch; None from its beginning.
        turn: the reader that is first in this epoch; in all others it is the reader 0.
        rest: samples in the first piece of this reader, if not a whole one.
    """

    def __init__(
        self,
        stream: ImageStream,
        batch_size: int,
        seed: int,
        random_flip: bool,
        rank: int,
        processes: int,
        workers: int,
        epoch: int,
        positions: list[Position | None],
        turn: int,
        rest: int,
    ):
        self.stream, self.batch_size, self.seed, self.random_flip = stream, batch_size, seed, random_flip
        self.rank, self.processes, self.workers = rank, processes, workers
        self.epoch, self.positions, self.turn, self.rest = epoch, positions, turn, rest
        self._passes = 0

    def __iter__(self) -> Iterator[Piece | Failure | None]:
        worker = get_worker_info()
        if worker is not None:
            fsspec.asyn.reset_lock()  # a lock that the process held when it forked would be held for ever
        number, epoch = 0 if worker is None else worker.id, self.epoch + self._passes
        position, rest = None, 0
        if self._passes == 0:
            rest = self.rest if number == 0 else 0
            number = (number + self.turn) % self.workers
            position = self.positions[number]
        self._passes += 1
        try:
            yield from self._pieces(self._samples(epoch, number, position), rest)
        except READ_ERRORS as error:
            yield Failure(f"The stream of images broke off: {error}")
        yield from itertools.repeat(None)

    def _pieces(self, samples: Iterator[Sample], rest: int) -> Iterator[Piece]:
        piece, good = list(itertools.islice(samples, rest)), 0
        if piece:
            yield Piece.of(piece, self.stream.shape)
        piece = []
        for sample in samples:
            piece.append(sample)
            good += sample.bad is None
            if good == self.batch_size:
                yield Piece.of(piece, self.stream.shape)
                piece, good = [], 0
        if piece:
            yield Piece.of(piece, self.stream.shape)

    def _samples(self, epoch: int, reader: int, position: Position | None) -> Iterator[Sample]:
        stream = self.stream
        order = torch.randperm(stream.num_parts, generator=generator_of(Use.ORDER, self.seed, epoch)).tolist()
        parts, mine = stream.share(order, self.rank, self.processes, reader, self.workers)
        position = position or Position(0, 0, None)
        size, at_once = (max(1, number // self.workers) for number in (stream.buffer, PARTS_AT_ONCE))
        source = PartsByTurns(stream.data, parts, stream.image, at_once, position.data)
        # Between two entries of its own the reader passes over those of others.
        entries = itertools.islice(source, mine.start if position.data is None else mine.step - 1, None, mine.step)
        start, block, done = position.data, position.block, position.next
        upcoming = list(itertools.islice(entries, size))
        while upcoming:
            entries_of_block, upcoming, end = upcoming, [], source.state
            address = (self.seed, self.rank, reader, epoch, block)
            shuffled = torch.randperm(len(entries_of_block), generator=generator_of(Use.ORDER, *address)).tolist()
            draws = torch.rand(len(shuffled), 3, generator=generator_of(Use.AUGMENTATION, *address)).tolist()
            upcoming.extend(itertools.islice(entries, done))
            for k in range(done, len(shuffled)):
                (entry, name), entries_of_block[shuffled[k]] = entries_of_block[shuffled[k]], None
                upcoming.extend(itertools.islice(entries, 1))  # of the next block, in the place of this one
                sample = self._sample(entry, name, draws[k], Position(block, k + 1, start))
                if sample is not None:
                    yield sample
            start, block, done = end, block + 1, 0

    def _sample(self, entry: dict[str, Any], name: str, draws: list[float], after: Position) -> Sample | None:
        """The sample, or None if it is held out."""
        stream, (x, y, flip) = self.stream, draws
        try:
            content = content_of(entry[stream.image], name)
            if place_of(content) < stream.held_out:
                return None
            levels, label = stream.form.levels(content, name, (x, y)), None
            if stream.num_classes is not None:
                label = entry[stream.label]
                if not is_class(label) or label >= stream.num_classes:
                    raise BadImage(f"{name} is of class {label}; the model knows 0 ... {stream.num_classes - 1}.")
        except BadImage as error:
            return Sample(None, None, str(error), after)
        return Sample(levels.flip(-1) if self.random_flip and flip < 0.5 else levels, label, None, after)
