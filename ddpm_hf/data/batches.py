# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Endless batches of training images from any step on, so that a resumed run reads exactly the same batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..conditioning.columns import Columns, chosen, joined, on_device, with_one_each
from ..runtime.errors import DataUnreadable
from ..runtime.randomness import BatchAddress, Use, generator_of
from .image_files import BadImage
from .image_streams import ImageStream
from .level_images import LevelImages
from .stream_reader import Failure, Piece, Position, StreamReader
from .workers import WatchedLoader, begin_worker, shared


class Batch(NamedTuple):
    """Training examples.

    Attributes:
        x_0: `[B, C, H, W]` in [−1, 1].
        columns: further values of each example, by name; tensors are on the device of x_0.
        bad: one sentence for every skipped image.
    """

    x_0: Tensor
    columns: Columns
    bad: list[str]


@dataclass(frozen=True)
class BatchShard:
    """The part of every step's batch that one process reads.

    A step's batch has `batch_size` · `processes` · `accumulation` places. In each of `accumulation` windows a process
    reads `batch_size` of them.
    """

    batch_size: int
    accumulation: int = 1
    rank: int = 0
    processes: int = 1

    @property
    def total(self) -> int:
        """Number of examples in a step, over all processes."""
        return self.batch_size * self.accumulation * self.processes

    def first(self, window: int) -> int:
        """The first place in the step's batch that this process reads in this window."""
        return (window * self.processes + self.rank) * self.batch_size


class Levels(NamedTuple):
    """A batch before it is scaled: integers `[B, C, H, W]`."""

    levels: Tensor
    columns: Columns
    bad: list[str]


class EndlessImages(Dataset):
    """Images by their place in an endless sequence of epochs, each in its own random order."""

    def __init__(self, images: LevelImages, seed: int, random_flip: bool):
        self.images, self.seed, self.random_flip = images, seed, random_flip
        self.epoch_size = images.epoch_size
        self._epochs: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __getitems__(self, places: range) -> Levels | Failure:
        index, draws, choices = self._drawn(places)
        if self.images.pixels is not None:
            levels, bad = self.images.pixels[index], []
        else:
            try:
                levels, index, bad = self._read(index, draws[:, :2].tolist())
            except BadImage as error:
                return Failure(str(error))
        if self.random_flip:
            is_mirrored = draws[:, 2].lt(0.5).view(-1, *[1] * (levels.ndim - 1))
            levels = torch.where(is_mirrored, self.images.mirrored(levels), levels)
        return Levels(levels, with_one_each(chosen(self.images.columns, index), choices.tolist()), bad)

    def _read(self, index: Tensor, crops: list[list[float]]) -> tuple[Tensor, Tensor, list[str]]:
        """The images, their numbers, and sentences on bad images, each replaced by the next readable one."""
        levels, bad, found = [], [], index.tolist()
        for k, crop in enumerate(crops):
            for i in range(found[k], found[k] + len(self.images)):
                found[k] = i % len(self.images)
                try:
                    levels.append(self.images.levels(found[k], tuple(crop)))
                    break
                except BadImage as error:
                    bad.append(str(error))
            else:
                raise BadImage(f"None of the training images can be read: {bad[-1]}")
        return torch.stack(levels), torch.tensor(found), bad

    def _drawn(self, places: range) -> tuple[Tensor, Tensor, Tensor]:
        """The image numbers at these places, and numbers in [0, 1) for each.

        These are three for its augmentation, two for the crop and one to mirror, and one for its alternatives.
        """
        n = self.epoch_size
        parts = []
        for epoch in range(places.start // n, (places.stop - 1) // n + 1):
            part = slice(max(places.start - epoch * n, 0), places.stop - epoch * n)
            parts.append([column[part] for column in self._epoch(epoch)])
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _epoch(self, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """The order of an epoch, and the random numbers of its images in this order."""
        if epoch not in self._epochs:
            n, is_random = self.epoch_size, self.random_flip or self.images.pixels is None
            order = self.images.epoch(generator_of(Use.ORDER, self.seed, epoch))
            draws = generator_of(Use.AUGMENTATION, self.seed, epoch)
            augmentation = torch.rand(n, 3, generator=draws) if is_random else torch.empty(n, 0)
            choices = torch.rand(n, generator=generator_of(Use.ALTERNATIVES, self.seed, epoch))
            columns = order, augmentation, choices
            self._epochs = {key: kept for key, kept in self._epochs.items() if key == epoch - 1} | {epoch: columns}
        return self._epochs[epoch]


class Places(Sampler[range]):
    """The places in the endless sequence that a process reads, batch by batch."""

    def __init__(self, shard: BatchShard, first_step: int, last_step: int):
        self.shard, self.steps = shard, range(first_step, last_step)

    def __iter__(self) -> Iterator[range]:
        for step in self.steps:
            for window in range(self.shard.accumulation):
                first = step * self.shard.total + self.shard.first(window)
                yield range(first, first + self.shard.batch_size)


class TrainingBatches:
    """One process's batches from `first_step` to before `last_step`, on the device, and the state to resume them.

    Args:
        images: images, or an endless stream of them.
        shard: the process's part of a step's batch.
        first_step, last_step: optimisation steps; `last_step` is excluded.
        seed: seed of the order.
        random_flip: whether half of the images are mirrored.
        num_workers: number of worker processes.
        device: the device of the batches.
        state: the state of a stream at `first_step`.

    Raises:
        ValueError: if the state belongs to a stream with other parts or workers.
    """

    def __init__(
        self,
        images: LevelImages | ImageStream,
        shard: BatchShard,
        first_step: int,
        last_step: int,
        seed: int,
        random_flip: bool = False,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
        state: dict[str, Any] | None = None,
    ):
        self.images, self.shard, self.seed, self.random_flip = images, shard, seed, random_flip
        self.steps, self.device = (first_step, last_step), torch.device(device)
        self._is_stream = isinstance(images, ImageStream)
        self._workers = images.num_workers(num_workers, shard.processes) if self._is_stream else num_workers
        self._readers = max(1, self._workers)
        self._epoch, self._turn, self._rest = 0, 0, 0
        self._positions: list[Position | None] = [None] * self._readers
        if state is not None:
            self._go_on(state)

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the current position on; closing the iterator releases files and workers."""
        batches = self._of_stream() if self._is_stream else self._of_images()
        for number, (levels, columns, bad) in enumerate(batches):
            address = self._address(number)
            x_0 = self.images.examples(levels.to(self.device, non_blocking=True), address)
            derived = {} if self.images.derive is None else self.images.derive(x_0, address)
            yield Batch(x_0, {**on_device(columns, self.device), **derived}, bad)

    def _address(self, number: int) -> BatchAddress:
        """The address of a batch, counted from that of the first step."""
        step, window = divmod(number, self.shard.accumulation)
        return BatchAddress(self.seed, self.steps[0] + step, self.shard.first(window), self.shard.total)

    def place(self) -> tuple[Any, ...]:
        """The position of the next batch, for `rewind`."""
        return self._epoch, self._turn, self._rest, tuple(self._positions)

    def rewind(self, place: tuple[Any, ...]) -> None:
        """Set `state` back to a position that `place` gave."""
        self._epoch, self._turn, self._rest, positions = place
        self._positions = list(positions)

    @property
    def state(self) -> dict[str, Any] | None:
        """The state of a stream, as JSON; None for other images, where the step determines the batch."""
        if not self._is_stream:
            return None
        return {
            "parts": self.images.num_parts,
            "batch_size": self.shard.batch_size,
            "epoch": self._epoch,
            "turn": self._turn,
            "rest": self._rest,
            "readers": [position and asdict(position) for position in self._positions],
        }

    def _go_on(self, state: dict[str, Any]) -> None:
        if len(state["readers"]) != self._readers:
            raise ValueError(
                f"The checkpoint is of a stream that {len(state['readers'])} workers read, now there are"
                f" {self._readers}; a stream resumes only with the same number of processes and"
                " `dataloader_num_workers`."
            )
        if self._readers > 1 and state.get("batch_size", self.shard.batch_size) != self.shard.batch_size:
            raise ValueError(
                f"The checkpoint is of a stream that workers read in turn, in batches of {state['batch_size']}; it"
                f" resumes only with such batches, not with `train_batch_size` {self.shard.batch_size}."
            )
        if state["parts"] != self.images.num_parts:
            raise ValueError(
                f"The checkpoint is of a stream of {state['parts']} parts, now there are {self.images.num_parts}."
            )
        self._epoch, self._turn, self._rest = state["epoch"], state["turn"], state["rest"]
        self._positions = [position and Position(**position) for position in state["readers"]]

    def _of_images(self) -> Iterator[Levels]:
        dataset = EndlessImages(self.images, self.seed, self.random_flip)
        with closing(self._loader(dataset, batch_sampler=Places(self.shard, *self.steps))) as loader:
            yield from map(_checked, loader)

    def _of_stream(self) -> Iterator[Levels]:
        reader = StreamReader(
            self.images,
            self.shard.batch_size,
            self.seed,
            self.random_flip,
            self.shard.rank,
            self.shard.processes,
            self._readers,
            self._epoch,
            list(self._positions),
            self._turn,
            self._rest,
        )
        # The workers live through all epochs, and their readers count the epochs.
        with closing(self._loader(reader, batch_size=None, persistent_workers=self._workers > 0)) as loader:
            yield from self._batches_of(loader)

    def _batches_of(self, loader: WatchedLoader) -> Iterator[Levels]:
        held: list[Piece] = []  # fewer images than a batch
        is_whole = self._positions == [None] * self._readers
        while True:
            found_any, sentence = False, ""
            for number, given in self._pieces_of_epoch(loader):
                found_any = found_any or len(given.levels) > 0
                sentence = next(filter(None, given.bad), sentence)
                while given.after:
                    piece, given = given.split(self.shard.batch_size - _count(held))
                    held.append(piece)
                    self._positions[number] = piece.after[-1]
                    if _count(held) == self.shard.batch_size:
                        self._rest = len(given.after)
                        self._turn = number if given.after else (number + 1) % self._readers
                        yield _joined(held)
                        held = []
            if is_whole and not found_any:
                where = f"Process {self.shard.rank} found no training images in a whole epoch."
                raise DataUnreadable(f"{where} {sentence}".strip())
            self._epoch, self._turn, self._rest, is_whole = self._epoch + 1, 0, 0, True
            self._positions = [None] * self._readers

    def _pieces_of_epoch(self, loader: WatchedLoader) -> Iterator[tuple[int, Piece]]:
        """The pieces that the readers yield in turn until all have ended, each with its reader's number."""
        first, ended = self._turn, set()
        for k, piece in enumerate(loader):
            number = (first + k) % self._readers
            if piece is not None:
                yield number, _checked(piece)
                continue
            ended.add(number)
            if len(ended) == self._readers:
                return

    def _loader(self, dataset: Dataset, **options: Any) -> WatchedLoader:
        loader = DataLoader(
            dataset,
            num_workers=self._workers,
            collate_fn=shared,
            worker_init_fn=begin_worker,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # leaves torch's global generator unchanged
            **options,
        )
        return WatchedLoader(loader)


def _count(pieces: list[Piece]) -> int:
    return sum(len(piece.levels) for piece in pieces)


def _joined(pieces: list[Piece]) -> Levels:
    bad = [sentence for piece in pieces for sentence in piece.bad if sentence is not None]
    full = [piece for piece in pieces if len(piece.levels)]
    if len(full) == 1:
        return Levels(full[0].levels, full[0].columns, bad)
    return Levels(torch.cat([piece.levels for piece in full]), joined([piece.columns for piece in full]), bad)


def _checked(read: Any) -> Any:
    if isinstance(read, Failure):
        raise DataUnreadable(read.sentence)
    return read
