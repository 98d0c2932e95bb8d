# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A denoiser is any function of x_t, the timesteps and its conditioning; and the noise that it is given to remove."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .numerics import upcast


Denoiser = Callable[..., Tensor]
"""denoise(x_t, timesteps, **conditioning) -> model output; timesteps are diffusers' indices, int64 `[B]`."""


def randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise like x, drawn on the generator's device in at least float32."""
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=upcast(x).dtype).to(x)
