# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Guidance of diffusers models: which two denoisers are combined, and checks that they match."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from diffusers import ModelMixin, UNet2DModel
from torch import Tensor

from ..conditioning.classes import conditioners_of
from ..conditioning.conditioner import Conditioners
from ..conditioning.denoiser import ConditionalDenoiser
from ..diffusion.denoiser import Denoiser, denoiser_of
from ..diffusion.guidance import autoguidance, classifier_free_guidance


@dataclass(frozen=True)
class Guidance:
    """How a model is guided; by default it is not.

    Attributes:
        guidance_scale: w ≥ 0 of `unconditional + w (conditional − unconditional)` (Ho & Salimans 2022, Eq. 6). 1 is
            the conditional model, 0 the unconditional one.
        guidance_interval: (low, high), the guided timesteps, both included (Kynkäänniemi et al. 2024); all if None.
        guidance_rescale: φ in [0, 1], how far a guided prediction is scaled back to the standard deviation of the
            conditional one (Lin et al. 2024, section 3.4).
        guidance_model: a weaker model of the same data and process, which replaces the unconditional model
            (autoguidance, Karras et al. 2024).
    """

    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    guidance_model: UNet2DModel | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of a pipeline's call."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def is_classifier_free(self) -> bool:
        """Whether the model's own unconditional prediction is used."""
        return self.guidance_scale != 1 and self.guidance_model is None

    def check(self, unet: UNet2DModel) -> None:
        """Raise ValueError for arguments out of range, or a model that these arguments cannot guide."""
        autoguidance(_nothing, _nothing, **self._settings)
        if self.is_classifier_free and not conditioners_of(unet.config).has_null:
            raise ValueError(f"`guidance_scale` must be 1, but is {self.guidance_scale}: {_unguided(unet)}.")
        if self.guidance_model is not None:
            _check_weaker(self.guidance_model, unet)

    def denoiser(self, unet: UNet2DModel, call: Callable[[ModelMixin], Denoiser] = denoiser_of) -> ConditionalDenoiser:
        """The guided model as a denoiser.

        Args:
            unet: the model.
            call: turns a model into a denoiser.

        Raises:
            ValueError: as `check`.
        """
        self.check(unet)
        denoise, conditioners = call(unet), conditioners_of(unet.config)
        if self.guidance_scale == 1:
            return ConditionalDenoiser(denoise, conditioners)
        if self.guidance_model is None:
            guided = classifier_free_guidance(denoise, conditioners.unconditional, **self._settings)
        else:
            weaker = _with_used_conditioning(call(self.guidance_model), conditioners_of(self.guidance_model.config))
            guided = autoguidance(denoise, weaker, **self._settings)
        return ConditionalDenoiser(guided, conditioners)

    @property
    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name != "guidance_model"}


def _nothing(x_t: Tensor, timesteps: Tensor, **conditioning: Tensor) -> Tensor:
    return x_t


def _with_used_conditioning(denoise: Denoiser, conditioners: Conditioners) -> Denoiser:
    """A denoiser that ignores conditioning that it does not use: a weaker model may be unconditional."""

    def denoise_with_used_conditioning(x_t: Tensor, timesteps: Tensor, **conditioning: Tensor) -> Tensor:
        return denoise(x_t, timesteps, **{name: conditioning[name] for name in conditioners.arguments})

    return denoise_with_used_conditioning


def _unguided(unet: UNet2DModel) -> str:
    """Why a model without an unconditional prediction cannot be guided."""
    if not conditioners_of(unet.config).members:
        return "the model has no conditioning, which guidance needs"
    return "the model has no unconditional prediction; train it with --conditioning_dropout_prob 0.1"


def _check_weaker(weaker: UNet2DModel, unet: UNet2DModel) -> None:
    for name in ("in_channels", "out_channels", "sample_size"):
        if weaker.config[name] != unet.config[name]:
            raise ValueError(
                f"`guidance_model` must have the model's `{name}`, {unet.config[name]}, but has {weaker.config[name]}."
            )
    for name in ("dtype", "device"):
        if getattr(weaker, name) != getattr(unet, name):
            raise ValueError(
                f"`guidance_model` must have the model's {name}, {getattr(unet, name)}, but has"
                f" {getattr(weaker, name)}."
            )
    if conditioners_of(weaker.config) not in (Conditioners(), conditioners_of(unet.config)):
        raise ValueError("`guidance_model` must have the model's classes and null class, or be unconditional.")
