# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Folders of small images whose pixels encode their numbers, and functions that read the numbers back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.batches import BatchShard, TrainingBatches
from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.tasks.images import load_labelled_images


def save(folder: Path, names: Sequence[str], **options: object) -> Path:
    """Save a grey 4x4 image for each name, whose level is its number; names of other kinds become text files."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg", ".tiff", ".webp"):
            Image.fromarray(np.full((4, 4), number, np.uint8)).save(path, **options)
        else:
            path.write_text("no image")
    return folder


def load(folder: Path, **arguments: object) -> ImageData:
    return load_labelled_images(DataArguments(train_data_dir=str(folder), **arguments))


def numbers(images: LevelImages) -> list[int]:
    """The numbers of the images, read from their pixels."""
    return [round((float(images[i][0, 0, 0]) + 1) * 127.5) for i in range(len(images))]


def streamed(data: ImageData, count: int) -> set[int]:
    """The numbers of the training images in one epoch of a stream of `count` images."""
    found = set()
    with closing(iter(TrainingBatches(data.train, BatchShard(1), 0, 0, seed=0))) as batches:
        for _ in range(count):
            found.add(round((float(next(batches).x_0[0, 0, 0, 0]) + 1) * 127.5))
    return found
