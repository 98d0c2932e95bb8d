# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments of autoencoders, under the names of diffusers' `AutoencoderKL`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

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


def check_elbo_arguments(objective: ElboArguments) -> None:
    """Raise ValueError for a weight that is not a number of at least 0."""
    if not 0 <= objective.kl_scale < math.inf:  # NaN included
        raise ValueError(f"`kl_scale` must be at least 0, but is {objective.kl_scale}.")
