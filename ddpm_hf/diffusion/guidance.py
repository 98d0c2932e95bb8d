# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
r"""Guidance: a denoiser made of two denoisers.

    guided = weak + w (strong − weak)

The strong denoiser knows the conditioning. The weak one is

    the same model without its conditioning          classifier-free guidance (Ho & Salimans 2022)
    a smaller model, or one that was trained less    autoguidance (Karras et al. 2024)

w = 1 is the strong model and w = 0 the weak one. The weights w and 1 − w sum to one, and for a given x_t each of the
five predictions is an affine function of any other (`gaussian_process`). So the formula means the same for all of
them, and no schedule is needed. In terms of scores, classifier-free guidance is ∇ log p(x_t) + w ∇ log p(c | x_t).

A guided denoiser has the calling convention of its parts, `denoise(x_t, timesteps, **conditioning)`. Its reverse steps
are Gaussian like any others, so sampling, the variational bound, the probability flow and DDIM's encoding take it as
they take a model. The bound is that of the guided chain itself. The chain does not sample p(x) p(c | x)^w, and its
bound says nothing about that density.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoiser, denoiser_of
from .noise_schedule import NoiseSchedule
from .numerics import cast_back, expand_like, is_number, upcast


Null = Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""The null value of each argument of the conditioning, or a function from the conditioning to the null one."""

Interval = tuple[float, float]

Branches = Callable[..., tuple[Tensor, Tensor]]
"""branches(x_t, timesteps, **conditioning) -> the outputs of the strong and of the weak denoiser."""


def classifier_free_guidance(
    denoise: Denoiser,
    null: Null,
    *,
    guidance_scale: float,
    guidance_interval: Interval | None = None,
    guidance_rescale: float = 0.0,
    batched: bool = True,
) -> Denoiser:
    """The denoiser `unconditional + guidance_scale · (conditional − unconditional)` (Ho & Salimans 2022, Eq. 6).

    A scale of 1 is the conditional model and a scale of 0 the unconditional one, each exactly and by a single call of
    the model. Ho & Salimans write 1 + w for this scale; diffusers and Imagen write it as here.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning) -> model output`, trained with its conditioning dropped at
            random. The output has the shape of x_t, `[B, C, …]`, or twice its channels where a variance is learned.
        null: what replaces each argument of the conditioning in the unconditional call: a number or tensor, which is
            broadcast over the argument given; a function of the argument given; or a mapping of such, for an argument
            that is itself a mapping. Both calls get arguments without a null value unchanged. A function from the
            conditioning to the unconditional one may replace the whole mapping.
        guidance_scale: w ≥ 0.
        guidance_interval: (low, high), diffusers' timesteps, both included. Outside it the conditional model is used
            (Kynkäänniemi et al. 2024). `timestep_interval` finds it for a range of noise levels. None guides at every
            timestep.
        guidance_rescale: φ in [0, 1], the share of the guided prediction that is scaled to the standard deviation of
            the conditional one, example by example (Lin et al. 2024, section 3.4). It acts on the model's own
            prediction, as in diffusers' pipelines, so its effect depends on the prediction type. It has no effect at
            w = 0 or 1.
        batched: whether one call with 2B examples makes both predictions, the conditional half first. That call
            treats a tensor whose first dimension is B as one value per example, and passes any other value unchanged.
            False makes two calls with B examples, for little memory or conditionings of different shapes.

    Returns:
        A denoiser with the arguments of `denoise`. Its timesteps are an int, a float, or a tensor `[]` or `[B]`. The
        variance channels are those of the conditional model, or for w = 0 of the unconditional model. If the timesteps
        are on another device than the CPU, both predictions are computed at every timestep, since reading the
        timesteps would synchronise.

    Raises:
        ValueError: for arguments out of range. The denoiser raises it if the conditioning lacks an argument of `null`
            or does not fit its null value, or if the outputs do not match x_t or each other in shape.
    """
    _check_null(null)
    denoise = denoiser_of(denoise)

    def unconditional(x_t: Tensor, timesteps: float | Tensor, **conditioning: Any) -> Tensor:
        return denoise(x_t, timesteps, **_replaced(conditioning, null))

    def stacked(x_t: Tensor, timesteps: float | Tensor, **conditioning: Any) -> tuple[Tensor, Tensor]:
        size = len(x_t)
        both = _stack(conditioning, _replaced(conditioning, null), size, "conditioning")
        output = denoise(torch.cat([x_t, x_t]), _stack(timesteps, timesteps, size, "timesteps"), **both)
        _check_tensor(output, 2 * size)
        return output[:size], output[size:]

    branches = stacked if batched else _two_calls(denoise, unconditional)
    return _Guided(denoise, unconditional, branches, guidance_scale, guidance_interval, guidance_rescale)


def autoguidance(
    denoise: Denoiser,
    weaker: Denoiser,
    *,
    guidance_scale: float,
    guidance_interval: Interval | None = None,
    guidance_rescale: float = 0.0,
) -> Denoiser:
    """The denoiser `weaker + guidance_scale · (denoise − weaker)` (Karras et al. 2024).

    A scale of 1 is `denoise` and a scale of 0 is `weaker`, each exactly and by a single call. Any other scale calls
    both.

    Args:
        denoise: as in `classifier_free_guidance`.
        weaker: a smaller or less trained denoiser of the same data, with the same conditioning and kind of output.

    The other arguments, the result and the errors are those of `classifier_free_guidance`, with `denoise` as the
    conditional model and `weaker` as the unconditional one.
    """
    denoise, weaker = denoiser_of(denoise), denoiser_of(weaker)
    branches = _two_calls(denoise, weaker)
    return _Guided(denoise, weaker, branches, guidance_scale, guidance_interval, guidance_rescale)


def timestep_interval(
    schedule: NoiseSchedule,
    *,
    log_snr: tuple[float, float] | None = None,
    sigma: tuple[float, float] | None = None,
) -> Interval:
    """The interval (low, high) of diffusers' timesteps that a range of noise levels covers, for `guidance_interval`.

    The ends are real numbers, which suit both the chain and the probability-flow ODE.

    Args:
        schedule: the noise schedule.
        log_snr: the least and the greatest log SNR = log ᾱ − log(1 − ᾱ), in nats; ±inf leaves that side open.
        sigma: instead of `log_snr`, the least and the greatest σ = √((1 − ᾱ)/ᾱ) = e^(−log SNR/2) in [0, inf], the
            standard deviation of the noise in x_t/√ᾱ_t, as in Karras et al. (2022) and Kynkäänniemi et al. (2024).

    Raises:
        ValueError: unless one of the two is given, as two numbers in order.
    """
    if (log_snr is None) == (sigma is None):
        raise ValueError("Exactly one of `log_snr` and `sigma` must be given.")
    if sigma is not None:
        least, greatest = _checked_range("sigma", sigma)
        if least < 0:
            raise ValueError(f"`sigma` must be two numbers >= 0, but is {sigma!r}.")
        log_snr = (_log_snr_of(greatest), _log_snr_of(least))
    low, high = _checked_range("log_snr", log_snr)
    return _timestep_at(schedule, high), _timestep_at(schedule, low)


# --- the guided denoiser --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Guided:
    """weak + w (strong − weak) in the interval, strong outside."""

    strong: Denoiser
    weak: Denoiser
    branches: Branches
    guidance_scale: float
    guidance_interval: Interval | None
    guidance_rescale: float

    def __post_init__(self) -> None:
        _check_number("guidance_scale", self.guidance_scale, math.inf)
        _check_number("guidance_rescale", self.guidance_rescale, 1)
        if self.guidance_interval is not None:
            _checked_range("guidance_interval", self.guidance_interval)

    def __call__(self, x_t: Tensor, timesteps: float | Tensor, **conditioning: Any) -> Tensor:
        inside = self._is_inside(timesteps)
        if inside is False or self.guidance_scale == 1:
            return self.strong(x_t, timesteps, **conditioning)
        if inside is True and self.guidance_scale == 0:
            return self.weak(x_t, timesteps, **conditioning)
        strong, weak = self.branches(x_t, timesteps, **conditioning)
        _check_outputs(x_t, strong, weak)
        guided = weak if self.guidance_scale == 0 else self._combine(x_t, strong, weak)
        return torch.where(expand_like(inside, x_t).bool(), guided, strong) if isinstance(inside, Tensor) else guided

    def _is_inside(self, timesteps: float | Tensor) -> bool | Tensor:
        """Whether the timesteps lie in the interval: a bool if known without synchronising, else a tensor."""
        if self.guidance_interval is None:
            return True
        low, high = self.guidance_interval
        if not isinstance(timesteps, Tensor):
            return bool(low <= timesteps <= high)
        inside = (timesteps >= low) & (timesteps <= high)
        agree = inside.device.type == "cpu" and bool(inside.all()) == bool(inside.any())
        return bool(inside.all()) if agree else inside

    def _combine(self, x_t: Tensor, strong: Tensor, weak: Tensor) -> Tensor:
        """The guided prediction, followed by the strong model's variance channels if it has any."""
        if strong.shape == x_t.shape:
            return self._guide(strong, weak)
        (prediction, variance), (other, _) = strong.chunk(2, dim=1), weak.chunk(2, dim=1)
        return torch.cat([self._guide(prediction, other), variance], dim=1)

    def _guide(self, strong: Tensor, weak: Tensor) -> Tensor:
        dtype, strong, weak = strong.dtype, upcast(strong), upcast(weak)
        guided = weak + self.guidance_scale * (strong - weak)
        if self.guidance_rescale > 0:
            guided = _rescaled(guided, strong, self.guidance_rescale)
        return cast_back(guided, dtype)


def _rescaled(guided: Tensor, strong: Tensor, phi: float) -> Tensor:
    """φ guided · std(strong)/std(guided) + (1 − φ) guided, by the standard deviation over each example's elements."""
    if guided[0].numel() < 2:
        raise ValueError("`guidance_rescale` must be 0 for examples of one element, which have no standard deviation.")
    dims = tuple(range(1, guided.ndim))
    wanted, found = (x.var(dim=dims, keepdim=True) for x in (strong, guided))
    is_constant = found == 0  # nothing to rescale; the inner `where` keeps NaN out of the gradient
    ratio = torch.where(is_constant, 1.0, wanted / torch.where(is_constant, 1.0, found)).sqrt()
    return (phi * ratio + (1 - phi)) * guided


def _two_calls(strong: Denoiser, weak: Denoiser) -> Branches:
    def branches(x_t: Tensor, timesteps: float | Tensor, **conditioning: Any) -> tuple[Tensor, Tensor]:
        return strong(x_t, timesteps, **conditioning), weak(x_t, timesteps, **conditioning)

    return branches


# --- conditioning ---------------------------------------------------------------------------------------------------


def _replaced(given: Any, null: Any, name: str = "conditioning") -> Any:
    """A conditioning, or one of its values, replaced by the null value."""
    if callable(null):
        return null(given)
    if isinstance(null, Mapping):
        missing = [key for key in null if key not in given] if isinstance(given, Mapping) else list(null)
        if missing:
            raise ValueError(f"The {name} must have {missing[0]!r}, since `null` has a null value for it.")
        return {**given, **{key: _replaced(given[key], null[key], f"{name} {key!r}") for key in null}}
    return null if null is None or not isinstance(given, Tensor) else _filled(given, null, name)


def _filled(given: Tensor, null: float | Tensor, name: str) -> Tensor:
    """The null value in the shape and dtype of the given value, on its device."""
    value = null if isinstance(null, Tensor) else torch.tensor(null, device="cpu")
    if not torch.can_cast(value.dtype, given.dtype):
        raise ValueError(f"The null value of the {name} must fit its dtype {given.dtype}, but is {value.dtype}.")
    if not isinstance(null, Tensor):
        return torch.full_like(given, null)  # made on the device, without a copy
    if not _broadcasts(null.shape, given.shape):
        raise ValueError(
            f"The null value of the {name} must broadcast to its shape {list(given.shape)}, but has"
            f" {list(null.shape)}."
        )
    return null.to(given.device, given.dtype, non_blocking=True).expand_as(given)


def _broadcasts(shape: torch.Size, target: torch.Size) -> bool:
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(size in (1, wanted) for size, wanted in pairs)


def _stack(first: Any, second: Any, size: int, name: str) -> Any:
    """One value for the batch of both branches: per-example values are stacked, shared values passed unchanged."""
    if isinstance(first, Mapping) and isinstance(second, Mapping) and first.keys() == second.keys():
        return {key: _stack(first[key], second[key], size, f"{name} {key!r}") for key in first}
    if _is_per_example(first, size) and _is_per_example(second, size) and first.shape == second.shape:
        return torch.cat([first, second])
    if first is second:
        return first
    raise ValueError(
        f"`batched` must be False here: the {name} and its null value are not two tensors of one shape with the"
        f" batch's {size} examples, so one call cannot take both."
    )


def _is_per_example(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == size


# --- checks ---------------------------------------------------------------------------------------------------------


def _check_null(null: Any) -> None:
    if not callable(null) and not (isinstance(null, Mapping) and null):
        raise ValueError(
            "`null` must be a mapping with the null value of at least one argument, or a function that gives the"
            f" unconditional conditioning, but is {null!r}."
        )


def _check_outputs(x_t: Tensor, strong: Tensor, weak: Tensor) -> None:
    for output in (strong, weak):
        _check_tensor(output, len(x_t))
    doubled = [*x_t.shape[:1], *(2 * size for size in x_t.shape[1:2]), *x_t.shape[2:]]
    if strong.shape != weak.shape or list(strong.shape) not in (list(x_t.shape), doubled):
        raise ValueError(
            f"Both outputs must have the shape of `x_t`, {list(x_t.shape)}, or twice its channels, but they have"
            f" {list(strong.shape)} and {list(weak.shape)}."
        )


def _check_tensor(output: Any, size: int) -> None:
    if not _is_per_example(output, size):
        kind = f"has shape {list(output.shape)}" if isinstance(output, Tensor) else f"is a {type(output).__name__}"
        raise ValueError(f"`denoise` must return a tensor of {size} examples, but what it returned {kind}.")


def _check_number(name: str, value: Any, most: float) -> None:
    if not is_number(value) or not math.isfinite(value) or not 0 <= value <= most:
        allowed = "a finite number >= 0" if most == math.inf else f"a number in [0, {most}]"
        raise ValueError(f"`{name}` must be {allowed}, but is {value!r}.")


def _checked_range(name: str, value: Any) -> Interval:
    low, high = value if isinstance(value, (tuple, list)) and len(value) == 2 else (math.nan, math.nan)
    if not is_number(low) or not is_number(high) or not low <= high:
        raise ValueError(f"`{name}` must be two numbers (low, high) with low <= high, but is {value!r}.")
    return low, high


# --- noise levels ---------------------------------------------------------------------------------------------------


def _log_snr_of(sigma: float) -> float:
    return math.inf if sigma == 0 else -2 * math.log(sigma)


def _timestep_at(schedule: NoiseSchedule, log_snr: float) -> float:
    """The real timestep of a log-SNR; the last one plus ½ if every timestep has a greater log-SNR."""
    continuous = schedule.continuous
    if log_snr == -math.inf and schedule.has_zero_terminal_snr:
        return schedule.T - 1.0
    if log_snr < continuous.log_snr(float(continuous.last_time)).item() - 1e-9:
        return continuous.last_time - 0.5
    timestep = continuous.time_at(float(log_snr)).item() - 1
    whole = float(round(timestep))
    return whole if abs(timestep - whole) < 1e-6 else timestep  # removes rounding errors at the chain's levels
