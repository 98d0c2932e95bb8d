# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Low-resolution images, for a `UNet2DConditionModel` of super-resolution (Ho et al. 2022; Saharia et al. 2022).

The low-resolution image is a function of the image itself: the mean over boxes of factor x factor pixels, rounded to
the levels of the data. The model sees it enlarged to its own size and, by noise-conditioning augmentation, noised. Its
2C input channels are x_t and this image, and `class_labels` tell it the noise level. The model's configuration records
what a pipeline needs to know under a key that stock diffusers preserves:

    _ddpm_hf: {"low_resolution": {"factor": 2, "num_levels": 256, "max_noise_level": 200}}

A model without the key is one of stock diffusers, whose factor is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser
from ..runtime.randomness import BatchAddress, Use, generator_of, noise_like
from ..schedulers.configuration import OWN_CONFIG_KEY
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .box_means import box_mean
from .classes import LABELS
from .columns import Columns
from .conditioner import Conditioner
from .text import STATES


IMAGE, NOISE_LEVEL, NOISE = "image", "noise_level", "noise"  # columns, and arguments of a pipeline
JOINED = "low_resolution"  # the argument that is joined to x_t; in the own part of a model's configuration
NOISING_TIMESTEPS = 1000


# --- what a configuration says ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LowResolutionSettings:
    """What a model of super-resolution is given.

    Attributes:
        factor: how many times as wide and as high the images are as the low-resolution ones; None if unknown.
        num_levels: number of levels in [−1, 1] that low-resolution images are rounded to.
        max_noise_level: the highest noise level that the model was trained with; 0 is no noise.
    """

    factor: int | None = None
    num_levels: int = 256
    max_noise_level: int = NOISING_TIMESTEPS - 1

    @classmethod
    def of(cls, unet_config: Mapping[str, Any]) -> LowResolutionSettings:
        """The settings of a model with this configuration.

        Raises:
            ValueError: for settings that this version does not know.
        """
        stored = (unet_config.get(OWN_CONFIG_KEY) or {}).get(JOINED, {})
        try:
            return cls(**stored)
        except TypeError:
            raise ValueError(
                f"`{OWN_CONFIG_KEY}` of the model has the settings {stored!r} for low-resolution images, which this"
                " version does not know; they may come from a later version of ddpm_hf."
            ) from None

    def to_config(self) -> dict[str, Any]:
        """The part of a `UNet2DConditionModel`'s configuration that records the settings."""
        return {OWN_CONFIG_KEY: {JOINED: asdict(self)}}


# --- images ----------------------------------------------------------------------------------------------------------


def low_resolution_of(x_0: Tensor, factor: int, num_levels: int) -> Tensor:
    """`box_mean` of images `[B, C, H, W]` of evenly spaced levels in [−1, 1], as float32 levels in [−1, 1].

    Raises:
        ValueError: if the height or the width is not a multiple of the factor.
    """
    height, width = x_0.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"The images must have sides that are multiples of {factor}, but are {height}x{width}.")
    levels = ((x_0.float() + 1) * ((num_levels - 1) / 2)).round().long()
    return box_mean(levels, factor).float() * (2 / (num_levels - 1)) - 1


def enlarged(images: Tensor, height: int, width: int) -> Tensor:
    """Images `[B, C, h, w]` in this size, by linear interpolation as in `IFSuperResolutionPipeline`."""
    return nn.functional.interpolate(images, (height, width), mode="bilinear", align_corners=True)


def noised(images: Tensor, noise: Tensor, noise_level: Tensor, noising: DDPMPaperScheduler) -> Tensor:
    """Images `[B, …]` with noise of these levels, int64 `[B]`; level 0 is no noise at all."""
    with_noise = noising.add_noise(images, noise, noise_level)
    has_noise = (noise_level > 0).reshape(-1, *(1,) * (images.ndim - 1))
    return torch.where(has_noise, with_noise, images)


def standard_noising() -> DDPMPaperScheduler:
    """The schedule of the noise in low-resolution images, that of diffusers' `IFSuperResolutionPipeline`."""
    return DDPMPaperScheduler(NOISING_TIMESTEPS, beta_schedule="squaredcos_cap_v2")


# --- the conditioner -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LowResolutionConditioner(Conditioner):
    """Low-resolution images, which every prediction of the model is given.

    The columns are `image`, levels in [−1, 1] `[B, C, h, w]`; `noise_level`, int64 `[B]`; and, unless every level is
    0, `noise` `[B, C, H, W]`. They follow from the images x_0: scores have level 0 unless the column says otherwise,
    and training draws the levels 0 … `max_noise_level` uniformly.

    Attributes:
        settings: what the model is given.
        noising: the schedule of the noise; level s > 0 is its timestep s.
        examples: the columns `image` and `noise_level` of the examples that a grid of samples shows by turns.
    """

    settings: LowResolutionSettings
    noising: DDPMPaperScheduler = field(default_factory=standard_noising, repr=False, compare=False)
    examples: Columns = field(default_factory=dict, repr=False, compare=False)
    columns: ClassVar[tuple[str, ...]] = (IMAGE, NOISE_LEVEL, NOISE)
    arguments: ClassVar[tuple[str, ...]] = (JOINED, LABELS)
    is_kept: ClassVar[bool] = True
    derives: ClassVar[bool] = True

    @property
    def summary(self) -> str:
        return f"images of 1/{self.settings.factor} of the size"

    @property
    def has_null(self) -> bool:
        return False

    def fault(self, column: str, value: Any) -> str | None:
        return None  # the columns follow from the images

    def check(self, columns: Columns) -> None:
        known = columns.get(NOISE_LEVEL)
        if isinstance(known, Tensor) and known.device.type == "cpu" and known.numel():
            low, high = int(known.min()), int(known.max())
            if not 0 <= low <= high <= self.settings.max_noise_level:
                raise ValueError(
                    f"`noise_level` must be in 0 ... {self.settings.max_noise_level}, the levels that the model was"
                    f" trained with, but is {low if low < 0 else high}."
                )

    def derive(self, x_0: Tensor, columns: Columns, generator: torch.Generator | None = None) -> Columns:
        derived: dict[str, Any] = {}
        if IMAGE not in columns:
            derived[IMAGE] = low_resolution_of(x_0, self._factor, self.settings.num_levels)
        levels = columns.get(NOISE_LEVEL)
        if not isinstance(levels, Tensor):
            derived[NOISE_LEVEL] = torch.zeros(len(x_0), dtype=torch.int64, device="cpu")
        elif NOISE not in columns and bool((levels > 0).any()):
            derived[NOISE] = torch.randn(x_0.shape, generator=generator, device="cpu")
        return derived

    def derive_for_training(self, x_0: Tensor, address: BatchAddress) -> Columns:
        seed, step, first, total = address
        draws = generator_of(Use.NOISE_LEVELS, seed, step)
        levels = torch.randint(self.settings.max_noise_level + 1, (total,), generator=draws, device="cpu")
        return {
            IMAGE: low_resolution_of(x_0, self._factor, self.settings.num_levels),
            NOISE_LEVEL: levels[first : first + len(x_0)].to(x_0.device, non_blocking=True),
            NOISE: noise_like(x_0, first, seed, step, Use.CONDITIONING_NOISE),
        }

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        self.check(columns)
        images, known, noise = (columns.get(name) for name in self.columns)
        if not isinstance(images, Tensor) or not isinstance(known, Tensor):
            raise ValueError("The model enlarges images: the columns `image` and `noise_level` must be given.")
        factor, (height, width) = self._factor, images.shape[-2:]
        large, levels = enlarged(images.to(device), factor * height, factor * width), known.to(device)
        if isinstance(noise, Tensor):
            large = noised(large, noise.to(device), levels, self.noising)
        elif known.device.type == "cpu" and bool((known > 0).any()):
            raise ValueError("A `noise_level` above 0 needs the column `noise`.")
        return {JOINED: large, LABELS: levels}

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        raise ValueError("The model enlarges images: it makes none without a low-resolution one.")

    def variety(self) -> Columns:
        return self.examples

    @property
    def _factor(self) -> int:
        if self.settings.factor is None:
            raise ValueError("The model's configuration does not say by which factor it enlarges images.")
        return self.settings.factor


def joining(denoise: Denoiser) -> Denoiser:
    """A denoiser of x_t from one of 2C channels, to which the argument `low_resolution` is given beside x_t.

    A model that is not told of text has no `encoder_hidden_states`.
    """

    def denoise_joined(x_t: Tensor, timesteps: Any, *, low_resolution: Tensor, **conditioning: Any) -> Tensor:
        joined = torch.cat([x_t, low_resolution.to(x_t.dtype)], dim=1)
        return denoise(joined, timesteps, **{STATES: None, **conditioning})

    return denoise_joined
