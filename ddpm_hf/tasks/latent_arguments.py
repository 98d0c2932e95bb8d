# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments of latent diffusion."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.arguments import help_text
from .arguments import DiffusionArguments, ModelArguments
from .presets import LATENT_PRESETS


@dataclass
class LatentModelArguments(ModelArguments):
    """The autoencoder, and the UNet2DModel of its latents, by its own argument names."""

    preset: str = field(
        default="auto",
        metadata=help_text(
            f"{', '.join(LATENT_PRESETS)}: a network and settings for latents of this side, in the arguments of model"
            " and training; those given win over it. auto: by the size of the latents, unless a network is given"
            " below."
        ),
    )
    autoencoder: str = field(
        default="runs/autoencoder",
        metadata=help_text("A saved AutoencoderKL, or a pipeline with one: a folder, or a name on the Hub."),
    )
    autoencoder_revision: str | None = field(
        default=None, metadata=help_text("Branch, tag or commit of the autoencoder on the Hub.")
    )


@dataclass
class LatentDiffusionArguments(DiffusionArguments):
    """The forward process of the latents, and what the model learns."""

    log_snr_max: float | None = field(
        default=None,
        metadata=help_text("Of log_snr; if unset, from the width of the autoencoder's q(z | x)."),
    )
