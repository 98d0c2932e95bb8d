# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images that pass by and are never all in memory: `datasets` in streaming mode, divided among processes and workers.

The order is random in three ways: of the files, which are read several at a time, of the epochs, each of which has
another, and of the images within a block of `shuffle_buffer_size`. A block in place of a reservoir, since its order
follows from the place where it begins: a run that is stopped finds it again, and goes on with the next image.
"""

from __future__ import annotations

import itertools
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from arguments import DataArguments
from datasets.distributed import split_dataset_by_node
from image_files import BadImage, ImageShape, open_image
from randomness import Use, generator_of, seed_of
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info


FILES_AT_ONCE = 10  # that images are taken from by turns

# It warns that a shuffled stream cannot go on where it stopped; this one, whose own buffer holds one image, can.
logging.getLogger("datasets.iterable_dataset").setLevel(logging.ERROR)


@dataclass(frozen=True)
class ImageStream:
    """Training images that are read as they are needed.

    Attributes:
        data: entries of undecoded images and labels.
        form: what every image is made into.
        held_out: the share of the images, by their content, that is kept for testing and validation.
        has_labels: whether every image has its class.
        buffer: images among which the order is random.
        size: number of images, or None if nobody has counted them.
    """

    data: datasets.IterableDataset
    form: ImageShape
    held_out: float
    has_labels: bool
    buffer: int
    size: int | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        return self.form.of_tensor

    @property
    def num_levels(self) -> int:
        return self.form.num_levels

    def num_workers(self, asked: int, processes: int) -> int:
        """How many of the workers asked for find files of their own."""
        shards = self.data.num_shards
        return min(asked, shards // processes if shards % processes == 0 else shards)


def open_stream(
    splits: dict[str, datasets.IterableDataset], name: str, arguments: DataArguments
) -> tuple[ImageStream, dict[str, list[tuple[Tensor, int | None]]]]:
    """The training images as a stream, and up to `max_held_out_images` test and validation images with their classes.

    Without splits of these names, they are images of the training split, chosen by their content, so that copies of
    one image are all on one side.
    """
    form, has_labels = _form(splits["train"], name, arguments)
    own = {"test": splits.get("test", splits.get("validation"))}
    own["validation"] = splits.get("validation") if "test" in splits else None
    bounds, held_out = {}, 0.0
    for part, share in (("test", arguments.test_fraction), ("validation", arguments.validation_fraction)):
        if own[part] is None and share > 0:
            bounds[part] = (held_out, held_out + share)
            held_out += share
    if held_out >= 1:
        raise ValueError("`test_fraction` and `validation_fraction` leave no images to train on.")
    kept = {part: _kept(data, (0.0, 1.0), form, arguments) for part, data in own.items() if data is not None}
    kept |= {part: _kept(splits["train"], bound, form, arguments) for part, bound in bounds.items()}
    if not kept.get("test"):
        raise ValueError(f"{name} has no test images; pass a `test_fraction` above 0, or more images.")
    info = (splits["train"].info.splits or {}).get("train")
    size = round(info.num_examples * (1 - held_out)) if info is not None and info.num_examples else None
    stream = ImageStream(splits["train"], form, held_out, has_labels, arguments.shuffle_buffer_size, size)
    return stream, {part: pairs for part, pairs in kept.items() if pairs}


def _form(data: datasets.IterableDataset, name: str, arguments: DataArguments) -> tuple[ImageShape, bool]:
    """The shape that the first image asks for, and whether it has a class."""
    for entry in data:
        try:
            image = open_image(entry["image"], "the first image", decode=False)
        except BadImage:
            if not arguments.skip_bad_images:
                raise
            continue
        return ImageShape.of([image], arguments), is_class(entry.get("label"))
    raise ValueError(f"{name} holds no training images that can be read.")


def _kept(
    data: datasets.IterableDataset, bounds: tuple[float, float], form: ImageShape, arguments: DataArguments
) -> list[tuple[Tensor, int | None]]:
    """The first images whose place is within the bounds."""
    images = []
    for i, entry in enumerate(data):
        if len(images) == arguments.max_held_out_images:
            break
        if not bounds[0] <= place_of(entry) < bounds[1]:
            continue
        try:
            name = f"image {i}"
            levels = form.levels(open_image(entry["image"], name), entry["image"]["path"] or name)
        except BadImage:
            if not arguments.skip_bad_images:
                raise
            continue
        images.append((levels, entry.get("label")))
    return images if all(is_class(label) for _, label in images) else [(levels, None) for levels, _ in images]


def place_of(entry: dict[str, Any]) -> float:
    """A number in [0, 1) that the content of an image decides, or its path where it lies elsewhere."""
    return zlib.crc32(entry["image"]["bytes"] or entry["image"]["path"].encode()) / 2**32


def is_class(label: Any) -> bool:
    """Whether a label is the number of a class; data sets say −1 where they do not know it."""
    return isinstance(label, int) and not isinstance(label, bool) and label >= 0


class Sample(NamedTuple):
    """An image of a stream, and what finds the next one."""

    levels: Tensor | None  # integers [C, H, W]; None if it is bad
    label: int | None
    bad: str | None  # the sentence on it
    flip: float  # uniform in [0, 1)
    state: dict[str, Any]


class StreamReader(IterableDataset):
    """The samples of one process, without end, in lists of one batch; each worker reads files of its own.

    Args:
        stream: what is read.
        batch_size: samples in a list, bad ones not counted.
        seed, rank, processes: of the order, and the part of it.
        states: where each worker is to go on, JSON; None from the beginning.
        first_worker: whose turn it is; workers before it give None once, in place of the list that they gave already.
    """

    def __init__(
        self,
        stream: ImageStream,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        states: list[dict[str, Any] | None] | None = None,
        first_worker: int = 0,
    ):
        self.stream, self.batch_size, self.seed = stream, batch_size, seed
        self.rank, self.processes = rank, processes
        self.states, self.first_worker = states, first_worker

    def __iter__(self) -> Iterator[list[Sample] | None]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        if number < self.first_worker:
            yield None
        samples = self._samples(number, self.states[number] if self.states else None)
        while True:
            batch = [next(samples)]
            while sum(sample.bad is None for sample in batch) < self.batch_size:
                batch.append(next(samples))
            yield batch

    def _samples(self, worker: int, state: dict[str, Any] | None) -> Iterator[Sample]:
        state = state or {"epoch": 0, "block": 0, "next": 0, "data": None}
        found_any = False
        for epoch in itertools.count(state["epoch"]):
            data = self._epoch(epoch)
            if state["data"] is not None:
                data.load_state_dict(state["data"])
            entries = iter(data)
            for block in itertools.count(state["block"]):
                start = data.state_dict()
                buffer = list(itertools.islice(entries, self.stream.buffer))
                if not buffer:
                    break
                address = (self.seed, self.rank, worker, epoch, block)
                order = torch.randperm(len(buffer), generator=generator_of(Use.ORDER, *address)).tolist()
                for k in range(state["next"], len(buffer)):
                    entry = buffer[order[k]]
                    if place_of(entry) < self.stream.held_out:
                        continue
                    found_any = True
                    here = {"epoch": epoch, "block": block, "next": k + 1, "data": start}
                    yield self._sample(entry, np.random.default_rng(seed_of(Use.AUGMENTATION, *address, k)), here)
                state["next"] = 0
            if not found_any and state["data"] is None:
                raise ValueError(f"Process {self.rank} found no training images in a whole pass over the data.")
            state = {"epoch": 0, "block": 0, "next": 0, "data": None}

    def _epoch(self, epoch: int) -> datasets.IterableDataset:
        seed = seed_of(Use.ORDER, self.seed, epoch) % 2**32
        data = self.stream.data.shuffle(seed=seed, buffer_size=1, max_buffer_input_shards=FILES_AT_ONCE)
        return split_dataset_by_node(data, self.rank, self.processes)

    def _sample(self, entry: dict[str, Any], rng: np.random.Generator, state: dict[str, Any]) -> Sample:
        flip, name = rng.random(), entry["image"]["path"] or f"an image of epoch {state['epoch']}"
        try:
            levels, bad = self.stream.form.levels(open_image(entry["image"], name), name, rng), None
        except BadImage as error:
            levels, bad = None, str(error)
        return Sample(levels, entry.get("label") if self.stream.has_labels else None, bad, flip, state)
