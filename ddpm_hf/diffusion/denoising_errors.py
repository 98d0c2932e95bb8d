# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A model's denoising error at each noise level, and the variances and costs that follow from it.

One number per time, the denoising error

    e_t = E ‖x_0 − x̂_0(x_t)‖² / D,

determines the optimal variance of a reverse step for any pair of times s < t (Bao et al. 2022, Theorem 1), and the
step's cost under it:

    σ*² = β̃ + c₁² e_t,    E L = ½ log(σ*²/β̃) = ½ log(1 + (SNR_s − SNR_t) e_t)    nats per dimension.

e_t depends on the noise level and not on the chain, so it is measured once, at a few levels, and interpolated. Each
element of an example (pixel and channel) may have its own error, and so its own variance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from .gaussian_process import StepCoefficients
from .noise_schedule import NoiseSchedule
from .numerics import check_num_levels


_TABLES = ("log_snr", "errors", "decoder_variances", "decoder_costs")


@dataclass(frozen=True)
class DenoisingErrors:
    """e at some noise levels, interpolated at all others.

    log e is linear in the log-SNR between two levels. Below the least SNR e is constant, as for a model that sees only
    noise. Above the greatest SNR e · SNR is constant, as for a model that errs by the noise.

    Args:
        log_snr: log-SNRs of the levels in nats, finite and strictly descending: from the data to the noise.
        errors: e at each level, > 0: a number, or nested lists with one number for each element of an example.
        decoder_variances: for discrete data, the v at each level that minimises L_0 of the decoder p_θ(x_0 | x_t), a
            discrete normal law, in a chain whose first time has that level. All elements share one v, since it depends
            mainly on the noise. None for continuous data, whose decoder is a Gaussian of variance e.
        decoder_costs: that least L_0, nats per dimension; None for continuous data, where it is ½ log(2πe · e).
        num_levels: of the data that the decoder was measured on; None for continuous data, or if unknown.

    Raises:
        ValueError: if an argument does not fit this description.
    """

    log_snr: Sequence[float]  # these four are stored as tuples
    errors: Sequence[Any]  # floats, or nested sequences of floats
    decoder_variances: Sequence[float] | None = None
    decoder_costs: Sequence[float] | None = None
    num_levels: int | None = None

    def __post_init__(self) -> None:
        try:
            count = len(self.log_snr)
        except TypeError:  # a number, or a tensor of one
            raise ValueError(f"`log_snr` must be a list of numbers, but is {_shortened(self.log_snr)}.") from None
        if (self.decoder_variances is None) != (self.decoder_costs is None):
            raise ValueError("`decoder_variances` and `decoder_costs` must be given together.")
        if self.num_levels is not None and self.decoder_costs is None:
            raise ValueError("`num_levels` describes the data of `decoder_costs`, so it needs `decoder_costs`.")
        check_num_levels(self.num_levels)
        for name in _TABLES:
            values = getattr(self, name)
            if values is None and name.startswith("decoder"):
                continue
            object.__setattr__(self, name, _nested_tuple(_numbers(name, values, count)))
        if any(low >= high for high, low in itertools.pairwise(self.log_snr)):
            raise ValueError("`log_snr` must descend strictly.")
        for name in ("errors", "decoder_variances"):
            values = getattr(self, name)
            if values is not None and _table(values).min() <= 0:
                raise ValueError(f"`{name}` must be positive, but one is {_table(values).min().item()}.")

    @cached_property
    def shape(self) -> torch.Size:
        """Shape of the errors at one level: `[]` if all elements share one, else the shape of an example."""
        return _table(self.errors).shape[1:]

    def __repr__(self) -> str:
        levels, shape = len(self.log_snr), list(self.shape)
        of_each = f", one for each element of {shape}" if shape else ""
        decoder = "no decoder" if self.decoder_costs is None else f"a decoder of {self.num_levels} levels"
        return (
            f"DenoisingErrors({levels} noise levels, log-SNR {self.log_snr[0]:.4g} to {self.log_snr[-1]:.4g}{of_each};"
            f" {decoder})"
        )

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. A missing `num_levels` means None.

        Raises:
            ValueError: if `stored` does not have the form that `to_dict` returns.
        """
        if not isinstance(stored, Mapping) or set(stored) - {"num_levels"} != set(_TABLES):
            raise ValueError(f"`denoising_errors` must map {', '.join(sorted(_TABLES))} to lists, but is {stored!r}.")
        return cls(**stored)

    def to_dict(self) -> dict[str, Any]:
        """The tables as lists and `num_levels` as a number, ready for JSON."""
        values = {name: getattr(self, name) for name in _TABLES}
        tables = {name: None if value is None else _table(value).tolist() for name, value in values.items()}
        return tables | {"num_levels": self.num_levels}

    def check_levels(self, num_levels: int | None) -> None:
        """Raise ValueError if the decoder was measured on data with another number of levels."""
        if self.num_levels is not None and self.num_levels != num_levels:
            raise ValueError(
                f"`denoising_errors` were measured on data of {self.num_levels} levels, but `num_levels` is"
                f" {num_levels}; measure them on such data."
            )

    def log_error(self, log_snr: Tensor) -> Tensor:
        """log e at the given log-SNRs `[N]`, float64 `[N, *shape]`; −inf (no signal) is allowed."""
        return self._log_between(self.errors, log_snr)

    def log_decoder_variance(self, log_snr: Tensor) -> Tensor:
        """log v of the decoder if a chain's first time has the given log-SNRs `[N]`, float64; log e if v is None."""
        if self.decoder_variances is None:
            return self.log_error(log_snr)
        return self._log_between(self.decoder_variances, log_snr)

    def decoder_cost(self, log_snr: Tensor) -> Tensor:
        """L_0 if a chain's first time has the given log-SNRs `[N]`, nats per dimension, float64 `[N]`."""
        if self.decoder_costs is None:
            return gaussian_decoder_cost(self.log_error(log_snr))
        return self._between(_table(self.decoder_costs), log_snr)

    def _log_between(self, values: Sequence[Any], log_snr: Tensor) -> Tensor:
        logs = self._between(_table(values).log(), log_snr)
        return logs - _expanded(logs.shape[1:], (log_snr - self.log_snr[0]).clamp(min=0))

    def _between(self, table: Tensor, log_snr: Tensor) -> Tensor:
        """Values `[levels, …]` at `log_snr`, linear between two levels and constant beyond the ends."""
        levels = _table(self.log_snr).flip(0)
        table = table.flip(0)
        inside = log_snr.double().clamp(self.log_snr[-1], self.log_snr[0])
        above = torch.searchsorted(levels, inside).clamp(max=len(levels) - 1)
        below = (above - 1).clamp(min=0)
        gap = levels[above] - levels[below]
        share = torch.where(gap > 0, (inside - levels[below]) / torch.where(gap > 0, gap, 1.0), 0.0)
        return torch.lerp(table[below], table[above], _expanded(table.shape[1:], share))


def optimal_log_variances(errors: DenoisingErrors, steps: StepCoefficients, log_snr_t: Tensor) -> Tensor:
    """log σ*² of the given steps `[K]`, float64 `[K, *shape]`; β̃ may be 0.

    This is Theorem 1 of Bao et al. (2022), written with the error of x̂_0.
    """
    log_weight = 2 * torch.log(steps.posterior_coef_x0)
    return torch.logaddexp(
        _expanded(errors.shape, steps.posterior_log_variance),
        _expanded(errors.shape, log_weight) + errors.log_error(log_snr_t),
    )


def step_costs(schedule: NoiseSchedule, errors: DenoisingErrors) -> Tensor:
    """The cost of every step t → s in the bound of a chain with variance σ*², nats per dimension.

    It takes O(T²) operations for every element that has its own error.

    Args:
        schedule: a schedule of T steps.
        errors: the model's errors.

    Returns:
        float64 `[T + 1, T + 1]`: the cost at `[s, t]` for 0 ≤ s < t ≤ T, +inf elsewhere, as `optimal_times` takes it.
    """
    T, log_snr = schedule.T, schedule.log_snr[1:]
    s, t = torch.triu_indices(T, T, offset=1, device="cpu")
    costs = torch.full((T + 1, T + 1), math.inf, dtype=torch.float64, device="cpu")
    costs[s + 1, t + 1] = _rates(log_snr[s], log_snr[t], errors.log_error(log_snr), t)
    costs[0, 1:] = errors.decoder_cost(log_snr)
    return costs


def chain_costs(schedule: NoiseSchedule, errors: DenoisingErrors | None, times: Sequence[int]) -> Tensor:
    """The costs of the steps of one chain, as in `step_costs`, nats per dimension, float64 `[K]`, the decoder first.

    Args:
        schedule: the noise schedule.
        errors: the model's errors; None takes those of the optimal model of data N(0, I), e = 1/(1 + SNR).
        times: the visited times, ascending.
    """
    log_snr = schedule.log_snr[list(times)]
    if errors is None:
        log_error = -torch.nn.functional.softplus(log_snr)
        decoder = gaussian_decoder_cost(log_error[:1])
    else:
        log_error, decoder = errors.log_error(log_snr), errors.decoder_cost(log_snr[:1])
    rates = _rates(log_snr[:-1], log_snr[1:], log_error, torch.arange(1, len(times), device="cpu"))
    return torch.cat([decoder, rates])


def gaussian_decoder_cost(log_error: Tensor) -> Tensor:
    """½ log(2πe · e), the least L_0 of continuous data, nats: the mean over elements of `[N, *shape]`, `[N]`."""
    return 0.5 * (math.log(2 * math.pi) + 1 + log_error.reshape(len(log_error), -1).mean(1))


def _rates(log_snr_s: Tensor, log_snr_t: Tensor, log_error: Tensor, t: Tensor) -> Tensor:
    """½ log(1 + (SNR_s − SNR_t) e_t) of pairs `[P]`, the mean over elements; `t` are rows of `log_error`."""
    # expm1 keeps the digits of the difference; where SNR_t = 0, the difference is SNR_s itself.
    log_drop = log_snr_s + torch.log(-torch.expm1(log_snr_t - log_snr_s))
    columns = log_error.reshape(len(log_error), -1).unbind(1)
    costs = (torch.nn.functional.softplus(log_drop + column[t]) for column in columns)
    return 0.5 * reduce(torch.add, costs) / len(columns)


def _numbers(name: str, values: Any, count: int) -> Tensor:
    """Values as a float64 tensor, one number or a nested list of numbers at each of `count` levels."""
    try:
        numbers = _table(values)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be a list of numbers, but is {_shortened(values)}.") from None
    one_each = numbers.ndim > 0 and (numbers.ndim == 1 or name == "errors")
    if not one_each or numbers.numel() == 0 or len(numbers) != count or not bool(numbers.isfinite().all()):
        raise ValueError(
            f"`{name}` must be as many finite numbers as there are levels, {count}, but is {_shortened(values)}."
        )
    return numbers


def _table(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")


def _nested_tuple(values: Tensor) -> tuple[Any, ...]:
    return tuple(values.tolist()) if values.ndim == 1 else tuple(map(_nested_tuple, values))


def _expanded(shape: Sequence[int], coefficient: Tensor) -> Tensor:
    """A coefficient per level, `[N]`, reshaped to broadcast against values `[N, *shape]`."""
    return coefficient.reshape(-1, *[1] * len(shape))


def _shortened(values: Any) -> str:
    text = repr(values)
    return text if len(text) <= 200 else f"{text[:200]} …"
