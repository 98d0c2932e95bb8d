# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The autoencoder as it is trained, with the scale of p(x | z), and as it is saved."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..likelihood.decoder_law import GAUSSIAN, DecoderLaw
from ..pipelines.autoencoders import Autoencoder, decoder_law_config, with_scaling_factor
from ..schedulers.configuration import OWN_CONFIG_KEY


FIRST_LOG_SCALE = -1.0  # wider than the errors of any trained decoder
# Of the narrowest of several components at first. A narrow law has steep gradients at pixels that are nearly right,
# next to which those of wrong colours vanish: with one from the start, some trainings never learned colours.
LAST_LOG_SCALE = -2.0
RATE_OF_THE_LAW = 10.0  # its learning rate in units of the weights': it has far to go, from e^−1 to e^−4


class Coded(NamedTuple):
    """The result of a pass through the autoencoder.

    Attributes:
        mean, log_variance: of q(z | x), `[B, c, h, w]`.
        reconstruction: x̂(z), `[B, C, H, W]`.
        log_scale: of p(x | z) as in `DecoderLaw`: `[C]`, or `[K, C]` for a mixture.
        log_weight: of the components of a mixture, `[K]`; None for a single one.
    """

    mean: Tensor
    log_variance: Tensor
    reconstruction: Tensor
    log_scale: Tensor
    log_weight: Tensor | None

    def law(self, num_levels: int, family: str) -> DecoderLaw:
        """p(x | z) of images of so many levels."""
        return DecoderLaw(self.log_scale, num_levels, self.log_weight, family)


class LikelihoodAutoencoder(ModelMixin, ConfigMixin):
    """An `AutoencoderKL` with a learned p(x | z), so that it has a likelihood.

    Args:
        autoencoder: the configuration of the `AutoencoderKL`.
        decoder_law: the family of p(x | z); see `DecoderLaw`.
        decoder_components: the number of laws that are mixed.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, autoencoder: dict[str, Any], decoder_law: str = GAUSSIAN, decoder_components: int = 1):
        super().__init__()
        self.vae = AutoencoderKL.from_config(autoencoder)
        channels = self.vae.config["out_channels"]
        self.slow_log_scale = nn.Parameter(_first_log_scale(decoder_components, channels) / RATE_OF_THE_LAW)
        self.slow_log_weight = nn.Parameter(torch.zeros(decoder_components)) if decoder_components > 1 else None

    @property
    def log_scale(self) -> Tensor:
        """The logarithm of the scale of p(x | z), `[C]`, or `[K, C]` for a mixture."""
        return RATE_OF_THE_LAW * self.slow_log_scale

    @property
    def log_weight(self) -> Tensor | None:
        """The logarithms of the weights of a mixture, but for a constant, `[K]`; None for a single law."""
        return None if self.slow_log_weight is None else RATE_OF_THE_LAW * self.slow_log_weight

    def law(self, num_levels: int) -> DecoderLaw:
        """p(x | z) of images of so many levels, as numbers."""
        log_weight = None if self.log_weight is None else self.log_weight.tolist()
        return DecoderLaw(self.log_scale.tolist(), num_levels, log_weight, self.config["decoder_law"])

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
        found = self.vae.decode(q.mean + q.std * noise).sample
        return Coded(q.mean, q.logvar, found, self.log_scale, self.log_weight)


def _first_log_scale(components: int, channels: int) -> Tensor:
    """The scales before the training: one that is wide, or several from wide to narrow."""
    if components == 1:
        return torch.full((channels,), FIRST_LOG_SCALE)
    return torch.linspace(FIRST_LOG_SCALE, LAST_LOG_SCALE, components)[:, None].repeat(1, channels)


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
    own = decoder_law_config(model.law(num_levels))
    if moments is None:
        vae.register_to_config(**own)
        return vae
    scale = 1 / moments.overall_std
    vae.register_to_config(scaling_factor=scale, latents_mean=moments.mean, latents_std=[1.0] * len(moments.mean))
    vae = with_scaling_factor(vae)
    own[OWN_CONFIG_KEY]["latents"] = {"shift": moments.mean, "scale": scale}  # of those that were trained
    vae.register_to_config(**own)
    return vae
