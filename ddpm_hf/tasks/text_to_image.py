# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Text to image in pixels (GLIDE, Nichol et al. 2022; Imagen, Saharia et al. 2022): x_0 is an image with a caption."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from accelerate import PartialState
from diffusers import UNet2DConditionModel

from ..conditioning.captions import PROMPT
from ..conditioning.conditioner import Conditioners
from ..conditioning.text import Encoder, TextConditioner, TextEncoder, TextSettings
from ..conditioning.text_encoders import is_on_the_hub, load_text_encoder
from ..data.arguments import CaptionedDataArguments
from ..data.level_images import ImageData, LevelImages
from ..data.text_embeddings import StoredEmbeddings, cache_folder
from ..pipelines.pipeline_ddpm_paper_text_to_image import DDPMPaperTextToImagePipeline
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .building import build_text_unet
from .captioned_images import load_captioned_images
from .images import ImageTask
from .presets import TEXT_PRESETS, check_preset
from .text_arguments import TextModelArguments, TextToImageDiffusionArguments


SHOWN = 144  # captions that samples take their turns of


class TextToImageTask(ImageTask):
    """Pixels as x_0, a `UNet2DConditionModel` that is told of captions, and a `DDPMPaperTextToImagePipeline`."""

    arguments = (TextModelArguments, CaptionedDataArguments, TextToImageDiffusionArguments)
    presets = TEXT_PRESETS
    frozen_parts = ("tokenizer", "text_encoder")

    @functools.cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder."""
        model = self.model_arguments
        return load_text_encoder(model.text_encoder, model.tokenizer_max_length, model.text_encoder_revision)

    def load_data(self) -> ImageData:
        check_preset(self.model_arguments.preset, self.presets)
        prompts = self.model_arguments.validation_prompts
        if not all(prompt.strip() for prompt in prompts):
            raise ValueError(f"`validation_prompts` must not be empty, but are {prompts}.")
        data = load_captioned_images(self.data_arguments)
        self._captions = captions_shown(data)
        return data

    def build_model(self, data: ImageData) -> UNet2DConditionModel:
        how = (self.encoder.width, self._settings)
        return build_text_unet(self.model_arguments, self.diffusion, data.train, *how)

    @property
    def _settings(self) -> TextSettings:
        model, has_null = self.model_arguments, self.diffusion.conditioning_dropout_prob > 0
        settings = TextSettings(model.tokenizer_max_length, model.text_attention_mask, has_null)
        if not is_on_the_hub(model.text_encoder):
            return settings
        return dataclasses.replace(settings, encoder=model.text_encoder, encoder_revision=model.text_encoder_revision)

    def model_settings(self, model: UNet2DConditionModel) -> dict[str, Any]:
        names = dataclasses.asdict(self.model_arguments)
        del names["preset"]  # the arguments themselves say what it set
        if not is_on_the_hub(self.model_arguments.text_encoder):
            names["text_encoder"] = Path(self.model_arguments.text_encoder).name  # and not where it lies
        return names | {name: model.config[name] for name in names if name in model.config}

    def conditioners(self, model: UNet2DConditionModel) -> Conditioners:
        prompts = (*self.model_arguments.validation_prompts, *self._captions)
        if not prompts:
            raise ValueError(
                "`validation_prompts` must be given, since there are no test captions to draw samples of."
            )
        encoder = self._stored(model)
        encoder.prepare(prompts)
        return Conditioners((TextConditioner(encoder, TextSettings.of(model.config), prompts),))

    def _stored(self, model: UNet2DConditionModel) -> Encoder:
        device = PartialState().device
        if not self.model_arguments.pre_compute_text_embeddings:
            self.encoder.model.to(device)
            return self.encoder
        keeps_padding = not TextSettings.of(model.config).attention_mask
        return StoredEmbeddings(self.encoder, keeps_padding, cache_folder(self.data_arguments.cache_dir), device)

    def fingerprint(self) -> dict[str, Any]:
        settings = dataclasses.replace(self._settings, encoder=None, encoder_revision=None)  # wherever it is from
        return {"text encoder": self.encoder.fingerprint, "text": dataclasses.asdict(settings)}

    def pipeline(self, model: UNet2DConditionModel, scheduler: DDPMPaperScheduler) -> DDPMPaperTextToImagePipeline:
        return DDPMPaperTextToImagePipeline(self.encoder.tokenizer, self.encoder.model, model, scheduler)


def captions_shown(data: ImageData) -> list[str]:
    """Different captions of test images, or of training images if there are none, evenly spread; none of a stream."""
    images = data.test if len(data.test) else data.train
    values = images.columns.get(PROMPT, []) if isinstance(images, LevelImages) else []
    first = list(dict.fromkeys(value if isinstance(value, str) else value[0] for value in values))
    count = min(SHOWN, len(first))
    return [first[k * len(first) // count] for k in range(count)]
