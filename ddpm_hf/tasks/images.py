# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The family of DDPM (Ho et al. 2020): x_0 is an image of pixels; the model may be class-conditional."""

from __future__ import annotations

import dataclasses
from typing import Any

from diffusers import UNet2DModel
from torch import nn

from ..conditioning.classes import conditioners_of, number_of_classes
from ..conditioning.conditioner import Conditioners
from ..data.arguments import DataArguments
from ..data.level_images import ImageData
from ..data.loading import load_images
from ..data.openmoji import load_openmoji
from ..diffusion.denoiser import Denoiser, denoiser_of
from ..pipelines.pipeline_ddpm_paper import DDPMPaperPipeline
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .arguments import DiffusionArguments, ModelArguments
from .base import DiffusionTask
from .building import build_scheduler, build_unet
from .class_columns import class_column
from .pixels import PixelTask
from .presets import PRESETS, check_preset


class ImageTask(PixelTask, DiffusionTask):
    """Pixels as x_0, a `UNet2DModel`, and a `DDPMPaperPipeline` that saves it."""

    arguments = (ModelArguments, DataArguments, DiffusionArguments)
    presets = PRESETS

    def load_data(self) -> ImageData:
        check_preset(self.model_arguments.preset, self.presets)
        return load_labelled_images(self.data_arguments)

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


def load_labelled_emoji(arguments: DataArguments) -> ImageData:
    """The same, but OpenMoji, which has no classes, if the arguments name none."""
    return load_images(arguments, class_column(arguments.label_column), load_openmoji)
