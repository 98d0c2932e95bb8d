# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""scikit-learn's handwritten digits, the default data of class-conditional and unconditional models."""

from __future__ import annotations

import datasets
import sklearn.datasets
import torch

from ..conditioning.box_means import box_mean
from ..conditioning.columns import chosen
from ..results import DIGITS
from .arguments import DataArguments
from .data_columns import FindColumns, usable
from .level_images import ImageData, LevelImages


def load_digits(arguments: DataArguments, find_columns: FindColumns) -> ImageData:
    """scikit-learn's 1797 digits of 8x8 pixels and 17 grey levels: the first 1500 to train, the last 297 to test.

    Raises:
        ValueError: for arguments that do not fit these images.
    """
    if arguments.streaming:
        raise ValueError("`streaming` is for data sets that do not fit in memory; the digits are always in memory.")
    side = arguments.low_resolution_of or arguments.resolution or 8
    if (side, arguments.channels or 1, arguments.num_levels or 17) != (8, 1, 17):
        raise ValueError("`resolution`, `channels` and `num_levels` of the digits are 8, 1 and 17; name other data.")
    digits = sklearn.datasets.load_digits()
    levels = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)  # [1797, 1, 8, 8]
    if arguments.low_resolution_of is not None:
        levels = box_mean(levels, side // arguments.resolution)
    columns = find_columns({"label": datasets.ClassLabel(10)}, DIGITS)
    values = usable(columns, {"label": digits.target.tolist()})
    held_out = round(1500 * arguments.validation_fraction)
    if (held_out == 0) != (arguments.validation_fraction == 0) or held_out == 1500:
        raise ValueError(
            f"`validation_fraction` {arguments.validation_fraction} of 1500 images leaves none for validation or for"
            " training."
        )
    size = 1500 - held_out
    train, validation, test = (
        LevelImages.in_memory(levels[part], 17, chosen(values, part)) if levels[part].numel() else None
        for part in (slice(size), slice(size, 1500), slice(1500, None))
    )
    return ImageData(name=DIGITS, train=train, test=test, validation=validation or test)
