# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Distributions of whole numbers, in integer arithmetic, so that every machine computes the same frequencies.

An entropy coder fails if encoder and decoder differ in one frequency. Floating-point inputs are therefore rounded to a
grid first, far coarser than the differences between machines, and everything after that is exact:

    mean         in units of 2⁻¹² bins
    precision    bins per standard deviation, inverted, in units of 2⁻¹⁶
    Φ            2³⁰ Φ at multiples of 2⁻¹⁰ standard deviations, linear between them

A distribution of many values is coded as digits in base 64, the leading one first, so that a coder sees at most 64
frequencies at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray


Ints: TypeAlias = NDArray[np.int64]
Frequencies: TypeAlias = NDArray[np.float64]
"""Whole numbers ≥ 0, `[N, W]`: how often each of the W values of each of the N symbols occurs."""

Digits: TypeAlias = tuple[Ints, Frequencies]
"""Symbols `[N]` in 0 … W − 1, and their frequencies `[N, W]`."""

Read = Callable[[Frequencies], Ints]
"""read(frequencies) -> the next N symbols out of a coder."""

BASE = 64
MEAN_BITS, PRECISION_BITS = 12, 16
STEP_BITS = 10  # of the table of Φ
REACH = 8  # standard deviations that the table covers on either side
SCALE_BITS = 30  # of Φ
LEVEL_BITS, LEAST_BITS = 16, 24  # probabilities of levels: the grid, and the least one


class Distribution(Protocol):
    """A distribution of each of N symbols."""

    def digits(self, symbols: Ints) -> list[Digits]:
        """The digits of the symbols, in the order in which `read` reads them."""

    def read(self, read: Read) -> Ints:
        """The symbols `[N]`, from a coder."""


@functools.cache
def _normal_table() -> Ints:
    """2³⁰ Φ(z), rounded, at z = −8, −8 + 2⁻¹⁰ … 8. No entry is so near to a tie that its rounding is in doubt."""
    grid = range(REACH << STEP_BITS)
    lower = [round(2 ** (SCALE_BITS - 1) * math.erfc((REACH - i / 2**STEP_BITS) / math.sqrt(2))) for i in grid]
    return np.array([*lower, 2 ** (SCALE_BITS - 1), *(2**SCALE_BITS - each for each in reversed(lower))], np.int64)


def _normal_cdf(z: Ints) -> Ints:
    """2³⁰ Φ for z in units of 2⁻²⁸ standard deviations; it does not decrease."""
    rest = MEAN_BITS + PRECISION_BITS - STEP_BITS
    top = (2 * REACH << (STEP_BITS + rest)) - 1
    place = np.clip(z + (REACH << (STEP_BITS + rest)), 0, top)
    table, index, share = _normal_table(), place >> rest, place & ((1 << rest) - 1)
    low = table[index]
    return low + ((table[index + 1] - low) * share >> rest)


@dataclass(frozen=True)
class GaussianBins:
    """N(mean, std²) in bins of width 1 around the whole numbers from `low` on; the least frequency is 1.

    Attributes:
        mean, precision: integers on the grids of this module, `[N]`; see `of`.
        low: the least value, `[N]`.
        size: the number of values.
    """

    mean: Ints
    precision: Ints
    low: Ints
    size: int

    @classmethod
    def of(cls, mean: NDArray[np.float64], std: NDArray[np.float64], low: Ints | int, size: int) -> GaussianBins:
        """From a mean and a standard deviation in bins, `[N]` or broadcastable to it."""
        mean, std = np.broadcast_arrays(mean, std)
        whole = np.rint(np.clip(mean, -(2.0**24), 2.0**24) * 2**MEAN_BITS).astype(np.int64)
        precision = np.rint(np.clip(2**PRECISION_BITS / std, 1, 2 ** (PRECISION_BITS + 6))).astype(np.int64)
        return cls(whole, precision, np.broadcast_to(np.asarray(low, np.int64), whole.shape), size)

    @property
    def _places(self) -> list[int]:
        """The weight of each digit, the leading one first."""
        places = [1]
        while places[0] * BASE < self.size:
            places.insert(0, places[0] * BASE)
        return places

    def digits(self, symbols: Ints) -> list[Digits]:
        offset = symbols - self.low
        if offset.size and not 0 <= offset.min() <= offset.max() < self.size:
            raise ValueError("A value lies outside the range that the codec represents.")
        start, found = self.low, []
        for place in self._places:
            digit, offset = np.divmod(offset, place)
            found.append((digit, self._frequencies(start, place)))
            start = start + digit * place
        return found

    def read(self, read: Read) -> Ints:
        start = self.low
        for place in self._places:
            start = start + read(self._frequencies(start, place)) * place
        return start

    def _frequencies(self, start: Ints, place: int) -> Frequencies:
        """Of the blocks of `place` values from `start` on, `[N, W]`."""
        blocks = min(BASE, -(-self.size // place))
        edges = start[:, None] + place * np.arange(blocks + 1)  # of the block's first value
        z = ((2 * edges - 1 << (MEAN_BITS - 1)) - self.mean[:, None]) * self.precision[:, None]
        return (np.diff(_normal_cdf(z), axis=1) + place).astype(np.float64)


@dataclass(frozen=True)
class Table:
    """Any distribution of few values.

    Attributes:
        frequencies: `[N, W]`.
    """

    frequencies: Frequencies

    @classmethod
    def of_probabilities(cls, probabilities: NDArray[np.float64]) -> Table:
        """Probabilities `[N, W]`, to 2⁻¹⁶; the least one is 2⁻²⁴."""
        grid = np.rint(probabilities * 2**LEVEL_BITS)
        return cls(grid * 2 ** (LEAST_BITS - LEVEL_BITS) + 1)

    @property
    def size(self) -> int:
        """The number of values."""
        return self.frequencies.shape[1]

    @classmethod
    def uniform(cls, count: int, size: int) -> Table:
        """`count` symbols in 0 … size − 1."""
        return cls(np.ones((count, size)))

    def digits(self, symbols: Ints) -> list[Digits]:
        return [(symbols, self.frequencies)]

    def read(self, read: Read) -> Ints:
        return read(self.frequencies)


def uniform_digits(bits: int) -> list[Table]:
    """A number of so many bits, as digits of at most six bits, the leading one first."""
    widths = [min(6, bits - done) for done in range(0, bits, 6)]
    return [Table.uniform(1, 1 << width) for width in widths]
