# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training images in order, on which a model is measured and compared at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator

from torch import Tensor

from ..conditioning.columns import Columns
from ..data.batches import BatchShard, TrainingBatches
from ..data.image_streams import ImageStream
from ..data.level_images import LevelImages
from .run_state import RunState


def training_images(
    state: RunState, limit: int, train: LevelImages | ImageStream | None = None
) -> Iterator[tuple[Tensor, Columns]]:
    """Up to `limit` training examples with their columns, the same on every process.

    Args:
        train: other examples than those that the run trains on.
    """
    train, size = state.data.train if train is None else train, state.training.train_batch_size
    if not isinstance(train, ImageStream):
        yield from train.batches_with_columns(size, limit, state.task.skip_bad_examples)
        return
    count = -(-min(limit, state.images_per_epoch or limit) // size)
    stream = TrainingBatches(dataclasses.replace(train, derive=None), BatchShard(size), 0, count, state.training.seed)
    with contextlib.closing(iter(stream)) as batches:
        for batch in itertools.islice(batches, count):
            yield batch.x_0, batch.columns
