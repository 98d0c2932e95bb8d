# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Autoencoders of images (Kingma & Welling 2014; Rombach et al. 2022), whose latents a diffusion can model."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from diffusers import AutoencoderKL

from ..data.arguments import EmojiDataArguments
from ..data.level_images import ImageData
from ..pipelines.autoencoders import factor_of
from ..runtime.arguments import decided
from .autoencoder_arguments import AutoencoderModelArguments, ElboArguments, check_law_arguments
from .autoencoder_model import LikelihoodAutoencoder
from .building import saved_config
from .captioned_images import load_plain_images
from .pixels import PixelTask
from .presets import AUTOENCODER_PRESETS, check_preset


DEFAULT_RESOLUTION = 32  # of the default data


class AutoencoderTask(PixelTask):
    """Pixels as x, and an `AutoencoderKL` with a learned p(x | z)."""

    arguments = (AutoencoderModelArguments, EmojiDataArguments, ElboArguments)
    presets = AUTOENCODER_PRESETS
    model_part = "vae"

    def load_data(self) -> ImageData:
        check_law_arguments(self.model_arguments)
        check_preset(self.model_arguments.preset, self.presets)
        if not self.data_arguments.names_data:
            self.data_arguments = decided(self.data_arguments, {"resolution": DEFAULT_RESOLUTION})
        return load_plain_images(self.data_arguments)

    def build_model(self, data: ImageData) -> LikelihoodAutoencoder:
        channels, height, width = data.train.shape
        config = self._config() | {
            "in_channels": channels,
            "out_channels": channels,
            "sample_size": height if height == width else (height, width),
            "scaling_factor": 1.0,  # until it is measured
            "shift_factor": None,
            "latents_mean": None,
            "latents_std": None,
        }
        factor = factor_of(config)
        if height % factor or width % factor:
            raise ValueError(
                f"`block_out_channels` has {len(config['block_out_channels'])} resolutions, so that height and width"
                f" must be multiples of {factor}, but the images are {height}x{width}; pass another --resolution or"
                " fewer blocks."
            )
        if any(channels % config["norm_num_groups"] for channels in config["block_out_channels"]):
            raise ValueError(
                f"`norm_num_groups` must divide all of `block_out_channels`, {config['block_out_channels']}, but is"
                f" {config['norm_num_groups']}."
            )
        model = self.model_arguments
        return LikelihoodAutoencoder(config, model.decoder_law, model.decoder_components)

    def _config(self) -> dict[str, Any]:
        """The part of the configuration that the arguments determine."""
        model = self.model_arguments
        if model.model_config_name_or_path is not None:
            return _without_what_is_private(saved_config(AutoencoderKL, model.model_config_name_or_path))
        known = inspect.signature(AutoencoderKL.__init__).parameters
        given = {name: value for name, value in dataclasses.asdict(model).items() if name in known}
        depth = len(model.block_out_channels)
        return given | {
            "down_block_types": ["DownEncoderBlock2D"] * depth,
            "up_block_types": ["UpDecoderBlock2D"] * depth,
        }

    def model_settings(self, model: LikelihoodAutoencoder) -> dict[str, Any]:
        names = dataclasses.asdict(self.model_arguments)
        del names["preset"]  # the arguments themselves say what it set
        config = model.vae.config
        return names | {name: config[name] for name in names if name in config}


def _without_what_is_private(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the version, the class and what a training records in it."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
