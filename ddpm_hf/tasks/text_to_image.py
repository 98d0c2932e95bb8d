# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Text to image in pixels (GLIDE, Nichol et al. 2022; Imagen, Saharia et al. 2022): x_0 is an image with a caption."""

from __future__ import annotations

import dataclasses
from typing import Any

from diffusers import UNet2DConditionModel

from ..conditioning.conditioner import Conditioners
from ..conditioning.text import Encoder, TextSettings
from ..data.arguments import CaptionedDataArguments
from ..data.level_images import ImageData
from ..pipelines.pipeline_ddpm_paper_text_to_image import DDPMPaperTextToImagePipeline
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .building import build_text_unet
from .images import ImageTask
from .presets import TEXT_PRESETS
from .text_arguments import TextModelArguments, TextToImageDiffusionArguments
from .text_encoding import TextEncoding


class TextToImageTask(TextEncoding, ImageTask):
    """Pixels as x_0, a `UNet2DConditionModel` that is told of captions, and a `DDPMPaperTextToImagePipeline`."""

    arguments = (TextModelArguments, CaptionedDataArguments, TextToImageDiffusionArguments)
    presets = TEXT_PRESETS
    frozen_parts = ("tokenizer", "text_encoder")

    def build_model(self, data: ImageData) -> UNet2DConditionModel:
        how = (self.encoder.width, self._settings)
        return build_text_unet(self.model_arguments, self.diffusion, data.train, *how)

    @property
    def _settings(self) -> TextSettings:
        model, has_null = self.model_arguments, self.diffusion.conditioning_dropout_prob > 0
        return self.naming_encoder(TextSettings(model.tokenizer_max_length, model.text_attention_mask, has_null))

    def model_settings(self, model: UNet2DConditionModel) -> dict[str, Any]:
        names = dataclasses.asdict(self.model_arguments)
        del names["preset"]  # the arguments themselves say what it set
        names["text_encoder"] = self.name_of_encoder
        return names | {name: model.config[name] for name in names if name in model.config}

    def conditioners(self, model: UNet2DConditionModel) -> Conditioners:
        return Conditioners((self.text_conditioner(self._stored(model), TextSettings.of(model.config)),))

    def _stored(self, model: UNet2DConditionModel) -> Encoder:
        return self.stored_encoder(keeps_padding=not TextSettings.of(model.config).attention_mask)

    def fingerprint(self) -> dict[str, Any]:
        return self.text_fingerprint(self._settings)

    def pipeline(self, model: UNet2DConditionModel, scheduler: DDPMPaperScheduler) -> DDPMPaperTextToImagePipeline:
        return DDPMPaperTextToImagePipeline(self.encoder.tokenizer, self.encoder.model, model, scheduler)
