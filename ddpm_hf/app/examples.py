# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures to click for a model of the built-in digits: some that training leaves out."""

from __future__ import annotations

from pathlib import Path

from ..data.arguments import DataArguments
from ..data.loading import load_images
from .model import PageModel
from .scratch import Scratch
from .uploads import Upload


OF_DIGITS = ((1, 8, 8), 17)  # the shape and the levels by which a model of them is known
COUNT = 5


def write_examples(model: PageModel, scratch: Scratch) -> list[Path]:
    """Files of the examples; [] for a model of other pictures."""
    if (model.image_shape, model.num_levels) != OF_DIGITS:
        return []
    folder, digits = scratch.folder(is_kept=True), load_images(DataArguments()).test
    paths = [folder / f"{i}.png" for i in range(COUNT)]
    for i, path in enumerate(paths):
        Upload(digits.levels(i), OF_DIGITS[1], "").picture.save(path)
    return paths
