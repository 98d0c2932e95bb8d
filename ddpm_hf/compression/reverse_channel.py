# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
r"""Reverse channel coding: how to send a sample of q in about KL(q ‖ p) bits to someone who knows p alone.

The Poisson functional representation (Li & El Gamal 2018; Theis & Yosri 2022): both sides draw candidates z_0, z_1 …
of p; with arrival times T_j of a Poisson process and w = q/p, the sample argmin_j (T_j / w(z_j)) is distributed as q,
and its index is sent. No candidate after T_j > T_best max w / w_best can win.

p = N(0, I), and q = N(d, s² I) of several elements at a time, a chunk, with Σ ½ log₂ 1/s² = C expected bits. The
density ratio of a chunk varies by a factor 2^√(2C/ln 2) and more. A search that ends too early returns samples that
are too close to p, so it may take 2^(KL + pad) candidates, where the pad is one bit more than twice the deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .shared_noise import SharedNoise


AT_ONCE = 2**12  # candidates at first; each time twice as many
MOST_BITS = 18  # of candidates
MOST_NUMBERS = 2**20  # at a time, which fit a cache
ARRIVALS = 2**31  # streams of chunks from here on are arrival times


class Target(NamedTuple):
    """q = N(shift, s²) of the elements of a chunk, where p = N(0, 1); float64 `[n]`."""

    shift: Tensor
    log_variance: Tensor

    def log_ratio(self, z: Tensor) -> Tensor:
        """log q/p of candidates `[J, n]`, nats, `[J]`; in their dtype."""
        precision = torch.exp(-self.log_variance)
        constant = -0.5 * (self.shift.square() * precision + self.log_variance).sum()
        squares, linear = (each.to(z.dtype) for each in (0.5 * (1 - precision), self.shift * precision))
        return torch.addmv(z @ linear, z.square(), squares) + constant.to(z.dtype)

    @property
    def log_bound(self) -> float:
        """The greatest log q/p: it is finite, since s² < 1."""
        spare = -torch.expm1(self.log_variance)
        return 0.5 * float((self.shift.square() / spare - self.log_variance).sum())

    @property
    def divergence(self) -> float:
        """KL(q ‖ p), bits."""
        nats = 0.5 * (torch.expm1(self.log_variance) - self.log_variance + self.shift.square()).sum()
        return float(nats) / math.log(2)


@dataclass(frozen=True)
class Chunk:
    """The shared candidates of a chunk.

    Attributes:
        noise: the streams of the image.
        step, chunk: which of them.
        size: n, the number of elements.
    """

    noise: SharedNoise
    step: int
    chunk: int
    size: int

    def candidate(self, index: int) -> Tensor:
        """z of this index, float64 `[n]`."""
        return self.noise.normals(self.step, self.chunk, index * self.size, self.size)

    def choose(self, target: Target) -> int:
        """The index of the sample of the target."""
        bits = target.divergence
        limit = 2 ** min(math.ceil(bits + pad_of(bits)), MOST_BITS)
        best, chosen, first, arrived, bound = math.inf, 0, 0, 0.0, target.log_bound
        at_once = AT_ONCE
        while first < limit:
            count = max(1, min(at_once, limit - first, MOST_NUMBERS // self.size))
            z = self.noise.rough_normals(self.step, self.chunk, first * self.size, count * self.size)
            gaps = self.noise.exponentials(self.step, ARRIVALS + self.chunk, first, count)
            times = arrived + torch.cumsum(gaps, 0)
            scores = torch.log(times) - target.log_ratio(z.reshape(count, self.size))
            least, place = torch.min(scores, 0)
            if float(least) < best:
                best, chosen = float(least), first + int(place)
            arrived, first, at_once = float(times[-1]), first + count, 2 * at_once
            if math.log(arrived) - bound > best:
                break
        return chosen


def pad_of(bits: float) -> float:
    """How many bits more than KL = `bits` a search may take: twice the deviation of log₂ q/p, and one."""
    return 2 * math.sqrt(2 * max(bits, 1.0) / math.log(2)) + 1
