# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What all families of images have in common: batches of pixels, and presets by resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ..data.batches import BatchShard, TrainingBatches
from ..data.level_images import ImageData
from ..runtime.arguments import completed, given_in
from .base import Task, Training
from .presets import Preset, preset_for, settled


CHANNELS = {1: "1 channel (grey)", 3: "3 channels (RGB)", 4: "4 channels (RGB and transparency, which is kept)"}


class PixelTask(Task):
    """Pixels as x_0.

    Attributes:
        presets: arguments of model and training by the side of the images.
    """

    presets: ClassVar[Mapping[str, Preset]]

    @property
    def skip_bad_examples(self) -> bool:
        return self.data_arguments.skip_bad_images

    def settle(self, data: ImageData, others: Training, used_before: str | None = None) -> tuple[Training, str | None]:
        _, height, width = data.train.shape
        name = preset_for(self.presets, self.model_arguments, height, width, used_before)
        values = settled(self.presets, name, given_in(others))
        self.model_arguments = completed(self.model_arguments, values)
        return completed(others, values), name

    def open_batches(
        self,
        data: ImageData,
        shard: BatchShard,
        steps: tuple[int, int],
        seed: int,
        device: torch.device,
        position: dict[str, Any] | None,
    ) -> TrainingBatches:
        flip, workers = self.data_arguments.random_flip, self.data_arguments.dataloader_num_workers
        return TrainingBatches(data.train, shard, *steps, seed, flip, workers, device, position)

    def data_lines(self, data: ImageData) -> tuple[str, ...]:
        channels, height, width = data.train.shape
        flips = "mirrored at random" if self.data_arguments.random_flip else "not mirrored"
        return (f"{height}x{width} pixels, {CHANNELS[channels]}, {data.train.num_levels} levels, {flips}",)
