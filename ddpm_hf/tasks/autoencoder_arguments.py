# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments of autoencoders, under the names of diffusers' `AutoencoderKL`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..diffusion.gaussian_process import unknown
from ..likelihood.decoder_law import FAMILIES, LOGISTIC
from ..runtime.arguments import help_text
from .presets import AUTOENCODER_PRESETS


@dataclass
class AutoencoderModelArguments:
    """The AutoencoderKL, by its own argument names."""

    _argument_group_name = "model"

    preset: str = field(
        default="auto",
        metadata=help_text(
            f"{', '.join(AUTOENCODER_PRESETS)}: a network and settings for images of this side, in the arguments of"
            " model and training; those given win over it. auto: by the size of the images, unless a network is given"
            " below."
        ),
    )
    model_config_name_or_path: str | None = field(
        default=None, metadata=help_text("A saved AutoencoderKL's configuration in place of the arguments below.")
    )
    block_out_channels: list[int] = field(
        default_factory=lambda: [16, 32, 32],
        metadata=help_text(
            "Channels at each resolution, from that of the images, always halved, to that of the latents."
        ),
    )
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 8
    mid_block_add_attention: bool = field(
        default=True, metadata=help_text("Attention at the resolution of the latents.")
    )
    decoder_law: str = field(
        default=LOGISTIC,
        metadata=help_text(f"p(x given z) around the reconstruction: {' or '.join(FAMILIES)}, in the bin of a level."),
    )
    decoder_components: int = field(
        default=4,
        metadata=help_text("Laws of different scales that are mixed: errors are small in flat areas; 1 for one law."),
    )


@dataclass
class ElboArguments:
    """What the autoencoder learns."""

    _argument_group_name = "objective"

    kl_scale: float = field(
        default=1.0,
        metadata=help_text(
            "Weight of the KL divergence. 1: the evidence lower bound; 1e-6: Rombach et al. 2022, whose latents keep"
            " every detail."
        ),
    )
    kl_warmup_steps: int | None = field(
        default=None,
        metadata=help_text(
            "Steps in which that weight rises from 0, so that no channel collapses before it is of use: two thirds of"
            " the training if unset. The bound that is reported has the divergence at its full weight all the time."
        ),
    )
    perceptual_weight: float = field(
        default=0.0,
        metadata=help_text(
            "Weight of the distance of images and reconstructions by the features of `perceptual_model`, in"
            " bits/dim. With it, or an adversarial term, the objective is no longer the evidence lower bound."
        ),
    )
    perceptual_model: str = field(
        default="efficientnet_lite0",
        metadata=help_text(
            "efficientnet_lite0, of the extra `features`; or a file of VGG-16's weights as torchvision or LPIPS names"
            " them, with LPIPS's own weights if it has them."
        ),
    )
    adversarial_weight: float = field(
        default=0.0,
        metadata=help_text(
            "Weight of the term by a discriminator of patches; 1 makes its gradient at the last layer as large as that"
            " of the reconstruction. Latent diffusion takes 0.5."
        ),
    )
    adversarial_start_step: int = field(
        default=0, metadata=help_text("The first step with the adversarial term, from which the discriminator learns.")
    )
    discriminator_channels: int = field(
        default=64, metadata=help_text("Channels after the discriminator's first convolution, a multiple of 8.")
    )


def check_elbo_arguments(objective: ElboArguments) -> None:
    """Raise ValueError for arguments out of range."""
    for name in ("kl_scale", "perceptual_weight", "adversarial_weight"):
        if not 0 <= getattr(objective, name) < math.inf:  # NaN included
            raise ValueError(f"`{name}` must be at least 0, but is {getattr(objective, name)}.")
    for name in ("kl_warmup_steps", "adversarial_start_step"):
        if (getattr(objective, name) or 0) < 0:
            raise ValueError(f"`{name}` must be at least 0, but is {getattr(objective, name)}.")
    channels = objective.discriminator_channels
    if channels < 8 or channels % 8:
        raise ValueError(f"`discriminator_channels` must be a multiple of 8, but is {channels}.")


def check_law_arguments(model: AutoencoderModelArguments) -> None:
    """Raise ValueError for a law that there is not."""
    if model.decoder_law not in FAMILIES:
        raise ValueError(unknown("decoder_law", model.decoder_law, FAMILIES))
    if model.decoder_components < 1:
        raise ValueError(f"`decoder_components` must be at least 1, but is {model.decoder_components}.")
