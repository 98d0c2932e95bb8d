# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Embeddings of images, for the decoder of unCLIP, a `UNet2DConditionModel` (Ramesh et al. 2022).

They are `class_labels` that the model projects and adds to the embedding of the time (`class_embed_type`
"projection"), as in `StableUnCLIPPipeline`. The null value is zeros, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..runtime.randomness import BatchAddress, Use, noise_like
from .classes import LABELS
from .columns import Columns
from .conditioner import Conditioner
from .image_encoders import ImageEncoder


IMAGE_EMBEDS = "image_embeds"  # the column, and the argument of a pipeline


def takes_embeddings(unet_config: Mapping[str, Any]) -> bool:
    """Whether a `UNet2DConditionModel` with this configuration is given embeddings of images."""
    return unet_config.get("class_embed_type") == "projection"


@dataclass(frozen=True)
class EmbeddingConditioner(Conditioner):
    """Embeddings of images `[B, D]`, on the scale of their encoder.

    The column follows from the images: it is of z ~ q(z | x), drawn anew for every training step.

    Attributes:
        encoder: has q(z | x).
        null_is_trained: whether the model was also trained without embeddings.
        examples: embeddings `[N, D]` that a grid of samples shows by turns.
    """

    encoder: ImageEncoder = field(compare=False)
    null_is_trained: bool = False
    examples: Tensor | None = field(default=None, repr=False, compare=False)
    columns: ClassVar[tuple[str, ...]] = (IMAGE_EMBEDS,)
    arguments: ClassVar[tuple[str, ...]] = (LABELS,)
    derives: ClassVar[bool] = True

    @property
    def summary(self) -> str:
        return f"embeddings of {self.encoder.width} numbers"

    @property
    def has_null(self) -> bool:
        return self.null_is_trained

    def fault(self, column: str, value: Any) -> str | None:
        return None  # the column follows from the images

    def check(self, columns: Columns) -> None:
        known = columns.get(IMAGE_EMBEDS)
        if known is None:
            return
        if not isinstance(known, Tensor) or known.ndim != 2 or known.shape[1] != self.encoder.width:
            shape = list(known.shape) if isinstance(known, Tensor) else type(known).__name__
            raise ValueError(f"`{IMAGE_EMBEDS}` must be a tensor [B, {self.encoder.width}], but is {shape}.")

    def derive(self, x_0: Tensor, columns: Columns, generator: torch.Generator | None = None) -> Columns:
        if IMAGE_EMBEDS in columns:
            return {}
        q = self.encoder.posterior(x_0)
        noise = torch.randn(q.mean.shape, generator=generator, device="cpu").to(q.mean)
        return {IMAGE_EMBEDS: self.encoder.unstandardised(q.sample(noise))}

    def derive_for_training(self, x_0: Tensor, address: BatchAddress) -> Columns:
        q = self.encoder.posterior(x_0)
        noise = noise_like(q.mean, address.first, address.seed, address.step, Use.CONDITIONING_NOISE)
        return {IMAGE_EMBEDS: self.encoder.unstandardised(q.sample(noise))}

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        self.check(columns)
        known = columns.get(IMAGE_EMBEDS)
        if not isinstance(known, Tensor):
            raise ValueError(f"The model is given embeddings of images: the column `{IMAGE_EMBEDS}` must be given.")
        return {LABELS: known.to(device)}

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        if not self.null_is_trained:
            raise ValueError("The model was not trained without embeddings; pass --conditioning_dropout_prob above 0.")
        return {LABELS: torch.zeros(count, self.encoder.width, device=device)}

    def variety(self) -> Columns:
        return {} if self.examples is None else {IMAGE_EMBEDS: self.examples}
