# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
r"""Progressive coding of one image: reverse channel coding down the chain, then the levels by the decoder's law.

Ho et al. (2020, section 4.3, Algorithms 3 and 4) state the rate of this code. Here samples of the posterior are sent:

    x ← shared noise
    for k = K … 2:    p = p_θ(x_{k−1} | x_k), known to both;  the sender sends a sample of q(x_{k−1} | x_k, x_0)
    x_0 is sent under p_θ(x_0 | x_1), level by level

Each step goes in chunks of elements in a shared random order, with about `chunk_bits` expected bits each; they follow
from the variances, ½ log₂(σ²/β̃) for an element. After every step both sides know x̂_0, so any prefix is an image.

A chunk costs 2 to 3 bits more than its KL. `coding_times` adds them to the cost of every step: a chain then takes
fewer steps, and leaves more to the decoder, which has no such overhead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..diffusion.denoising_errors import DenoisingErrors, step_costs
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.noise_schedule import NoiseSchedule
from ..diffusion.numerics import LOG_2
from ..diffusion.reverse_process import ReverseStep
from ..diffusion.reverse_variances import FIXED_VARIANCE_TYPES
from ..diffusion.timestep_spacing import optimal_times
from .distributions import Distribution, GaussianBins, Ints, uniform_digits
from .entropy_coders import Exhausted
from .exact_chain import ExactChain
from .reverse_channel import MOST_BITS, Chunk, Target, pad_of
from .shared_noise import SharedNoise


LEAST_CHUNK_BITS, MOST_CHUNK_BITS = 4, 8
WORK_BITS = 25.5  # log₂ of the numbers that are searched in a step, at most: some .2 s
MOST_STEPS = 100
LEAST_LOG_RATIO = 2.0**-9  # of σ² to β̃: below it the density ratio has no bound
SHARE_BITS = 16  # of expected bits, rounded
ORDER = 2**30  # the stream of a step that orders its elements

Write = Callable[[Distribution, Ints], None]
ReadSymbols = Callable[[Distribution], Ints]


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        levels: integers `[1, C, …]`.
        is_exact: whether it is the image that was coded; otherwise its approximation from a prefix.
    """

    levels: Tensor
    is_exact: bool


def chunk_bits_of(dimensions: int) -> int:
    """The expected bits C of a chunk of images with D elements, 4 … 8.

    Longer chunks have less overhead in all. To search a step takes D · 2^(C + pad) numbers.
    """
    choices = range(MOST_CHUNK_BITS, LEAST_CHUNK_BITS, -1)
    affordable = (bits for bits in choices if bits + pad_of(bits) + math.log2(dimensions) <= WORK_BITS)
    return next(affordable, LEAST_CHUNK_BITS)


def progressive_diffusion(diffusion: GaussianDiffusion, dimensions: int, chunk_bits: int) -> GaussianDiffusion:
    """The diffusion with the times, and for fixed variances with the variance, that serve progressive coding best.

    Raises:
        ValueError: if the model's errors have not been measured, or its variance holds for neighbouring times only.
    """
    errors = diffusion.denoising_errors
    if errors is None:
        raise ValueError("Progressive coding needs the model's `denoising_errors`; `ddpm-hf measure` measures them.")
    if diffusion.learns_of_neighbours:
        raise ValueError("Progressive coding skips times, and the variance_type 'learned' holds for neighbours only.")
    times = coding_times(diffusion.schedule, errors, dimensions, chunk_bits)
    is_fixed = diffusion.variance_type in FIXED_VARIANCE_TYPES
    chain = dataclasses.replace(diffusion, times=times)
    return dataclasses.replace(chain, variance_type="optimal", first_variance=None) if is_fixed else chain


def coding_times(schedule: NoiseSchedule, errors: DenoisingErrors, dimensions: int, chunk_bits: int) -> list[int]:
    """The times of the chain with the least expected length of a progressive code, ascending.

    Args:
        schedule: the noise schedule.
        errors: the model's errors.
        dimensions: the number of elements of an image.
        chunk_bits: expected bits of a chunk.
    """
    bits = step_costs(schedule, errors) * (dimensions / LOG_2)
    chunks = torch.ceil(bits / chunk_bits).clamp(min=1)
    # The overhead of a chunk by its expected bits, as simulated.
    overhead = chunks * (1.5 + 0.3 * bits / chunks).clamp(max=2.8)
    overhead[0] = 0.0  # the decoder has none
    return optimal_times(bits + overhead, min(MOST_STEPS, schedule.T), at_most=True)


@dataclass(frozen=True, eq=False)
class Progressive:
    """Codes one image at a time.

    Args:
        chain: the model along the chain of `progressive_diffusion`.
        chunk_bits: expected bits of a chunk.
    """

    chain: ExactChain
    chunk_bits: int

    def write(self, write: Write, levels: Tensor, conditioning: Mapping[str, Any], noise: SharedNoise) -> None:
        """Code an image.

        Args:
            write: takes each distribution and its symbols.
            levels: integers `[1, C, …]`.
            conditioning: the arguments of the model for it.
            noise: what both sides share.
        """
        x_0, x = self.chain.scaled(levels), self._first(levels.shape, noise)
        for index in range(self._last, 0, -1):
            p = self.chain.step(x, index, conditioning)
            step = _Step(self, p, index, noise)
            row = self.chain.diffusion.coefficients(index)
            mean = (row.mean_coef_x0 * x_0 + row.mean_coef_xt * x).reshape(-1)
            z = torch.empty_like(mean)
            for number, elements in enumerate(step.chunks):
                target = Target((mean[elements] - step.mean[elements]) / step.std[elements], step.log_ratio[elements])
                chunk = Chunk(noise, index, number, len(elements))
                chosen = chunk.choose(target)
                _write_index(write, chosen, step.bits_of(elements))
                z[elements] = chunk.candidate(chosen)
            x = step.next(z)
        p = self.chain.step(x, 0, conditioning)
        write(self.chain.law(p), levels.reshape(-1).numpy().astype(np.int64))

    def read(
        self,
        read: ReadSymbols,
        shape: tuple[int, ...],
        conditioning: Mapping[str, Any],
        noise: SharedNoise,
        watch: Callable[[Tensor], None] | None = None,
    ) -> Decoded:
        """Decode an image, or what is known of it where `read` raises `Exhausted`.

        Args:
            read: returns the symbols of each distribution.
            shape: `[1, C, …]`.
            conditioning, noise: as in `write`.
            watch: is given x̂_0 before every step, in [−1, 1], and the image at last.
        """
        watch = watch or (lambda estimate: None)
        x = self._first(shape, noise)
        for index in range(self._last, 0, -1):
            p = self.chain.step(x, index, conditioning)
            watch(p.pred_original_sample)
            step = _Step(self, p, index, noise)
            z = torch.empty(x.numel(), dtype=torch.float64)
            try:
                for number, elements in enumerate(step.chunks):
                    chosen = _read_index(read, step.bits_of(elements))
                    z[elements] = Chunk(noise, index, number, len(elements)).candidate(chosen)
            except Exhausted:
                return self._partly(p.pred_original_sample)
            x = step.next(z)
        p = self.chain.step(x, 0, conditioning)
        watch(p.mean)
        try:
            levels = torch.from_numpy(read(self.chain.law(p))).reshape(shape)
        except Exhausted as end:
            return self._partly(p.mean, end.known)
        watch(self.chain.scaled(levels))
        return Decoded(levels, is_exact=True)

    def read_prefixes(
        self,
        reads: Sequence[ReadSymbols],
        shape: tuple[int, ...],
        conditioning: Mapping[str, Any],
        noise: SharedNoise,
    ) -> list[Decoded]:
        """What `read` returns for each of some prefixes of one code, in one pass along the chain.

        Args:
            reads: return the symbols of each distribution, from the longest prefix first.
            shape, conditioning, noise: as in `read`.
        """
        longest, *others = reads
        found: dict[int, Decoded] = {}
        estimates: list[Tensor] = []

        def read(distribution: Distribution) -> Ints:
            for place, read_other in enumerate(others):
                if place not in found:
                    try:
                        read_other(distribution)
                    except Exhausted as end:  # of an index nothing is known, of the levels perhaps the first
                        found[place] = self._partly(estimates[-1], end.known)
            return longest(distribution)

        whole = self.read(read, shape, conditioning, noise, watch=estimates.append)
        return [whole, *(found.get(place, whole) for place in range(len(others)))]

    @property
    def _last(self) -> int:
        return len(self.chain.diffusion.times) - 1

    def _first(self, shape: tuple[int, ...], noise: SharedNoise) -> Tensor:
        return noise.normals(len(self.chain.diffusion.times), 0, 0, math.prod(shape)).reshape(shape)

    def _partly(self, x_0: Tensor, known: Ints | None = None) -> Decoded:
        """The levels nearest to an estimate in [−1, 1], but for the first ones, which may be known."""
        top = self.chain.num_levels - 1
        levels = torch.round((x_0 + 1) / 2 * top).clamp(0, top).long()
        if known is not None:
            levels.view(-1)[: len(known)] = torch.from_numpy(known)
        return Decoded(levels, is_exact=False)


class _Step:
    """A reverse step, cut into chunks, as both sides know it.

    Attributes:
        mean, std: of p, float64 `[D]`.
        log_ratio: log β̃/σ², `[D]`.
        chunks: the elements of each chunk, int64.
    """

    def __init__(self, code: Progressive, p: ReverseStep, index: int, noise: SharedNoise):
        posterior = float(code.chain.diffusion.coefficients(index).posterior_log_variance)
        log_variance = p.log_variance.expand_as(p.mean).clamp(min=posterior + LEAST_LOG_RATIO)
        self._shape = p.mean.shape
        self.mean, self.std = p.mean.reshape(-1), torch.exp(0.5 * log_variance).reshape(-1)
        self.log_ratio = (posterior - log_variance).reshape(-1)
        # From here on integers, so that both sides cut at the same places.
        self._shares = torch.round(self.log_ratio * (-0.5 / LOG_2 * 2**SHARE_BITS)).long().numpy()
        order = noise.permutation(index, ORDER, len(self._shares))
        self.chunks = [torch.from_numpy(each) for each in _cut(order, self._shares, code.chunk_bits << SHARE_BITS)]

    def bits_of(self, elements: Tensor) -> float:
        """The expected bits of a chunk."""
        return float(self._shares[elements.numpy()].sum()) / 2**SHARE_BITS

    def next(self, z: Tensor) -> Tensor:
        return (self.mean + self.std * z).reshape(self._shape)


def _cut(order: Ints, shares: Ints, most: int) -> list[Ints]:
    """The elements in this order, cut into parts with about equal sums of shares, each about `most`."""
    total = int(shares.sum())
    parts = max(1, (2 * total + most) // (2 * most))
    ends = np.cumsum(shares[order])
    part = (2 * ends - shares[order]) * parts // (2 * total)
    return [each for each in np.split(order, np.flatnonzero(np.diff(part)) + 1) if len(each)]


def _magnitudes(bits: float) -> GaussianBins:
    """floor(log₂(index + 1)) of a chunk with so many expected bits, as simulated."""
    mean, std = 1.15 * bits - 2.5, min(1.8 + 0.5 * bits, 5.0)  # before what lies below 0 is cut off
    return GaussianBins.of(np.array([mean]), np.array([std]), 0, MOST_BITS + 1)


def _write_index(write: Write, index: int, bits: float) -> None:
    magnitude = (index + 1).bit_length() - 1
    write(_magnitudes(bits), np.array([magnitude]))
    rest, digits = index + 1 - (1 << magnitude), uniform_digits(magnitude)
    for place, digit in enumerate(digits):
        below = sum(each.size.bit_length() - 1 for each in digits[place + 1 :])
        write(digit, np.array([rest >> below & digit.size - 1]))


def _read_index(read: ReadSymbols, bits: float) -> int:
    magnitude, rest = int(read(_magnitudes(bits))[0]), 0
    for digit in uniform_digits(magnitude):
        rest = rest * digit.size + int(read(digit)[0])
    return (1 << magnitude) + rest - 1
