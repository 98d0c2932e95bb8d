# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""p(x | z) of an autoencoder: the probability of an image's levels given the decoder's reconstruction x̂(z).

Every element of the image is independent given z. Its level has the probability of its bin under a Gaussian around the
reconstruction, as the levels of a chain have in its last step (Ho et al. 2020, Eq. 13):

    p(x | z) = Π_i ∫ over the bin of x_i of N(u; x̂_i(z), s_c²) du,    c the channel of the element i

The scale s_c is learned with the autoencoder ("optimal σ-VAE", Rybkin et al. 2021), or measured by maximum likelihood
for one that was trained without it.

The errors of a decoder are not of one size: they are tiny in a flat area and large at an edge, in all channels alike.
A mixture of K laws around the same reconstruction knows this: given z, every pixel p is drawn from one of them,

    p(x | z) = Π_p Σ_k π_k Π_c P(x_pc; x̂_pc(z), s_kc)

where P is the probability of a bin under a Gaussian, or under the logistic distribution (Salimans et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from ..diffusion.denoiser import check_generator, randn_like
from ..diffusion.diagonal_gaussian import DiagonalGaussian
from ..diffusion.discretized_likelihood import discretized_gaussian_log_likelihood
from ..diffusion.discretized_logistic import discretized_logistic_log_likelihood
from ..diffusion.gaussian_process import unknown
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


def _gaussian(x: Tensor, mean: Tensor, log_scale: Tensor, num_levels: int) -> Tensor:
    return discretized_gaussian_log_likelihood(x, mean, 2 * log_scale, num_levels)


GAUSSIAN, LOGISTIC = "gaussian", "logistic"
BINS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    GAUSSIAN: _gaussian,
    LOGISTIC: discretized_logistic_log_likelihood,
}
FAMILIES = tuple(BINS)
STANDARD_DEVIATION = {GAUSSIAN: 1.0, LOGISTIC: math.pi / math.sqrt(3)}  # where the scale is 1


@dataclass(frozen=True, eq=False)
class DecoderLaw:
    """p(x | z) given the reconstruction.

    Attributes:
        log_scale: the natural logarithm of the scale s of each of the image's C channels: C numbers, or in training a
            tensor `[C]` with a gradient. For a mixture of K components, K rows of C numbers, or a tensor `[K, C]`.
        num_levels: number of evenly spaced levels of the images in [−1, 1].
        log_weight: of a mixture: the logarithms of the components' weights, but for a constant; K numbers or a tensor
            `[K]`. None for a single component.
        family: "gaussian", whose scale is the standard deviation, or "logistic".

    Raises:
        ValueError: if scale or weights have no finite number per channel and component, `num_levels` is not an
            int ≥ 2, or the family is unknown.
    """

    log_scale: Sequence[float] | Sequence[Sequence[float]] | Tensor
    num_levels: int = 256
    log_weight: Sequence[float] | Tensor | None = None
    family: str = GAUSSIAN

    def __post_init__(self) -> None:
        check_num_levels(self.num_levels)
        if self.num_levels is None:
            raise ValueError("`num_levels` of an autoencoder's images must be an int >= 2, but is None.")
        if self.family not in FAMILIES:
            raise ValueError(unknown("family", self.family, FAMILIES))
        if self.log_weight is None:
            if not _are_numbers(self.log_scale):
                raise ValueError(f"`log_scale` must hold one finite number per channel, but is {self.log_scale!r}.")
            return
        rows: list[Any] = list(self.log_scale) if isinstance(self.log_scale, (list, tuple, Tensor)) else []
        if not rows or not all(_are_numbers(row) for row in rows) or len({len(row) for row in rows}) != 1:
            raise ValueError(
                f"`log_scale` must hold one finite number per channel for each component, but is {self.log_scale!r}."
            )
        if not _are_numbers(self.log_weight) or len(self.log_weight) != len(rows):
            raise ValueError(
                f"`log_weight` must hold one finite number for each of {len(rows)} components, but is"
                f" {self.log_weight!r}."
            )

    @property
    def num_components(self) -> int:
        """The number of laws that are mixed; 1 for a single one."""
        return 1 if self.log_weight is None else len(self.log_weight)

    @property
    def num_channels(self) -> int:
        """The number of channels of the images."""
        return torch.as_tensor(self.log_scale).shape[-1]

    @property
    def scale(self) -> list[float]:
        """The standard deviation of each channel, where neighbouring levels are 2/(num_levels − 1) apart."""
        log_scale, log_weight = self._tensors(torch.float64, torch.device("cpu"))
        log_variance = torch.logsumexp(log_weight[:, None] + 2 * log_scale, dim=0).tolist()
        return [STANDARD_DEVIATION[self.family] * math.exp(0.5 * each) for each in log_variance]

    @property
    def numbers(self) -> list[float] | list[list[float]]:
        """`log_scale` as numbers, for a configuration."""
        return _as_numbers(self.log_scale)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments as numbers and text, for a configuration; those of a single Gaussian are left out."""
        kept: dict[str, Any] = {"log_scale": self.numbers, "num_levels": self.num_levels}
        if self.log_weight is not None:
            kept["log_weight"] = _as_numbers(self.log_weight)
        return kept if self.family == GAUSSIAN else kept | {"family": self.family}

    def log_likelihood(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """log p(x | z), nats per example, float64 `[B]`; differentiable in the reconstruction, the scale and weights.

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
        if x.shape[1] != self.num_channels:
            raise ValueError(
                f"The images must have {self.num_channels} channels, as the decoder's scale has, but have"
                f" {x.shape[1]}."
            )
        log_scale, log_weight = self._tensors(to_float64(reconstruction).dtype, x.device)
        log_scale = log_scale.reshape(self.num_components, 1, -1, *[1] * (x.ndim - 2))
        of_elements = BINS[self.family](x, reconstruction, log_scale, self.num_levels)  # [K, B, C, …]
        if self.num_components == 1:
            return of_elements[0].flatten(start_dim=1).sum(dim=1)
        of_pixels = of_elements.sum(dim=2).reshape(self.num_components, len(x), -1)
        return torch.logsumexp(of_pixels + log_weight[:, None, None], dim=0).sum(dim=1)

    def _tensors(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """The logarithms of the scales, `[K, C]`, and of the weights, `[K]`, whose sum is 1."""
        log_scale = torch.as_tensor(self.log_scale, dtype=dtype, device=device)
        if self.log_weight is None:
            return log_scale[None], torch.zeros(1, dtype=dtype, device=device)
        log_weight = torch.as_tensor(self.log_weight, dtype=dtype, device=device)
        return log_scale, torch.log_softmax(log_weight, dim=0)

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


def _are_numbers(given: Any) -> bool:
    """Whether there is at least one number, in a row, and all are finite."""
    if isinstance(given, Tensor):
        return given.ndim == 1 and len(given) > 0 and given.is_floating_point()
    if not isinstance(given, (list, tuple)):
        return False
    return len(given) > 0 and all(is_number(value) and math.isfinite(value) for value in given)


def _as_numbers(given: Any) -> Any:
    """Numbers, or rows of them, as floats in lists."""
    values = given.tolist() if isinstance(given, Tensor) else given
    return [_as_numbers(each) if isinstance(each, (list, tuple)) else float(each) for each in values]


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
