# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Normal numbers that encoder and decoder share: Philox integers, the same on every machine and for every version.

They are rounded to 2⁻²⁰, far coarser than what Φ⁻¹ differs by between machines.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .distributions import Ints


KEY = 0x64647063  # "ddpc"
WORDS = 4  # 64-bit integers for each value of the counter
NORMAL_BITS = 20


class SharedNoise:
    """The streams of one image.

    Args:
        seed: 0 … 2⁶⁴ − 1.
        image: its place in the file.
    """

    def __init__(self, seed: int, image: int):
        self.seed, self.image = seed, image

    def integers(self, step: int, chunk: int, first: int, count: int) -> NDArray[np.uint64]:
        """The integers `first` … `first` + `count` − 1 of the stream of a chunk of a step."""
        skip = first % WORDS
        counter = np.array([first // WORDS, chunk, step, self.image], np.uint64)
        bits = np.random.Philox(counter=counter, key=np.array([self.seed, KEY], np.uint64))
        return np.asarray(bits.random_raw(skip + count), np.uint64)[skip:]

    def normals(self, step: int, chunk: int, first: int, count: int) -> Tensor:
        """The same integers as normal numbers, float64 `[count]`."""
        uniform = ((self.integers(step, chunk, first, count) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        normal = torch.special.ndtri(torch.from_numpy(uniform))
        return torch.round(normal * 2**NORMAL_BITS) / 2**NORMAL_BITS

    def permutation(self, step: int, chunk: int, count: int) -> Ints:
        """An order of `count` things."""
        return np.argsort(self.integers(step, chunk, 0, count), kind="stable")

    def exponentials(self, step: int, chunk: int, first: int, count: int) -> Tensor:
        """Of mean 1, float64 `[count]`. Only the encoder draws them."""
        uniform = ((self.integers(step, chunk, first, count) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        return -torch.log(torch.from_numpy(uniform))
