# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Batches of training images without end, from any step on: a run that goes on reads what it would have read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from image_data import LevelImages, scaled
from image_files import BadImage
from image_streams import ImageStream, Sample, StreamReader
from randomness import Use, generator_of, seed_of
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


class Batch(NamedTuple):
    """Images `[B, C, H, W]` in [−1, 1], their classes `[B]` or None, and a sentence on every image passed over."""

    images: Tensor
    labels: Tensor | None
    bad: list[str]


@dataclass(frozen=True)
class Share:
    """What one process reads of every step's batch.

    A step's batch has `batch_size` · `processes` · `accumulation` places; the process reads those of its own in each
    of `accumulation` windows.
    """

    batch_size: int
    accumulation: int = 1
    rank: int = 0
    processes: int = 1

    @property
    def total(self) -> int:
        """Examples in a step, of all processes."""
        return self.batch_size * self.accumulation * self.processes

    def first(self, window: int) -> int:
        """The first place in the step's batch that this process reads in this window."""
        return (window * self.processes + self.rank) * self.batch_size


class EndlessImages(Dataset):
    """Images by their place in an endless row: all of them in a random order, again in another, and so on."""

    def __init__(self, images: LevelImages, seed: int, random_flip: bool):
        self.images, self.seed, self.random_flip = images, seed, random_flip
        self._orders: dict[int, Tensor] = {}

    def __getitems__(self, places: range) -> Batch:
        index = self._indices(places)
        if self.images.pixels is not None:
            levels, bad = self.images.pixels[index], []
        else:
            levels, index, bad = self._read(index, places)
        if self.random_flip:
            levels = _flipped(levels, [self._rng(place, 1).random() for place in places])
        labels = None if self.images.labels is None else self.images.labels[index]
        return Batch(scaled(levels, self.images.num_levels), labels, bad)

    def _read(self, index: Tensor, places: range) -> tuple[Tensor, Tensor, list[str]]:
        """The images, the next one that can be read in the place of a bad one, and the sentences on those."""
        levels, bad, found = [], [], index.clone()
        for k, place in enumerate(places):
            for i in range(int(index[k]), int(index[k]) + len(self.images)):
                found[k] = i % len(self.images)
                try:
                    levels.append(self.images.read(int(found[k]), self._rng(place, 0)))
                    break
                except BadImage as error:
                    bad.append(str(error))
            else:
                raise BadImage("None of the training images can be read.")
        return torch.stack(levels), found, bad

    def _indices(self, places: range) -> Tensor:
        n = len(self.images)
        epochs = range(places.start // n, (places.stop - 1) // n + 1)
        return torch.cat([self._order(e)[max(places.start - e * n, 0) : places.stop - e * n] for e in epochs])

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            order = torch.randperm(len(self.images), generator=generator_of(Use.ORDER, self.seed, epoch))
            self._orders = {key: kept for key, kept in self._orders.items() if key == epoch - 1} | {epoch: order}
        return self._orders[epoch]

    def _rng(self, place: int, use: int) -> np.random.Generator:
        return np.random.default_rng(seed_of(Use.AUGMENTATION, self.seed, place, use))


class Places(Sampler[range]):
    """The places in the endless row that a process reads, batch by batch, from a step on."""

    def __init__(self, share: Share, first_step: int, last_step: int):
        self.share, self.steps = share, range(first_step, last_step)

    def __iter__(self) -> Iterator[range]:
        for step in self.steps:
            for window in range(self.share.accumulation):
                first = step * self.share.total + self.share.first(window)
                yield range(first, first + self.share.batch_size)


class TrainingBatches:
    """One process's batches from `first_step` to `last_step`, on the device, and what finds the next one again.

    Args:
        images: all there is, or a stream of it.
        share: the process's part of a step's batch.
        first_step, last_step: optimisation steps; the last is not read.
        seed: of the order.
        random_flip: whether half of the images come mirrored.
        num_workers: processes that read.
        device: where batches go.
        state: of a stream, as `state` gave it at `first_step`.
    """

    def __init__(
        self,
        images: LevelImages | ImageStream,
        share: Share,
        first_step: int,
        last_step: int,
        seed: int,
        random_flip: bool = False,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
        state: dict[str, Any] | None = None,
    ):
        self.device, self.num_levels, self.random_flip = torch.device(device), images.num_levels, random_flip
        options = {"pin_memory": self.device.type == "cuda"}
        if isinstance(images, ImageStream):
            workers = images.num_workers(num_workers, share.processes)
            turns = max(1, workers)
            if state is not None and len(state["workers"]) != turns:
                raise ValueError(
                    f"The checkpoint is of a stream that {len(state['workers'])} workers read, now there are {turns};"
                    " a stream goes on with as many processes and `dataloader_num_workers`."
                )
            self._states = state["workers"] if state else [None] * turns
            self._turn = state["turn"] if state else 0
            reader = StreamReader(
                images, share.batch_size, seed, share.rank, share.processes, list(self._states), self._turn
            )
            self._loader = DataLoader(reader, batch_size=None, num_workers=workers, collate_fn=_itself, **options)
        else:
            self._states = None
            dataset = EndlessImages(images, seed, random_flip)
            places = Places(share, first_step, last_step)
            self._loader = DataLoader(
                dataset, batch_sampler=places, num_workers=num_workers, collate_fn=_itself, **options
            )

    def __iter__(self) -> Iterator[Batch]:
        for read in self._loader:
            if read is None:
                continue
            batch = read if self._states is None else self._collate(read)
            labels = None if batch.labels is None else batch.labels.to(self.device, non_blocking=True)
            yield Batch(batch.images.to(self.device, non_blocking=True), labels, batch.bad)

    @property
    def state(self) -> dict[str, Any] | None:
        """What finds the next batch of a stream, as JSON; the others' follows from the step alone."""
        return None if self._states is None else {"workers": list(self._states), "turn": self._turn}

    def _collate(self, samples: list[Sample]) -> Batch:
        self._states[self._turn] = samples[-1].state
        self._turn = (self._turn + 1) % len(self._states)
        good = [sample for sample in samples if sample.bad is None]
        levels = torch.stack([sample.levels for sample in good])
        if self.random_flip:
            levels = _flipped(levels, [sample.flip for sample in good])
        labels = None if good[0].label is None else torch.tensor([sample.label for sample in good])
        return Batch(scaled(levels, self.num_levels), labels, [sample.bad for sample in samples if sample.bad])


def _flipped(levels: Tensor, draws: list[float]) -> Tensor:
    """Images mirrored where the draw, uniform in [0, 1), is below a half."""
    mirror = torch.tensor(draws).lt(0.5).view(-1, 1, 1, 1)
    return torch.where(mirror, levels.flip(-1), levels)


def _itself(batch: Any) -> Any:
    return batch
