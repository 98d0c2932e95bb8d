# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The evidence lower bound of an autoencoder (Kingma & Welling 2014, Eq. 3), in bits per dimension of the image.

    −log p(x) ≤ E_q[−log p(x | z)] + KL(q(z | x) ‖ N(0, 1)),    z ~ q(z | x)

The first term is the cost of the image given its latents, the second that of the latents. A latent diffusion replaces
N(0, 1) by a model of its own; see `latents`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.denoiser import check_generator, randn_like
from ..diffusion.diagonal_gaussian import DiagonalGaussian
from ..diffusion.numerics import nats_to_bits, standard_error
from .batches import Batches, Progress, checked_batches
from .latents import LatentModel
from .summary import Summary, pooled_mean, pooled_means


COLLAPSED = 0.01 * math.log(2)  # nats per image: a channel of a lower KL tells the decoder nothing
EXPLODED = 20.0  # nats per element: as if its posterior were 10⁻⁹ of the prior wide, as no images need


@dataclass(frozen=True, repr=False)
class ElboBits(Summary):
    """The evidence lower bound over a data set. All figures are in bits/dim, except where they say otherwise.

    Attributes:
        total: reconstruction + kl, an upper bound on the mean negative log-likelihood.
        reconstruction: E_q[−log p(x | z)], from one draw of z per image.
        kl: KL(q(z | x) ‖ N(0, 1)).
        kl_by_channel: the KL of each channel of the latents, nats per image.
        standard_error: standard error of `total` for the population that the images were drawn from.
        per_example: the bound of each image, in order; their mean is `total`.
        num_examples: number of images scored.
    """

    total: float
    reconstruction: float
    kl: float
    kl_by_channel: list[float]
    standard_error: float
    per_example: list[float]
    num_examples: int

    HEADLINES = ("total", "standard_error", "num_examples")

    def __str__(self) -> str:
        return f"{self.first_line}\n= reconstruction {self.reconstruction:.4f} + KL {self.kl:.4f}\n{self.last_line}"

    @property
    def num_model_evaluations(self) -> int:
        """The number of images that the autoencoder was called for."""
        return self.num_examples

    @classmethod
    def of(cls, nats: Tensor, kl_by_channel: Tensor, dimensions: int) -> ElboBits:
        """The bound of B images.

        Args:
            nats: −log p(x | z) of each image, `[B]`.
            kl_by_channel: `[B, C]`, nats, as `DiagonalGaussian.kl_by_channel` returns it.
            dimensions: of an image.
        """
        reconstruction = nats_to_bits(nats.double() / dimensions).cpu()
        kl = nats_to_bits(kl_by_channel.double().sum(dim=1) / dimensions).cpu()
        each = reconstruction + kl
        return cls(
            total=each.mean().item(),
            reconstruction=reconstruction.mean().item(),
            kl=kl.mean().item(),
            kl_by_channel=kl_by_channel.double().mean(dim=0).tolist(),
            standard_error=standard_error(each),
            per_example=each.tolist(),
            num_examples=len(each),
        )

    @classmethod
    def merged(cls, parts: Sequence[ElboBits]) -> ElboBits:
        """The bound over several sets of images together.

        Raises:
            ValueError: for no parts.
        """
        if not parts:
            raise ValueError("`parts` must be at least one bound.")
        per_example = [value for part in parts for value in part.per_example]
        return cls(
            total=pooled_mean(parts, (part.total for part in parts)),
            reconstruction=pooled_mean(parts, (part.reconstruction for part in parts)),
            kl=pooled_mean(parts, (part.kl for part in parts)),
            kl_by_channel=pooled_means(parts, [part.kl_by_channel for part in parts]),
            standard_error=standard_error(torch.tensor(per_example, dtype=torch.float64, device="cpu")),
            per_example=per_example,
            num_examples=len(per_example),
        )


def channels_of_note(kl_by_channel: Sequence[float], elements: int) -> tuple[list[int], list[int]]:
    """The channels of the latents that have collapsed to the prior, and those that have exploded.

    Args:
        kl_by_channel: nats per image.
        elements: the number of a channel's elements.
    """
    collapsed = [k for k, nats in enumerate(kl_by_channel) if nats < COLLAPSED]
    return collapsed, [k for k, nats in enumerate(kl_by_channel) if nats > EXPLODED * elements]


@torch.no_grad()
def elbo_bits_per_dim(
    autoencoder: LatentModel,
    batches: Batches,
    *,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> ElboBits:
    """The evidence lower bound of an autoencoder over images, in bits/dim, with N(0, 1) as the model of its latents.

    The latents are those that `Autoencoder` gives, shifted and scaled.

    Args:
        autoencoder: an `Autoencoder` whose configuration has a law p(x | z).
        batches: images as for `bits_per_dim`; conditioning is ignored.
        generator: for z ~ q(z | x); on the device of the batches, or on the CPU.
        progress: a function that wraps the iteration over batches, such as `tqdm.tqdm`.

    Raises:
        ValueError: if there are no images, their values are not levels of the data, or the autoencoder has no
            posterior or no law.
    """
    check_generator(generator)
    parts = []
    for x, _ in checked_batches(batches, autoencoder.num_levels, progress):
        q: DiagonalGaussian = autoencoder.posterior(x)
        nats = -autoencoder.log_likelihood(x, q.sample(randn_like(q.mean, generator)))
        parts.append(ElboBits.of(nats, q.kl_by_channel(), x[0].numel()))
    if not parts:
        raise ValueError("`batches` holds no examples.")
    return ElboBits.merged(parts)
