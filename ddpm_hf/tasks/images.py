# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The family of DDPM (Ho et al. 2020): x_0 is an image of pixels; the model may be class-conditional."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import UNet2DModel
from torch import nn

from ..conditioning.classes import conditioners_of, number_of_classes
from ..conditioning.conditioner import Conditioners
from ..data.arguments import DataArguments
from ..data.batches import BatchShard, TrainingBatches
from ..data.level_images import ImageData
from ..data.loading import load_images
from ..diffusion.denoiser import Denoiser, denoiser_of
from ..pipelines.pipeline_ddpm_paper import DDPMPaperPipeline
from ..runtime.arguments import completed, given_in
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .arguments import DiffusionArguments, ModelArguments
from .base import Task, Training
from .building import build_scheduler, build_unet
from .class_columns import class_column
from .presets import PRESETS, Preset, check_preset, preset_for, settled


CHANNELS = {1: "1 channel (grey)", 3: "3 channels (RGB)", 4: "4 channels (RGB and transparency, which is kept)"}


class ImageTask(Task):
    """Pixels as x_0, a `UNet2DModel`, and a `DDPMPaperPipeline` that saves it."""

    arguments = (ModelArguments, DataArguments, DiffusionArguments)
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    @property
    def skip_bad_examples(self) -> bool:
        return self.data_arguments.skip_bad_images

    def load_data(self) -> ImageData:
        check_preset(self.model_arguments.preset, self.presets)
        return load_labelled_images(self.data_arguments)

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

    def build_scheduler(self, data: ImageData) -> DDPMPaperScheduler:
        return build_scheduler(self.diffusion, data.train.num_levels)

    def build_model(self, data: ImageData) -> UNet2DModel:
        return build_unet(self.model_arguments, self.diffusion, data.train)

    def model_settings(self, model: UNet2DModel) -> dict[str, Any]:
        names = dataclasses.asdict(self.model_arguments)
        del names["preset"]  # the arguments themselves say what it set
        known = {name: model.config[name] for name in names if name in model.config}
        return names | known | {"num_class_embeds": number_of_classes(model.config)}

    def conditioners(self, model: UNet2DModel) -> Conditioners:
        return conditioners_of(model.config)

    def denoiser(self, model: nn.Module) -> Denoiser:
        return denoiser_of(model)

    def pipeline(self, model: UNet2DModel, scheduler: DDPMPaperScheduler) -> DDPMPaperPipeline:
        return DDPMPaperPipeline(model, scheduler)


def load_labelled_images(arguments: DataArguments) -> ImageData:
    """The images that the arguments name, with their classes if these are known."""
    return load_images(arguments, class_column(arguments.label_column))
