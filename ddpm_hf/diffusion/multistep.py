# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The probability-flow ODE by steps of second order that call the model once: DPM-Solver++(2M) (Lu et al. 2022).

In λ_t = ½ log SNR_t the ODE has the exact solution (their Proposition 4.1), with x̂_0 the model's prediction,

    x_s = (σ_s/σ_t) x_t + σ_s ∫_{λ_t}^{λ_s} e^λ x̂_0(λ) dλ.

With x̂_0 constant from t on, this is DDIM's step with η = 0, since σ_s ∫ e^λ dλ = √ᾱ_s − (σ_s/σ_t) √ᾱ_t. With x̂_0
linear in λ, through its values at t and at the time u visited before t, the step is of second order, and still calls
the model once. To that order it is DDIM's step with the line's value in the middle of the step (their Algorithm 2):

    D = x̂_0(t) + w (x̂_0(t) − x̂_0(u)),    w = ½ (λ_s − λ_t)/(λ_t − λ_u).
"""

from __future__ import annotations

from torch import Tensor

from .gaussian_process import linear_combination
from .noise_schedule import NoiseSchedule


SOLVER_ORDERS = (1, 2)


def extrapolation_weight(schedule: NoiseSchedule, u: int, t: int, s: int) -> float:
    """w of the step t → s, s < t < u: how far x̂_0 is extrapolated beyond t, in units of its last change.

    0 where there is no line to follow: for s = 0, at an infinite λ, and for a u without any signal, at −∞. The step to
    the data ends in x̂_0 itself.
    """
    log_snr_u, log_snr_t, log_snr_s = schedule.log_snr[[u, t, s]].tolist()
    return 0.0 if s == 0 else 0.5 * (log_snr_s - log_snr_t) / (log_snr_t - log_snr_u)


def extrapolate(x_0: Tensor, earlier_x_0: Tensor, weight: float) -> Tensor:
    """D = x̂_0 + w (x̂_0 − the x̂_0 of the step before), in the dtype of `x_0`."""
    return linear_combination(1.0 + weight, x_0, -weight, earlier_x_0.to(x_0))


def check_solver_order(solver_order: int, eta: float | None) -> None:
    """Raise ValueError unless the order is known, and the second is asked for without noise."""
    if isinstance(solver_order, bool) or solver_order not in SOLVER_ORDERS:
        raise ValueError(f"`solver_order` must be 1 or 2, but is {solver_order!r}.")
    if solver_order == 2 and eta != 0:
        raise ValueError(f"`solver_order` 2 is for chains without noise: `eta` must be 0, but is {eta}.")
