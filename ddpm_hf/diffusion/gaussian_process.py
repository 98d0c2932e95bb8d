# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The forward process and its posterior: everything about q that has a closed form.

For any pair of times s < t (equations of Ho et al. 2020 in brackets, where s = t − 1):

    q(x_t | x_0)      = N(√ᾱ_t x_0, (1 − ᾱ_t) I)                                                       (Eq. 4)
    q(x_t | x_s)      = N(√(ᾱ_t/ᾱ_s) x_s, β I),    β = 1 − ᾱ_t/ᾱ_s                                     (Eq. 2)
    q(x_s | x_t, x_0) = N(c₁ x_0 + c₂ x_t, β̃ I)                                                        (Eq. 6)
        c₁ = √ᾱ_s β/(1 − ᾱ_t),    c₂ = √(ᾱ_t/ᾱ_s) (1 − ᾱ_s)/(1 − ᾱ_t),    β̃ = β (1 − ᾱ_s)/(1 − ᾱ_t)    (Eq. 7)

A network may predict any of five quantities. Given x_t, each is affine in x_0, so each determines the others:

    ε = (x_t − √ᾱ_t x_0)/σ_t    x_0    v = √ᾱ_t ε − σ_t x_0    ∇ log q(x_t|x_0) = −ε/σ_t    μ̃ = c₁ x_0 + c₂ x_t

with σ_t = √(1 − ᾱ_t); v is Salimans & Ho (2022, appendix D), the score Vincent (2011).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from typing_extensions import Self

from .noise_schedule import NoiseSchedule
from .numerics import Coefficient, Times, expand_like, in_int64, is_number, log1mexp, require_samples, upcast


PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "score", "mean")


@dataclass(frozen=True)
class Coefficients:
    """A set of coefficients of one shape: tensors `[]`, `[B]` (one per example) or `[K]` (a chain), or numbers."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same set with `function` applied to each: an index, a move to a device."""
        return type(self)(*(function(getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True)
class MarginalCoefficients(Coefficients):
    """The coefficients of q(x_t | x_0), which are enough for every prediction except "mean"."""

    alpha_t: Coefficient  # √ᾱ_t, the scale of x_0 in x_t
    sigma_t: Coefficient  # √(1 − ᾱ_t), the standard deviation of x_t around it


@dataclass(frozen=True)
class StepCoefficients(MarginalCoefficients):
    """Every coefficient of the processes between two times s < t, computed from log ᾱ_s and log ᾱ_t in float64.

    The log-variance of q(x_s | x_t, x_0) is −inf where s = 0.
    """

    alpha_t: Tensor
    sigma_t: Tensor
    beta: Tensor  # 1 − ᾱ_t/ᾱ_s, the variance of q(x_t | x_s)
    log_beta: Tensor
    posterior_coef_x0: Tensor  # c₁
    posterior_coef_xt: Tensor  # c₂
    posterior_variance: Tensor  # β̃
    posterior_log_variance: Tensor

    @classmethod
    def between(cls, schedule: NoiseSchedule, s: Times, t: Times) -> StepCoefficients:
        """The coefficients for the times `s` < `t`, which are ints or integer tensors of one shape.

        Raises:
            ValueError: unless 0 ≤ s < t ≤ T.
        """
        _check_order(s, t)
        log_abar_s, log_abar_t = schedule.log_alpha_cumprod(s), schedule.log_alpha_cumprod(t)
        log_alpha = log_abar_t - log_abar_s
        log_beta, log_var_s, log_var_t = log1mexp(log_alpha), log1mexp(log_abar_s), log1mexp(log_abar_t)
        return cls(
            alpha_t=torch.exp(0.5 * log_abar_t),
            sigma_t=torch.exp(0.5 * log_var_t),
            beta=-torch.expm1(log_alpha),
            log_beta=log_beta,
            posterior_coef_x0=torch.exp(0.5 * log_abar_s + log_beta - log_var_t),
            posterior_coef_xt=torch.exp(0.5 * log_alpha + log_var_s - log_var_t),
            posterior_variance=torch.exp(log_beta + log_var_s - log_var_t),
            posterior_log_variance=log_beta + log_var_s - log_var_t,
        )


# --- the forward process ----------------------------------------------------------------------------------------


def q_sample(schedule: NoiseSchedule, x_0: Tensor, noise: Tensor, t: Times) -> Tensor:
    """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, a sample of q(x_t | x_0) (Ho et al. 2020, Eq. 4).

    Half-precision samples are noised in float32 and cast once.

    Args:
        x_0, noise: `[B, *anything]`, floating.
        t: paper's times 0 … T, an int or `[B]`.

    Returns:
        `x_t` in the shape and dtype of `x_0`.
    """
    require_samples(x_0=x_0, noise=noise)
    alpha, sigma = schedule.marginal_coefficients(t)
    return linear_combination(alpha, upcast(x_0), sigma, upcast(noise)).to(x_0.dtype)


def velocity(schedule: NoiseSchedule, x_0: Tensor, noise: Tensor, t: Times) -> Tensor:
    """v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans & Ho 2022, appendix D); arguments and result as in `q_sample`."""
    require_samples(x_0=x_0, noise=noise)
    alpha, sigma = schedule.marginal_coefficients(t)
    return linear_combination(alpha, upcast(noise), -sigma, upcast(x_0)).to(x_0.dtype)


def q_mean_variance(schedule: NoiseSchedule, x_0: Tensor, t: Times) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and log-variance of q(x_t | x_0) (Ho et al. 2020, Eq. 4).

    Returns:
        The mean in the shape of `x_0`; the other two, `[1, 1, …]` or `[B, 1, …]`, broadcast against it. All are at
        least float32, since a small variance does not survive a cast to half precision.
    """
    require_samples(x_0=x_0)
    x_0 = upcast(x_0)
    log_alphas_cumprod = schedule.log_alpha_cumprod(t)
    mean = expand_like(torch.exp(0.5 * log_alphas_cumprod), x_0) * x_0
    return mean, *_variances(-torch.expm1(log_alphas_cumprod), log1mexp(log_alphas_cumprod), x_0)


def q_transition_mean_variance(
    schedule: NoiseSchedule, x_s: Tensor, s: Times, t: Times
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance, log-variance of q(x_t | x_s), s < t (Ho et al. 2020, Eq. 2); shapes as in `q_mean_variance`."""
    require_samples(x_s=x_s)
    _check_order(s, t)
    x_s = upcast(x_s)
    log_alpha = schedule.log_alpha_cumprod(t) - schedule.log_alpha_cumprod(s)
    mean = expand_like(torch.exp(0.5 * log_alpha), x_s) * x_s
    return mean, *_variances(-torch.expm1(log_alpha), log1mexp(log_alpha), x_s)


def q_posterior_mean_variance(
    schedule: NoiseSchedule, x_0: Tensor, x_t: Tensor, s: Times, t: Times
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and log-variance of q(x_s | x_t, x_0) for s < t (Ho et al. 2020, Eq. 6 and 7).

    At s = 0 the variance is 0 and the log-variance −inf: x_0 is given. Shapes as in `q_mean_variance`.
    """
    require_samples(x_0=x_0, x_t=x_t)
    x_0, x_t = upcast(x_0), upcast(x_t)
    step = StepCoefficients.between(schedule, s, t)
    mean = linear_combination(step.posterior_coef_x0, x_0, step.posterior_coef_xt, x_t)
    return mean, *_variances(step.posterior_variance, step.posterior_log_variance, mean)


def gaussian_kl(mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """KL(N(mean_1, e^log_variance_1) ‖ N(mean_2, e^log_variance_2)), elementwise in nats; shapes broadcast."""
    log_ratio = log_variance_1 - log_variance_2
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + (mean_1 - mean_2) ** 2 * torch.exp(-log_variance_2))


def ddim_coefficients(schedule: NoiseSchedule, t: Times, s: Times, eta: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, log σ²) of DDIM's step x_s = a x̂_0 + b x_t + σ z (Song, Meng & Ermon 2021, Eq. 12 and 16).

    a x̂_0 + b x_t = √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ with ε̂ = (x_t − √ᾱ_t x̂_0)/√(1 − ᾱ_t) and σ² = η² β̃. η = 1 gives the
    posterior q(x_s | x_t, x_0); η = 0 adds no noise. With η = 0, s may also be later than t: the step then leads from
    the data towards the latents.

    Args:
        t, s: ints or integer tensors of one shape, t ≥ 1 and s ≥ 0; s < t unless `eta` is 0.
        eta: η in [0, 1].

    Raises:
        ValueError: for an `eta` outside [0, 1], or if `eta` > 0 and not s < t.
    """
    check_eta(eta)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (schedule.marginal_coefficients(time) for time in (t, s))
    b = sigma_s / sigma_t
    if eta == 0:
        return alpha_s - b * alpha_t, b, torch.full_like(b, -math.inf)
    step = StepCoefficients.between(schedule, s, t)
    # (1 − ᾱ_s − η² β̃)/(1 − ᾱ_s) = (1 − η²) share + 1 − share with 1 − share = c₂ √(ᾱ_t/ᾱ_s): nothing cancels.
    share = step.beta / sigma_t**2
    b = b * torch.sqrt((1 - eta**2) * share + step.posterior_coef_xt * alpha_t / alpha_s)
    return alpha_s - b * alpha_t, b, 2 * math.log(eta) + step.posterior_log_variance


def check_eta(eta: float) -> None:
    """Raise ValueError unless DDIM's η is a number in [0, 1]."""
    if not is_number(eta) or not 0 <= eta <= 1:
        raise ValueError(f"`eta` must lie in [0, 1], but is {eta!r}.")


# --- the five predictions -----------------------------------------------------------------------------------------


def prediction_from_x0(kind: str, step: MarginalCoefficients) -> tuple[Coefficient, Coefficient]:
    """(p, q) such that prediction = p x_0 + q x_t. "mean" needs the `StepCoefficients` of a pair of times."""
    alpha, sigma = step.alpha_t, step.sigma_t
    if kind == "epsilon":
        return -alpha / sigma, 1 / sigma
    if kind == "sample":
        return _ones(sigma), _zeros(sigma)
    if kind == "v_prediction":
        return -1 / sigma, alpha / sigma
    if kind == "score":
        return alpha / sigma**2, -1 / sigma**2
    if kind == "mean":
        pair = _pair(step)
        return pair.posterior_coef_x0, pair.posterior_coef_xt
    raise ValueError(unknown("prediction_type", kind, PREDICTION_TYPES))


def x0_from_prediction(kind: str, step: MarginalCoefficients) -> tuple[Coefficient, Coefficient]:
    """(a, b) such that x_0 = a prediction + b x_t. They are infinite for "epsilon" and "score" where SNR_t = 0.

    "mean" needs the `StepCoefficients` of a pair of times.
    """
    alpha, sigma = step.alpha_t, step.sigma_t
    if kind == "epsilon":
        return -sigma / alpha, 1 / alpha  # (Ho et al. 2020, Eq. 15)
    if kind == "sample":
        return _ones(sigma), _zeros(sigma)
    if kind == "v_prediction":
        return -sigma, alpha
    if kind == "score":
        return sigma**2 / alpha, 1 / alpha
    if kind == "mean":
        pair = _pair(step)
        return 1 / pair.posterior_coef_x0, -pair.posterior_coef_xt / pair.posterior_coef_x0
    raise ValueError(unknown("prediction_type", kind, PREDICTION_TYPES))


def conversion(source: str, target: str, step: MarginalCoefficients) -> tuple[Coefficient, Coefficient]:
    """(c, d) such that target = c source + d x_t, for any two of the five predictions.

    At SNR_t = 0 they are infinite from "epsilon" or "score" to any other prediction. These two determine each other at
    every time, since they differ by the factor −σ_t.
    """
    sigma = step.sigma_t
    if source == target:
        return _ones(sigma), _zeros(sigma)
    if {source, target} == {"epsilon", "score"}:
        return -sigma if target == "epsilon" else -1 / sigma, _zeros(sigma)
    (a, b), (p, q) = x0_from_prediction(source, step), prediction_from_x0(target, step)
    return p * a, p * b + q


def convert_prediction(
    prediction: Tensor,
    x_t: Tensor,
    source: str,
    target: str,
    schedule: NoiseSchedule,
    t: Times,
    s: Times | None = None,
) -> Tensor:
    """One of the five predictions from another, at the paper's time `t` ≥ 1.

    Args:
        prediction, x_t: `[B, *anything]`.
        source, target: one of `PREDICTION_TYPES`.
        s: the earlier time that "mean" refers to; t − 1 if not given.

    Raises:
        ValueError: for an unknown name, or if `source` does not determine `target`: at SNR 0, "epsilon" and "score"
            determine only each other.
    """
    require_samples(prediction=prediction, x_t=x_t)
    for name, kind in (("source", source), ("target", target)):
        if kind not in PREDICTION_TYPES:
            raise ValueError(unknown(name, kind, PREDICTION_TYPES))
    step = StepCoefficients.between(schedule, in_int64(t) - 1 if s is None else s, t)
    undetermined = source in ("epsilon", "score") and target not in ("epsilon", "score")
    if undetermined and step.alpha_t.device.type == "cpu" and bool(torch.any(step.alpha_t == 0)):
        raise ValueError(
            f"`source` {source!r} does not determine the others at a time whose signal-to-noise ratio is 0."
        )
    if source == target:
        return prediction
    c, d = conversion(source, target, step)
    return linear_combination(c, upcast(prediction), d, upcast(x_t)).to(prediction.dtype)


def linear_combination(a: Coefficient, x: Tensor, b: Coefficient, y: Tensor) -> Tensor:
    """a x + b y, where each coefficient is a float or a tensor with one value per example."""
    if type(a) is type(b) is float:  # the usual case; this check is faster than isinstance(a, Tensor)
        return x.mul(a).add_(y, alpha=b)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return (expand_like(a, x) * x).addcmul_(expand_like(b, y), y)  # type: ignore[arg-type]  # both are tensors
    return x.mul(a).add_(y, alpha=b)


def unknown(argument: str, value: object, allowed: tuple[str, ...]) -> str:
    """The error message for a name that is not among those allowed."""
    return f"`{argument}` must be one of {', '.join(map(repr, allowed))}, but is {value!r}."


def _pair(step: MarginalCoefficients) -> StepCoefficients:
    if not isinstance(step, StepCoefficients):
        raise ValueError("`prediction_type` 'mean' refers to a pair of times, but only one time is given.")
    return step


def _variances(variance: Tensor, log_variance: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    return expand_like(variance, sample), expand_like(log_variance, sample)


def _check_order(s: Times, t: Times) -> None:
    on_host = all(not isinstance(time, Tensor) or time.device.type == "cpu" for time in (s, t))
    if on_host and not _all(in_int64(s) < in_int64(t)):
        raise ValueError(f"Times must satisfy s < t, but s is {s} and t is {t}.")


def _all(holds: bool | Tensor) -> bool:
    return bool(holds.all()) if isinstance(holds, Tensor) else holds


def _ones(like: Coefficient) -> Coefficient:
    return torch.ones_like(like) if isinstance(like, Tensor) else 1.0


def _zeros(like: Coefficient) -> Coefficient:
    return torch.zeros_like(like) if isinstance(like, Tensor) else 0.0
