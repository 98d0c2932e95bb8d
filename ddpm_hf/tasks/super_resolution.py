# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Super-resolution in pixels (Ho et al. 2022; Saharia et al. 2022): x_0 is an image, given its low resolution."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from diffusers import UNet2DConditionModel
from torch import nn

from ..conditioning.captions import PROMPT
from ..conditioning.columns import Columns
from ..conditioning.conditioner import Conditioners
from ..conditioning.low_resolution import (
    NOISING_TIMESTEPS,
    LowResolutionConditioner,
    LowResolutionSettings,
    joining,
    standard_noising,
)
from ..conditioning.text import TextConditioner, TextSettings
from ..data.arguments import SuperResolutionDataArguments
from ..data.image_streams import ImageStream
from ..data.level_images import ImageData
from ..diffusion.denoiser import Denoiser, denoiser_of
from ..pipelines.pipeline_ddpm_paper_super_resolution import DDPMPaperSuperResolutionPipeline
from ..runtime.arguments import decided
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .base import Training
from .building import build_super_resolution_unet
from .captioned_images import load_captioned_images, load_plain_images
from .presets import SUPER_RESOLUTION_PRESETS, check_preset
from .super_resolution_arguments import SuperResolutionModelArguments
from .text_arguments import TextDiffusionArguments
from .text_encoding import SHOWN
from .text_to_image import TextToImageTask


DEFAULT_RESOLUTION = 32  # of the default data


class SuperResolutionTask(TextToImageTask):
    """Pixels as x_0, a `UNet2DConditionModel` that is given x_0 in low resolution and perhaps its caption."""

    arguments = (SuperResolutionModelArguments, SuperResolutionDataArguments, TextDiffusionArguments)
    presets = SUPER_RESOLUTION_PRESETS

    # --- the data ---

    def load_data(self) -> ImageData:
        check_preset(self.model_arguments.preset, self.presets)
        is_default = not self.data_arguments.names_data
        self.model_arguments = decided(self.model_arguments, {"with_text": is_default})
        self.check_prompts()
        if is_default:
            self.data_arguments = decided(self.data_arguments, {"resolution": DEFAULT_RESOLUTION})
        if not self.model_arguments.with_text:
            self.diffusion = decided(self.diffusion, {"conditioning_dropout_prob": 0.0})
        data = self._load()
        self._check_sizes(data)
        self._examples = examples_shown(data, self._settings_of(data))
        return self._cropped(data)

    def check_prompts(self) -> None:
        super().check_prompts()
        model = self.model_arguments
        if model.validation_prompts and not model.with_text:
            asked = f"`validation_prompts` are {model.validation_prompts}"
            raise ValueError(f"{asked}, but the model is not told of text; pass --with_text too.")

    def _load(self) -> ImageData:
        return (load_captioned_images if self.model_arguments.with_text else load_plain_images)(self.data_arguments)

    def _check_sizes(self, data: ImageData) -> None:
        factor, highest = self.model_arguments.factor, self.model_arguments.max_noise_level
        _, height, width = data.train.shape
        if factor < 2 or height % factor or width % factor:
            raise ValueError(
                f"`factor` must be at least 2, and divide height and width of the images, {height}x{width}, but is"
                f" {factor}."
            )
        if not 0 <= highest < NOISING_TIMESTEPS:
            raise ValueError(f"`max_noise_level` must be in 0 ... {NOISING_TIMESTEPS - 1}, but is {highest}.")
        side = self.data_arguments.crop_size
        if side is None:
            return
        if not factor <= side <= min(height, width) or side % factor:
            raise ValueError(
                f"`crop_size` must be a multiple of `factor`, {factor}, and at most {min(height, width)}, the smaller"
                f" side of the images, but is {side}."
            )
        if isinstance(data.train, ImageStream):
            raise ValueError("`crop_size` is for images that are not streamed.")

    def _cropped(self, data: ImageData) -> ImageData:
        """The data with squares of the training images, if that is asked for."""
        side = self.data_arguments.crop_size
        if side is None:
            return data
        if self.diffusion.per_element:
            raise ValueError("`per_element` must be False with `crop_size`: a variance is then of any place.")
        self.diffusion = decided(self.diffusion, {"per_element": False})
        return dataclasses.replace(data, train=data.train.cropped(side))

    def settle(self, data: ImageData, others: Training, used_before: str | None = None) -> tuple[Training, str | None]:
        others, name = super().settle(data, others, used_before)
        if self.data_arguments.crop_size is not None and others.num_quality_samples:
            raise ValueError("`num_quality_samples` must be 0 with `crop_size`: samples are whole images.")
        return others, name

    def data_lines(self, data: ImageData) -> tuple[str, ...]:
        side = self.data_arguments.crop_size
        crops = () if side is None else (f"trained on squares of {side}x{side} pixels at random places",)
        whole = dataclasses.replace(data, train=data.test)
        return (*super().data_lines(whole), *crops)

    # --- the model ---

    def _settings_of(self, data: ImageData) -> LowResolutionSettings:
        model = self.model_arguments
        return LowResolutionSettings(model.factor, data.train.num_levels, model.max_noise_level)

    def build_model(self, data: ImageData) -> UNet2DConditionModel:
        text = (self.encoder.width, self._settings) if self.model_arguments.with_text else None
        low, crop = self._settings_of(data), self.data_arguments.crop_size
        return build_super_resolution_unet(self.model_arguments, self.diffusion, data.test, low, text, crop)

    @functools.cached_property
    def _noising(self) -> DDPMPaperScheduler:
        return standard_noising()

    def conditioners(self, model: UNet2DConditionModel) -> Conditioners:
        images = {name: values for name, values in self._examples.items() if name != PROMPT}
        low = LowResolutionConditioner(LowResolutionSettings.of(model.config), self._noising, images)
        if not self.model_arguments.with_text:
            return Conditioners((low,))
        asked, captions = self.model_arguments.validation_prompts, self._examples.get(PROMPT, [])
        prompts = (*asked, *captions[len(asked) :])
        encoder = self._stored(model)
        encoder.prepare(prompts)
        return Conditioners((low, TextConditioner(encoder, TextSettings.of(model.config), prompts)))

    def fingerprint(self) -> dict[str, Any]:
        model = self.model_arguments
        given = {"factor": model.factor, "max_noise_level": model.max_noise_level, "with_text": model.with_text}
        return {**(super().fingerprint() if model.with_text else {}), **given}

    def denoiser(self, model: nn.Module) -> Denoiser:
        return joining(denoiser_of(model))

    def pipeline(self, model: UNet2DConditionModel, scheduler: DDPMPaperScheduler) -> DDPMPaperSuperResolutionPipeline:
        encoder = self.encoder if self.model_arguments.with_text else None
        parts = (None, None) if encoder is None else (encoder.tokenizer, encoder.model)
        return DDPMPaperSuperResolutionPipeline(*parts, model, scheduler, self._noising)


def examples_shown(data: ImageData, settings: LowResolutionSettings) -> Columns:
    """Columns of test images, or of training images if there are none: in low resolution, with their captions."""
    images = data.test if len(data.test) else data.train
    if isinstance(images, ImageStream):
        raise ValueError("There are no test images to enlarge in samples; pass a `test_fraction` above 0.")
    x_0, columns = images.spread(SHOWN).batch(0, SHOWN, skip_bad=True)
    shown: dict[str, Sequence[Any] | Any] = dict(LowResolutionConditioner(settings).derive(x_0, {}))
    return {**shown, **({PROMPT: columns[PROMPT]} if PROMPT in columns else {})}
