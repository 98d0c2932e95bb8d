# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The decoder of unCLIP (Ramesh et al. 2022, section 2.1): x_0 is an image, given its embedding and its caption."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from accelerate import PartialState
from diffusers import UNet2DConditionModel
from torch import nn

from ..conditioning.conditioner import Conditioners
from ..conditioning.embeddings import EmbeddingConditioner
from ..conditioning.image_encoders import EmbeddingSettings, ImageEncoder, check_image_size
from ..conditioning.text import DroppedText, TextEncoder, TextSettings
from ..data.arguments import CaptionedDataArguments
from ..data.level_images import ImageData, LevelImages
from ..diffusion.denoiser import Denoiser, denoiser_of
from ..hub_errors import HubError
from ..pipelines.pipeline_ddpm_paper_prior import DDPMPaperPriorPipeline
from ..pipelines.pipeline_ddpm_paper_unclip import DDPMPaperUnCLIPPipeline
from ..results import RunFacts
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .building import build_text_unet
from .captioned_images import load_captioned_images
from .embedded_images import fingerprint_of
from .images import ImageTask
from .latent import short_name
from .presets import UNCLIP_PRESETS, check_preset
from .text_arguments import TextToImageDiffusionArguments
from .text_encoding import SHOWN, TextEncoding, captions_shown
from .unclip_arguments import UnCLIPModelArguments, check_unclip_arguments


class UnCLIPTask(TextEncoding, ImageTask):
    """Pixels as x_0, a `UNet2DConditionModel` that is given z ~ q(z | x_0) and perhaps the caption of x_0.

    A trained prior comes with its encoders, and a `DDPMPaperUnCLIPPipeline` saves them all.
    """

    arguments = (UnCLIPModelArguments, CaptionedDataArguments, TextToImageDiffusionArguments)
    presets = UNCLIP_PRESETS
    shown: LevelImages  # test images that samples vary; `load_data` sets them
    frozen_parts = ("prior", "prior_scheduler", "image_encoder", "text_encoder", "tokenizer")

    # --- the prior, and the encoders that it was trained with ---

    @functools.cached_property
    def prior(self) -> DDPMPaperPriorPipeline:
        """The trained prior.

        Raises:
            ValueError: if there is none of this name.
            HubError: if the Hub cannot be reached, or refuses.
        """
        name, revision = self.model_arguments.prior, self.model_arguments.prior_revision
        if name is None:
            raise ValueError("`prior` must be given: a trained prior of embeddings.")
        try:
            pipeline = DDPMPaperPriorPipeline.from_pretrained(name, revision=revision)
        except HubError:
            raise
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"`prior` {name} cannot be loaded: {' '.join(str(error).split())}") from error
        if pipeline.text_encoder is None:
            raise ValueError(f"`prior` {name} must be saved with its text encoder, but has none.")
        for part in (pipeline.prior, pipeline.image_encoder, pipeline.text_encoder):
            part.requires_grad_(False).eval()
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(PartialState().device)

    @functools.cached_property
    def encoder(self) -> TextEncoder:
        prior = self.prior
        return TextEncoder(prior.tokenizer, prior.text_encoder, TextSettings.of(prior.prior.config).max_length)

    @property
    def image_encoder(self) -> ImageEncoder:
        """The encoder of images, with q(z | x)."""
        return self.prior.encoder

    # --- the data ---

    def load_data(self) -> ImageData:
        check_preset(self.model_arguments.preset, self.presets)
        check_unclip_arguments(self.model_arguments)
        self.check_prompts()
        image_encoder = self.prior.image_encoder
        data = load_captioned_images(self.data_arguments)
        check_image_size(image_encoder, tuple(data.train.shape))
        self._captions = captions_shown(data)
        images = data.test if len(data.test) else data.train
        if not isinstance(images, LevelImages):
            raise ValueError("There are no test images to vary in samples; pass a `test_fraction` above 0.")
        self.shown = images.spread(SHOWN)
        return data

    def data_lines(self, data: ImageData) -> tuple[str, ...]:
        width, std = self.image_encoder.width, self.image_encoder.posterior_std
        name = short_name(self.model_arguments.prior)
        return (
            *super().data_lines(data),
            f"embeddings of {width} numbers as {name} models them, with noise of {std:g}",
        )

    def facts(self, data: ImageData) -> RunFacts:
        return {"latent_shape": [self.image_encoder.width]}

    # --- the model ---

    @property
    def _settings(self) -> TextSettings:
        has_null = self.diffusion.conditioning_dropout_prob > 0
        return dataclasses.replace(TextSettings.of(self.prior.prior.config), attention_mask=True, null=has_null)

    def build_model(self, data: ImageData) -> UNet2DConditionModel:
        has_null = self.diffusion.conditioning_dropout_prob > 0
        if self.model_arguments.text_dropout_prob > 0 and not has_null:
            raise ValueError("`text_dropout_prob` must be 0 with a `conditioning_dropout_prob` of 0.")
        embedding = (self.image_encoder.width, EmbeddingSettings(self.image_encoder.posterior_std, has_null))
        how = (self.model_arguments, self.diffusion, data.train)
        return build_text_unet(*how, self.encoder.width, self._settings, embedding)

    def model_settings(self, model: UNet2DConditionModel) -> dict[str, Any]:
        names = dataclasses.asdict(self.model_arguments)
        del names["preset"]  # the arguments themselves say what it set
        known = {name: model.config[name] for name in names if name in model.config}
        return names | known | {"prior": short_name(names["prior"])}

    def conditioners(self, model: UNet2DConditionModel) -> Conditioners:
        text = self.text_conditioner(self.stored_encoder(), TextSettings.of(model.config))
        dropped = DroppedText(
            text.encoder, text.settings, text.prompts, probability=self.model_arguments.text_dropout_prob
        )
        x, _ = self.shown.batch(0, SHOWN, skip_bad=True)
        embeds = self.image_encoder.embeds(x.to(self.prior.device)).cpu()
        has_null = EmbeddingSettings.of(model.config).null
        return Conditioners((dropped, EmbeddingConditioner(self.image_encoder, has_null, embeds)))

    def fingerprint(self) -> dict[str, Any]:
        dropout = self.model_arguments.text_dropout_prob
        embeddings = {"image encoder": fingerprint_of(self.image_encoder), "text_dropout_prob": dropout}
        return {**self.text_fingerprint(self._settings), **embeddings}

    def denoiser(self, model: nn.Module) -> Denoiser:
        return denoiser_of(model)

    def pipeline(self, model: UNet2DConditionModel, scheduler: DDPMPaperScheduler) -> DDPMPaperUnCLIPPipeline:
        prior = self.prior
        encoders = (prior.image_encoder, prior.text_encoder, prior.tokenizer)
        prior_scheduler = DDPMPaperScheduler.from_config(prior.scheduler.config)  # its own, whose chain samples set
        return DDPMPaperUnCLIPPipeline(prior.prior, prior_scheduler, model, scheduler, *encoders)
