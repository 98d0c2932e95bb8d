# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Encoders of images that are trained against a frozen encoder of text (Radford et al. 2021), for unCLIP."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from transformers import CLIPVisionConfig

from ..conditioning.conditioner import Conditioners
from ..conditioning.text import TextSettings
from ..data.arguments import CaptionedDataArguments
from ..data.level_images import ImageData
from .image_encoder_model import ContrastiveEncoder
from .pixels import PixelTask
from .presets import IMAGE_ENCODER_PRESETS
from .text_encoding import TextEncoding
from .unclip_arguments import ContrastiveArguments, ImageEncoderModelArguments


class ImageEncoderTask(TextEncoding, PixelTask):
    """Pixels as x, and a `CLIPVisionModelWithProjection`."""

    arguments = (ImageEncoderModelArguments, CaptionedDataArguments, ContrastiveArguments)
    presets = IMAGE_ENCODER_PRESETS
    model_part = "image_encoder"

    def build_model(self, data: ImageData) -> ContrastiveEncoder:
        channels, height, width = data.train.shape
        given = dataclasses.asdict(self.model_arguments)
        known = inspect.signature(CLIPVisionConfig).parameters
        vision = {name: value for name, value in given.items() if name in known}
        if height != width or height % vision["patch_size"]:
            raise ValueError(
                f"`patch_size` must divide the side of square images, but is {vision['patch_size']}, and these are"
                f" {height}x{width}."
            )
        if vision["projection_dim"] < 1 or vision["hidden_size"] % vision["num_attention_heads"]:
            raise ValueError(
                "`projection_dim` must be at least 1, and `hidden_size` a multiple of `num_attention_heads`, but they"
                f" are {vision['projection_dim']}, {vision['hidden_size']} and {vision['num_attention_heads']}."
            )
        vision |= {"num_channels": channels, "image_size": height}
        return ContrastiveEncoder(vision, self.encoder.width, self.objective_arguments.logit_scale_init_value)

    def model_settings(self, model: ContrastiveEncoder) -> dict[str, Any]:
        names = dataclasses.asdict(self.model_arguments)
        del names["preset"]  # the arguments themselves say what it set
        vision = model.config["vision_config"]
        known = {name: vision[name] for name in names if name in vision}
        return names | known | {"text_encoder": self.name_of_encoder}

    @property
    def _settings(self) -> TextSettings:
        return TextSettings(self.model_arguments.tokenizer_max_length, attention_mask=True, null=False)

    def conditioners(self, model: ContrastiveEncoder) -> Conditioners:
        return Conditioners((self.text_conditioner(self.stored_encoder(), self._settings),))

    def fingerprint(self) -> dict[str, Any]:
        return self.text_fingerprint(self._settings)
