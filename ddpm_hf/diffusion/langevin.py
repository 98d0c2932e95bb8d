# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Predictor-corrector sampling (Song et al. 2021, Algorithms 3 and 5): reverse steps with Langevin steps in between.

A Langevin step x ← x + δ ∇ log p_t(x) + √(2δ) z with small δ leaves p_t invariant, and so corrects the error of the
reverse step before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoiser, randn_like
from .gaussian_diffusion import DiffusionSource, diffusion_of
from .numerics import Coefficient, cast_back, expand_like, mean_flat, require_positive, require_samples, upcast


def corrector_step(
    score: Tensor, x_t: Tensor, alpha: Coefficient, snr: float = 0.16, generator: torch.Generator | None = None
) -> Tensor:
    """One step of annealed Langevin dynamics at a time t (Song et al. 2021, Algorithm 5).

    x ← x + δ g + √(2δ) z with the score g, z ~ N(0, I) and δ = 2α (r ‖z‖/‖g‖)². As in Algorithm 5, the norms are those
    of each sample; the authors' code averages them over the batch, so that its samples depend on each other. In few
    dimensions the ratio of norms varies much, and so does δ. In many dimensions, steps of this length make the
    variance of Gaussian data too large by the factor 1 + α r². A sample whose score is 0 does not move.

    Args:
        score: ∇ log p_t(x_t), `[B, *anything]`.
        x_t: `[B, *anything]`.
        alpha: α = ᾱ_t/ᾱ_s of the chain's step from t to the next visited s, a number or `[B]`.
        snr: r > 0, the "signal-to-noise ratio" of the step.
        generator: for z; on the device of `x_t`, or on the CPU.

    Returns:
        x_t after the step, in its shape and dtype.

    Raises:
        ValueError: for shapes that do not fit, or an `snr` ≤ 0.
    """
    require_samples(x_t=x_t, score=score)
    require_positive(snr=snr)
    x, g = upcast(x_t), upcast(score).to(upcast(x_t).dtype)
    z = randn_like(x, generator)
    g2, z2 = mean_flat(g**2), mean_flat(z**2)
    vanishes = g2 == 0
    ratio = torch.where(vanishes, 0.0, z2 / torch.where(vanishes, 1.0, g2))
    alpha = expand_like(alpha, ratio) if isinstance(alpha, Tensor) else alpha
    delta = expand_like(2 * snr**2 * alpha * ratio, x)
    return cast_back(x + delta * g + torch.sqrt(2 * delta) * z, x_t.dtype)


@torch.no_grad()
def predictor_corrector(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    x_T: Tensor,
    conditioning: Mapping[str, Any] | None = None,
    *,
    num_corrector_steps: int = 1,
    snr: float = 0.16,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Samples by reverse steps, each followed by Langevin steps at its new time (Song et al. 2021, Algorithm 3).

    The predictor is ancestral sampling over the visited times; the data that the last one
    leads to stay as they are. K visited timesteps with M corrections take K + (K − 1) M model calls.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)`, the model in evaluation mode.
        scheduler: a `DDPMPaperScheduler` or a `GaussianDiffusion`.
        x_T: standard normal, `[B, *anything]`.
        conditioning: more arguments of `denoise`.
        num_corrector_steps: M ≥ 0; 0 gives ancestral sampling, with identical numbers.
        snr: r > 0, as in `corrector_step`; the authors use 0.16 for images.
        generator: for the noise of steps and corrections; on the device of `x_T`, or on the CPU.

    Returns:
        x_0 in the shape and dtype of `x_T`.

    Raises:
        ValueError: for a negative number of corrections, an `snr` ≤ 0, or samples that are not finite at the end.
    """
    require_samples(x_T=x_T)
    require_positive(snr=snr)
    M = num_corrector_steps
    if isinstance(M, bool) or not isinstance(M, int) or M < 0:
        raise ValueError(f"`num_corrector_steps` must be an int >= 0, but is {M!r}.")

    diffusion, x = diffusion_of(scheduler), x_T
    diffusion.require_determined()
    log_alphas_cumprod = [0.0, *(diffusion.schedule.log_alpha_cumprod(t).item() for t in diffusion.times)]
    for index in reversed(range(len(diffusion.times))):
        output = diffusion.model_output(denoise, x, diffusion.times[index], conditioning)
        x_s, _ = diffusion.step(output, x, index, partial(randn_like, x, generator))
        x = cast_back(x_s, x_T.dtype)
        if index == 0:
            break
        arrived, alpha = (
            diffusion.times[index - 1],
            math.exp(log_alphas_cumprod[index] - log_alphas_cumprod[index - 1]),
        )
        for _ in range(M):
            score = diffusion.score(diffusion.model_output(denoise, x, arrived, conditioning), x, arrived)
            x = corrector_step(score, x, alpha, snr, generator)
    if not bool(x.isfinite().all()):
        raise ValueError("The samples are not finite: the output of `denoise` is not, or it grows without bound.")
    return x
