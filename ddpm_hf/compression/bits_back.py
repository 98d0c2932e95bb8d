# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
r"""Bits-back coding of images down a chain, in the order of Bit-Swap (Kingma, Abbeel & Ho 2019).

A latent x_k is drawn by popping it from the stack, so that its bits come back when the decoder pushes it again:

    for k = 1 … K:    pop  x_k     from q(x_k | x_{k−1}) = N(√(ᾱ_k/ᾱ_{k−1}) x_{k−1}, b_k²),    b_k² = 1 − ᾱ_k/ᾱ_{k−1}
                      push x_{k−1} under p_θ(x_{k−1} | x_k); the data's levels x_0 by the decoder's law
                      push x_K     under N(0, 1)

The bits pushed less the bits popped are, on average, the bound of the chain. Latents are drawn within 6.5 b_k of their
mean, on a lattice of spacing min(b_k, s_k) / r, where s_k is the deviation of q(x_k | x_{k+1}, x_0): it must be fine
for both of the laws that x_k is coded by. In a long chain s_1 is far smaller than b_1. Images of one group are coded
side by side, and the stack must hold the bits of about two latents of each at first: a group of one image needs the
fewest initial bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .distributions import GaussianBins, Ints
from .entropy_coders import BitStack
from .exact_chain import ExactChain


RESOLUTION = 2  # r; a finer lattice needs more initial bits, a coarser one loses .03 bits/dim
WINDOW = 6.5  # b_k, on either side of the mean of q
EXTENT = 8.0  # latents lie within ±8
LEAST_DRAWN = 2  # latents that are drawn before the first bits come back
NORMAL_WIDTH = math.sqrt(2 * math.pi * math.e)  # as many bins of 1 hold as many bits as N(0, 1)


class _Latent(NamedTuple):
    """How x_k follows from x_{k−1}.

    Attributes:
        scale: √(ᾱ_k/ᾱ_{k−1}).
        std: b_k.
        spacing: of the lattice of x_k.
    """

    scale: float
    std: float
    spacing: float


@dataclass(frozen=True, eq=False)
class BitsBack:
    """Codes groups of images on a stack.

    Args:
        chain: the model along its chain.
        resolution: r, bins of the lattice per standard deviation of the narrower law, at least.
    """

    chain: ExactChain
    resolution: int = RESOLUTION

    @cached_property
    def _latents(self) -> list[_Latent]:
        """x_1 … x_K."""
        diffusion, last = self.chain.diffusion, len(self.chain.diffusion.times) - 1
        found = []
        for k, log in enumerate(diffusion.schedule.log_alphas_cumprod[[0, *diffusion.times]].diff().tolist()):
            std = finest = math.sqrt(-math.expm1(log))
            if k < last:
                finest = min(std, math.exp(0.5 * float(diffusion.coefficients(k + 1).posterior_log_variance)))
            found.append(_Latent(math.exp(0.5 * log), std, finest / self.resolution))
        return found

    @property
    def drawn_bits(self) -> float:
        """The bits of an element of the latents that are drawn before the first bits come back."""
        return sum(math.log2(each.std / each.spacing * NORMAL_WIDTH) for each in self._latents[:LEAST_DRAWN])

    def push(self, stack: BitStack, levels: Tensor, conditioning: Mapping[str, Any]) -> None:
        """Code a group of images.

        Args:
            stack: takes their bits.
            levels: integers `[B, C, …]`.
            conditioning: the arguments of the model for them.
        """
        x = self.chain.scaled(levels)
        symbols: Ints = levels.reshape(-1).numpy().astype(np.int64)
        for k in range(len(self._latents)):
            q = self._given_earlier(x, k)
            latent = stack.pop(q)
            x_t = self._value(latent, k, x.shape)
            p = self.chain.step(x_t, k, conditioning)
            stack.push(self._given_later(p.mean, p.log_variance, k) if k else self.chain.law(p), symbols)
            x, symbols = x_t, latent
        stack.push(self._prior(x.numel()), symbols)

    def pop(self, stack: BitStack, shape: tuple[int, ...], conditioning: Mapping[str, Any]) -> Tensor:
        """Decode a group of images `[B, C, …]`, int64."""
        last = len(self._latents) - 1
        symbols = stack.pop(self._prior(math.prod(shape)))
        for k in range(last, -1, -1):
            x_t = self._value(symbols, k, shape)
            p = self.chain.step(x_t, k, conditioning)
            earlier = stack.pop(self._given_later(p.mean, p.log_variance, k) if k else self.chain.law(p))
            data = self.chain.scaled(torch.from_numpy(earlier)).reshape(shape)
            x = self._value(earlier, k - 1, shape) if k else data
            stack.push(self._given_earlier(x, k), symbols)
            symbols = earlier
        return torch.from_numpy(symbols).reshape(shape)

    def _value(self, symbols: Ints, k: int, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(symbols * self._latents[k].spacing).reshape(shape)

    def _half(self, k: int) -> int:
        """The greatest place on the lattice of x_{k+1}."""
        return math.ceil(EXTENT / self._latents[k].spacing)

    def _given_earlier(self, x: Tensor, k: int) -> GaussianBins:
        """q(x_{k+1} | x_k) on the lattice."""
        scale, std, spacing = self._latents[k]
        mean, std = x.reshape(-1).numpy() * (scale / spacing), std / spacing
        half = self._half(k)
        reach = min(math.ceil(WINDOW * std), half)
        low = np.clip(np.rint(mean).astype(np.int64) - reach, -half, half - 2 * reach)
        return GaussianBins.of(mean, np.full(1, std), low, 2 * reach + 1)

    def _given_later(self, mean: Tensor, log_variance: Tensor, k: int) -> GaussianBins:
        """p_θ(x_k | x_{k+1}) on the lattice."""
        spacing = self._latents[k - 1].spacing
        std = torch.exp(0.5 * log_variance).expand_as(mean).reshape(-1).numpy() / spacing
        half = self._half(k - 1)
        return GaussianBins.of(mean.reshape(-1).numpy() / spacing, std, -half, 2 * half + 1)

    def _prior(self, count: int) -> GaussianBins:
        last = len(self._latents) - 1
        half = self._half(last)
        std = np.full(count, 1 / self._latents[last].spacing)
        return GaussianBins.of(np.zeros(count), std, -half, 2 * half + 1)
