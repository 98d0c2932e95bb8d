# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The variational bound on the negative log-likelihood, in bits per dimension (Ho et al. 2020, Eq. 5):

    −log p_θ(x_0) ≤ L_T + Σ_{t > 1} L_{t−1} + L_0
        L_T     = KL(q(x_T | x_0) ‖ N(0, I))
        L_{t−1} = KL(q(x_{t−1} | x_t, x_0) ‖ p_θ(x_{t−1} | x_t))
        L_0     = −log p_θ(x_0 | x_1)

over the visited times of a chain. The two means in L_{t−1} are c₁ x_0 + c₂ x_t and c₁ x̂_0 + c₂ x_t. Writing their
difference as c₁ (x_0 − x̂_0) loses no digits where c₁ is small:

    L_{t−1} = ½ (β̃/σ² − 1 − log(β̃/σ²)) + c₁² (x_0 − x̂_0)² / (2σ²)

L_0 is the decoder term (`discretized_likelihood`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .discretized_likelihood import decoder_nll
from .noise_schedule import NoiseSchedule
from .numerics import expand_like, mean_flat, nats_to_bits, require_samples, to_float64, upcast
from .reverse_coefficients import ReverseCoefficients
from .reverse_process import ReverseProcess, ReverseStep


def prior_kl(schedule: NoiseSchedule, x_0: Tensor, t: int) -> Tensor:
    """L_T = KL(q(x_t | x_0) ‖ N(0, I)) at the last visited time, nats per dimension, `[B]`.

    It is ½ (ᾱ x_0² − ᾱ − log(1 − ᾱ)); for small ᾱ a series replaces the last two terms, which would cancel.

    Args:
        schedule: the noise schedule.
        x_0: `[B, *anything]`.
        t: the last visited time.
    """
    require_samples(original_samples=x_0)
    alpha_cumprod = math.exp(schedule.log_alpha_cumprod(t))
    if alpha_cumprod > 0.01:
        constant = -math.log1p(-alpha_cumprod) - alpha_cumprod
    else:
        constant = sum(alpha_cumprod**k / k for k in range(2, 10))
    return 0.5 * (alpha_cumprod * mean_flat(to_float64(x_0) ** 2) + constant)


def posterior_kl(row: ReverseCoefficients, p: ReverseStep, x_0: Tensor) -> Tensor:
    """L_{t−1} = KL(q(x_s | x_t, x_0) ‖ p_θ(x_s | x_t)), nats per dimension, `[B]`.

    Args:
        row: coefficients of the pairs (s, t), s ≥ 1, float64 `[]` or `[B]`.
        p: the reverse step.
        x_0: `[B, *anything]`.
    """
    # float64 for fixed variances, since their ratio is close to one on most of the chain.
    log_ratio = expand_like(row.posterior_log_variance, to_float64(p.mean)) - to_float64(p.log_variance)
    variance_term = 0.5 * (torch.expm1(log_ratio) - log_ratio)
    weight = 0.5 * expand_like(row.mean_coef_x0, p.mean) ** 2 * torch.exp(-p.log_variance)
    error_term = weight * (upcast(x_0) - p.pred_original_sample) ** 2
    return mean_flat(variance_term.expand_as(error_term)) + mean_flat(error_term)


def vlb_terms(
    process: ReverseProcess, model_output: Tensor, x_0: Tensor, x_t: Tensor, index: Tensor, num_levels: int | None
) -> Tensor:
    """The term of the bound that belongs to each example's pair: L_{t−1}, or L_0 for the first; bits/dim, `[B]`.

    Args:
        process: the chain.
        model_output, x_t: as in `ReverseProcess.p_mean_variance`.
        x_0: `[B, *anything]`, like `x_t`.
        index: 0 … K − 1, the pair of each example, `[]` or `[B]`.
        num_levels: number of levels of the data; None for continuous data.
    """
    require_samples(noisy_samples=x_t, original_samples=x_0)
    p = process.p_mean_variance(model_output, x_t, index)
    decoder = num_levels, process.measures_decoder
    index = index.long().expand(len(x_0))
    first, known = index == 0, index.device.type == "cpu"  # known without synchronising: compute only what is used
    if len(process.times) == 1 or (known and bool(first.all())):
        return nats_to_bits(decoder_nll(p, x_0, *decoder)).expand(len(x_0))
    # β̃ of the first pair is 0; the second pair's replaces it, so that the unused term yields no NaN gradient.
    kl = posterior_kl(process.coefficients(index.clamp(min=1)), p, x_0)
    if not known:
        return nats_to_bits(torch.where(first.to(kl.device), decoder_nll(p, x_0, *decoder), kl))
    rows = first.nonzero()[:, 0].to(kl.device)
    if len(rows) > 0:
        costs = decoder_nll(p.of_examples(rows), x_0[rows], *decoder)
        kl = kl.to(costs.dtype).index_put((rows,), costs)
    return nats_to_bits(kl)
