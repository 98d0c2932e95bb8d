# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images as levels: scikit-learn's digits, a data set that `datasets` can read, or a local folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from arguments import DataArguments
from image_files import INTERPOLATIONS, MODES, TAKE_OUT, BadImage, Header, ImageShape, content_of, header_of, name_of
from image_streams import ImageStream, is_class, open_stream, own_splits
from sklearn.datasets import load_digits
from torch import Tensor


LARGEST_IN_MEMORY = 2 * 2**30  # bytes of pixels that are kept decoded
SPLITS = ("train", "test", "validation")
DIGITS = "scikit-learn digits"
WEBDATASET_LABEL = "cls"  # the column of classes in shards of that form

datasets.disable_progress_bars()


class LevelImages:
    """Images as float32 tensors `[C, H, W]` of `num_levels` evenly spaced levels in [−1, 1].

    Args:
        size: number of images.
        read: `read(i, crop)` gives image i as integers `[C, H, W]` in 0 … num_levels − 1, and raises `BadImage`; two
            numbers in [0, 1) place the crop, which is in the middle if there are none. Not needed with `pixels`.
        num_levels: levels of the data.
        shape: C, H, W.
        labels: the class of every image, int64 `[size]`, or None.
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
        labels: Tensor | None = None,
        pixels: Tensor | None = None,
        row: Tensor | None = None,
    ):
        self.size, self.read, self.num_levels, self.shape = size, read, num_levels, shape
        self.labels, self.pixels, self.row = labels, pixels, row

    @classmethod
    def none_like(cls, images: LevelImages | ImageStream) -> LevelImages:
        """No images, of the kind of others."""
        labels = torch.empty(0, dtype=torch.long) if images.has_labels else None
        return cls.in_memory(torch.empty(0, *images.shape, dtype=torch.uint8), images.num_levels, labels)

    @classmethod
    def in_memory(cls, pixels: Tensor, num_levels: int, labels: Tensor | None = None) -> LevelImages:
        """Images that are there already, integers `[N, C, H, W]`."""
        return cls(len(pixels), None, num_levels, tuple(pixels.shape[1:]), labels, pixels)

    def __len__(self) -> int:
        return self.size

    @property
    def has_labels(self) -> bool:
        """Whether the classes are known."""
        return self.labels is not None

    @property
    def epoch_size(self) -> int:
        """Images that training sees in an epoch."""
        return self.size if self.row is None else len(self.row)

    def __getitem__(self, i: int) -> Tensor:
        return scaled(self.levels(i), self.num_levels)

    def levels(self, i: int, crop: tuple[float, float] | None = None) -> Tensor:
        """Image i as integers."""
        return self.read(i, crop) if self.pixels is None else self.pixels[i]

    def batch(self, first: int, last: int, skip_bad: bool = False) -> tuple[Tensor, Tensor | None]:
        """Images first … last − 1, `[B, C, H, W]`, cropped in the middle if at all, and their labels.

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
        return scaled(levels, self.num_levels), None if self.labels is None else self.labels[some]

    def labelled_batches(
        self, batch_size: int, limit: int | None = None, skip_bad: bool = False
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Images in order, those of `spread(limit)`, in batches, as `batch` gives them."""
        images = self.spread(limit)
        for start in range(0, images.size, batch_size):
            yield images.batch(start, min(start + batch_size, images.size), skip_bad)

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Tensor]:
        """The same without labels."""
        return (images for images, _ in self.labelled_batches(batch_size, limit))

    def spread(self, count: int | None) -> LevelImages:
        """So many of them, or all, evenly spread over their order: data sets often have one class after the other."""
        if count is None or count >= self.size:
            return self
        index = torch.arange(count) * self.size // count
        labels, pixels = (None if column is None else column[index] for column in (self.labels, self.pixels))
        read = None if self.read is None else Chosen(self.read, index)
        return LevelImages(count, read, self.num_levels, self.shape, labels, pixels)

    def with_label(self, label: int) -> LevelImages:
        """The same images, all of them of one class."""
        labels = torch.full((self.size,), label)
        return LevelImages(self.size, self.read, self.num_levels, self.shape, labels, self.pixels)


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
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{name} holds no images that can be read: {error}") from error
    if "train" not in splits:
        raise ValueError(f"{name} holds no training images (split 'train'); it has {list(splits)}.")
    columns = columns_of(splits["train"], name, arguments.label_column)
    splits = {split: _selected(data, columns) for split, data in splits.items() if split in SPLITS}
    try:
        parts = (_streamed if arguments.streaming else _mapped)(splits, columns, name, arguments)
    except BadImage as error:
        raise BadImage(f"{error} {TAKE_OUT}") from error
    label = Path(name).resolve().name if is_local else name
    return ImageData(name=label, hub_name=None if is_local else name, **parts)


def _check(arguments: DataArguments) -> None:
    most = 2**16 if arguments.preserve_input_precision else 256
    if arguments.num_levels is not None and not 2 <= arguments.num_levels <= most:
        raise ValueError(f"`num_levels` must be in 2 ... {most}, but is {arguments.num_levels}.")
    if arguments.interpolation not in INTERPOLATIONS:
        known = ", ".join(INTERPOLATIONS)
        raise ValueError(f"`interpolation` must be one of {known}, but is {arguments.interpolation!r}.")
    if arguments.channels is not None and arguments.channels not in MODES:
        raise ValueError(f"`channels` must be 1, 3 or 4, but is {arguments.channels}.")
    for name in ("test_fraction", "validation_fraction"):
        if not 0 <= getattr(arguments, name) < 1:
            raise ValueError(f"`{name}` must be in [0, 1), but is {getattr(arguments, name)}.")
    for name in ("shuffle_buffer_size", "max_held_out_images", "resolution"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {value}.")
    if arguments.dataloader_num_workers < 0:
        raise ValueError(f"`dataloader_num_workers` must be at least 0, but is {arguments.dataloader_num_workers}.")


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
    held_out = round(1500 * arguments.validation_fraction)
    if (held_out == 0) != (arguments.validation_fraction == 0) or held_out == 1500:
        raise ValueError(
            f"`validation_fraction` {arguments.validation_fraction} of 1500 images leaves none for validation or for"
            " training."
        )
    size = 1500 - held_out
    train, validation, test = (
        LevelImages.in_memory(levels[part], 17, labels[part]) if levels[part].numel() else None
        for part in (slice(size), slice(size, 1500), slice(1500, None))
    )
    return ImageData(name=DIGITS, train=train, test=test, validation=validation or test)


# --- data sets that `datasets` reads --------------------------------------------------------------------------------


def columns_of(data: Any, name: str, label_column: str | None) -> tuple[str, str | None]:
    """The column of images, and that of their classes, if there is one.

    Raises:
        ValueError: if there are no images, or no `label_column`.
    """
    features = data.features or data._resolve_features().features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    if not images:
        raise ValueError(f"{name} has no column of images; its columns are {list(features)}.")
    if label_column is not None and label_column not in features:
        raise ValueError(f"`label_column` {label_column} is no column of {name}; its columns are {list(features)}.")
    classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not classes and features.get(WEBDATASET_LABEL) == datasets.Value("int64"):
        classes = [WEBDATASET_LABEL]
    return images[0], label_column or next(iter(classes), None)


def _selected(data: Any, columns: tuple[str, str | None]) -> Any:
    """These columns, the images undecoded."""
    chosen = data.select_columns([column for column in columns if column is not None])
    return chosen.cast_column(columns[0], datasets.Image(decode=False))


@dataclass(frozen=True)
class StoredImages:
    """Reads images of a data set one at a time.

    Attributes:
        data: entries of undecoded images.
        image: the column of images.
        split: what the images are of.
        rows: the images, by their number in the split.
        form: what every image is made into.
    """

    data: datasets.Dataset
    image: str
    split: str
    rows: Tensor
    form: ImageShape | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def entry(self, i: int) -> tuple[dict[str, Any] | None, str]:
        """An undecoded image, and what to call it."""
        row = int(self.rows[i])
        entry = self.data[row][self.image]
        return entry, name_of(entry, f"Image {row} of split {self.split}")

    def __call__(self, i: int, crop: tuple[float, float] | None = None) -> Tensor:
        entry, name = self.entry(i)
        return self.form.levels(content_of(entry, name), name, crop)

    def only(self, kept: list[int] | range) -> StoredImages:
        """Some of them."""
        return dataclasses.replace(self, rows=self.rows[list(kept)])


def _mapped(
    splits: dict[str, datasets.Dataset], columns: tuple[str, str | None], name: str, arguments: DataArguments
) -> dict[str, Any]:
    """Data that can be counted: train, test and validation images."""
    if len(splits["train"]) < 2:
        raise ValueError(f"{name} holds no training images (split 'train' of at least 2).")
    parts = _divide({split: _all_of(data, columns[0], split) for split, data in splits.items()}, arguments)
    bad: list[str] = []
    rows = parts["train"].rows
    parts["train"], form = _formed(parts["train"], arguments, bad)
    images = {
        part: _level_images(
            dataclasses.replace(stored, form=form), columns[1], arguments, bad, rows if part == "train" else None
        )
        for part, stored in parts.items()
    }
    return _parts(images) | {"bad_images": tuple(bad)}


def _parts(images: dict[str, LevelImages | ImageStream]) -> dict[str, Any]:
    """Test images, of which there may be none, and validation images, which are those if there are no others."""
    test = images.get("test") or LevelImages.none_like(images["train"])
    return {"validation": test, **images, "test": test}


def _row(rows: Tensor, good: Tensor) -> Tensor | None:
    """For every one of `rows` the number of the next that is among `good`, some of them in this order."""
    if len(good) == len(rows):
        return None
    is_good = torch.isin(rows, good)
    return (is_good.cumsum(0) - is_good.long()) % len(good)


def _all_of(data: datasets.Dataset, image: str, split: str) -> StoredImages:
    return StoredImages(data, image, split, torch.arange(len(data)))


def _divide(splits: dict[str, StoredImages], arguments: DataArguments) -> dict[str, StoredImages]:
    """Train, test and perhaps validation: the data set's own splits where it has them."""
    parts = {"train": splits["train"], **own_splits(splits)}
    for part, share in (("test", arguments.test_fraction), ("validation", arguments.validation_fraction)):
        if part not in parts and share > 0:
            parts["train"], parts[part] = _split(parts["train"], part, share)
    return parts


def _split(images: StoredImages, part: str, share: float) -> tuple[StoredImages, StoredImages]:
    """The images in a random order, all but a share of them and that share."""
    count = math.ceil(share * len(images))
    if not 0 < count < len(images):
        raise ValueError(f"`{part}_fraction` {share} of {len(images)} images leaves none for testing or for training.")
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    return images.only(order[count:]), images.only(order[:count])


def _formed(images: StoredImages, arguments: DataArguments, bad: list[str]) -> tuple[StoredImages, ImageShape]:
    """The images whose header can be read, and the shape that fits them; a bad one is an error unless skipped."""
    good: list[int] = []

    def headers() -> Iterator[Header]:
        for i in range(len(images)):
            try:
                yield header_of(*images.entry(i))
                good.append(i)
            except BadImage as error:
                if not arguments.skip_bad_images:
                    raise
                bad.append(str(error))

    form = ImageShape.of(headers(), arguments)
    return (images if len(good) == len(images) else images.only(good)), form


def _level_images(
    images: StoredImages, label: str | None, arguments: DataArguments, bad: list[str], rows: Tensor | None
) -> LevelImages:
    """The images in memory if it holds them, or else read when they are needed.

    Args:
        rows: of training images, what they were before the bad ones were left out; None for others.
    """
    is_training = rows is not None

    def made(images: StoredImages, pixels: Tensor | None) -> LevelImages:
        row = _row(rows, images.rows) if is_training else None
        labels, read = _labels(images, label), images if pixels is None else None
        return LevelImages(len(images), read, form.num_levels, form.of_tensor, labels, pixels, row)

    form, dtype = images.form, torch.uint8 if images.form.num_levels <= 256 else torch.int32
    size = len(images) * math.prod(form.of_tensor) * dtype.itemsize
    is_lazy = size > LARGEST_IN_MEMORY or (is_training and form.is_random)
    if is_lazy and (is_training or not arguments.skip_bad_images):
        return made(images, None)
    pixels, good = None if is_lazy else torch.empty(len(images), *form.of_tensor, dtype=dtype), []
    for i in range(len(images)):
        try:
            levels = images(i)
        except BadImage as error:
            if not arguments.skip_bad_images:
                raise
            bad.append(str(error))
            continue
        if pixels is not None:
            pixels[len(good)] = levels
        good.append(i)
    if not good:
        raise ValueError(f"None of the images of split {images.split} can be read: {bad[-1]}")
    return made(images.only(good), None if pixels is None else pixels[: len(good)])


def _labels(images: StoredImages, column: str | None) -> Tensor | None:
    if column is None:
        return None
    labels = images.data.select_columns([column])[:][column]
    if not all(is_class(labels[row]) for row in images.rows.tolist()):
        return None
    return torch.tensor(labels, dtype=torch.long)[images.rows]


def _streamed(
    splits: dict[str, datasets.IterableDataset], columns: tuple[str, str | None], name: str, arguments: DataArguments
) -> dict[str, Any]:
    """Data that pass by: training images as a stream, as many test and validation images as are kept in memory."""
    train, held_out, bad = open_stream(splits, columns, name, arguments)
    kept = {
        part: LevelImages.in_memory(
            torch.stack([image for image, _ in pairs]),
            train.num_levels,
            None if pairs[0][1] is None else torch.tensor([label for _, label in pairs]),
        )
        for part, pairs in held_out.items()
    }
    return _parts({"train": train, **kept}) | {"bad_images": tuple(bad)}
