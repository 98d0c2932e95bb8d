# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training losses, one value per example, and the times they are evaluated at.

L_simple = E ‖ε − ε_θ(x_t, t)‖²                          (Ho et al. 2020, Eq. 14; here the mean over dimensions)
L_vlb    = E [K · L_{t−1}],  t uniform over K times      (Eq. 5, as an unbiased estimate from one time per example)
L_rate   = E [K · ½ (SNR_s − SNR_t) ‖x_0 − x̂_0‖²]        (Kingma et al. 2021, Eq. 13: what L_vlb is for σ² = β̃,
                                                          the decoder apart)
L_hybrid = L_simple + λ L_vlb                            (Nichol & Dhariwal 2021, Eq. 16: the mean learns from the one,
                                                          the variance from the other)

Any L_simple is a weighted error of x̂_0; `min_snr_weights` makes its weight min(SNR_t, γ) (Hang et al. 2023).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .bound_terms import vlb_terms
from .gaussian_process import PREDICTION_TYPES, StepCoefficients, unknown
from .noise_schedule import NoiseSchedule
from .numerics import Times, expand_like, in_int64, log1mexp, mean_flat, nats_to_bits, require_samples, upcast
from .reverse_process import ReverseProcess


def simple_loss(model_output: Tensor, target: Tensor) -> Tensor:
    """L_simple (Ho et al. 2020, Eq. 14) for any prediction type: the squared error per example, mean over dimensions.

    Args:
        model_output: `[B, C, …]`; of `[B, 2C, …]`, a learned variance, the first half is used.
        target: `[B, C, …]`, what the model should predict: the noise for "epsilon".

    Returns:
        `[B]`, at least float32.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if model_output.ndim == target.ndim > 1 and model_output.shape[1] == 2 * target.shape[1]:
        model_output = model_output[:, : target.shape[1]]
    require_samples(target=target, model_output=model_output)
    return mean_flat((upcast(model_output) - upcast(target)) ** 2)


def min_snr_weights(
    schedule: NoiseSchedule, t: Times, prediction_type: str, gamma: float = 5.0, s: Times | None = None
) -> Tensor:
    """The weight of each example's `simple_loss` under min-SNR-γ: min(SNR_t, γ) on ‖x_0 − x̂_0‖² (Hang et al. 2023).

    A prediction p x_0 + q x_t errs by p (x̂_0 − x_0), so that its squared error has the weight min(SNR_t, γ)/p²:
    min(SNR, γ) for "sample", min(1, γ/SNR) for "epsilon", min(SNR, γ)/(SNR + 1) for "v_prediction". Finite at every
    time, those of SNR 0 included.

    Args:
        schedule: on the device of `t`, as `schedule.to(device)` puts it there.
        t: paper's times 1 … T, an int or `[B]`.
        prediction_type: one of `PREDICTION_TYPES`.
        gamma: γ > 0; the authors' 5.
        s: the earlier time that "mean" refers to; t − 1 if not given.

    Returns:
        float64 in the shape of `t`, like all coefficients.

    Raises:
        ValueError: for a `gamma` that is not a positive number, an unknown name, or times out of range.
    """
    if not 0 < gamma < math.inf:
        raise ValueError(f"`gamma` must be a positive number, but is {gamma}.")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(unknown("prediction_type", prediction_type, PREDICTION_TYPES))
    log_abar = schedule.log_alpha_cumprod(t)
    log_var = log1mexp(log_abar)
    log_snr = log_abar - log_var
    # log p², and log SNR/p², written out where their difference would be ∞ − ∞ at SNR 0; SNR + 1 is 1/σ².
    if prediction_type == "epsilon":
        log_square, log_ratio = log_snr, torch.zeros_like(log_snr)
    elif prediction_type == "sample":
        log_square, log_ratio = torch.zeros_like(log_snr), log_snr
    elif prediction_type == "v_prediction":
        log_square, log_ratio = -log_var, log_abar
    elif prediction_type == "score":
        log_square, log_ratio = log_snr - log_var, log_var
    else:
        step = StepCoefficients.between(schedule, in_int64(t) - 1 if s is None else s, t)
        log_square = 2 * torch.log(step.posterior_coef_x0)
        log_ratio = log_snr - log_square
    return torch.exp(torch.minimum(log_ratio, math.log(gamma) - log_square))


def vlb_loss(
    process: ReverseProcess, model_output: Tensor, x_0: Tensor, x_t: Tensor, index: Tensor, num_levels: int | None
) -> Tensor:
    """L_vlb in bits/dim, `[B]`: K times the term of each example, so that the mean over uniform `index` is the bound.

    L_T, which nothing can be learned from, is left out. Arguments as in `vlb_terms`.
    """
    return len(process.times) * vlb_terms(process, model_output, x_0, x_t, index, num_levels)


def variance_loss(
    process: ReverseProcess,
    model_output: Tensor,
    x_0: Tensor,
    x_t: Tensor,
    index: Tensor,
    num_levels: int | None,
    stride: int = 1,
) -> Tensor:
    """L_vlb in bits/dim, `[B]`, from which a learned variance alone learns: the mean has no gradient.

    It goes with a loss that trains the mean, L_simple (`hybrid_loss`) or L_rate.

    Between neighbours of a long chain β̃ and β are nearly one: its bound hardly depends on where between them the
    variance lies, and teaches it little; in few steps it matters. With a `stride` the mean over uniform `index` is the
    mean bound of the shorter chains that visit every `stride`-th time (`ReverseProcess.pairs_apart`).

    Args:
        process, model_output, x_0, x_t, index, num_levels: as in `vlb_terms`.
        stride: number of chains, each of a `stride`-th of the times; for "learned" 1.

    Raises:
        ValueError: for a variance that is not learned, or a `stride` that does not fit.
    """
    if not process.learns_variance:
        raise ValueError(f"There is no variance to learn: the variance type is {process.variance_type!r}.")
    prediction, channels = process.split_output(model_output, x_t)
    stopped = torch.cat([prediction.detach(), channels], dim=1)
    losses = vlb_loss(process.pairs_apart(stride), stopped, x_0, x_t, index, num_levels)
    return torch.where(index.to(losses.device) == 0, losses, losses / stride)  # the first pair is in every chain


def hybrid_loss(
    process: ReverseProcess,
    model_output: Tensor,
    target: Tensor,
    x_0: Tensor,
    x_t: Tensor,
    index: Tensor,
    num_levels: int | None,
    vlb_weight: float = 0.001,
) -> Tensor:
    """L_hybrid = L_simple + λ L_vlb, `[B]`, for a learned variance (Nichol & Dhariwal 2021, Eq. 16).

    The prediction has no gradient from L_vlb: the mean is trained as by L_simple, the variance by the bound.

    Args:
        process: whose variance is learned.
        model_output: `[B, 2C, …]`.
        target: `[B, C, …]`, as for `simple_loss`.
        x_0, x_t, index, num_levels: as in `vlb_terms`.
        vlb_weight: λ ≥ 0, of L_vlb in bits/dim, the sum over the chain; the authors' 0.001.

    Raises:
        ValueError: for a variance that is not learned, or a negative `vlb_weight`.
    """
    if not vlb_weight >= 0:
        raise ValueError(f"`vlb_weight` must be at least 0, but is {vlb_weight}.")
    bound = variance_loss(process, model_output, x_0, x_t, index, num_levels)
    return simple_loss(model_output, target) + vlb_weight * bound.to(upcast(model_output).dtype)


def rate_loss(process: ReverseProcess, model_output: Tensor, x_0: Tensor, x_t: Tensor, index: Tensor) -> Tensor:
    """L_rate in bits/dim, `[B]`: its mean over uniform `index` is the rate of the bound with variance β̃.

    It trains the mean; a learned variance has no part in it, and learns by `variance_loss`.

    The decoder's place, the first pair, is given to one more step of the same kind, as if the log-SNR went on in equal
    steps: L_0 has K times the weight of its neighbours, and as seldom a gradient. A chain of one pair has none.

    Args:
        process: a chain of at least two pairs.
        model_output, x_0, x_t, index: as in `vlb_terms`.

    Raises:
        ValueError: for a chain of one pair, or shapes that do not fit.
    """
    if len(process.times) < 2:
        raise ValueError("L_rate needs a chain of at least 2 timesteps, but there is 1; use L_vlb.")
    require_samples(noisy_samples=x_t, original_samples=x_0)
    row = process.coefficients(index)
    _, pred_original_sample, _ = process.predict(model_output, x_t, row)
    weight = 0.5 * expand_like(row.snr_drop, pred_original_sample)
    return len(process.times) * nats_to_bits(mean_flat(weight * (upcast(x_0) - pred_original_sample) ** 2))
