# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What conditioning is worth: the bits of an example that it saves.

    bits(x) − bits(x | c)

Both are bounds, so the difference is an estimate and not a bound. Its expectation over p(x, c) is the mutual
information of x and c where both bounds are tight. Bounds with the same noise and times differ by less noise, as
`bits_per_dim` draws them from generators of one seed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diffusion.numerics import standard_error
from .variational import BitsPerDim


@dataclass(frozen=True)
class Information:
    """The bits that conditioning saves.

    Attributes:
        bits: bits per example, the mean.
        standard_error: of `bits`, for other examples like these.
        per_example: bits of each example.
        per_timestep: bits per example at each of `timesteps`; they add up to `bits` but for the prior's rounding.
        timesteps: the visited timesteps, ascending.
    """

    bits: float
    standard_error: float
    per_example: list[float]
    per_timestep: list[float]
    timesteps: list[int]

    def __str__(self) -> str:
        return f"{self.bits:.2f} bits per example ± {self.standard_error:.2f}, on {len(self.per_example)} examples"

    def to_dict(self) -> dict[str, Any]:
        """All figures by name, for JSON."""
        return dict(vars(self))


def information_of(
    without: BitsPerDim, given: BitsPerDim, dimensions: int, groups: Sequence[Hashable] | None = None
) -> Information:
    """The bits that conditioning saves.

    Args:
        without: the bound of the examples without their conditioning.
        given: the bound of the same examples with it, by the same chain, and from the same noise and times.
        dimensions: number of dimensions of an example.
        groups: the group of each example; examples of one group, such as variants of a picture, are not independent.

    Raises:
        ValueError: for bounds of different examples or timesteps.
    """
    if without.num_examples != given.num_examples or without.timesteps != given.timesteps:
        raise ValueError("Both bounds must be of the same examples, along the same timesteps.")
    pairs = zip(without.per_example, given.per_example, strict=True)
    saved = [dimensions * (bits - fewer) for bits, fewer in pairs]
    terms = zip(without.per_timestep, given.per_timestep, strict=True)
    return Information(
        bits=math.fsum(saved) / len(saved),
        standard_error=grouped_standard_error(torch.tensor(saved, dtype=torch.float64, device="cpu"), groups),
        per_example=saved,
        per_timestep=[dimensions * (bits - fewer) for bits, fewer in terms],
        timesteps=given.timesteps,
    )


def grouped_standard_error(values: Tensor, groups: Sequence[Hashable] | None = None) -> float:
    """The standard error of the mean of values `[N]` that may be correlated within groups (Liang & Zeger 1986).

    It is infinite for a single group.

    Raises:
        ValueError: unless there is a group for each value.
    """
    if groups is None:
        return standard_error(values)
    if len(groups) != len(values):
        raise ValueError(f"`groups` must have one for each of {len(values)} examples, but has {len(groups)}.")
    number = {group: k for k, group in enumerate(dict.fromkeys(groups))}
    index = torch.tensor([number[group] for group in groups], device=values.device)
    sums = torch.zeros(len(number), dtype=values.dtype, device=values.device)
    sums.index_add_(0, index, values - values.mean())
    count = len(number)
    if count < 2:
        return math.inf
    return math.sqrt(count / (count - 1) * sums.square().sum().item()) / len(values)
