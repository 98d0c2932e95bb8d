# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training losses, one value per example, and the times they are evaluated at.

L_simple = E ‖ε − ε_θ(x_t, t)‖²                          (Ho et al. 2020, Eq. 14; here the mean over dimensions)
L_vlb    = E [K · L_{t−1}],  t uniform over K times      (Eq. 5, as an unbiased estimate from one time per example)
L_rate   = E [K · ½ (SNR_s − SNR_t) ‖x_0 − x̂_0‖²]        (Kingma et al. 2021, Eq. 13: L_vlb for σ² = β̃, except for
                                                          the decoder term)
L_hybrid = L_simple + λ L_vlb                            (Nichol & Dhariwal 2021, Eq. 16: L_simple trains the mean,
                                                          L_vlb the variance)

For any prediction type L_simple is a weighted error of x̂_0; `min_snr_weights` makes the weight min(SNR_t, γ) (Hang et
al. 2023).
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
    """L_simple (Ho et al. 2020, Eq. 14) for any prediction type: the mean squared error of each example.

    Args:
        model_output: `[B, C, …]`, or `[B, 2C, …]` for a learned variance, where only the first half is used.
        target: `[B, C, …]`, what the model should predict: the noise for "epsilon".

    Returns:
        `[B]`, at least float32.

    Raises:
        ValueError: if the shapes do not match.
    """
    if model_output.ndim == target.ndim > 1 and model_output.shape[1] == 2 * target.shape[1]:
        model_output = model_output[:, : target.shape[1]]
    require_samples(target=target, model_output=model_output)
    return mean_flat((upcast(model_output) - upcast(target)) ** 2)


def min_snr_weights(
    schedule: NoiseSchedule, t: Times, prediction_type: str, gamma: float = 5.0, s: Times | None = None
) -> Tensor:
    """The min-SNR-γ weight of each example's `simple_loss`: min(SNR_t, γ) on ‖x_0 − x̂_0‖² (Hang et al. 2023).

    The error of a prediction p x_0 + q x_t is p (x̂_0 − x_0), so its squared error has the weight min(SNR_t, γ)/p²:
    min(SNR, γ) for "sample", min(1, γ/SNR) for "epsilon", min(SNR, γ)/(SNR + 1) for "v_prediction". The weight is
    finite at every time, also where the SNR is 0.

    Args:
        schedule: the noise schedule, on the device of `t`; see `NoiseSchedule.to`.
        t: paper's times 1 … T, an int or `[B]`.
        prediction_type: one of `PREDICTION_TYPES`.
        gamma: γ > 0; the authors use 5.
        s: the earlier time that "mean" refers to; t − 1 if not given.

    Returns:
        float64, in the shape of `t`.

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
    # log p² and log SNR/p², each written out, since their difference would be ∞ − ∞ at SNR 0; SNR + 1 is 1/σ².
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

    The prior term L_T is left out, since it has no parameters. Arguments as in `vlb_terms`.
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
    """L_vlb in bits/dim, `[B]`, with a gradient for the learned variance only, not for the mean.

    Add it to a loss that trains the mean: L_simple (`hybrid_loss`) or L_rate.

    Between neighbouring times of a long chain, β̃ and β are nearly equal, so its bound depends little on the learned
    variance and trains it slowly. The bound of a short chain depends on it much more. With a `stride`, the mean over
    uniform `index` is the mean bound of the shorter chains that visit every `stride`-th time
    (`ReverseProcess.pairs_apart`).

    Args:
        process, model_output, x_0, x_t, index, num_levels: as in `vlb_terms`.
        stride: number of chains, each of which visits every `stride`-th time; 1 for "learned".

    Raises:
        ValueError: if the variance is not learned, or `stride` is not an int ≥ 1, or above 1 for "learned".
    """
    if not process.learns_variance:
        raise ValueError(f"There is no variance to learn: the variance type is {process.variance_type!r}.")
    prediction, channels = process.split_output(model_output, x_t)
    assert channels is not None  # the process learns its variance
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

    L_simple trains the mean and L_vlb the variance: the gradient of L_vlb does not reach the prediction.

    Args:
        process: the chain, with a learned variance.
        model_output: `[B, 2C, …]`.
        target: `[B, C, …]`, as for `simple_loss`.
        x_0, x_t, index, num_levels: as in `vlb_terms`.
        vlb_weight: λ ≥ 0, the weight of L_vlb, which is the sum over the chain in bits/dim; the authors use 0.001.

    Raises:
        ValueError: if the variance is not learned, or `vlb_weight` is negative.
    """
    if not vlb_weight >= 0:
        raise ValueError(f"`vlb_weight` must be at least 0, but is {vlb_weight}.")
    bound = variance_loss(process, model_output, x_0, x_t, index, num_levels)
    return simple_loss(model_output, target) + vlb_weight * bound.to(upcast(model_output).dtype)


def rate_loss(process: ReverseProcess, model_output: Tensor, x_0: Tensor, x_t: Tensor, index: Tensor) -> Tensor:
    """L_rate in bits/dim, `[B]` (Kingma et al. 2021, Eq. 13): the rate of the bound with variance β̃, one term each.

    It trains the mean. A learned variance does not enter; `variance_loss` trains it.

    The first pair belongs to the decoder, whose term L_0 is large but drawn only once in K, which makes L_vlb noisy.
    L_rate replaces it by one more step of the same kind, with the log-SNR extrapolated in equal steps.

    Args:
        process: a chain of at least two pairs.
        model_output, x_0, x_t, index: as in `vlb_terms`.

    Raises:
        ValueError: for a chain of one pair, or shapes that do not match.
    """
    if len(process.times) < 2:
        raise ValueError("L_rate needs a chain of at least 2 timesteps, but there is 1; use L_vlb.")
    require_samples(noisy_samples=x_t, original_samples=x_0)
    row = process.coefficients(index)
    _, pred_original_sample, _ = process.predict(model_output, x_t, row)
    weight = 0.5 * expand_like(row.snr_drop, pred_original_sample)
    return len(process.times) * nats_to_bits(mean_flat(weight * (upcast(x_0) - pred_original_sample) ** 2))
