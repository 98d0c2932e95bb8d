# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The autoencoder as it is trained, with the scale of p(x | z), and as it is saved."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..conditioning.classes import OWN_CONFIG_KEY
from ..likelihood.decoder_law import DecoderLaw
from ..pipelines.autoencoders import Autoencoder, decoder_law_config, with_scaling_factor


FIRST_LOG_SCALE = -1.0  # wider than the errors of any trained decoder
RATE_OF_THE_SCALE = 10.0  # its learning rate in units of the weights': it has far to go, from e^−1 to e^−4


class Coded(NamedTuple):
    """The result of a pass through the autoencoder.

    Attributes:
        mean, log_variance: of q(z | x), `[B, c, h, w]`.
        reconstruction: x̂(z), `[B, C, H, W]`.
        log_scale: the logarithm of the standard deviation of p(x | z) in each channel, `[C]`.
    """

    mean: Tensor
    log_variance: Tensor
    reconstruction: Tensor
    log_scale: Tensor


class LikelihoodAutoencoder(ModelMixin, ConfigMixin):
    """An `AutoencoderKL` with a learned scale of p(x | z), so that it has a likelihood.

    Args:
        autoencoder: the configuration of the `AutoencoderKL`.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, autoencoder: dict[str, Any]):
        super().__init__()
        self.vae = AutoencoderKL.from_config(autoencoder)
        channels = self.vae.config["out_channels"]
        self.slow_log_scale = nn.Parameter(torch.full((channels,), FIRST_LOG_SCALE / RATE_OF_THE_SCALE))

    @property
    def log_scale(self) -> Tensor:
        """The logarithm of the standard deviation of p(x | z), `[C]`."""
        return RATE_OF_THE_SCALE * self.slow_log_scale

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the latents of an image (C, H, W)."""
        return Autoencoder(self.vae).latent_shape(image_shape)

    def forward(self, x: Tensor, noise: Tensor) -> Coded:
        """Encode images, and decode z = mean + σ · noise.

        Args:
            x: `[B, C, H, W]` in [−1, 1].
            noise: `[B, c, h, w]`; zeros for the mean.
        """
        q = self.vae.encode(x).latent_dist
        return Coded(q.mean, q.logvar, self.vae.decode(q.mean + q.std * noise).sample, self.log_scale)


class LatentMoments(NamedTuple):
    """Mean and standard deviation of each channel of the latents z ~ q(z | x) over training images."""

    mean: list[float]
    std: list[float]

    @property
    def overall_std(self) -> float:
        """The standard deviation over all channels, once each has mean 0."""
        return math.sqrt(sum(std**2 for std in self.std) / len(self.std))


@torch.no_grad()
def stock_autoencoder(
    model: LikelihoodAutoencoder, num_levels: int, moments: LatentMoments | None = None
) -> AutoencoderKL:
    """A stock `AutoencoderKL` with these weights, whose configuration records p(x | z).

    With `moments`, its latents times `scaling_factor` have mean 0 and, over all channels, variance 1. Every stock
    pipeline knows that factor and few know a shift, so the shift of each channel moves into the weights; images are
    decoded as before.
    """
    vae = AutoencoderKL.from_config(model.vae.config).to(model.device)
    vae.load_state_dict(model.vae.state_dict())
    own = decoder_law_config(DecoderLaw(model.log_scale.tolist(), num_levels))
    if moments is None:
        vae.register_to_config(**own)
        return vae
    scale = 1 / moments.overall_std
    vae.register_to_config(scaling_factor=scale, latents_mean=moments.mean, latents_std=[1.0] * len(moments.mean))
    vae = with_scaling_factor(vae)
    own[OWN_CONFIG_KEY]["latents"] = {"shift": moments.mean, "scale": scale}  # of those that were trained
    vae.register_to_config(**own)
    return vae
