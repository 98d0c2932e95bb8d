# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The likelihood of images by a diffusion of their embeddings, and one of images given an embedding (DALL-E 2).

An encoder of images has embeddings e(x), and q(z | x) = N(e(x), s² I): a density is finite only with such noise. A
diffusion is the prior p(z | c) of embeddings, given text c, and another one is the decoder p(x | z, c). This is the
bound of latents, in which p(x | z) is a diffusion itself:

    −log p(x | c) ≤ E_q[−log p(x | z, c)] − H(q(z | x)) + E_q[−log p(z | c)]

and the bounds of the two diffusions take the places of −log p(x | z, c) and −log p(z | c) (Ramesh et al. 2022, section
2, whose q(z | x) is a point, and has no likelihood).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser, check_generator
from ..diffusion.diagonal_gaussian import DiagonalGaussian
from ..diffusion.gaussian_diffusion import DiffusionSource, diffusion_of
from .batches import Batches, Progress, checked_batches
from .importance_weighting import ImportanceWeightedBits, bits_of_weights, log_path_weights
from .latents import LatentBitsPerDim, latent_bits_per_dim, latent_log_weights
from .variational import bits_per_dim


LOG_2 = math.log(2.0)
Conditioning = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """Embeddings of images, and their prior: what there is beside the decoder.

    Attributes:
        posterior: posterior(x) -> q(z | x) of images `[B, *anything]`; z `[B, D]`.
        prior: the diffusion's model of z, `prior(z_t, timesteps, **conditioning)`.
        prior_scheduler: its process; z is continuous, whatever its `num_levels`.
        of_decoder: of_decoder(z, conditioning) -> the decoder's arguments, from those of the batch.
        of_prior: of_prior(conditioning) -> the prior's arguments, from those of the batch.
    """

    posterior: Callable[[Tensor], DiagonalGaussian]
    prior: Denoiser
    prior_scheduler: DiffusionSource
    of_decoder: Callable[[Tensor, Conditioning], Conditioning]
    of_prior: Callable[[Conditioning], Conditioning]


@dataclass(eq=False)
class DiffusionDecoder:
    """p(x | z) by a diffusion of x, which is given z: a `LatentModel` for `latent_bits_per_dim`.

    Attributes:
        posterior: q(z | x), as in `EmbeddingModel`.
        denoise: the diffusion's model of x.
        scheduler: its process.
        given: given(z) -> further arguments of `denoise`, such as `{"class_labels": z}`.
        num_evaluations: as for `bits_per_dim`.
        by_paths: whether `log_likelihood` is the log-weight of one path, as importance-weighted bounds need it: the
            expectation of its exponential is p(x | z). Otherwise it is minus the variational bound.
        generator: for the noise and the times.
        num_model_evaluations: number of calls of `denoise` so far, counted for each example.
    """

    posterior: Callable[[Tensor], DiagonalGaussian]
    denoise: Denoiser
    scheduler: DiffusionSource
    given: Callable[[Tensor], Conditioning]
    num_evaluations: int | None = None
    by_paths: bool = False
    generator: torch.Generator | None = None
    num_model_evaluations: int = 0

    @property
    def num_levels(self) -> int | None:
        """Number of levels of x; None if p(x | z) is a density."""
        return diffusion_of(self.scheduler).num_levels

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """A lower bound on log p(x | z), or the log-weight of a path; nats per example, float64 `[B]`."""
        if self.by_paths:
            return log_path_weights(self.denoise, self.scheduler, x, self.given(z), generator=self.generator)
        count = partial(bits_per_dim, num_evaluations=self.num_evaluations, generator=self.generator)
        bound = count(self.denoise, self.scheduler, [(x, self.given(z))])
        self.num_model_evaluations += bound.num_model_evaluations
        return -LOG_2 * x[0].numel() * torch.tensor(bound.per_example, dtype=torch.float64, device=x.device)


@torch.no_grad()
def unclip_bits_per_dim(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    batches: Batches,
    embedding: EmbeddingModel,
    *,
    num_evaluations: int | None = None,
    prior_num_evaluations: int | None = None,
    num_latents: int = 1,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> LatentBitsPerDim:
    """The bound of images by a decoder and a prior of embeddings, in bits per dimension of the images.

    Of the result, `reconstruction` is the decoder's bound on −log p(x | z, c), and `posterior_entropy` and `latent`
    together are the bits of the embedding, given the text.

    Args:
        denoise: the decoder, as for `bits_per_dim`.
        scheduler: its process.
        batches: images `[B, *anything]` in [−1, 1], with their conditioning, from which `embedding` takes the
            arguments of decoder and prior.
        embedding: q(z | x) and the prior.
        num_evaluations, prior_num_evaluations: of the decoder and of the prior, as for `bits_per_dim`.
        num_latents, generator, progress: as for `latent_bits_per_dim`.

    Raises:
        ValueError: as `latent_bits_per_dim`.
    """
    check_generator(generator)
    parts = []
    for x, conditioning in checked_batches(batches, diffusion_of(scheduler).num_levels, progress):
        decoder = _decoder(denoise, scheduler, embedding, conditioning, num_evaluations, generator=generator)
        bound = latent_bits_per_dim(
            embedding.prior,
            embedding.prior_scheduler,
            [(x, embedding.of_prior(conditioning))],
            decoder,
            num_evaluations=prior_num_evaluations,
            num_latents=num_latents,
            generator=generator,
        )
        calls = bound.num_model_evaluations + decoder.num_model_evaluations
        parts.append(dataclasses.replace(bound, num_model_evaluations=calls))
    if not parts:
        raise ValueError("`batches` holds no examples.")
    return LatentBitsPerDim.merged(parts)


@torch.no_grad()
def unclip_importance_weighted_bits_per_dim(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    batches: Batches,
    embedding: EmbeddingModel,
    *,
    num_paths: int = 8,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> ImportanceWeightedBits:
    """The importance-weighted bound, tighter than `unclip_bits_per_dim` (Burda et al. 2016).

    Every path has an embedding of its own, a path of the prior, and one of the decoder.

    Args:
        denoise, scheduler, batches, embedding: as for `unclip_bits_per_dim`.
        num_paths, generator, progress: as for `importance_weighted_bits_per_dim`.

    Raises:
        ValueError: as `latent_importance_weighted_bits_per_dim`.
    """
    check_generator(generator)
    diffusion = diffusion_of(scheduler)

    def log_weights(x: Tensor, conditioning: Conditioning) -> Tensor:
        decoder = _decoder(denoise, scheduler, embedding, conditioning, by_paths=True, generator=generator)
        of_prior = embedding.of_prior(conditioning)
        prior = (embedding.prior, embedding.prior_scheduler)
        return latent_log_weights(*prior, x, decoder, of_prior, generator=generator)

    checked = checked_batches(batches, diffusion.num_levels, progress)
    calls = len(diffusion.times) + len(diffusion_of(embedding.prior_scheduler).times)
    return bits_of_weights(log_weights, checked, num_paths, calls)


def _decoder(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    embedding: EmbeddingModel,
    conditioning: Conditioning,
    num_evaluations: int | None = None,
    by_paths: bool = False,
    generator: torch.Generator | None = None,
) -> DiffusionDecoder:
    """The decoder of a batch with this conditioning."""

    def given(z: Tensor) -> Conditioning:
        return embedding.of_decoder(z, conditioning)

    return DiffusionDecoder(embedding.posterior, denoise, scheduler, given, num_evaluations, by_paths, generator)
