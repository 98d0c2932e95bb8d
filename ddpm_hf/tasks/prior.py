# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The prior of unCLIP (Ramesh et al. 2022, section 2.2): x_0 is z ~ q(z | x), an image's embedding, given text."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from accelerate import PartialState
from diffusers import PriorTransformer
from torch import nn

from ..conditioning.conditioner import Conditioners
from ..conditioning.image_encoders import EmbeddingSettings, ImageEncoder, check_image_size, load_image_encoder
from ..conditioning.prior_text import FURTHER_PLACES, reading_captions
from ..conditioning.text import TextSettings
from ..data.arguments import CaptionedDataArguments
from ..data.level_images import ImageData
from ..diffusion.denoiser import Denoiser, denoiser_of
from ..pipelines.pipeline_ddpm_paper_prior import DDPMPaperPriorPipeline
from ..results import RunFacts
from ..runtime.arguments import decided
from ..schedulers.configuration import OWN_CONFIG_KEY
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .base import DiffusionTask, Training
from .building import build_scheduler
from .captioned_images import load_captioned_images
from .embedded_images import embedded, fingerprint_of, with_moments
from .latent import fitted_log_snr_max, short_name
from .pixels import PixelTask
from .text_encoding import TextEncoding, captions_shown
from .unclip_arguments import PriorDiffusionArguments, PriorModelArguments


class PriorTask(TextEncoding, PixelTask, DiffusionTask):
    """Embeddings of images as x_0, a `PriorTransformer`, and a `DDPMPaperPriorPipeline` that saves it."""

    arguments = (PriorModelArguments, CaptionedDataArguments, PriorDiffusionArguments)
    model_part = "prior"
    frozen_parts = ("image_encoder", "text_encoder", "tokenizer")
    image_encoder: ImageEncoder
    images: ImageData  # those of the embeddings; `load_data` sets both

    # --- the data ---

    def load_data(self) -> ImageData:
        model = self.model_arguments
        self.check_prompts()
        settings = EmbeddingSettings(model.posterior_std)  # checked before any work
        arguments = decided(self.data_arguments, {"center_crop": True})
        if arguments.streaming or not arguments.center_crop:
            raise ValueError("`streaming` must be False and `center_crop` True: embeddings are computed once.")
        self.data_arguments = arguments
        encoder = load_image_encoder(model.image_encoder, model.image_encoder_revision).to(PartialState().device)
        data = load_captioned_images(arguments)
        check_image_size(encoder, tuple(data.train.shape))
        self._captions, self.images = captions_shown(data), data
        self.image_encoder = with_moments(encoder, data.train, settings.posterior_std)
        return embedded(data, self.image_encoder, arguments.cache_dir, arguments.random_flip)

    def settle(self, data: ImageData, others: Training, used_before: str | None = None) -> tuple[Training, str | None]:
        return others, None

    def data_lines(self, data: ImageData) -> tuple[str, ...]:
        name = short_name(self.model_arguments.image_encoder)
        width, std = self.image_encoder.width, self.image_encoder.posterior_std
        return (*super().data_lines(self.images), f"embeddings of {width} numbers by {name}, with noise of {std:g}")

    def facts(self, data: ImageData) -> RunFacts:
        images = self.images.train
        shapes = {"image_shape": list(images.shape), "latent_shape": [self.image_encoder.width]}
        return {**shapes, "num_levels": images.num_levels}

    # --- the model ---

    def build_scheduler(self, data: ImageData) -> DDPMPaperScheduler:
        diffusion = self.diffusion
        if diffusion.variance_type.startswith("learned"):
            raise ValueError("`variance_type` must not be learned: a PriorTransformer has no output for it.")
        if diffusion.log_snr_max is None:
            diffusion = dataclasses.replace(diffusion, log_snr_max=fitted_log_snr_max(data.train))
        return build_scheduler(diffusion, None)

    def build_model(self, data: ImageData) -> PriorTransformer:
        model, encoder = self.model_arguments, self.image_encoder
        own = self._settings.to_config()[OWN_CONFIG_KEY] | EmbeddingSettings(encoder.posterior_std).to_config()
        prior = PriorTransformer.from_config(
            {
                "num_attention_heads": model.num_attention_heads,
                "attention_head_dim": model.attention_head_dim,
                "num_layers": model.num_layers,
                "dropout": model.dropout,
                "embedding_dim": encoder.width,
                "embedding_proj_dim": self.encoder.width,
                "embedding_proj_norm_type": "layer",
                "encoder_hid_proj_type": None,
                "num_embeddings": 1 + model.tokenizer_max_length,
                "additional_embeddings": FURTHER_PLACES,
                OWN_CONFIG_KEY: own,
            }
        )
        with torch.no_grad():
            for parameter, value in ((prior.clip_mean, encoder.mean), (prior.clip_std, encoder.std)):
                parameter.copy_(value.reshape(1, -1))
                parameter.requires_grad_(False)
        return prior

    @property
    def _settings(self) -> TextSettings:
        has_null = self.diffusion.conditioning_dropout_prob > 0
        return self.naming_encoder(TextSettings(self.model_arguments.tokenizer_max_length, True, has_null))

    def model_settings(self, model: PriorTransformer) -> dict[str, Any]:
        names = dataclasses.asdict(self.model_arguments)
        known = {name: model.config[name] for name in names if name in model.config}
        names_of_encoders = {"image_encoder": short_name(names["image_encoder"]), "text_encoder": self.name_of_encoder}
        return names | known | names_of_encoders

    def conditioners(self, model: PriorTransformer) -> Conditioners:
        return Conditioners((self.text_conditioner(self.stored_encoder(), TextSettings.of(model.config)),))

    def fingerprint(self) -> dict[str, Any]:
        return {**self.text_fingerprint(self._settings), "image encoder": fingerprint_of(self.image_encoder)}

    def denoiser(self, model: nn.Module) -> Denoiser:
        return reading_captions(denoiser_of(model))

    def pipeline(self, model: PriorTransformer, scheduler: DDPMPaperScheduler) -> DDPMPaperPriorPipeline:
        parts = (self.image_encoder.model, self.encoder.model, self.encoder.tokenizer)
        return DDPMPaperPriorPipeline(model, *parts, scheduler)
