# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The readers of a stream: the parts that each reads, their order, and the position to resume from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import fsspec.asyn
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..conditioning.columns import Values, chosen, one_of, stacked
from ..runtime.randomness import Use, generator_of
from .image_files import READ_ERRORS, BadImage, content_of
from .image_streams import ImageStream
from .stream_parts import PARTS_AT_ONCE, PartsByTurns, place_of


@dataclass(frozen=True)
class Position:
    """The position of a reader in an epoch."""

    block: int
    next: int  # image of the block
    data: dict[str, Any] | None  # where the block begins; None for the first


class Sample(NamedTuple):
    """An image of a stream, and the position of the reader after it."""

    levels: Tensor | None  # integers [C, H, W]; None if it is bad
    values: dict[str, Any]  # of the columns, by name
    bad: str | None  # the sentence on it
    after: Position


class Piece(NamedTuple):
    """Samples that a reader returns together: the good ones stacked, a position and a sentence or None for each."""

    levels: Tensor  # [B, C, H, W]
    columns: dict[str, Values]  # empty if B is 0
    bad: list[str | None]
    after: list[Position]

    @classmethod
    def of(cls, samples: list[Sample], shape: tuple[int, int, int]) -> Piece:
        good = [sample for sample in samples if sample.bad is None]
        levels = torch.stack([sample.levels for sample in good]) if good else torch.empty(0, *shape, dtype=torch.uint8)
        names = good[0].values if good else ()
        columns = {name: stacked([sample.values[name] for sample in good]) for name in names}
        return cls(levels, columns, [sample.bad for sample in samples], [sample.after for sample in samples])

    def split(self, count: int) -> tuple[Piece, Piece]:
        """The samples up to the `count`-th good one, and the rest."""
        ends = [k + 1 for k, bad in enumerate(self.bad) if bad is None]
        k = ends[count - 1] if count <= len(ends) else len(self.bad)
        first, rest = slice(count), slice(count, None)
        return (
            Piece(self.levels[first], chosen(self.columns, first), self.bad[:k], self.after[:k]),
            Piece(self.levels[rest], chosen(self.columns, rest), self.bad[k:], self.after[k:]),
        )


@dataclass(frozen=True)
class Failure:
    """The reason why a reader stopped. A value is used since an exception would carry the worker's whole traceback."""

    sentence: str


class StreamReader(IterableDataset):
    """The readers of one process: each iteration yields the pieces of an epoch, and then None forever.

    Args:
        stream: the stream.
        batch_size: number of good images in a piece, except the last.
        seed: seed of the order.
        random_flip: whether half of the images are mirrored.
        rank, processes: the process's number, and the number of processes.
        workers: number of readers of the process.
        epoch: the first epoch.
        positions: the position at which each reader resumes in this epoch; None for its beginning.
        turn: the reader that is first in this epoch; in later epochs it is reader 0.
        rest: samples in the first piece of this reader, if it is not a whole one.
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
            fsspec.asyn.reset_lock()  # a lock held at the time of the fork would never be released
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
            yield Failure(f"The stream of images stopped: {error}")
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
        # The reader skips entries of other readers between two of its own.
        entries = itertools.islice(source, mine.start if position.data is None else mine.step - 1, None, mine.step)
        start, block, done = position.data, position.block, position.next
        upcoming = list(itertools.islice(entries, size))
        while upcoming:
            entries_of_block, upcoming, end = upcoming, [], source.state
            address = (self.seed, self.rank, reader, epoch, block)
            shuffled = torch.randperm(len(entries_of_block), generator=generator_of(Use.ORDER, *address)).tolist()
            draws = torch.rand(len(shuffled), 3, generator=generator_of(Use.AUGMENTATION, *address)).tolist()
            choices = torch.rand(len(shuffled), generator=generator_of(Use.ALTERNATIVES, *address)).tolist()
            upcoming.extend(itertools.islice(entries, done))
            for k in range(done, len(shuffled)):
                (entry, name), entries_of_block[shuffled[k]] = entries_of_block[shuffled[k]], None
                upcoming.extend(itertools.islice(entries, 1))  # an entry of the next block replaces this one
                sample = self._sample(entry, name, (*draws[k], choices[k]), Position(block, k + 1, start))
                if sample is not None:
                    yield sample
            start, block, done = end, block + 1, 0

    def _sample(self, entry: dict[str, Any], name: str, draws: tuple[float, ...], after: Position) -> Sample | None:
        """The sample, or None if it is held out.

        Args:
            draws: numbers in [0, 1): two for the crop, one to mirror, and one for the alternatives of the columns.
        """
        stream, (x, y, flip, choice) = self.stream, draws
        try:
            content = content_of(entry[stream.image], name)
            if place_of(content) < stream.held_out:
                return None
            levels = stream.form.levels(content, name, (x, y))
            for column in stream.read:
                fault = column.fault(entry[column.source])
                if fault is not None:
                    raise BadImage(f"{name} {fault}.")
        except BadImage as error:
            return Sample(None, {}, str(error), after)
        values = {column.name: one_of(column.value(entry[column.source]), choice) for column in stream.read}
        return Sample(levels.flip(-1) if self.random_flip and flip < 0.5 else levels, values, None, after)
