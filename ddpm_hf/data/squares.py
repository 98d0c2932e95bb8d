# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Cuts squares from images that are resized so that the shorter side fits."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


INTERPOLATIONS = {name: Image.Resampling[name.upper()] for name in ("lanczos", "bicubic", "bilinear", "box")}
LONG = 8  # if the resized image has this many times the pixels of the square, only the square is computed
WIDEST = 3  # pixels of the coarser grid that an interpolation uses on either side
Crop = tuple[float, float]


def square_of(values: np.ndarray, side: int, interpolation: str, crop: Crop | None, top: int | None) -> np.ndarray:
    """`[H, W, C]` resized so that the shorter side is `side`, and a square of it `[side, side, C]`.

    Args:
        crop: horizontal and vertical position of the square, each in [0, 1); None for the middle.
        top: the highest value if values have more than 8 bits; None for 8 bits.
    """
    height, width = values.shape[:2]
    scale = side / min(width, height)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    spare_x, spare_y = size[0] - side, size[1] - side
    if crop is None:
        left, up = spare_x // 2, spare_y // 2
    else:
        left, up = int(crop[0] * (spare_x + 1)), int(crop[1] * (spare_y + 1))
    dtype, method = np.uint8 if top is None else np.float32, INTERPOLATIONS[interpolation]
    channels = [
        _resized(Image.fromarray(plane.astype(dtype)), size, (left, up), side, method)
        for plane in np.moveaxis(values, -1, 0)
    ]
    square = np.stack(channels, axis=-1)
    return square if top is None else np.rint(square).clip(0, top).astype(np.int64)


def _resized(
    plane: Image.Image, size: tuple[int, int], corner: tuple[int, int], side: int, method: Image.Resampling
) -> np.ndarray:
    """A square of the plane in this size, `[side, side]`."""
    left, up = corner
    if size[0] * size[1] <= LONG * side**2:
        return np.asarray(plane.resize(size, method))[up : up + side, left : left + side]
    # The rest of the resized image may be large, so only the pixels that the interpolation of the square uses are
    # kept. Rows come first and then columns, as in Pillow's resize of the whole image.
    (x, right), across = _seen(left, side, plane.width, size[0])
    (y, bottom), down = _seen(up, side, plane.height, size[1])
    part = plane.crop((x, y, right, bottom))
    part = part.resize((side, part.height), method, box=(across[0], 0, across[1], part.height))
    return np.asarray(part.resize((side, side), method, box=(0, down[0], side, down[1])))


def _seen(start: int, side: int, length: int, resized: int) -> tuple[tuple[int, int], tuple[float, float]]:
    """The pixels of a line from which a part of the resized line is computed, and the position of this part in them.

    Args:
        start, side: the part of the resized line.
        length, resized: pixels of the line before and after.
    """
    step = length / resized
    first, last = start * step, (start + side) * step
    margin = WIDEST * max(1.0, step) + 1
    begin, end = max(0, math.floor(first - margin)), min(length, math.ceil(last + margin))
    return (begin, end), (first - begin, min(last, end) - begin)
