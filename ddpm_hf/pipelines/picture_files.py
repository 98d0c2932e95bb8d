# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""PNG files as integer levels and back, pixel for pixel."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..compression.images import Images


MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ENDING = ".png"
Picture: TypeAlias = str | Path | bytes | BinaryIO | Image.Image
"""A PNG file by its path, its bytes or an open file; or a picture."""


def find_pictures(path: Path) -> list[tuple[str, Path]]:
    """The PNG files of a folder and its subfolders, with their names within it, in order; or the one file.

    Raises:
        ValueError: if there is no such file or folder, or the folder holds no PNG files, or other files.
    """
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise ValueError(f"There is no file or folder {path}.")
    files = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
    others = [each for each in files if each.suffix.lower() != ENDING]
    if others:
        raise ValueError(f"{others[0]} is no PNG file; take the {len(others)} other files out of {path}.")
    if not files:
        raise ValueError(f"{path} holds no PNG files.")
    return [(each.relative_to(path).as_posix(), each) for each in files]


def read_pictures(pictures: Sequence[tuple[str, Picture]], num_levels: int, shape: tuple[int, ...]) -> Images:
    """Named pictures as integer levels.

    Args:
        pictures: a name and a picture each, at least one.
        num_levels: of the model. Grey values of fewer than 256 levels must be evenly spread over 0 … 255.
        shape: C, H, W of the model.

    Raises:
        ValueError: for a picture that cannot be read, or not be brought back pixel for pixel; the message names it.
    """
    levels: np.ndarray = np.empty((len(pictures), *shape), np.uint8)  # all that is kept of many files
    table = levels_of_values(num_levels)
    bilevel: set[bool] = set()
    for place, (name, picture) in enumerate(pictures):
        image = _opened(name, picture)
        bilevel.add(image.mode == "1")
        found = table[_values(name, image, shape)]
        if found.min() < 0:
            raise ValueError(f"{name} has other values than the model's {num_levels} levels, spread over 0 ... 255.")
        levels[place] = found
    if len(bilevel) > 1:
        raise ValueError("Some images are black and white (mode 1) and others are not; compress them apart.")
    return Images(torch.from_numpy(levels), tuple(name for name, _ in pictures), is_bilevel=bilevel == {True})


def pictures_of(images: Images, num_levels: int) -> list[Image.Image]:
    """The images as pictures."""
    return [_picture(levels, num_levels, images.is_bilevel) for levels in images.levels]


def _picture(levels: Tensor, num_levels: int, is_bilevel: bool) -> Image.Image:
    values = _values_of_levels(num_levels)[levels.long().numpy()].transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values))
    return picture.convert("1", dither=Image.Dither.NONE) if is_bilevel else picture


def _values_of_levels(num_levels: int) -> np.ndarray:
    """The 8-bit value of each level, uint8 `[K]`: 255 l / (K − 1), half up."""
    top = num_levels - 1
    return ((2 * 255 * np.arange(num_levels) + top) // (2 * top)).astype(np.uint8)


def levels_of_values(num_levels: int) -> np.ndarray:
    """The level of each 8-bit value, int16 `[256]`; −1 for values that are none of the levels, spread over 0 … 255."""
    found: np.ndarray = np.full(256, -1, np.int16)
    found[_values_of_levels(num_levels)] = np.arange(num_levels)
    return found


def _opened(name: str, picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    try:
        image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
        image.load()
    except Exception as error:  # what PIL raises for a broken file depends on its format
        raise ValueError(f"{name} is not an image that can be read: {type(error).__name__}.") from error
    if image.format != "PNG" or getattr(image, "is_animated", False):
        kind = "an animation" if image.format == "PNG" else f"a {image.format} file"
        raise ValueError(f"{name} is {kind}; only PNG files of one picture come back pixel for pixel.")
    return image


def _values(name: str, image: Image.Image, shape: tuple[int, ...]) -> np.ndarray:
    """8-bit values `[C, H, W]`."""
    channels, height, width = shape
    if image.size != (width, height):
        raise ValueError(f"{name} has {image.width}x{image.height} pixels, the model is for {width}x{height}.")
    is_clear = "transparency" in image.info
    if image.mode == "P" and not is_clear and channels == 3:
        image = image.convert("RGB")  # the same colours
    if is_clear or (image.mode not in (MODES.get(channels), "1") or (image.mode == "1" and channels != 1)):
        kind = f"{image.mode} with a transparent colour" if is_clear else image.mode
        raise ValueError(f"{name} is of mode {kind}; the model is for 8-bit images of mode {MODES.get(channels)}.")
    values: Any = np.asarray(image.convert("L") if image.mode == "1" else image)
    return values.reshape(height, width, -1).transpose(2, 0, 1)
