# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads image files as integer levels, with one shape, mode and depth for a whole data set."""

from __future__ import annotations

import io
import os
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow
import torch
from datasets.utils.file_utils import xopen
from huggingface_hub.utils import httpx
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..conditioning.box_means import box_mean
from .arguments import DataArguments
from .colours import Colour, colour_of, in_srgb, is_transparent, on_background, with_alpha
from .orientation import is_on_its_side, upright
from .squares import square_of


MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CHANNELS = {"1": 1, "L": 1, "LA": 1, "La": 1, "RGB": 3, "P": 3, "PA": 3, "RGBA": 3, "RGBa": 3}  # without alpha
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # modes of one channel of more than 8 bits
DEEP_LEVELS = 2**16
TAKE_OUT = "Pass --skip_bad_images to skip such images, or remove it and start again."
READ_ERRORS = (
    *(OSError, ValueError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error),
    *(pyarrow.ArrowException, httpx.HTTPError),
)
SEVERAL_PICTURES = ("MPO", "PSD")  # formats whose further frames are previews and layers


class BadImage(OSError):
    """An image that cannot be read, or cannot be converted to the common shape; the message names it."""


class Header(NamedTuple):
    """The facts known before the pixels are read; images with several 16-bit channels have modes such as RGB;16."""

    mode: str
    size: tuple[int, int]
    is_transparent: bool = False
    has_profile: bool = False
    is_animated: bool = False
    name: str = ""


def name_of(entry: dict[str, Any] | None, place: str) -> str:
    """The name of an image from `datasets` in messages: its file, or else its place and the original file name."""
    path = None if entry is None else entry["path"]
    if path is not None and entry["bytes"] is None:
        return path
    return place + (f" ({path})" if path else "")


def content_of(entry: dict[str, Any] | None, name: str) -> bytes:
    """The bytes of an image file from an undecoded entry of `datasets`, `{"bytes", "path"}`.

    Raises:
        BadImage: if there is no file, or it cannot be read.
    """
    try:
        with _source(entry) as source:
            return source.read()
    except READ_ERRORS as error:
        raise _bad(name, error) from error


def header_of(entry: dict[str, Any] | None, name: str) -> Header:
    """The mode and the upright size of an image.

    Raises:
        BadImage: if its header cannot be read.
    """
    try:
        with _source(entry) as source, Image.open(source) as image:
            mode, has_profile, is_clear = _mode(image), "icc_profile" in image.info, is_transparent(image)
            size = image.size[::-1] if is_on_its_side(image, source) else image.size
            return Header(mode, size, is_clear, has_profile, _is_animated(image), name)
    except Exception as error:  # what PIL raises for a broken file depends on its format
        raise _bad(name, error) from error


def decoded(content: bytes, name: str) -> tuple[Image.Image, str]:
    """The image of a file, upright, and its mode as in `Header`.

    Raises:
        BadImage: if it is broken.
    """
    try:
        image = Image.open(io.BytesIO(content))
        mode = _mode(image)
        image.load()
        return upright(image), mode
    except Exception as error:  # what PIL raises for a broken file depends on its format
        raise _bad(name, error) from error


def _source(entry: dict[str, Any] | None) -> BinaryIO:
    if entry is None or (entry["bytes"] is None and entry["path"] is None):
        raise FileNotFoundError("there is nothing in its place")
    if entry["bytes"] is not None:
        return io.BytesIO(entry["bytes"])
    # A file name may look like an address within an archive, such as a::b.png.
    return open(entry["path"], "rb") if os.path.isfile(entry["path"]) else xopen(entry["path"], "rb")


def _bad(name: str, error: Exception) -> BadImage:
    # PIL's own message for an unknown format contains a memory address, which changes every time.
    reason = "it is of no known format" if isinstance(error, UnidentifiedImageError) else str(error)
    return BadImage(f"{name} is not an image that can be read: {' '.join(reason.split()) or type(error).__name__}.")


def _mode(image: Image.Image) -> str:
    """The mode. PIL reads several 16-bit channels as 8 bits, and shows their depth only before it reads the pixels."""
    if image.mode == "1" and "transparency" in image.info:
        return "L"  # the background brings in other levels
    is_16_bit = image.mode not in DEEP and any(re.search(";16[BLN]", str(tile[3])) for tile in image.tile)
    return f"{image.mode};16" if is_16_bit else image.mode


def _is_animated(image: Image.Image) -> bool:
    """Whether there are several frames, of which only the first is used."""
    try:
        return image.format not in SEVERAL_PICTURES and getattr(image, "is_animated", False)
    except Exception:  # the first frame may be whole
        return False


@dataclass(frozen=True)
class ImageShape:
    """The common shape and depth that every image of a data set is converted to.

    Attributes:
        channels: 1, 3 or 4.
        kept: whether the channels are those of the files, so that no conversion is needed.
        size: width and height of all images; None if they are resized.
        resolution: side of the square that they are resized to, before `reduced_by`.
        center_crop: whether training images are also cropped in the middle.
        num_levels: number of levels of the result.
        source_levels: number of levels of the files: 2, 256, or 65536.
        interpolation: the method of resizing.
        background: the colour behind transparent pixels, unless there are 4 channels.
        reduced_by: the side of the boxes of pixels whose mean is a pixel of the result; see `box_mean`.
    """

    channels: int
    kept: bool
    size: tuple[int, int] | None
    resolution: int | None
    center_crop: bool
    num_levels: int
    source_levels: int
    interpolation: str = "lanczos"
    background: Colour = (255, 255, 255)
    reduced_by: int = 1

    @classmethod
    def of(cls, headers: Iterable[Header], arguments: DataArguments) -> ImageShape:
        """The shape that fits all of these images.

        Raises:
            ValueError: for unsupported modes, and for different modes or sizes without an argument to convert them.
        """
        modes, sizes, firsts = Counter(), Counter(), {}
        resolution = arguments.low_resolution_of or arguments.resolution
        for header in headers:
            modes[header.mode] += 1
            sizes[header.size] += 1
            firsts.setdefault(header.mode, header.name)
        if not modes:
            raise ValueError("None of the training images can be read.")
        for mode, first in firsts.items():
            fault = mode_fault(mode, arguments)
            if fault is not None:
                raise ValueError(f"{fault} The first of them is {first}." if first else fault)
        channels = {_channels_of(mode) for mode in modes}
        if arguments.channels is None and len(channels) > 1:
            raise ValueError(f"The images have mixed modes, {dict(modes)}; pass --channels 1, 3 or 4 to convert them.")
        if arguments.resolution is None and len(sizes) > 1:
            raise ValueError(f"The images have {len(sizes)} different sizes; pass --resolution to resize them.")
        size = next(iter(sizes)) if len(sizes) == 1 else None
        resize = resolution is not None and size != (resolution, resolution)
        is_deep = arguments.preserve_input_precision and any(mode in DEEP for mode in modes)
        source_levels = DEEP_LEVELS if is_deep else 2 if set(modes) == {"1"} and not resize else 256
        return cls(
            channels=arguments.channels or channels.pop(),
            kept=arguments.channels is None,
            size=None if resize else size,
            resolution=resolution,
            center_crop=arguments.center_crop,
            num_levels=min(arguments.num_levels or source_levels, source_levels),
            source_levels=source_levels,
            interpolation=arguments.interpolation,
            background=colour_of(arguments.background),
            reduced_by=1 if arguments.low_resolution_of is None else resolution // arguments.resolution,
        )

    @property
    def of_tensor(self) -> tuple[int, int, int]:
        """C, H, W."""
        width, height = self.size or (self.resolution, self.resolution)
        return self.channels, height // self.reduced_by, width // self.reduced_by

    @property
    def is_random(self) -> bool:
        """Whether training images are cropped at random places."""
        return self.size is None and not self.center_crop

    def levels(self, content: bytes, name: str, crop: tuple[float, float] | None = None) -> Tensor:
        """An image file as integers `[C, H, W]` in 0 … num_levels − 1, uint8 up to 256 levels and int32 above.

        Args:
            content: the bytes of the file.
            name: the name of the image in messages.
            crop: horizontal and vertical position of the square, each in [0, 1); None for the middle.

        Raises:
            BadImage: if it is broken, or does not fit the shape.
        """
        return self.levels_of(*decoded(content, name), name, crop)

    def levels_of(self, image: Image.Image, mode: str, name: str, crop: tuple[float, float] | None = None) -> Tensor:
        """As `levels`, of an image that has been read; `mode` is as in `Header`."""
        self._check(image, mode, name)
        values = self._deep_values(image, name) if self.source_levels == DEEP_LEVELS else self._values(image, name)
        if self.size is None:
            top = None if self.source_levels <= 256 else self.source_levels - 1
            values = square_of(values, self.resolution, self.interpolation, None if self.center_crop else crop, top)
        if self.num_levels < self.source_levels:
            values = values.astype(np.int64) * self.num_levels // self.source_levels
        dtype = np.uint8 if self.num_levels <= 256 else np.int32
        levels = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=dtype))
        return levels if self.reduced_by == 1 else box_mean(levels, self.reduced_by)

    def _check(self, image: Image.Image, mode: str, name: str) -> None:
        """Raise BadImage for an image unlike those that the shape was made from."""
        if self.kept and _channels_of(mode) != self.channels:
            raise BadImage(f"{name} is of mode {mode}, unlike those before; pass --channels to convert them.")
        if self.size is not None and image.size != self.size:
            raise BadImage(f"{name} has {image.size} pixels, those before {self.size}; pass --resolution.")
        if self.source_levels == 2 and mode != "1":
            raise BadImage(f"{name} is of mode {mode}, those before are black and white.")
        if self.source_levels < DEEP_LEVELS and mode in DEEP:
            raise BadImage(f"{name} is of mode {mode}, of more bits than those before.")
        if self.source_levels == DEEP_LEVELS and mode.endswith(";16") and mode not in DEEP:
            raise BadImage(f"{name} is of mode {mode}, from which only 8 bits can be read.")

    def _values(self, image: Image.Image, name: str) -> np.ndarray:
        """8-bit values `[H, W, C]` in sRGB, or 0 and 1 of a black and white image."""
        try:
            image = in_srgb(image)
            image = with_alpha(image) if self.channels == 4 else on_background(image, self.background)
            values = np.asarray(image.convert(MODES[self.channels]))
        except (ValueError, OSError) as error:
            raise BadImage(f"{name} cannot be converted to {self.channels} channels: {error}.") from error
        return values.reshape(*values.shape[:2], -1) // (255 if self.source_levels == 2 else 1)

    def _deep_values(self, image: Image.Image, name: str) -> np.ndarray:
        """16-bit values `[H, W, C]`; fewer bits are scaled up, and one channel is copied to all except alpha."""
        if image.mode not in DEEP:
            return self._values(image, name).astype(np.int64) * 257
        values, top = np.asarray(image), 1.0 if image.mode == "F" else DEEP_LEVELS - 1
        if not (values.min() >= 0 and values.max() <= top):
            raise BadImage(f"{name} of mode {image.mode} must have values in 0 ... {top:g}; scale it to these.")
        values = np.rint(values.astype(np.float64) * (DEEP_LEVELS - 1)) if image.mode == "F" else values
        channels = values.astype(np.int64)[..., None].repeat(self.channels, -1)
        clear = image.info.get("transparency")  # a grey level, in a PNG file
        is_clear = values == clear if isinstance(clear, int) and image.mode != "F" else np.zeros(values.shape, bool)
        if self.channels == 4:
            channels[..., 3] = np.where(is_clear, 0, DEEP_LEVELS - 1)
        elif is_clear.any():
            below = Image.new("RGB", (1, 1), self.background).convert(MODES[self.channels])
            channels[is_clear] = np.asarray(below).reshape(-1).astype(np.int64) * 257
        return channels


def _channels_of(mode: str) -> int | None:
    """The number of channels that images of this mode have by default; None if the user must choose it."""
    return 1 if mode in DEEP else CHANNELS.get(mode.removesuffix(";16"))


def mode_fault(mode: str, arguments: DataArguments) -> str | None:
    """The message for a mode that needs an argument, or that another argument cannot apply to; None for others."""
    if mode in DEEP and not arguments.preserve_input_precision:
        return f"Images of mode {mode} have more than 8 bits; pass --preserve_input_precision to keep them."
    if mode.endswith(";16") and mode not in DEEP and arguments.preserve_input_precision:
        return (
            f"Only 8 bits can be read from images of mode {mode}, which have 16 bits in several channels; omit"
            " --preserve_input_precision to train on 8 bits, or save each channel as a grey image."
        )
    if _channels_of(mode) is None and arguments.channels is None:
        return f"The images are of mode {mode}; pass --channels 1, 3 or 4 to convert them."
    return None


def usable_header(entry: dict[str, Any] | None, name: str, arguments: DataArguments) -> Header:
    """The header of an image; if bad images are skipped, an image whose mode cannot be used is bad too.

    Raises:
        BadImage: if the header cannot be read, or the mode cannot be used.
    """
    header = header_of(entry, name)
    fault = mode_fault(header.mode, arguments) if arguments.skip_bad_images else None
    if fault is not None:
        raise BadImage(f"{name} cannot be used: {fault[0].lower()}{fault[1:]}")
    return header
