# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Latent diffusion (Vahdat et al. 2021; Rombach et al. 2022): x_0 is z ~ q(z | x) of a frozen autoencoder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from diffusers import DiTTransformer2DModel, ModelMixin, UNet2DConditionModel, UNet2DModel

from ..data.arguments import EmojiDataArguments
from ..data.image_streams import ImageStream
from ..data.latents import LatentImages, cache_folder, latents_of
from ..data.level_images import ImageData, LevelImages
from ..pipelines.autoencoders import Autoencoder
from ..pipelines.pipeline_ddpm_paper_latent import DDPMPaperLatentPipeline
from ..results import RunFacts
from ..runtime.arguments import decided
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .autoencoder import DEFAULT_RESOLUTION
from .base import DiffusionTask
from .building import build_scheduler
from .dit import build_dit, dit_config, with_null_class_trained
from .images import ImageTask, load_labelled_emoji
from .latent_arguments import (
    CaptionedEmojiArguments,
    LatentDiffusionArguments,
    LatentModelArguments,
    LatentTextDiffusionArguments,
    LatentTextModelArguments,
)
from .latent_autoencoder import fingerprint_of, load_autoencoder, with_law
from .presets import LATENT_PRESETS, LATENT_TEXT_PRESETS, check_preset
from .text_to_image import TextToImageTask


# The first noise level, as a fraction of the width of q(z | x) in the narrowest channel. The density of the latents is
# smooth at that width, so that finer noise has nothing left to tell; see docs/guides/latents.md.
FIRST_NOISE_LEVEL = 0.5


class LatentData(DiffusionTask):
    """The part of a task whose x_0 are latents of a frozen autoencoder: data, process and facts.

    Attributes:
        autoencoder: with its p(x | z); there once the data are loaded.
    """

    autoencoder: Autoencoder

    # --- the data ---

    def _check_data(self) -> None:
        """Raise ValueError for arguments of the data that latents cannot have; fill in what is open."""
        if self.data_arguments.streaming:
            raise ValueError("`streaming` must be False: latents are computed once, of all images.")
        arguments = decided(self.data_arguments, {"center_crop": True})
        if not arguments.names_data:
            arguments = decided(arguments, {"resolution": DEFAULT_RESOLUTION})
        if not arguments.center_crop:
            raise ValueError("`center_crop` must be True: latents are computed once, of the middle of an image.")
        self.data_arguments = arguments

    def _with_latents(self, load: Callable[[], ImageData]) -> ImageData:
        """The images, and the latents of those of training.

        Args:
            load: reads the images; the autoencoder is loaded first, since that may fail.
        """
        model = self.model_arguments
        vae = load_autoencoder(model.autoencoder, model.autoencoder_revision)
        data, device = load(), PartialState().device
        self._fingerprint = fingerprint_of(vae)
        self.autoencoder = with_law(vae, data.train, device)
        folder, mirrored = cache_folder(self.data_arguments.cache_dir), self.data_arguments.random_flip
        given = (self.autoencoder, self._fingerprint, folder, device)
        return dataclasses.replace(data, train=latents_of(data.train, *given, with_mirrored=mirrored))

    def data_lines(self, data: ImageData) -> tuple[str, ...]:
        latents = "x".join(map(str, data.train.shape))
        pixels = super().data_lines(dataclasses.replace(data, train=data.train.images))
        return (*pixels, f"latents of {latents} by {short_name(self.model_arguments.autoencoder)}")

    def training_images(self, data: ImageData) -> LevelImages | ImageStream:
        return data.train.images

    def facts(self, data: ImageData) -> RunFacts:
        images = data.train.images
        return {
            "image_shape": list(images.shape),
            "num_levels": images.num_levels,
            "latent_shape": list(data.train.shape),
        }

    # --- the model ---

    def build_scheduler(self, data: ImageData) -> DDPMPaperScheduler:
        diffusion = self.diffusion
        if diffusion.log_snr_max is None:
            diffusion = dataclasses.replace(diffusion, log_snr_max=fitted_log_snr_max(data.train))
        return build_scheduler(diffusion, None)

    def model_settings(self, model: ModelMixin) -> dict[str, Any]:
        return super().model_settings(model) | {"autoencoder": short_name(self.model_arguments.autoencoder)}

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"autoencoder": self._fingerprint}


class LatentTask(LatentData, ImageTask):
    """Latents as x_0, a `UNet2DModel` or a `DiTTransformer2DModel`, and a `DDPMPaperLatentPipeline` that saves it."""

    arguments = (LatentModelArguments, EmojiDataArguments, LatentDiffusionArguments)
    presets = LATENT_PRESETS

    def load_data(self) -> ImageData:
        check_preset(self.model_arguments.preset, self.presets)
        self._check_data()
        if dit_config(self.model_arguments) is not None:
            self.diffusion = with_null_class_trained(self.diffusion)
        arguments = self.data_arguments
        return self._with_latents(lambda: load_labelled_emoji(arguments))

    def build_model(self, data: ImageData) -> UNet2DModel | DiTTransformer2DModel:
        config = dit_config(self.model_arguments)
        return super().build_model(data) if config is None else build_dit(config, self.diffusion, data.train)

    def pipeline(
        self, model: UNet2DModel | DiTTransformer2DModel, scheduler: DDPMPaperScheduler
    ) -> DDPMPaperLatentPipeline:
        return DDPMPaperLatentPipeline(self.autoencoder.model, model, scheduler)


class LatentTextTask(LatentData, TextToImageTask):
    """Latents as x_0, and a `UNet2DConditionModel` that is told of captions, as Stable Diffusion's."""

    arguments = (LatentTextModelArguments, CaptionedEmojiArguments, LatentTextDiffusionArguments)
    presets = LATENT_TEXT_PRESETS

    def load_data(self) -> ImageData:
        self._check_data()
        return self._with_latents(super().load_data)

    def build_scheduler(self, data: ImageData) -> DDPMPaperScheduler:
        # StableDiffusionPipeline sets `steps_offset` to 1, which leads out of the chain if all steps are visited,
        # unless the spacing is another one than "leading".
        return DDPMPaperScheduler.from_config(super().build_scheduler(data).config, timestep_spacing="trailing")

    def pipeline(self, model: UNet2DConditionModel, scheduler: DDPMPaperScheduler) -> DDPMPaperLatentPipeline:
        tokenizer = self.encoder.tokenizer
        tokenizer.model_max_length = self.encoder.max_length  # to which StableDiffusionPipeline pads
        return DDPMPaperLatentPipeline(self.autoencoder.model, model, scheduler, tokenizer, self.encoder.model)


def fitted_log_snr_max(latents: LatentImages) -> float:
    """The log signal-to-noise ratio at the first timestep, from the width of q(z | x)."""
    return -latents.narrowest - 2 * math.log(FIRST_NOISE_LEVEL)


def short_name(name: str) -> str:
    """The name of the autoencoder, without the path of a folder."""
    return Path(name).resolve().name if Path(name).exists() else name
