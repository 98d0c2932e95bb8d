# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A codec of Gaussian data on levels, whose denoiser and errors are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_hf.compression import Codec, Images
from ddpm_hf.diffusion.denoising_errors import DenoisingErrors
from ddpm_hf.diffusion.gaussian_diffusion import GaussianDiffusion
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule


T, LEVELS, SHAPE = 60, 17, (1, 4, 4)
SCHEDULE = NoiseSchedule.from_betas(torch.linspace(0.01, 0.35, T, dtype=torch.float64))


def posterior_mean(variance: float) -> Callable[..., Tensor]:
    """E[x_0 | x_t] for data N(0, variance)."""
    alphas = SCHEDULE.log_alphas_cumprod.exp()

    def denoise(x_t: Tensor, timesteps: Tensor, **conditioning: Tensor) -> Tensor:
        alpha = alphas[timesteps + 1].reshape(-1, *[1] * (x_t.ndim - 1))
        return alpha.sqrt() * variance / (alpha * variance + 1 - alpha) * x_t

    return denoise


def exact_errors(variance: float, num_levels: int | None = LEVELS) -> DenoisingErrors:
    """Var(x_0 | x_t) at every time, and a decoder.

    On independent elements a chain gains nothing over its decoder. The decoder's costs grow with the noise faster than
    they do, so that progressive coding takes some steps.
    """
    alphas = SCHEDULE.log_alphas_cumprod.exp()[1:]
    errors = (variance * (1 - alphas) / (alphas * variance + 1 - alphas)).tolist()
    if num_levels is None:
        return DenoisingErrors(SCHEDULE.log_snr[1:].tolist(), errors)
    spacing = 2 / (num_levels - 1)
    costs = [0.5 * math.log1p(2 * math.pi * math.e * e / spacing**2) + 2 * e / variance for e in errors]
    return DenoisingErrors(SCHEDULE.log_snr[1:].tolist(), errors, errors, costs, num_levels)


def diffusion(
    variance: float, num_levels: int | None = LEVELS, step: int = 4, **settings: object
) -> GaussianDiffusion:
    chosen = {"variance_type": "optimal", **settings}
    if "denoising_errors" not in chosen:
        chosen["denoising_errors"] = exact_errors(variance, num_levels)
    return GaussianDiffusion(SCHEDULE, list(range(1, T + 1, step)), "sample", num_levels=num_levels, **chosen)


def codec(variance: float = 0.1, chunk_bits: int | None = 4, **settings: object) -> Codec:
    chain = diffusion(variance, **settings)
    return Codec(posterior_mean(variance), chain, SHAPE, spacing="linspace", chunk_bits=chunk_bits)


def levels_of(count: int, variance: float = 0.1, num_levels: int = LEVELS, seed: int = 0) -> Tensor:
    """Data N(0, variance), rounded to levels, int64 `[count, *SHAPE]`."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64) * math.sqrt(variance)
    return torch.round((x_0 + 1) / 2 * (num_levels - 1)).clamp(0, num_levels - 1).long()


def some_images(count: int, variance: float = 0.1) -> Images:
    return Images(levels_of(count, variance), tuple(f"{i:03d}.png" for i in range(count)))
