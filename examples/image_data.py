# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images as levels: scikit-learn's digits, a data set that `datasets` can read, or a local folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from arguments import DataArguments
from image_files import MODES, BadImage, ImageShape, open_image
from image_streams import ImageStream, is_class, open_stream
from sklearn.datasets import load_digits
from torch import Tensor


LARGEST_IN_MEMORY = 2 * 2**30  # bytes of pixels that are kept decoded
DIGITS = "scikit-learn digits"

datasets.disable_progress_bars()


class LevelImages:
    """Images as float32 tensors `[C, H, W]` of `num_levels` evenly spaced levels in [−1, 1].

    Args:
        size: number of images.
        read: `read(i, rng)` gives image i as integers `[C, H, W]` in 0 … num_levels − 1, and raises `BadImage`; what
            is random about it `rng` decides, or nothing is if it is None.
        num_levels: levels of the data.
        shape: C, H, W.
        labels: the class of every image, int64 `[size]`, or None.
        pixels: all that `read` gives, `[size, C, H, W]`, if nothing about it is random and memory holds it.
    """

    def __init__(
        self,
        size: int,
        read: Callable[[int, np.random.Generator | None], Tensor],
        num_levels: int,
        shape: tuple[int, int, int],
        labels: Tensor | None = None,
        pixels: Tensor | None = None,
    ):
        self.size, self.read, self.num_levels, self.shape = size, read, num_levels, shape
        self.labels, self.pixels = labels, pixels

    @classmethod
    def in_memory(cls, pixels: Tensor, num_levels: int, labels: Tensor | None = None) -> LevelImages:
        """Images that are there already, integers `[N, C, H, W]`."""
        return cls(len(pixels), lambda i, rng: pixels[i], num_levels, tuple(pixels.shape[1:]), labels, pixels)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Tensor:
        return scaled(self.read(i, None), self.num_levels)

    def batch(self, first: int, last: int) -> tuple[Tensor, Tensor | None]:
        """Images first … last − 1, `[B, C, H, W]`, cropped in the middle if at all, and their labels."""
        images = torch.stack([self[i] for i in range(first, min(last, self.size))])
        return images, None if self.labels is None else self.labels[first:last]

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Tensor]:
        """The first `limit` images (all of them if None) in order, in batches."""
        size = self.size if limit is None else min(limit, self.size)
        for start in range(0, size, batch_size):
            yield self.batch(start, min(start + batch_size, size))[0]

    def first(self, count: int | None) -> LevelImages:
        """The first so many of them, or all."""
        size = self.size if count is None else min(count, self.size)
        labels = None if self.labels is None else self.labels[:size]
        return LevelImages(size, self.read, self.num_levels, self.shape, labels, self.pixels)


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


def load_images(arguments: DataArguments) -> ImageData:
    """The images that the arguments name; without any, the digits.

    Raises:
        ValueError: for no images, for images that cannot be read, naming the file, and for images that differ in mode
            or size where nothing says what to make of that.
    """
    _check(arguments)
    if arguments.dataset_name is None and arguments.train_data_dir is None:
        return _digits(arguments)
    name, source = _source(arguments)
    is_local = Path(name).exists()
    try:
        splits = datasets.load_dataset(**source, cache_dir=arguments.cache_dir, streaming=arguments.streaming)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{name} holds no images that can be read: {error}") from error
    splits = {split: columns_of(data, name, arguments.label_column) for split, data in splits.items()}
    if "train" not in splits:
        raise ValueError(f"{name} holds no training images (split 'train'); it has {list(splits)}.")
    parts = _streamed(splits, name, arguments) if arguments.streaming else _mapped(splits, name, arguments)
    label = Path(name).resolve().name if is_local else name
    return ImageData(name=label, hub_name=None if is_local else name, **parts)


def _check(arguments: DataArguments) -> None:
    most = 2**16 if arguments.preserve_input_precision else 256
    if arguments.num_levels is not None and not 2 <= arguments.num_levels <= most:
        raise ValueError(f"`num_levels` must be in 2 ... {most}, but is {arguments.num_levels}.")
    if arguments.channels is not None and arguments.channels not in MODES:
        raise ValueError(f"`channels` must be 1, 3 or 4, but is {arguments.channels}.")
    for name in ("test_fraction", "validation_fraction"):
        if not 0 <= getattr(arguments, name) < 1:
            raise ValueError(f"`{name}` must be in [0, 1), but is {getattr(arguments, name)}.")
    for name in ("shuffle_buffer_size", "max_held_out_images"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {getattr(arguments, name)}.")


def _source(arguments: DataArguments) -> tuple[str, dict[str, Any]]:
    if arguments.dataset_name is not None:
        return arguments.dataset_name, {"path": arguments.dataset_name, "name": arguments.dataset_config_name}
    if not Path(arguments.train_data_dir).is_dir():
        raise ValueError(f"`train_data_dir` {arguments.train_data_dir} is not a folder.")
    return arguments.train_data_dir, {"path": "imagefolder", "data_dir": arguments.train_data_dir}


def _digits(arguments: DataArguments) -> ImageData:
    """scikit-learn's 1797 digits of 8x8 pixels and 17 grey levels: the first 1500 to train, the last 297 to test."""
    if arguments.streaming:
        raise ValueError("`streaming` is for data sets that memory does not hold; the digits are always there.")
    if (arguments.resolution or 8, arguments.channels or 1, arguments.num_levels or 17) != (8, 1, 17):
        raise ValueError("`resolution`, `channels` and `num_levels` of the digits are 8, 1 and 17; name other data.")
    digits = load_digits()
    levels = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)  # [1797, 1, 8, 8]
    labels = torch.from_numpy(digits.target).long()
    size = 1500 - round(1500 * arguments.validation_fraction)
    train, validation, test = (
        LevelImages.in_memory(levels[part], 17, labels[part]) if levels[part].numel() else None
        for part in (slice(size), slice(size, 1500), slice(1500, None))
    )
    return ImageData(name=DIGITS, train=train, test=test, validation=validation or test)


# --- data sets that `datasets` reads --------------------------------------------------------------------------------


def columns_of(data: Any, name: str, label_column: str | None) -> Any:
    """The column of images, undecoded, as "image", and that of their classes, if there is one, as "label".

    Raises:
        ValueError: if there are no images, or no `label_column`.
    """
    features = data.features or data._resolve_features().features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    if not images:
        raise ValueError(f"{name} has no column of images; its columns are {list(features)}.")
    classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if label_column is not None and label_column not in features:
        raise ValueError(f"`label_column` {label_column} is no column of {name}; its columns are {list(features)}.")
    columns = {images[0]: "image"}
    if label_column is not None or classes:
        columns[label_column or classes[0]] = "label"
    data = data.select_columns(list(columns))
    renamed = {old: new for old, new in columns.items() if old != new}
    data = data.rename_columns(renamed) if renamed else data
    return data.cast_column("image", datasets.Image(decode=False))


def _mapped(splits: dict[str, datasets.Dataset], name: str, arguments: DataArguments) -> dict[str, Any]:
    """Data that can be counted: train, test and validation images."""
    if len(splits["train"]) < 2:
        raise ValueError(f"{name} holds no training images (split 'train' of at least 2).")
    train, test, validation = _divide(splits, arguments)
    bad: list[str] = []
    train = _readable(train, arguments, bad)
    shape = ImageShape.of((open_image(entry, "", decode=False) for entry in train["image"]), arguments)
    images = {
        part: _level_images(data, shape, arguments, bad, is_training=part == "train")
        for part, data in (("train", train), ("test", test), ("validation", validation))
        if data is not None
    }
    return {"validation": images["test"], **images, "bad_images": tuple(bad)}


def _divide(
    splits: dict[str, datasets.Dataset], arguments: DataArguments
) -> tuple[datasets.Dataset, datasets.Dataset, datasets.Dataset | None]:
    """Train, test and validation: the data set's own splits where it has them."""
    train, test = splits["train"], splits.get("test", splits.get("validation"))
    validation = splits.get("validation") if "test" in splits else None
    if test is None:
        halves = train.train_test_split(test_size=arguments.test_fraction, seed=0)
        train, test = halves["train"], halves["test"]
    if validation is None and arguments.validation_fraction:
        halves = train.train_test_split(test_size=arguments.validation_fraction, seed=0)
        train, validation = halves["train"], halves["test"]
    return train, test, validation


def _readable(data: datasets.Dataset, arguments: DataArguments, bad: list[str]) -> datasets.Dataset:
    """The data without the images whose header cannot be read; one of these is an error unless they are skipped."""
    good = []
    for i, entry in enumerate(data["image"]):
        try:
            open_image(entry, f"image {i}", decode=False).close()
            good.append(i)
        except BadImage as error:
            if not arguments.skip_bad_images:
                raise
            bad.append(str(error))
    if len(good) < 2:
        raise ValueError("Fewer than 2 of the training images can be read.")
    return data if len(good) == len(data) else data.select(good)


def _level_images(
    data: datasets.Dataset, shape: ImageShape, arguments: DataArguments, bad: list[str], is_training: bool
) -> LevelImages:
    column, labels = data["image"], _labels(data)

    def read(i: int, rng: np.random.Generator | None) -> Tensor:
        entry, name = column[i], f"image {i}"
        return shape.levels(open_image(entry, name), entry["path"] or name, rng)

    in_memory = len(data) * math.prod(shape.of_tensor) * (1 if shape.num_levels <= 256 else 4) <= LARGEST_IN_MEMORY
    if not in_memory or (is_training and shape.is_random):
        return LevelImages(len(data), read, shape.num_levels, shape.of_tensor, labels)
    levels, good = [], []
    for i in range(len(data)):
        try:
            levels.append(read(i, None))
            good.append(i)
        except BadImage as error:
            if not arguments.skip_bad_images:
                raise
            bad.append(str(error))
    return LevelImages.in_memory(torch.stack(levels), shape.num_levels, None if labels is None else labels[good])


def _labels(data: datasets.Dataset) -> Tensor | None:
    if "label" not in data.column_names:
        return None
    labels = data["label"][:]
    return torch.tensor(labels, dtype=torch.long) if all(is_class(label) for label in labels) else None


def _streamed(splits: dict[str, datasets.IterableDataset], name: str, arguments: DataArguments) -> dict[str, Any]:
    """Data that pass by: training images as a stream, as many test and validation images as are kept in memory."""
    train, held_out = open_stream(splits, name, arguments)
    kept = {
        part: LevelImages.in_memory(
            torch.stack([image for image, _ in pairs]),
            train.num_levels,
            None if pairs[0][1] is None else torch.tensor([label for _, label in pairs]),
        )
        for part, pairs in held_out.items()
    }
    return {"train": train, "validation": kept["test"], **kept}
