# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Normal numbers that encoder and decoder share, from Philox integers, which are the same on every machine.

A number is one of 2¹⁶ quantiles of N(0, 1), up to 4.33, rounded to 2⁻²⁰, which is far coarser than what Φ⁻¹ differs by
between machines. They are looked up fast enough to search millions.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .distributions import Ints


KEY = 0x64647063  # "ddpc"
WORDS = 4  # 64-bit integers for each value of the counter
QUANTILE_BITS, NORMAL_BITS = 16, 20
PER_COUNTER = WORDS * 64 // QUANTILE_BITS


@functools.cache
def _quantiles() -> NDArray[np.float64]:
    """Φ⁻¹((i + ½)/2¹⁶), rounded to 2⁻²⁰. No entry is so near to a tie that its rounding is in doubt."""
    half = 2 ** (QUANTILE_BITS - 1)
    upper = torch.special.ndtri((torch.arange(half, 2 * half, dtype=torch.float64) + 0.5) / (2 * half))
    upper = torch.round(upper * 2**NORMAL_BITS) / 2**NORMAL_BITS
    return torch.cat([-upper.flip(0), upper]).numpy()


@functools.cache
def _rough_quantiles() -> NDArray[np.float32]:
    return _quantiles().astype(np.float32)


class SharedNoise:
    """The streams of one image.

    Args:
        seed: 0 … 2⁶⁴ − 1.
        image: its place in the file.
    """

    def __init__(self, seed: int, image: int):
        self.seed, self.image = seed, image

    def _integers(self, step: int, chunk: int, counter: int, count: int) -> NDArray[np.uint64]:
        """`count` integers of the stream of a chunk of a step, from this value of the counter on."""
        place = np.array([counter, chunk, step, self.image], np.uint64)
        bits = np.random.Philox(counter=place, key=np.array([self.seed, KEY], np.uint64))
        return np.asarray(bits.random_raw(count), np.uint64)

    def normals(self, step: int, chunk: int, first: int, count: int) -> Tensor:
        """The normal numbers `first` … `first` + `count` − 1 of the stream, float64 `[count]`."""
        return torch.from_numpy(_quantiles()[self._places(step, chunk, first, count)])

    def rough_normals(self, step: int, chunk: int, first: int, count: int) -> Tensor:
        """The same in float32, twice as fast, for the encoder, which only compares them."""
        places = self._places(step, chunk, first, count)
        return torch.from_numpy(np.take(_rough_quantiles(), places, mode="clip"))  # which skips a check

    def _places(self, step: int, chunk: int, first: int, count: int) -> NDArray[np.uint16]:
        """Which quantiles they are."""
        skip = first % PER_COUNTER
        integers = self._integers(step, chunk, first // PER_COUNTER, -(-(skip + count) * QUANTILE_BITS // 64))
        return integers.astype("<u8").view("<u2")[skip : skip + count]

    def permutation(self, step: int, chunk: int, count: int) -> Ints:
        """An order of `count` things."""
        return np.argsort(self._integers(step, chunk, 0, count), kind="stable")

    def exponentials(self, step: int, chunk: int, counter: int, count: int) -> Tensor:
        """Of mean 1, float64 `[count]`. Only the encoder draws them."""
        integers = self._integers(step, chunk, counter, count) >> np.uint64(12)
        return -torch.log(torch.from_numpy((integers.astype(np.float64) + 0.5) * 2.0**-52))
