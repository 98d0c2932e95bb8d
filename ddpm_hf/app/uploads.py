# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures that a visitor uploads, as the model's images: converted as in training, and what that changed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..compression.codec import Images
from ..data.image_files import ImageShape, decoded
from ..data.levels import scaled
from ..pipelines.images import MODES
from ..pipelines.picture_files import levels_of_values, pictures_of
from ..runtime.words import plural
from .model import MOST_LEVELS, PageModel


NAME = "The file"  # in messages and files; a visitor's own names are not used


class Upload(NamedTuple):
    """A picture as the model's.

    Attributes:
        levels: integers `[C, H, W]`.
        num_levels: how many there are.
        changes: what was changed, in a sentence; "" for nothing.
    """

    levels: Tensor
    num_levels: int
    changes: str

    @property
    def picture(self) -> Image.Image:
        """It with 8 bits, its levels spread over 0 … 255."""
        return pictures_of(Images(self.levels[None], ("",)), self.num_levels)[0]

    @property
    def x_0(self) -> Tensor:
        """It in [−1, 1], float32 `[1, C, H, W]`."""
        return scaled(self.levels[None], self.num_levels)


def read_upload(path: str | Path, model: PageModel) -> Upload:
    """The picture in a file.

    Raises:
        BadImage: an OSError, for a file that is no picture.
        ValueError: for a picture of another shape, if the model's are not square.
    """
    image, mode = decoded(Path(path).read_bytes(), NAME)
    channels, height, width = model.image_shape
    has_size = image.size == (width, height)
    if not has_size and height != width:
        raise ValueError(
            f"The picture has {image.width}×{image.height} pixels; the model is of {width}×{height}, and only square"
            " pictures are cut out."
        )
    shape = ImageShape(
        channels=channels,
        kept=False,
        size=image.size if has_size else None,
        resolution=None if has_size else height,
        center_crop=True,
        num_levels=MOST_LEVELS,
        source_levels=MOST_LEVELS,
    )
    values = shape.levels_of(image, mode, NAME)
    levels, is_rounded = _levels(values, model.num_levels or MOST_LEVELS)
    changes = []
    if not has_size:
        changes.append(f"resized from {image.width}×{image.height} pixels, and a square cut from its middle")
    if mode not in (MODES[channels], "1", "P"):
        changes.append(f"converted from {mode} to {MODES[channels]}")
    if is_rounded:
        changes.append(f"rounded to the model's {plural(model.num_levels or 0, 'level')}")
    told = f"As in training, the picture was {'; '.join(changes)}." if changes else ""
    return Upload(levels, model.num_levels or MOST_LEVELS, told)


def _levels(values: Tensor, num_levels: int) -> tuple[Tensor, bool]:
    """The levels of 8-bit values, uint8, and whether they had to be rounded, as training rounds them."""
    exact = torch.from_numpy(levels_of_values(num_levels))[values.long()]
    if bool((exact >= 0).all()):
        return exact.to(torch.uint8), False
    return (values.long() * num_levels // MOST_LEVELS).to(torch.uint8), True
