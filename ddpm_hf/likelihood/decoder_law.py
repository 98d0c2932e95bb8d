# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""p(x | z) of an autoencoder: the probability of an image's levels given the decoder's reconstruction x̂(z).

Every element of the image is independent given z. Its level has the probability of its bin under a Gaussian around the
reconstruction, as the levels of a chain have in its last step (Ho et al. 2020, Eq. 13):

    p(x | z) = Π_i ∫ over the bin of x_i of N(u; x̂_i(z), s_c²) du,    c the channel of the element i

The scale s_c is learned with the autoencoder ("optimal σ-VAE", Rybkin et al. 2021), or measured by maximum likelihood
for one that was trained without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from ..diffusion.denoiser import check_generator, randn_like
from ..diffusion.diagonal_gaussian import DiagonalGaussian
from ..diffusion.discretized_likelihood import discretized_gaussian_log_likelihood
from ..diffusion.numerics import check_num_levels, is_number, to_float64
from .batches import Batches, Progress, checked_batches
from .measurement import fixed_subset


PIXELS_OF_AN_IMAGE = 1024  # that the scale is measured on, at most
ELEMENTS_OF_A_CHANNEL = 2**18  # in all images; the scale's relative error is then about 1e-3
NARROWEST = 1 / 32  # least scale in units of the level spacing: narrower ones give the same probabilities
CANDIDATES, ROUNDS = 9, 4  # of the search for a scale; each round narrows it four times


class Autoencoding(Protocol):
    """What encodes and decodes, such as `ddpm_hf.pipelines.autoencoders.Autoencoder`."""

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z | x) of examples x `[B, …]`."""

    def decode(self, z: Tensor) -> Tensor:
        """The reconstruction x̂(z), in the shape of x."""


@dataclass(frozen=True, eq=False)
class DecoderLaw:
    """p(x | z) given the reconstruction.

    Attributes:
        log_scale: the natural logarithm of the standard deviation s_c of each of the image's C channels: C numbers, or
            in training a tensor `[C]` with a gradient.
        num_levels: number of evenly spaced levels of the images in [−1, 1].

    Raises:
        ValueError: if the scale has no finite number per channel, or `num_levels` is not an int ≥ 2.
    """

    log_scale: Sequence[float] | Tensor
    num_levels: int = 256

    def __post_init__(self) -> None:
        check_num_levels(self.num_levels)
        if self.num_levels is None:
            raise ValueError("`num_levels` of an autoencoder's images must be an int >= 2, but is None.")
        given = self.log_scale
        if isinstance(given, Tensor):
            is_good = given.ndim == 1 and len(given) > 0 and given.is_floating_point()
        else:
            is_good = isinstance(given, (list, tuple)) and len(given) > 0
            is_good = is_good and all(is_number(value) and math.isfinite(value) for value in given)
        if not is_good:
            raise ValueError(f"`log_scale` must hold one finite number per channel, but is {given!r}.")

    @property
    def scale(self) -> list[float]:
        """The standard deviation of each channel, where neighbouring levels are 2/(num_levels − 1) apart."""
        return [math.exp(value) for value in self.numbers]

    @property
    def numbers(self) -> list[float]:
        """`log_scale` as numbers, for a configuration."""
        values = self.log_scale.tolist() if isinstance(self.log_scale, Tensor) else self.log_scale
        return [float(value) for value in values]

    def log_likelihood(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """log p(x | z), nats per example, float64 `[B]`; differentiable in the reconstruction and the scale.

        Args:
            x: levels in [−1, 1], `[B, C, *anything]`.
            reconstruction: x̂(z), in the same shape.

        Raises:
            ValueError: if the shapes differ, or the number of channels is not that of the scale.
        """
        if x.shape != reconstruction.shape or x.ndim < 2:
            raise ValueError(
                f"The reconstruction must have the shape of the images, {list(x.shape)}, but has"
                f" {list(reconstruction.shape)}."
            )
        if x.shape[1] != len(self.log_scale):
            raise ValueError(
                f"The images must have {len(self.log_scale)} channels, as the decoder's scale has, but have"
                f" {x.shape[1]}."
            )
        log_scale = torch.as_tensor(self.log_scale, dtype=to_float64(reconstruction).dtype, device=x.device)
        log_variance = 2 * log_scale.reshape(-1, *[1] * (x.ndim - 2))
        law = discretized_gaussian_log_likelihood(x, reconstruction, log_variance, self.num_levels)
        return law.flatten(start_dim=1).sum(dim=1)

    @classmethod
    def fitted(cls, x: Tensor, reconstructions: Tensor, num_levels: int = 256) -> Self:
        """The law with the scale that gives these images the highest likelihood.

        Args:
            x: levels in [−1, 1], `[N, C, *anything]`.
            reconstructions: in the same shape.
        """
        channels = zip(_channels(x), _channels(reconstructions), strict=True)
        return cls([_best_log_scale(*each, num_levels) for each in channels], num_levels)


@torch.no_grad()
def measured_decoder_scale(
    autoencoder: Autoencoding,
    batches: Batches,
    *,
    num_levels: int = 256,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> DecoderLaw:
    """The decoder's scale with the highest likelihood E_q[log p(x | z)], for an autoencoder that has learned none.

    Measure it on training images. At most `PIXELS_OF_AN_IMAGE` pixels of an image are used, and at most
    `ELEMENTS_OF_A_CHANNEL` in all.

    Args:
        autoencoder: an `Autoencoder`, or anything with its `posterior` and `decode`.
        batches: images as for `bits_per_dim`; conditioning is ignored.
        num_levels: number of evenly spaced levels of the images in [−1, 1].
        generator: for z ~ q(z | x); on the device of the batches, or on the CPU.
        progress: a function that wraps the iteration over batches, such as `tqdm.tqdm`.

    Raises:
        ValueError: if there are no images, their values are not levels of the data, or the autoencoder has no
            posterior.
    """
    check_generator(generator)
    known, found = [], []
    for x, _ in checked_batches(batches, num_levels, progress):
        q = autoencoder.posterior(x)
        reconstruction = autoencoder.decode(q.sample(randn_like(q.mean, generator)))
        pixels = fixed_subset(x[0, 0].numel(), PIXELS_OF_AN_IMAGE).to(x.device)
        known.append(x.flatten(start_dim=2)[..., pixels].cpu())
        found.append(reconstruction.flatten(start_dim=2)[..., pixels].cpu())
    if not known:
        raise ValueError("`batches` holds no examples.")
    images, reconstructions = (torch.cat([_columns(part) for part in parts]) for parts in (known, found))  # [N, C]
    some = fixed_subset(len(images), ELEMENTS_OF_A_CHANNEL)
    return DecoderLaw.fitted(images[some], reconstructions[some], num_levels)


def _columns(x: Tensor) -> Tensor:
    """Elements `[B, C, n]` with a column for each channel, `[B n, C]`."""
    return x.transpose(1, 2).flatten(end_dim=1)


def _channels(x: Tensor) -> list[Tensor]:
    """The elements of each channel, float64 `[N]`."""
    return [to_float64(channel).flatten() for channel in x.unbind(dim=1)]


def _best_log_scale(x: Tensor, reconstruction: Tensor, num_levels: int) -> float:
    """The logarithm of the scale at which levels `[N]` have the highest likelihood.

    It starts from the root mean square error, above which the best scale cannot lie by much, and ends with the vertex
    of the parabola through the best candidate and its neighbours.
    """
    spacing = 2 / (num_levels - 1)
    error = (x - reconstruction.clamp(-1, 1)).square().mean().sqrt().item()
    low, high = math.log(NARROWEST * spacing), math.log(max(error, spacing)) + 1
    for _ in range(ROUNDS):
        candidates = torch.linspace(low, high, CANDIDATES, dtype=x.dtype, device=x.device)
        costs = torch.stack([_cost(x, reconstruction, candidate, num_levels) for candidate in candidates])
        best = min(max(int(costs.argmin()), 1), CANDIDATES - 2)
        low, high = candidates[best - 1].item(), candidates[best + 1].item()
    left, least, right = costs[best - 1 : best + 2]
    bend = left - 2 * least + right
    shift = (0.5 * (left - right) / bend).clamp(-1, 1) if bend > 0 else torch.zeros_like(bend)
    return (candidates[best] + shift * (candidates[1] - candidates[0])).item()


def _cost(x: Tensor, reconstruction: Tensor, log_scale: Tensor, num_levels: int) -> Tensor:
    return -discretized_gaussian_log_likelihood(x, reconstruction, 2 * log_scale, num_levels).mean()
