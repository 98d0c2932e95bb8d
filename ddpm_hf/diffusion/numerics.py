# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Small numerical functions that every other module of the mathematics uses."""

from __future__ import annotations

import math
from numbers import Real
from typing import TypeGuard, overload

import torch
from torch import Tensor

from .._renamed import old_names, warn_of_old_name


# A coefficient of the process: a float (one time for the whole batch) or a float64 tensor, `[]` or `[B]`.
Coefficient = float | Tensor

# A time of the process: an int, or an integer tensor, `[]` or `[B]`.
Times = int | Tensor

LOG_2 = math.log(2.0)

HALF_PRECISION = (torch.bfloat16, torch.float16)

OPPOSITE = 1e-3  # radians: for angles closer to π, rounding errors decide the direction of the great circle


__getattr__ = old_names(__name__)


@overload
def in_int64(t: int) -> int: ...
@overload
def in_int64(t: Tensor) -> Tensor: ...
def in_int64(t: Times) -> Times:
    """Times in int64: smaller integer types overflow, and torch has no arithmetic for some of them."""
    return t.long() if isinstance(t, Tensor) else t


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) for x ≤ 0, to full relative precision (Mächler 2012, "Accurately computing log(1 − exp(−|a|))").

    Args:
        x: floating tensor of any shape, values ≤ 0. x = 0 gives −inf, x = −inf gives 0.
    """
    near_zero = x > -LOG_2
    # Each branch only sees values at which it is finite and differentiable, so that `where` passes no NaN backwards.
    small = torch.log(-torch.expm1(torch.where(near_zero, x, -LOG_2)))
    large = torch.log1p(-torch.exp(torch.where(near_zero, -LOG_2, x)))
    return torch.where(near_zero, small, large)


def require_samples(**tensors: Tensor) -> None:
    """Raise ValueError unless all named arguments are floating tensors `[B, *anything]` of one shape."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(
                f"`{name}` must be a floating-point tensor, but is {kind}; scale images to [-1, 1] first."
            )
        if tensor.ndim == 0 or tensor.shape != first.shape:
            raise ValueError(
                f"`{name}` of shape {list(tensor.shape)} does not fit: expected [batch, ...] with the shape of"
                f" `{first_name}`, {list(first.shape)}."
            )


def upcast(sample: Tensor) -> Tensor:
    """The sample in float32 if it has half precision, otherwise unchanged: the dtype that arithmetic is done in."""
    return sample.float() if sample.dtype in HALF_PRECISION else sample


def cast_back(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The result in the dtype of the samples that it came from."""
    return x if x.dtype == dtype else x.to(dtype)


def to_float64(x: Tensor) -> Tensor:
    """The tensor in float64, or in float32 on a device (Apple's MPS) that has no float64."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def move_coefficients(table: Tensor, device: torch.device) -> Tensor:
    """A table of float64 coefficients on another device, without waiting for the copy."""
    table = table.float() if device.type == "mps" else table
    return table.to(device, non_blocking=True)


@overload
def expand_like(coefficient: Tensor, sample: Tensor) -> Tensor: ...
@overload
def expand_like(coefficient: float, sample: Tensor) -> float: ...
def expand_like(coefficient: Coefficient, sample: Tensor) -> Coefficient:
    """A coefficient that broadcasts against `sample`: a float unchanged, `[B]` as `[B, 1, …, 1]` in its dtype.

    Coefficients are computed in float64; this cast is the last operation on them.

    Args:
        coefficient: float, or tensor of shape `[]`, `[1]` or `[B]`.
        sample: tensor `[B, *anything]`.

    Raises:
        ValueError: if the coefficient has another shape.
    """
    if not isinstance(coefficient, Tensor):
        return coefficient
    if coefficient.ndim > 1 or (coefficient.ndim == 1 and coefficient.shape[0] not in (1, sample.shape[0])):
        raise ValueError(
            f"`timesteps` must be one for all or one per example: their shape {list(coefficient.shape)} does not"
            f" broadcast over the batch of a sample of shape {list(sample.shape)}; expected [] or [{sample.shape[0]}]."
        )
    coefficient = coefficient.to(sample.dtype).to(sample.device, non_blocking=True)
    return coefficient.reshape(-1, *[1] * (sample.ndim - 1))


def mean_flat(x: Tensor) -> Tensor:
    """Mean over every dimension but the batch: `[B, *anything]` → `[B]`."""
    return x.flatten(start_dim=1).mean(dim=1) if x.ndim > 1 else x


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Spherical interpolation from each a to its b, which preserves the norm of Gaussian latents (Shoemake 1985).

        sin((1 − t) θ)/sin θ · a + sin(t θ)/sin θ · b,    θ the angle between a and b

    For θ = 0 it is linear. Song, Meng & Ermon (2021, Eq. 67) interpolate DDIM's latents this way. For opposite
    directions the great circle is not unique.

    Args:
        a, b: `[B, *anything]`.
        t: in [0, 1], a number or `[B]`.

    Returns:
        The interpolated samples, in the shape and dtype of `a`.

    Raises:
        ValueError: if the shapes differ, a value is not finite, a pair points in opposite directions (an angle within
            `OPPOSITE` of π), or `t` is not in [0, 1].
    """
    require_samples(a=a, b=b)
    x, y = to_float64(a), to_float64(b)
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    if t.shape not in ((), a.shape[:1]):
        raise ValueError(f"`t` must be a number, or one for each of {len(a)} pairs, but is {list(t.shape)}.")
    if not bool(((t >= 0) & (t <= 1)).all()):  # NaN included
        raise ValueError(f"`t` must lie in [0, 1], but is {t.tolist()}.")
    angle = _angle(x, y)
    t = t.expand_as(angle)
    if not bool(angle.isfinite().all()):
        raise ValueError("`a` and `b` must be finite, but hold NaN or infinite values.")
    if bool(((angle > math.pi - OPPOSITE) & (t > 0) & (t < 1)).any()):
        raise ValueError("`a` and `b` must not point in opposite directions: the great circle between is not unique.")
    # sinc keeps the weights finite where the angle is 0.
    whole = torch.sinc(angle / math.pi)
    weights = [part * torch.sinc(part * angle / math.pi) / whole for part in (1 - t, t)]
    return (expand_like(weights[0], x) * x + expand_like(weights[1], y) * y).to(a.dtype)


def spherical_interpolation(a: Tensor, b: Tensor, share: float | Tensor) -> Tensor:
    """`slerp` under its name before version 0.2."""
    warn_of_old_name(f"{__name__}.spherical_interpolation", "slerp")
    return slerp(a, b, share)


def _angle(x: Tensor, y: Tensor) -> Tensor:
    """The angle between the examples of x and y, in [0, π], `[B]`; π/2 where one is 0.

    Kahan's formula keeps its digits near 0 and π, where arccos of the cosine loses half of them.
    """
    flat = (v.reshape(len(v), -1) for v in (x, y))
    u, v = (each / each.norm(dim=1, keepdim=True).clamp(min=torch.finfo(each.dtype).tiny) for each in flat)
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))


def standard_error(values: Tensor) -> float:
    """The standard error of the mean of independent values `[N]`; infinite for N = 1."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.inf


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number; bools are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require_positive(**numbers: float) -> None:
    """Raise ValueError unless all named arguments are finite numbers > 0."""
    for name, number in numbers.items():
        if not is_number(number) or not 0 < number < math.inf:
            raise ValueError(f"`{name}` must be a positive number, but is {number!r}.")


def require_count(**numbers: int) -> None:
    """Raise ValueError unless all named arguments are ints ≥ 1."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"`{name}` must be an int >= 1, but is {number!r}.")


def nats_to_bits(nats: Tensor) -> Tensor:
    """Information in bits, from nats."""
    return nats / LOG_2


def check_num_levels(num_levels: int | None) -> None:
    """Raise ValueError unless `num_levels` is an int ≥ 2 or None."""
    if num_levels is not None and (isinstance(num_levels, bool) or not isinstance(num_levels, int) or num_levels < 2):
        raise ValueError(f"`num_levels` must be an int >= 2, or None for continuous data, but is {num_levels!r}.")
