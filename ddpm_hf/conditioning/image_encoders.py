# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Embeddings of images, by an encoder of transformers, and q(z | x) = N(e(x), s² I) of them.

The embeddings of `CLIPVisionModelWithProjection` are deterministic. z is standardised: e(x) has mean 0 and variance 1
in every element over training images, so that s means the same for every encoder. Mean and standard deviation are
`clip_mean` and `clip_std` of the `PriorTransformer`, as in stock diffusers, and its configuration records s:

    _ddpm_hf: {"embedding": {"posterior_std": 0.1}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.diagonal_gaussian import DiagonalGaussian
from ..diffusion.numerics import is_number
from ..hub_errors import HubError, hub_errors
from ..schedulers.configuration import OWN_CONFIG_KEY


EMBEDDING = "embedding"  # in the own part of a model's configuration
POSTERIOR_STD = 0.1  # s by default: a tenth of the spread of the embeddings over images


@dataclass(frozen=True)
class EmbeddingSettings:
    """How a model is told of embeddings of images.

    Attributes:
        posterior_std: s, the standard deviation of q(z | x), above 0.
        null: whether the model was also trained without embeddings.
    """

    posterior_std: float = POSTERIOR_STD
    null: bool = False

    def __post_init__(self) -> None:
        if not is_number(self.posterior_std) or not 0 < self.posterior_std < math.inf:
            raise ValueError(f"`posterior_std` must be above 0, but is {self.posterior_std!r}.")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> EmbeddingSettings:
        """The settings of a model with this configuration; the defaults if it has none.

        Raises:
            ValueError: for settings that this version does not know.
        """
        stored = (config.get(OWN_CONFIG_KEY) or {}).get(EMBEDDING, {})
        try:
            return cls(**stored)
        except TypeError:
            raise ValueError(
                f"`{OWN_CONFIG_KEY}` of the model has the settings {stored!r} for embeddings, which this version does"
                " not know; they may come from a later version of ddpm_hf."
            ) from None

    def to_config(self) -> dict[str, Any]:
        """The own part of a model's configuration that records the settings."""
        return {EMBEDDING: asdict(self)}


@dataclass(frozen=True, eq=False)
class ImageEncoder:
    """e(x) and q(z | x) of images.

    Attributes:
        model: a `CLIPVisionModelWithProjection`, in evaluation mode, for images of the pipeline's size.
        mean, std: of the embeddings over training images, `[D]`; z = (embedding − mean)/std.
        posterior_std: s.
    """

    model: Any
    mean: Tensor
    std: Tensor
    posterior_std: float = POSTERIOR_STD
    _moved: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def width(self) -> int:
        """D, the number of elements of an embedding."""
        return self.model.config.projection_dim

    @torch.no_grad()
    def embeds(self, x: Tensor) -> Tensor:
        """The embeddings of images `[B, C, H, W]` in [−1, 1], as the encoder gives them, float32 `[B, D]`.

        Raises:
            ValueError: for images of another size than the encoder's.
        """
        check_image_size(self.model, tuple(x.shape[1:]))
        found = self.model(x.to(self.model.device, self.model.dtype)).image_embeds
        return found.float().to(x.device)

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z | x) of images `[B, C, H, W]` in [−1, 1]; z `[B, D]`."""
        mean = self.standardised(self.embeds(x))
        return DiagonalGaussian(mean, torch.full_like(mean, 2 * math.log(self.posterior_std)))

    def standardised(self, embeds: Tensor) -> Tensor:
        """z of embeddings `[B, D]`."""
        mean, std = self._on(embeds.device)
        return (embeds - mean) / std

    def unstandardised(self, z: Tensor) -> Tensor:
        """The embeddings of z `[B, D]`, on the encoder's scale."""
        mean, std = self._on(z.device)
        return z * std + mean

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._moved:
            mean, std = (each.detach().float().reshape(-1).to(device) for each in (self.mean, self.std))
            self._moved[device] = (mean, std)
        return self._moved[device]


def check_image_size(model: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the encoder is for images of this shape (C, H, W)."""
    size, channels = model.config.image_size, model.config.num_channels
    if shape != (channels, size, size):
        raise ValueError(
            f"`image_encoder` is for {channels} channels of {size}x{size} pixels, but the images have {shape[0]} of"
            f" {shape[1]}x{shape[2]}."
        )


def load_image_encoder(name: str, revision: str | None = None, subfolder: str | None = None, **source: Any) -> Any:
    """A saved `CLIPVisionModelWithProjection`, frozen and in evaluation mode, on the CPU.

    Args:
        name: a folder, or a name on the Hub.
        revision: branch, tag or commit on the Hub.
        subfolder: where it is; if None, `image_encoder` in the folder of a pipeline, else the folder itself.
        source: how it is loaded from the Hub, such as `token` or `cache_dir`; as in transformers.

    Raises:
        ValueError: if there is none of this name.
        HubError: if the Hub cannot be reached, or refuses.
    """
    from transformers import CLIPVisionModelWithProjection

    if subfolder is None:
        subfolder = "image_encoder" if Path(name, "image_encoder").is_dir() else ""
    try:
        with hub_errors(name, revision):
            model = CLIPVisionModelWithProjection.from_pretrained(
                name, subfolder=subfolder, revision=revision or "main", **source
            )
    except HubError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"`image_encoder` {name} cannot be loaded: {' '.join(str(error).split())}") from error
    return model.float().requires_grad_(False).eval()
