# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Files of pictures in the usual formats, each picture by itself: how long they are, and how far from the picture.

    PNG        lossless
    WebP       lossless, and lossy by quality
    JPEG XL    the same, if pillow-jxl-plugin is installed
    JPEG       lossy by quality

Headers count: a file is what has to be stored.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image


Settings = dict[str, Any]
JXL_PLUGIN = "pillow_jxl"
PEAK = 127.5  # 8-bit values for a distance of 1 in [−1, 1]


@dataclass(frozen=True)
class FileFormat:
    """A file format of Pillow.

    Attributes:
        name: what it is called.
        code: what Pillow calls it.
        lossless: settings of lossless files, or None if there are none.
        lossy: settings of lossy ones, which are given a `quality`.
        qualities: of the lossy files, rising; none if there are none.
        in_colour: whether grey pictures are stored in colour.
        modes: of the pictures that it stores.
    """

    name: str
    code: str
    lossless: Settings | None
    lossy: Settings = field(default_factory=dict)
    qualities: Sequence[int] = ()
    in_colour: bool = False
    modes: Sequence[str] = ("L", "RGB", "RGBA")

    def file(self, picture: Image.Image, quality: int | None = None) -> bytes:
        """The file of a picture: lossless, or lossy of this quality."""
        how = self.lossless if quality is None else {**self.lossy, "quality": quality}
        if how is None:
            raise ValueError(f"{self.name} has no lossless files.")
        buffer = io.BytesIO()
        (picture.convert("RGB") if self.in_colour and picture.mode == "L" else picture).save(buffer, self.code, **how)
        return buffer.getvalue()


PNG = FileFormat("PNG", "PNG", {"optimize": True})
WEBP = FileFormat(
    "WebP",
    "WEBP",
    {"lossless": True, "exact": True, "quality": 100, "method": 6},
    {"method": 6},
    (0, 10, 25, 50, 75, 90, 100),
    in_colour=True,
)
JPEG_XL = FileFormat(
    "JPEG XL",
    "JXL",
    {"lossless": True, "effort": 9},
    {"effort": 9},
    (5, 15, 30, 50, 70, 85, 95),
)
JPEG = FileFormat("JPEG", "JPEG", None, {"optimize": True}, (5, 15, 30, 50, 75, 90, 98), modes=("L", "RGB"))


def file_formats() -> list[FileFormat]:
    """The formats that can be written here."""
    if importlib.util.find_spec(JXL_PLUGIN) is None:
        return [PNG, WEBP, JPEG]
    importlib.import_module(JXL_PLUGIN)  # registers the format
    return [PNG, WEBP, JPEG_XL, JPEG]


@dataclass(frozen=True)
class FilePoint:
    """Files of some pictures with one setting.

    Attributes:
        setting: which one, such as "quality 50" or "lossless".
        sizes: of the files in bytes, one for each picture.
        squared_errors: mean squared error of each picture's values, for values in [−1, 1].
        dimensions: values per picture.
    """

    setting: str
    sizes: Sequence[int]
    squared_errors: Sequence[float]
    dimensions: int

    @property
    def bits_per_dim(self) -> float:
        """The mean length of the files."""
        return 8 * sum(self.sizes) / (len(self.sizes) * self.dimensions)

    @property
    def mean_squared_error(self) -> float:
        """The mean error over all pictures, for values in [−1, 1]."""
        return sum(self.squared_errors) / len(self.squared_errors)

    @property
    def rmse(self) -> float:
        """The root of the mean error, in 8-bit values."""
        return PEAK * math.sqrt(self.mean_squared_error)

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio in dB, from the mean error; infinite for lossless files."""
        return 10 * math.log10(4 / self.mean_squared_error) if self.mean_squared_error else math.inf


def squared_error(picture: Image.Image, other: Image.Image) -> float:
    """The mean squared error between the values of two pictures of one size, for values in [−1, 1]."""
    a, b = (np.asarray(each, np.float64) for each in (picture, other.convert(picture.mode)))
    return float(np.square(a - b).mean()) / PEAK**2


def points_of(format: FileFormat, pictures: Sequence[Image.Image]) -> list[FilePoint]:
    """A point for each setting of a format, the shortest files first; none if it cannot store such pictures."""
    if pictures[0].mode not in format.modes:
        return []
    qualities: list[int | None] = [*format.qualities, *([] if format.lossless is None else [None])]
    return [_point(format, quality, pictures) for quality in qualities]


def _point(format: FileFormat, quality: int | None, pictures: Sequence[Image.Image]) -> FilePoint:
    files = [format.file(picture, quality) for picture in pictures]
    return FilePoint(
        "lossless" if quality is None else f"quality {quality}",
        list(map(len, files)),
        [squared_error(a, Image.open(io.BytesIO(b))) for a, b in zip(pictures, files, strict=True)],
        np.asarray(pictures[0]).size,
    )
