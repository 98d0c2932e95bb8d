# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments of latent diffusion."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..data.arguments import CaptionedDataArguments
from ..runtime.arguments import help_text
from .arguments import DiffusionArguments, ModelArguments
from .presets import LATENT_PRESETS, LATENT_TEXT_PRESETS
from .text_arguments import TextModelArguments, TextToImageDiffusionArguments


@dataclass
class AutoencoderNameArguments:
    """The autoencoder of the latents."""

    autoencoder: str = field(
        default="runs/autoencoder",
        metadata=help_text("A saved AutoencoderKL, or a pipeline with one: a folder, or a name on the Hub."),
    )
    autoencoder_revision: str | None = field(
        default=None, metadata=help_text("Branch, tag or commit of the autoencoder on the Hub.")
    )


@dataclass
class NarrowestNoiseArguments:
    """Where the noise of the latents begins."""

    log_snr_max: float | None = field(
        default=None,
        metadata=help_text("Of log_snr; if unset, from the width of the autoencoder's q(z | x)."),
    )


@dataclass
class LatentModelArguments(AutoencoderNameArguments, ModelArguments):
    """The autoencoder, and the UNet2DModel of its latents, by its own argument names."""

    model_config_name_or_path: str | None = field(
        default=None,
        metadata=help_text(
            "A saved configuration of a UNet2DModel or a DiTTransformer2DModel, in place of the arguments below, all"
            " but num_class_embeds."
        ),
    )
    preset: str = field(
        default="auto",
        metadata=help_text(
            f"{', '.join(LATENT_PRESETS)}: a network and settings for latents of this side, in the arguments of model"
            " and training; those given win over it. auto: by the size of the latents, unless a network is given"
            " below."
        ),
    )
    with_text: bool = field(
        default=False,
        metadata=help_text("Train a UNet2DConditionModel that is told of captions; it has arguments of its own."),
    )


@dataclass
class LatentTextModelArguments(AutoencoderNameArguments, TextModelArguments):
    """The autoencoder, the UNet2DConditionModel of its latents, by its own argument names, and the text encoder."""

    preset: str = field(
        default="auto",
        metadata=help_text(
            f"{', '.join(LATENT_TEXT_PRESETS)}: a network and settings for latents of this side, in the arguments of"
            " model and training; those given win over it. auto: by the size of the latents, unless a network is given"
            " below."
        ),
    )
    with_text: bool = field(
        default=True, metadata=help_text("Tell the model of captions; without it, it is a UNet2DModel.")
    )


@dataclass
class CaptionedEmojiArguments(CaptionedDataArguments):
    """The images and their captions; by default OpenMoji's emoji with their names (32x32 unless resized)."""


@dataclass
class LatentDiffusionArguments(NarrowestNoiseArguments, DiffusionArguments):
    """The forward process of the latents, and what the model learns."""


@dataclass
class LatentTextDiffusionArguments(NarrowestNoiseArguments, TextToImageDiffusionArguments):
    """The forward process of the latents, and what the model learns; a tenth of the captions are dropped."""
