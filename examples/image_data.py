# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images as levels: scikit-learn's digits, a data set that `datasets` can read, or a local folder."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from arguments import DataArguments
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset


MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CHANNELS = {"1": 1, "L": 1, "RGB": 3, "P": 3, "RGBA": 4}
LARGEST_IN_MEMORY = 2 * 2**30  # bytes of pixels that are kept decoded

datasets.disable_progress_bars()


class LevelImages(Dataset):
    """Images as float32 tensors `[C, H, W]` of `num_levels` evenly spaced levels in [−1, 1].

    Args:
        size: number of images.
        read: gives image i as uint8 `[C, H, W]` holding levels 0 … num_levels − 1.
        num_levels: levels of the data.
        random_flip: whether an image comes mirrored half of the time.
    """

    def __init__(self, size: int, read: Callable[[int], Tensor], num_levels: int, random_flip: bool = False):
        self.size, self.read, self.num_levels, self.random_flip = size, read, num_levels, random_flip
        self.shape = tuple(read(0).shape)  # C, H, W

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Tensor:
        image = self.read(i).float() * (2 / (self.num_levels - 1)) - 1
        return image.flip(-1) if self.random_flip and torch.rand(()) < 0.5 else image

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[Tensor]:
        """The first `limit` images (all of them if None) in order, in batches."""
        size = self.size if limit is None else min(limit, self.size)
        for start in range(0, size, batch_size):
            yield torch.stack([self[i] for i in range(start, min(start + batch_size, size))])


@dataclass(frozen=True)
class ImageData:
    """Training and test images of one shape and number of levels.

    Attributes:
        name: what to call them; of data on this machine the folder's name, and not where it lies.
        hub_name: their name on the Hub, if that is where they come from.
    """

    name: str
    train: LevelImages
    test: LevelImages
    hub_name: str | None = None


def load_images(arguments: DataArguments) -> ImageData:
    """The images that the arguments name; without any, the digits.

    Raises:
        ValueError: for no images, for images that cannot be read, naming the file, and for images that differ in mode
            or size where nothing says what to make of that.
    """
    if arguments.num_levels is not None and not 2 <= arguments.num_levels <= 256:
        raise ValueError(f"`num_levels` must be in 2 ... 256, but is {arguments.num_levels}.")
    if arguments.channels is not None and arguments.channels not in MODES:
        raise ValueError(f"`channels` must be 1, 3 or 4, but is {arguments.channels}.")
    if arguments.dataset_name is None and arguments.train_data_dir is None:
        return _digits(arguments)
    train, test, name = _read_splits(arguments)
    shape = _Shape.of(train, arguments)
    is_local = Path(name).exists()
    return ImageData(
        name=Path(name).resolve().name if is_local else name,
        train=shape.images(train, arguments.random_flip),
        test=shape.images(test, False),
        hub_name=None if is_local else name,
    )


def _digits(arguments: DataArguments) -> ImageData:
    """scikit-learn's 1797 digits of 8x8 pixels and 17 grey levels: the first 1500 to train, the last 297 to test."""
    if (arguments.resolution or 8, arguments.channels or 1, arguments.num_levels or 17) != (8, 1, 17):
        raise ValueError("`resolution`, `channels` and `num_levels` of the digits are 8, 1 and 17; name other data.")
    levels = torch.from_numpy(load_digits().images).to(torch.uint8).unsqueeze(1)  # [1797, 1, 8, 8]
    train, test = levels[:1500], levels[1500:]
    return ImageData(
        name="scikit-learn digits",
        train=LevelImages(len(train), train.__getitem__, 17, arguments.random_flip),
        test=LevelImages(len(test), test.__getitem__, 17),
    )


# --- data sets that `datasets` reads ------------------------------------------------------------------------------


def _read_splits(arguments: DataArguments) -> tuple[datasets.Dataset, datasets.Dataset, str]:
    name = arguments.dataset_name or arguments.train_data_dir
    if arguments.dataset_name is not None:
        source = {"path": name, "name": arguments.dataset_config_name}
    elif Path(name).is_dir():
        source = {"path": "imagefolder", "data_dir": name}
    else:
        raise ValueError(f"`train_data_dir` {name} is not a folder.")
    try:
        splits = datasets.load_dataset(**source, cache_dir=arguments.cache_dir)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{name} holds no images that can be read: {error}") from error
    splits = {split: _undecoded(data, name) for split, data in splits.items()}
    if "train" not in splits or len(splits["train"]) < 2:
        raise ValueError(f"{name} holds no training images (split 'train' of at least 2); it has {list(splits)}.")
    test = next((splits[split] for split in ("test", "validation") if split in splits), None)
    if test is None:
        halves = splits["train"].train_test_split(test_size=arguments.test_fraction, seed=0)
        return halves["train"], halves["test"], name
    return splits["train"], test, name


def _undecoded(data: datasets.Dataset, name: str) -> datasets.Dataset:
    """The image column alone, as bytes or paths."""
    columns = [column for column, feature in data.features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise ValueError(f"{name} has no column of images; its columns are {list(data.features)}.")
    data = data.select_columns(columns[:1]).rename_column(columns[0], "image") if columns[0] != "image" else data
    return data.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))


def _open(data: datasets.Dataset, i: int, decode: bool) -> Image.Image:
    """Image i, its pixels read if `decode`."""
    entry = data[i]["image"]
    label = entry["path"] or f"image {i}"
    try:
        image = Image.open(entry["path"] if entry["bytes"] is None else io.BytesIO(entry["bytes"]))
        if decode:
            image.load()
        return image
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{label} is not an image that can be read: {error}") from error


@dataclass(frozen=True)
class _Shape:
    """What every image of a data set is made into."""

    mode: str
    size: tuple[int, int] | None  # width, height, all images' own; None where they are resized
    resolution: int | None
    center_crop: bool
    num_levels: int
    source_levels: int

    @classmethod
    def of(cls, data: datasets.Dataset, arguments: DataArguments) -> _Shape:
        headers = [_open(data, i, decode=False) for i in range(len(data))]
        modes, sizes = Counter(image.mode for image in headers), Counter(image.size for image in headers)
        for mode in modes:
            if mode not in CHANNELS:
                raise ValueError(f"Images of mode {mode} are not supported; convert them to one of {list(CHANNELS)}.")
        channels = {CHANNELS[mode] for mode in modes}
        if arguments.channels is None and len(channels) > 1:
            raise ValueError(f"The images have mixed modes, {dict(modes)}; pass --channels 1, 3 or 4 to convert them.")
        if arguments.resolution is None and len(sizes) > 1:
            raise ValueError(f"The images have {len(sizes)} different sizes; pass --resolution to resize them.")
        size = next(iter(sizes)) if len(sizes) == 1 else None
        resize = arguments.resolution is not None and size != (arguments.resolution, arguments.resolution)
        source_levels = 2 if set(modes) == {"1"} and not resize else 256
        return cls(
            mode=MODES[arguments.channels or channels.pop()],
            size=None if resize else size,
            resolution=arguments.resolution,
            center_crop=arguments.center_crop,
            num_levels=min(arguments.num_levels or 256, source_levels),
            source_levels=source_levels,
        )

    def images(self, data: datasets.Dataset, random_flip: bool) -> LevelImages:
        def read(i: int) -> Tensor:
            return self._levels(_open(data, i, decode=True))

        is_random = self.size is None and not self.center_crop
        if not is_random and len(data) * read(0).numel() <= LARGEST_IN_MEMORY:
            read = torch.stack([read(i) for i in range(len(data))]).__getitem__
        return LevelImages(len(data), read, self.num_levels, random_flip)

    def _levels(self, image: Image.Image) -> Tensor:
        image = image.convert(self.mode)
        if self.size is None:
            image = self._resize(image)
        pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).permute(2, 0, 1)
        if self.source_levels == 2:
            return pixels // 255
        return pixels if self.num_levels == 256 else (pixels.int() * self.num_levels // 256).to(torch.uint8)

    def _resize(self, image: Image.Image) -> Image.Image:
        """The shorter side to `resolution`, then a square crop."""
        side, (width, height) = self.resolution, image.size
        scale = side / min(width, height)
        image = image.resize((max(side, round(width * scale)), max(side, round(height * scale))), Image.LANCZOS)
        spare_x, spare_y = image.width - side, image.height - side
        if self.center_crop:
            left, top = spare_x // 2, spare_y // 2
        else:
            left, top = random.randint(0, spare_x), random.randint(0, spare_y)
        return image.crop((left, top, left + side, top + side))
