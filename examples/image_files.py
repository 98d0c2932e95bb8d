# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Image files and the levels that are made of them: one shape, mode and depth for a whole data set."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from arguments import DataArguments
from datasets.utils.file_utils import xopen
from PIL import Image, UnidentifiedImageError
from torch import Tensor


MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CHANNELS = {"1": 1, "L": 1, "RGB": 3, "P": 3, "RGBA": 4}
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # modes of one channel of more than 8 bits
DEEP_LEVELS = 2**16


class BadImage(ValueError):
    """An image that cannot be read, or not be made into what the others are; the sentence names it."""


def open_image(entry: dict[str, Any], name: str, decode: bool = True) -> Image.Image:
    """An image as `datasets` hands it out undecoded, `{"bytes", "path"}`; its pixels read if `decode`.

    Raises:
        BadImage: naming its path, or else `name`.
    """
    try:
        source = xopen(entry["path"], "rb") if entry["bytes"] is None else io.BytesIO(entry["bytes"])
        image = Image.open(source)
        if decode:
            image.load()
            source.close()
        return image
    # What PIL raises for a broken file depends on its format.
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise BadImage(f"{entry['path'] or name} is not an image that can be read: {error}") from error


@dataclass(frozen=True)
class ImageShape:
    """What every image of a data set is made into.

    Attributes:
        channels: 1, 3 or 4.
        kept: channels are as in the files, and need not be converted.
        size: width and height, all images' own; None where they are resized.
        resolution: of the square that they are resized to.
        center_crop: whether training images too are cropped in the middle.
        num_levels: levels of the result.
        source_levels: levels of the files: 2, 256, or 65536.
    """

    channels: int
    kept: bool
    size: tuple[int, int] | None
    resolution: int | None
    center_crop: bool
    num_levels: int
    source_levels: int

    @classmethod
    def of(cls, images: Iterable[Image.Image], arguments: DataArguments) -> ImageShape:
        """The shape that fits all of these images, of which the headers are enough.

        Raises:
            ValueError: for modes that are not supported, and where they differ and no argument says what to make.
        """
        headers = [(image.mode, image.size) for image in images]
        modes, sizes = (Counter(column) for column in zip(*headers, strict=True))
        for mode in modes:
            _check_mode(mode, arguments)
        channels = {CHANNELS.get(mode, 1) for mode in modes}
        if arguments.channels is None and len(channels) > 1:
            raise ValueError(f"The images have mixed modes, {dict(modes)}; pass --channels 1, 3 or 4 to convert them.")
        if arguments.resolution is None and len(sizes) > 1:
            raise ValueError(f"The images have {len(sizes)} different sizes; pass --resolution to resize them.")
        size = next(iter(sizes)) if len(sizes) == 1 else None
        resize = arguments.resolution is not None and size != (arguments.resolution, arguments.resolution)
        is_deep = arguments.preserve_input_precision and any(mode in DEEP for mode in modes)
        source_levels = DEEP_LEVELS if is_deep else 2 if set(modes) == {"1"} and not resize else 256
        return cls(
            channels=arguments.channels or channels.pop(),
            kept=arguments.channels is None,
            size=None if resize else size,
            resolution=arguments.resolution,
            center_crop=arguments.center_crop,
            num_levels=min(arguments.num_levels or source_levels, source_levels),
            source_levels=source_levels,
        )

    @property
    def of_tensor(self) -> tuple[int, int, int]:
        """C, H, W."""
        width, height = self.size or (self.resolution, self.resolution)
        return self.channels, height, width

    @property
    def is_random(self) -> bool:
        """Whether training images are cropped at random places."""
        return self.size is None and not self.center_crop

    def levels(self, image: Image.Image, name: str, rng: np.random.Generator | None = None) -> Tensor:
        """The image as integers `[C, H, W]` in 0 … num_levels − 1, uint8 up to 256 levels and int32 above.

        Args:
            rng: places the crop; in the middle if None.

        Raises:
            BadImage: if it does not fit the shape.
        """
        if self.kept and CHANNELS.get(image.mode, 1) != self.channels:
            raise BadImage(f"{name} is of mode {image.mode}, unlike those before; pass --channels to convert them.")
        if self.size is not None and image.size != self.size:
            raise BadImage(f"{name} has {image.size} pixels, those before {self.size}; pass --resolution.")
        if image.mode in DEEP and self.source_levels != DEEP_LEVELS:
            raise BadImage(f"{name} is of mode {image.mode}; pass --preserve_input_precision.")
        values = self._deep_values(image, name) if self.source_levels == DEEP_LEVELS else self._values(image)
        if self.size is None:
            values = _square(values, self.resolution, None if self.center_crop else rng, self.source_levels)
        if self.num_levels < self.source_levels:
            values = values.astype(np.int64) * self.num_levels // self.source_levels
        dtype = np.uint8 if self.num_levels <= 256 else np.int32
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=dtype))

    def _values(self, image: Image.Image) -> np.ndarray:
        """8-bit values `[H, W, C]`, or 0 and 1 of a black and white image."""
        values = np.asarray(image.convert(MODES[self.channels]))
        return values.reshape(*values.shape[:2], -1) // (255 if self.source_levels == 2 else 1)

    def _deep_values(self, image: Image.Image, name: str) -> np.ndarray:
        """16-bit values `[H, W, C]`; an image of fewer bits in their place, and of one channel in all of them."""
        if image.mode not in DEEP:
            values = np.asarray(image.convert(MODES[self.channels])).astype(np.int64) * 257
            return values.reshape(*values.shape[:2], -1)
        values, top = np.asarray(image), 1.0 if image.mode == "F" else DEEP_LEVELS - 1
        if not (values.min() >= 0 and values.max() <= top):
            raise BadImage(f"{name} of mode {image.mode} must have values in 0 ... {top:g}; scale it to these.")
        values = np.rint(values * (DEEP_LEVELS - 1)) if image.mode == "F" else values
        return values.astype(np.int64)[..., None].repeat(self.channels, -1)


def _check_mode(mode: str, arguments: DataArguments) -> None:
    if mode in DEEP and not arguments.preserve_input_precision:
        raise ValueError(f"Images of mode {mode} have more than 8 bits; pass --preserve_input_precision to keep them.")
    if mode not in CHANNELS and mode not in DEEP:
        raise ValueError(f"Images of mode {mode} are not supported; convert them to one of {list(CHANNELS)}.")


def _square(values: np.ndarray, side: int, rng: np.random.Generator | None, num_levels: int) -> np.ndarray:
    """`[H, W, C]` resized so that the shorter side is `side`, and a square of it, from the middle or from anywhere."""
    height, width = values.shape[:2]
    scale = side / min(width, height)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    is_8_bit = num_levels <= 256
    channels = [
        np.asarray(Image.fromarray(channel.astype(np.uint8 if is_8_bit else np.float32)).resize(size, Image.LANCZOS))
        for channel in np.moveaxis(values, -1, 0)
    ]
    resized = np.stack(channels, axis=-1)
    spare_x, spare_y = size[0] - side, size[1] - side
    if rng is None:
        left, top = spare_x // 2, spare_y // 2
    else:
        left, top = rng.integers(spare_x, endpoint=True), rng.integers(spare_y, endpoint=True)
    square = resized[top : top + side, left : left + side]
    return square if is_8_bit else np.rint(square).clip(0, num_levels - 1).astype(np.int64)
