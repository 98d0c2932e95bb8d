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
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser, check_generator
from ..diffusion.diagonal_gaussian import DiagonalGaussian
from ..diffusion.gaussian_diffusion import DiffusionSource, diffusion_of
from .batches import Batches, Progress, checked_batches
from .importance_weighting import ImportanceWeightedBits, bits_of_weights, log_path_weights
from .latent_ode import LatentOdeBitsPerDim, latent_ode_bits_per_dim
from .latents import LatentBitsPerDim, latent_bits_per_dim, latent_log_weights
from .ode import ode_bits_per_dim
from .summary import Summary
from .variational import bits_per_dim


LOG_2 = math.log(2.0)
Conditioning = Mapping[str, Any]
Estimate = Callable[[Tensor, Conditioning], tuple[Tensor, int]]
"""estimate(x, conditioning) -> log p(x | conditioning) of each example, nats, float64 `[B]`; and the model calls,
counted for each example."""


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
        num_levels: number of levels of x; None if p(x | z) is a density.
        given: given(z) -> the diffusion's arguments, such as `{"class_labels": z}`.
        estimate: log p(x | z) or what stands for it, by `by_bound`, `by_path` or `by_ode`.
        num_model_evaluations: number of calls of the diffusion's model so far, counted for each example.
    """

    posterior: Callable[[Tensor], DiagonalGaussian]
    num_levels: int | None
    given: Callable[[Tensor], Conditioning]
    estimate: Estimate
    num_model_evaluations: int = 0

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """The estimate, nats per example, float64 `[B]`."""
        found, calls = self.estimate(x, self.given(z))
        self.num_model_evaluations += calls
        return found


def by_bound(denoise: Denoiser, scheduler: DiffusionSource, **options: Any) -> Estimate:
    """Minus the variational bound; arguments as for `bits_per_dim`."""
    return _by(bits_per_dim, denoise, scheduler, **options)


def by_path(denoise: Denoiser, scheduler: DiffusionSource, generator: torch.Generator | None = None) -> Estimate:
    """The log-weight of one path, as importance-weighted bounds need it: its exponential has the expectation p(x)."""
    steps = len(diffusion_of(scheduler).times)

    def estimate(x: Tensor, conditioning: Conditioning) -> tuple[Tensor, int]:
        return log_path_weights(denoise, scheduler, x, conditioning, generator=generator), steps * len(x)

    return estimate


def by_ode(denoise: Denoiser, scheduler: DiffusionSource, **options: Any) -> Estimate:
    """The density of the probability-flow ODE, of discrete data dequantised; arguments as for `ode_bits_per_dim`."""
    return _by(ode_bits_per_dim, denoise, scheduler, **options)


def _by(count: Callable[..., Summary], denoise: Denoiser, scheduler: DiffusionSource, **options: Any) -> Estimate:
    """The log-likelihood from the bits/dim that `count` finds."""

    def estimate(x: Tensor, conditioning: Conditioning) -> tuple[Tensor, int]:
        found = count(denoise, scheduler, [(x, conditioning)], **options)
        bits = torch.tensor(found.per_example, dtype=torch.float64, device=x.device)
        return -LOG_2 * x[0].numel() * bits, found.num_model_evaluations

    return estimate


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
        estimate = by_bound(denoise, scheduler, num_evaluations=num_evaluations, generator=generator)
        decoder = _decoder(embedding, conditioning, scheduler, estimate)
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
        decoder = _decoder(embedding, conditioning, scheduler, by_path(denoise, scheduler, generator))
        of_prior = embedding.of_prior(conditioning)
        prior = (embedding.prior, embedding.prior_scheduler)
        return latent_log_weights(*prior, x, decoder, of_prior, generator=generator)

    checked = checked_batches(batches, diffusion.num_levels, progress)
    calls = len(diffusion.times) + len(diffusion_of(embedding.prior_scheduler).times)
    return bits_of_weights(log_weights, checked, num_paths, calls)


@torch.no_grad()
def unclip_ode_bits_per_dim(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    batches: Batches,
    embedding: EmbeddingModel,
    *,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> LatentOdeBitsPerDim:
    """The bound with the densities of the probability-flow ODEs of decoder and prior.

    Args:
        denoise, scheduler, batches, embedding: as for `unclip_bits_per_dim`.
        generator, progress, options: as for `latent_ode_bits_per_dim`; both ODEs are solved in the same way.

    Raises:
        ValueError: as `latent_ode_bits_per_dim`.
    """
    check_generator(generator)
    parts = []
    for x, conditioning in checked_batches(batches, diffusion_of(scheduler).num_levels, progress):
        estimate = by_ode(denoise, scheduler, generator=generator, **options)
        decoder = _decoder(embedding, conditioning, scheduler, estimate)
        given = (embedding.prior, embedding.prior_scheduler, [(x, embedding.of_prior(conditioning))], decoder)
        bound = latent_ode_bits_per_dim(*given, generator=generator, **options)
        calls = bound.num_model_evaluations + decoder.num_model_evaluations
        parts.append(dataclasses.replace(bound, num_model_evaluations=calls))
    if not parts:
        raise ValueError("`batches` holds no examples.")
    return LatentOdeBitsPerDim.merged(parts)


def _decoder(
    embedding: EmbeddingModel, conditioning: Conditioning, scheduler: DiffusionSource, estimate: Estimate
) -> DiffusionDecoder:
    """The decoder of a batch with this conditioning."""

    def given(z: Tensor) -> Conditioning:
        return embedding.of_decoder(z, conditioning)

    return DiffusionDecoder(embedding.posterior, diffusion_of(scheduler).num_levels, given, estimate)
