# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A denoiser together with its conditioners."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from .columns import Columns
from .conditioner import Conditioners


@dataclass(frozen=True)
class ConditionalDenoiser:
    """A denoiser that can be called, and the conditioners that make its arguments from columns of data.

    Attributes:
        denoise: denoise(x_t, timesteps, **conditioning) -> model output.
        conditioners: they make `conditioning` from columns of data.
    """

    denoise: Denoiser
    conditioners: Conditioners = field(default_factory=Conditioners)

    def __call__(self, x_t: Tensor, timesteps: Tensor, **conditioning: Tensor) -> Tensor:
        return self.denoise(x_t, timesteps, **conditioning)

    def batch(
        self, x_0: Tensor, columns: Columns, device: torch.device, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Examples `[B, …]` and their conditioning, on the device: a batch as `bits_per_dim` takes it.

        Args:
            generator: for conditioning that is drawn at random, on the CPU.

        Raises:
            ValueError: if a column is missing, or has values that the model does not know.
        """
        return x_0.to(device), self.conditioners.make(self.conditioners.completed(x_0, columns, generator), device)
