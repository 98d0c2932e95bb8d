# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""How far a model's predicted x̂_0 is from x_0, noise level by noise level, and what follows from it for the bound.

One number per time, the denoising error

    e_t = E ‖x_0 − x̂_0(x_t)‖² / D,

decides the best variance that a reverse step can have, for any pair of times s < t (Bao et al. 2022, Theorem 1), and
what the step then costs:

    σ*² = β̃ + c₁² e_t,    E L = ½ log(σ*²/β̃) = ½ log(1 + (SNR_s − SNR_t) e_t)    nats per dimension.

It belongs to the noise level and not to the chain, so that it is measured once, at a few levels, and interpolated.
Where pixels and channels differ, each may have an error, and so a variance, of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
    """e at some noise levels, and by interpolation at all others.

    log e is linear in the log-SNR between two levels. Below the least SNR it stays what it is there, as the error of
    a model that sees noise alone; above the greatest one e · SNR does, as for a model that sees all but the noise.

    Args:
        log_snr: the levels, finite and strictly descending: from the data to the noise.
        errors: e at each of them, > 0: a number, or one for each element of an example, in nested lists of its shape.
        decoder_variances: of data of levels, the v of the decoder p_θ(x_0 | x_t), a discrete normal law,
            under which L_0 is least, if that level is the first that a chain visits; one for all elements, since it
            is the noise's above all. None for continuous data, whose decoder is a Gaussian of variance e.
        decoder_costs: that least L_0, nats per dimension; None for continuous data, where it is ½ log(2πe · e).
        num_levels: of the data that the decoder's were measured on; None for continuous data, or if it is not known.

    Raises:
        ValueError: for anything else.
    """

    log_snr: tuple[float, ...]
    errors: tuple[Any, ...]  # floats, or nested tuples of floats
    decoder_variances: tuple[float, ...] | None = None
    decoder_costs: tuple[float, ...] | None = None
    num_levels: int | None = None

    def __post_init__(self) -> None:
        try:
            count = len(self.log_snr)
        except TypeError:  # a number, or a tensor of one
            raise ValueError(f"`log_snr` must be a list of numbers, but is {_short(self.log_snr)}.") from None
        if (self.decoder_variances is None) != (self.decoder_costs is None):
            raise ValueError("`decoder_variances` and `decoder_costs` must be given together.")
        if self.num_levels is not None and self.decoder_costs is None:
            raise ValueError("`num_levels` says what `decoder_costs` were measured on, and there are none.")
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
        """Of the errors at a level: `[]` for one of all elements, or the shape of an example."""
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
        """What `to_dict` gave, `num_levels` being as good as None where it is not there.

        Raises:
            ValueError: for anything else.
        """
        if not isinstance(stored, Mapping) or set(stored) - {"num_levels"} != set(_TABLES):
            raise ValueError(f"`denoising_errors` must map {', '.join(sorted(_TABLES))} to lists, but is {stored!r}.")
        return cls(**stored)

    def to_dict(self) -> dict[str, Any]:
        """As lists and a number, for JSON."""
        values = {name: getattr(self, name) for name in _TABLES}
        tables = {name: None if value is None else _table(value).tolist() for name, value in values.items()}
        return tables | {"num_levels": self.num_levels}

    def check_levels(self, num_levels: int | None) -> None:
        """Raise ValueError if the decoder was measured on data of other levels, whose cost is another."""
        if self.num_levels is not None and self.num_levels != num_levels:
            raise ValueError(
                f"`denoising_errors` were measured on data of {self.num_levels} levels, but `num_levels` is"
                f" {num_levels}; measure them on such data."
            )

    def log_error(self, log_snr: Tensor) -> Tensor:
        """log e at the given levels `[N]`, float64 `[N, *shape]`; −inf, no signal, is a level too."""
        return self._log_between(self.errors, log_snr)

    def log_decoder_variance(self, log_snr: Tensor) -> Tensor:
        """log v of the decoder of a chain that ends at the given levels `[N]`, float64 `[N]`; without v log e."""
        if self.decoder_variances is None:
            return self.log_error(log_snr)
        return self._log_between(self.decoder_variances, log_snr)

    def decoder_cost(self, log_snr: Tensor) -> Tensor:
        """L_0 of a chain that ends at the given levels `[N]`, nats per dimension, float64 `[N]`."""
        if self.decoder_costs is None:
            return gaussian_decoder_cost(self.log_error(log_snr))
        return self._between(_table(self.decoder_costs), log_snr)

    def _log_between(self, values: Sequence[Any], log_snr: Tensor) -> Tensor:
        logs = self._between(_table(values).log(), log_snr)
        return logs - _over(logs.shape[1:], (log_snr - self.log_snr[0]).clamp(min=0))

    def _between(self, table: Tensor, log_snr: Tensor) -> Tensor:
        """Values `[levels, …]` at `log_snr`, linear between two levels and constant beyond the ends."""
        levels = _table(self.log_snr).flip(0)
        table = table.flip(0)
        inside = log_snr.double().clamp(self.log_snr[-1], self.log_snr[0])
        above = torch.searchsorted(levels, inside).clamp(max=len(levels) - 1)
        below = (above - 1).clamp(min=0)
        gap = levels[above] - levels[below]
        share = torch.where(gap > 0, (inside - levels[below]) / torch.where(gap > 0, gap, 1.0), 0.0)
        return torch.lerp(table[below], table[above], _over(table.shape[1:], share))


def optimal_log_variances(errors: DenoisingErrors, steps: StepCoefficients, log_snr_t: Tensor) -> Tensor:
    """log σ*² of the given steps `[K]`, whose β̃ may be 0, float64 `[K, *shape]`.

    (Bao et al. 2022, Theorem 1, by the error of x̂_0.)
    """
    log_weight = 2 * torch.log(steps.posterior_coef_x0)
    return torch.logaddexp(
        _over(errors.shape, steps.posterior_log_variance),
        _over(errors.shape, log_weight) + errors.log_error(log_snr_t),
    )


def step_costs(schedule: NoiseSchedule, errors: DenoisingErrors) -> Tensor:
    """What every step t → s of a chain with variance σ* adds to the bound, nats per dimension.

    It takes O(T²) for every element that has an error of its own.

    Args:
        schedule: of T steps.
        errors: of the model.

    Returns:
        float64 `[T + 1, T + 1]`, at `[s, t]` for 0 ≤ s < t ≤ T and +inf elsewhere, as `optimal_times` takes them.
    """
    T, log_snr = schedule.T, schedule.log_snr[1:]
    s, t = torch.triu_indices(T, T, offset=1, device="cpu")
    costs = torch.full((T + 1, T + 1), math.inf, dtype=torch.float64, device="cpu")
    costs[s + 1, t + 1] = _rates(log_snr[s], log_snr[t], errors.log_error(log_snr), t)
    costs[0, 1:] = errors.decoder_cost(log_snr)
    return costs


def chain_costs(schedule: NoiseSchedule, errors: DenoisingErrors | None, times: Sequence[int]) -> Tensor:
    """What the steps of one chain add to the bound, as `step_costs` has it, nats: `[K]`, the decoder first.

    Args:
        errors: of the model; if None, of the best model of data N(0, I), e = 1/(1 + SNR).
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
    """½ log(2πe · e), the least L_0 of continuous data, `[N]`, the mean over elements of `[N, *shape]`."""
    return 0.5 * (math.log(2 * math.pi) + 1 + log_error.reshape(len(log_error), -1).mean(1))


def _rates(log_snr_s: Tensor, log_snr_t: Tensor, log_error: Tensor, t: Tensor) -> Tensor:
    """½ log(1 + (SNR_s − SNR_t) e_t) of pairs `[P]`, the mean over elements, by the row of `log_error` that t is."""
    # The difference by expm1, but by SNR_s itself where nothing is left at t.
    log_drop = log_snr_s + torch.log(-torch.expm1(log_snr_t - log_snr_s))
    columns = log_error.reshape(len(log_error), -1).unbind(1)
    return 0.5 * sum(torch.nn.functional.softplus(log_drop + column[t]) for column in columns) / len(columns)


def _numbers(name: str, values: Any, count: int) -> Tensor:
    """Values as a float64 tensor, one number or a nested list of numbers at each of `count` levels."""
    try:
        numbers = _table(values)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be a list of numbers, but is {_short(values)}.") from None
    one_each = numbers.ndim > 0 and (numbers.ndim == 1 or name == "errors")
    if not one_each or numbers.numel() == 0 or len(numbers) != count or not bool(numbers.isfinite().all()):
        raise ValueError(
            f"`{name}` must be as many finite numbers as there are levels, {count}, but is {_short(values)}."
        )
    return numbers


def _table(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")


def _nested_tuple(values: Tensor) -> tuple[Any, ...]:
    return tuple(values.tolist()) if values.ndim == 1 else tuple(map(_nested_tuple, values))


def _over(shape: Sequence[int], coefficient: Tensor) -> Tensor:
    """A coefficient of levels, `[N]`, ready to meet values `[N, *shape]`."""
    return coefficient.reshape(-1, *[1] * len(shape))


def _short(values: Any) -> str:
    text = repr(values)
    return text if len(text) <= 200 else f"{text[:200]} …"
