# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""diffusers' autoencoders as a diffusion of latents needs them (Rombach et al. 2022, section 3.1).

A diffusion works on latents that are shifted and scaled to about zero mean and unit variance,

    z = (z' − shift) · scale,    z' the autoencoder's own latents

with the configuration's `scaling_factor`, `shift_factor`, and by channel `latents_mean` and `latents_std`. Here this
is done once: every z of `Autoencoder` is shifted and scaled, as a diffusion takes it.

The autoencoder's configuration records p(x | z), which stock autoencoders lack, under a key that stock diffusers
preserves:

    _ddpm_hf: {"autoencoder": {"log_scale": [-3.1, -3.0, -3.2], "num_levels": 256}}
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ModelMixin, VQModel
from torch import Tensor
from typing_extensions import Self

from ..diffusion.diagonal_gaussian import DiagonalGaussian
from ..diffusion.numerics import HALF_PRECISION, require_samples, upcast
from ..likelihood.batches import Batches
from ..likelihood.decoder_law import DecoderLaw, measured_decoder_scale
from ..schedulers.configuration import OWN_CONFIG_KEY


AUTOENCODER = "autoencoder"  # the own part of an autoencoder's configuration

WITHOUT_POSTERIOR = (VQModel, AutoencoderTiny)


# --- what a configuration says ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LatentScale:
    """How a diffusion's latents follow from the autoencoder's own: z = (z' − shift) · scale.

    Attributes:
        scale, shift: one number for all channels, or one for each.
    """

    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """The scale and shift of an autoencoder with this configuration, as diffusers' pipelines use them.

        Raises:
            ValueError: for a scale that is not positive, or settings that contradict each other.
        """
        factor, shift = config.get("scaling_factor"), config.get("shift_factor") or 0.0
        mean, std = config.get("latents_mean"), config.get("latents_std")
        factor = 1.0 if factor is None else factor
        if (mean is None) != (std is None) or (mean is not None and (shift != 0 or len(mean) != len(std or ()))):
            raise ValueError(
                "An autoencoder's `latents_mean` and `latents_std` must be set together, with one number per channel,"
                f" and not beside a `shift_factor`, but are {mean!r}, {std!r} and {shift!r}."
            )
        scale = (float(factor),) if std is None else tuple(factor / each for each in std)
        if not all(0 < each < math.inf for each in scale):
            raise ValueError(
                "An autoencoder's `scaling_factor` and `latents_std` must be positive numbers, but are"
                f" {factor!r} and {std!r}."
            )
        return cls(scale, (float(shift),) if mean is None else tuple(map(float, mean)))

    @property
    def is_one_number(self) -> bool:
        """Whether it is a `scaling_factor` alone, the only one that every stock pipeline uses."""
        return len(self.scale) == 1 and self.shift == (0.0,)

    def scaled(self, latents: Tensor) -> Tensor:
        """z of the autoencoder's latents `[B, C, *anything]`."""
        return (latents - _by_channel(self.shift, latents)) * _by_channel(self.scale, latents)

    def unscaled(self, z: Tensor) -> Tensor:
        """The autoencoder's latents of z `[B, C, *anything]`."""
        return z / _by_channel(self.scale, z) + _by_channel(self.shift, z)

    def scaled_posterior(self, mean: Tensor, log_variance: Tensor) -> DiagonalGaussian:
        """The posterior of z, from that of the autoencoder's latents."""
        shift = _by_channel([2 * math.log(each) for each in self.scale], log_variance)
        return DiagonalGaussian(self.scaled(mean), log_variance + shift)


def _by_channel(values: Sequence[float], latents: Tensor) -> Tensor | float:
    """One number, or numbers of each channel in a shape that broadcasts over `latents`."""
    if len(values) == 1:
        return values[0]
    if latents.ndim < 2 or latents.shape[1] != len(values):
        raise ValueError(
            f"The latents must have {len(values)} channels, as the autoencoder's `latents_std` has, but have the shape"
            f" {list(latents.shape)}."
        )
    return torch.tensor(values, dtype=latents.dtype, device=latents.device).reshape(-1, *[1] * (latents.ndim - 2))


def decoder_law_of(config: Mapping[str, Any]) -> DecoderLaw | None:
    """p(x | z) of an autoencoder with this configuration; None if it has none.

    Raises:
        ValueError: for settings that this version does not know.
    """
    stored = config.get(OWN_CONFIG_KEY)
    if stored is None:
        return None
    try:
        return DecoderLaw(**stored[AUTOENCODER])
    except (TypeError, KeyError):
        raise ValueError(
            f"`{OWN_CONFIG_KEY}` of the autoencoder has the settings {stored!r}, which this version does not know;"
            " they may come from a later version of ddpm_hf."
        ) from None


def decoder_law_config(law: DecoderLaw) -> dict[str, Any]:
    """The part of an autoencoder's configuration that records p(x | z): `model.register_to_config(**this)`."""
    return {OWN_CONFIG_KEY: {AUTOENCODER: law.config}}


def factor_of(config: Mapping[str, Any]) -> int:
    """How many times as wide and high images are as their latents, for an autoencoder with this configuration."""
    return 2 ** (len(config["block_out_channels"]) - 1)


@torch.no_grad()
def with_scaling_factor(model: ModelMixin) -> ModelMixin:
    """The autoencoder with a `scaling_factor` alone, the only scale that all stock pipelines use.

    The shift and the scale of each channel become part of the 1x1 convolutions between the encoder, the latents and
    the decoder: images, and the z that a diffusion works on, stay the same.

    Args:
        model: an autoencoder; it is not changed.

    Returns:
        A copy, or the model itself if it has no other scale, or no such convolutions to take it up.
    """
    scale = LatentScale.of(model.config)
    if scale.is_one_number or not (getattr(model, "quant_conv", None) and getattr(model, "post_quant_conv", None)):
        return model
    model = copy.deepcopy(model)
    factor = model.config.scaling_factor
    weight = model.post_quant_conv.weight
    ones = torch.ones(weight.shape[1], dtype=torch.float64, device=weight.device)
    gain = ones * torch.tensor(scale.scale, dtype=torch.float64, device=weight.device) / factor
    shift = ones * torch.tensor(scale.shift, dtype=torch.float64, device=weight.device)
    to_mean, to_log_variance = model.quant_conv.weight.double().chunk(2)
    mean, log_variance = model.quant_conv.bias.double().chunk(2)
    weights = torch.cat([to_mean * gain[:, None, None, None], to_log_variance])
    model.quant_conv.weight.copy_(weights)
    model.quant_conv.bias.copy_(torch.cat([(mean - shift) * gain, log_variance + 2 * gain.log()]))
    model.post_quant_conv.bias.add_((weight.double().flatten(start_dim=1) @ shift).to(weight.dtype))
    weight.copy_(weight.double() / gain[:, None, None])
    model.register_to_config(latents_mean=None, latents_std=None, shift_factor=None)
    return model


# --- the autoencoder -------------------------------------------------------------------------------------------------


class Autoencoder:
    """An autoencoder of diffusers whose latents are shifted and scaled.

    It holds no state but the model, so make one wherever it is needed. The model runs in its own dtype, with its own
    slicing and tiling (`model.enable_slicing()`, `model.enable_tiling()`); half precision is returned as float32.
    Gradients pass through everything.

    Args:
        model: an `AutoencoderKL`; or a `VQModel` or an `AutoencoderTiny`, which encode and decode but have no
            likelihood; compiled or not.

    Attributes:
        model: the autoencoder.
        config: its configuration.
        latent_scale: how its latents are shifted and scaled.

    Raises:
        ValueError: for any other model, or a configuration that contradicts itself.
    """

    def __init__(self, model: ModelMixin):
        if not isinstance(model, (AutoencoderKL, *WITHOUT_POSTERIOR)) and isinstance(model, ModelMixin):
            raise ValueError(
                f"`vae` must be an AutoencoderKL, a VQModel or an AutoencoderTiny, but is {type(model).__name__}."
            )
        self.model, self.config = model, model.config
        self.latent_scale = LatentScale.of(model.config)

    # --- shapes ---

    @property
    def image_channels(self) -> int:
        """The number of channels of an image."""
        return self.config["in_channels"]

    @property
    def latent_channels(self) -> int:
        """The number of channels of the latents."""
        return self.config.get("vq_embed_dim") or self.config["latent_channels"]

    @property
    def factor(self) -> int:
        """How many times as wide and as high the images are as their latents."""
        return factor_of(self.config)

    def latent_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the latents of one image (channels, height, width).

        Raises:
            ValueError: for other channels than the autoencoder's, or sides that are no multiples of its factor.
        """
        channels, *sides = image_shape
        if channels != self.image_channels:
            raise ValueError(f"The images must have the autoencoder's {self.image_channels} channels, not {channels}.")
        if any(side % self.factor or side < 1 for side in sides):
            raise ValueError(
                f"The images must have sides that are multiples of {self.factor}, the factor of the autoencoder, but"
                f" are {'x'.join(map(str, sides))}."
            )
        return self.latent_channels, *(side // self.factor for side in sides)

    def image_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the image of latents (channels, height, width).

        Raises:
            ValueError: for other channels than the autoencoder's.
        """
        channels, *sides = latent_shape
        if channels != self.latent_channels:
            raise ValueError(
                f"The latents must have the autoencoder's {self.latent_channels} channels, not {channels}."
            )
        return self.image_channels, *(side * self.factor for side in sides)

    # --- encoding and decoding ---

    @property
    def has_posterior(self) -> bool:
        """Whether there is a density q(z | x), without which there is no likelihood."""
        return not isinstance(self.model, WITHOUT_POSTERIOR)

    def require_posterior(self) -> None:
        """Raise ValueError if there is no q(z | x)."""
        if not self.has_posterior:
            raise ValueError(
                f"A {type(self.model).__name__} has no posterior q(z | x), and so no likelihood: its models draw"
                " images but are not scored; use an AutoencoderKL."
            )

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z | x) of images, in float32 or more.

        Args:
            x: `[B, C, H, W]` in [−1, 1], floating, on the model's device.

        Raises:
            ValueError: for images that do not fit, or an autoencoder without a posterior.
        """
        self.require_posterior()
        q = self._encoded(x).latent_dist
        return self.latent_scale.scaled_posterior(upcast(q.mean), upcast(q.logvar))

    def encode(self, x: Tensor) -> Tensor:
        """z of images `[B, C, H, W]`: the mean of q(z | x), or the latents of an autoencoder without a posterior.

        Raises:
            ValueError: for images that do not fit.
        """
        if self.has_posterior:
            return self.posterior(x).mean
        return self.latent_scale.scaled(upcast(self._encoded(x).latents))

    def decode(self, z: Tensor) -> Tensor:
        """The images of z `[B, C, h, w]`, about in [−1, 1], in float32 or more.

        Raises:
            ValueError: for latents that do not fit, or images that are not finite in half precision.
        """
        require_samples(z=z)
        self.image_shape(z.shape[1:])
        images = self.model.decode(self.latent_scale.unscaled(z).to(self._dtype)).sample
        if images.dtype in HALF_PRECISION and not bool(images.isfinite().all()):
            raise ValueError(
                f"The decoded images are not finite in {str(images.dtype).removeprefix('torch.')}; decode in float32"
                " (`pipeline.vae.to(torch.float32)`), or load an autoencoder that was made for half precision, such as"
                " madebyollin/sdxl-vae-fp16-fix for Stable Diffusion XL."
            )
        return upcast(images)

    # --- the likelihood ---

    @property
    def law(self) -> DecoderLaw | None:
        """p(x | z) that the configuration records; None if it has none, as in stock autoencoders."""
        return decoder_law_of(self.config)

    def require_likelihood(self) -> DecoderLaw:
        """The law p(x | z); ValueError if there is none."""
        self.require_posterior()
        if self.law is None:
            raise ValueError(
                "The autoencoder has no p(x | z), which a likelihood needs: its decoder returns an image, and no scale"
                " of the error around it; `ddpm-hf measure` gives it the scale."
            )
        return self.law

    def measure_law(self, batches: Batches, num_levels: int, generator: torch.Generator | None = None) -> None:
        """Record the p(x | z) that fits images best in the configuration, unless it has one already.

        Args:
            batches, num_levels, generator: as for `measured_decoder_scale`.
        """
        if self.law is None:
            law = measured_decoder_scale(self, batches, num_levels=num_levels, generator=generator)
            self.model.register_to_config(**decoder_law_config(law))
            self.config = self.model.config

    @property
    def num_levels(self) -> int:
        """Number of evenly spaced levels of the images that p(x | z) is about; ValueError if there is none."""
        return self.require_likelihood().num_levels

    def log_likelihood(self, x: Tensor, z: Tensor, law: DecoderLaw | None = None) -> Tensor:
        """log p(x | z), nats per example, float64 `[B]`.

        Args:
            x: images of evenly spaced levels in [−1, 1], `[B, C, H, W]`.
            z: `[B, c, h, w]`.
            law: the law in the place of the configuration's, such as one whose scale is being trained.

        Raises:
            ValueError: for an autoencoder without a law, and as `decode`.
        """
        law = self.require_likelihood() if law is None else law
        return law.log_likelihood(x, self.decode(z))

    def _encoded(self, x: Tensor) -> Any:
        require_samples(x=x)
        self.latent_shape(x.shape[1:])
        return self.model.encode(x.to(self._dtype))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype
