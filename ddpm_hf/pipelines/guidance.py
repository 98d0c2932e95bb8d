# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Guidance of diffusers models: which two denoisers are combined, and checks that they match."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from diffusers import ModelMixin
from torch import Tensor, nn

from ..conditioning.conditioner import Conditioners
from ..conditioning.denoiser import ConditionalDenoiser
from ..diffusion.denoiser import Denoiser, denoiser_of
from ..diffusion.guidance import autoguidance, classifier_free_guidance


ConditionersOf = Callable[[ModelMixin], Conditioners]

Unconditional = Callable[[Mapping[str, Any]], Mapping[str, Any]]


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
    guidance_model: ModelMixin | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of a pipeline's call."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def is_classifier_free(self) -> bool:
        """Whether the model's own unconditional prediction is used."""
        return self.guidance_scale != 1 and self.guidance_model is None

    def check(self, unet: ModelMixin, conditioners_of: ConditionersOf) -> None:
        """Raise ValueError for arguments out of range, or a model that these arguments cannot guide."""
        autoguidance(_nothing, _nothing, **self._settings)
        conditioners = conditioners_of(unet)
        if self.is_classifier_free and not conditioners.has_null:
            raise ValueError(f"`guidance_scale` must be 1, but is {self.guidance_scale}: {_unguided(conditioners)}.")
        if self.guidance_model is not None:
            _check_weaker(self.guidance_model, unet)
            if conditioners_of(self.guidance_model) not in (Conditioners(), conditioners):
                raise ValueError(
                    "`guidance_model` must have the model's conditioning, such as its classes, or be unconditional."
                )

    def denoiser(
        self,
        unet: ModelMixin,
        conditioners_of: ConditionersOf,
        call: Callable[[ModelMixin], Denoiser] = denoiser_of,
        unconditional: Unconditional | None = None,
    ) -> ConditionalDenoiser:
        """The guided model as a denoiser.

        Args:
            unet: the model.
            conditioners_of: the conditioners of a model.
            call: turns a model into a denoiser.
            unconditional: from the conditioning to that of the unconditional prediction; the null value if not given.

        Raises:
            ValueError: as `check`.
        """
        self.check(unet, conditioners_of)
        denoise, conditioners = call(unet), conditioners_of(unet)
        if self.guidance_scale == 1:
            return ConditionalDenoiser(denoise, conditioners)
        if self.guidance_model is None:
            null = unconditional or conditioners.unconditional
            guided = classifier_free_guidance(denoise, null, **self._settings)
        else:
            weaker = _with_used_conditioning(call(self.guidance_model), conditioners_of(self.guidance_model))
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


def _unguided(conditioners: Conditioners) -> str:
    """Why a model without an unconditional prediction cannot be guided."""
    if not conditioners.droppable:
        return "the model has no conditioning, which guidance needs"
    return "the model has no unconditional prediction; train it with --conditioning_dropout_prob 0.1"


def _check_weaker(weaker: Any, unet: ModelMixin) -> None:
    config: Any = getattr(weaker, "config", None)
    if not isinstance(weaker, nn.Module) or config is None:
        raise ValueError(f"`guidance_model` must be a model of diffusers, but is a {type(weaker).__name__}.")
    for name in ("in_channels", "out_channels", "sample_size"):
        if (found := config.get(name)) != unet.config[name]:
            raise ValueError(f"`guidance_model` must have the model's `{name}`, {unet.config[name]}, but has {found}.")
    for name in ("dtype", "device"):
        if getattr(weaker, name) != getattr(unet, name):
            raise ValueError(
                f"`guidance_model` must have the model's {name}, {getattr(unet, name)}, but has"
                f" {getattr(weaker, name)}."
            )
