# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The likelihood of images by a diffusion of their latents (Vahdat, Kreis & Kautz 2021; Rombach et al. 2022).

An autoencoder has q(z | x) and p(x | z), and a diffusion is the prior p(z) of its latents. By Jensen's inequality

    −log p(x) ≤ E_q[−log p(x | z)] − H(q(z | x)) + E_q[−log p(z)]

and the diffusion's own bound takes the place of −log p(z). The latents are continuous: entropy and bound are those of
densities, of the same z, so that a scale of the latents cancels. All parts are in bits per dimension of the images,
not of the latents.

Several draws of z and of the diffusion's path give a tighter bound (Burda et al. 2016): with w_path of a path from z,
whose expectation is p(z),

    p(x) = E w,    w = p(x | z) w_path/q(z | x)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser, check_generator, randn_like
from ..diffusion.diagonal_gaussian import DiagonalGaussian
from ..diffusion.gaussian_diffusion import DiffusionSource, GaussianDiffusion, diffusion_of
from ..diffusion.numerics import nats_to_bits, require_count, standard_error, to_float64
from .batches import Batches, Progress, checked_batches
from .importance_weighting import ImportanceWeightedBits, bits_of_weights, log_path_weights
from .summary import Summary, in_parts, pooled_error, pooled_mean, pooled_means
from .variational import BitsPerDim, bits_per_dim


class LatentModel(Protocol):
    """What a likelihood needs of an autoencoder; `ddpm_hf.pipelines.autoencoders.Autoencoder` is one."""

    @property
    def num_levels(self) -> int | None:
        """Number of evenly spaced levels of the images in [−1, 1]; None if p(x | z) is a density."""

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z | x) of examples x `[B, *anything]`; z as the diffusion takes it, `[B, *anything]`."""

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), nats per example, `[B]`."""


class OfLatents(Summary):
    """A result whose total is reconstruction + posterior_entropy + latent."""

    HEADLINES = ("total", "standard_error", "num_examples")

    if TYPE_CHECKING:  # fields of each subclass

        @property
        def reconstruction(self) -> float: ...
        @property
        def posterior_entropy(self) -> float: ...
        @property
        def latent(self) -> float: ...

    @property
    def parts(self) -> dict[str, float]:
        """The parts that add up to the total, by name."""
        return {
            "reconstruction": self.reconstruction,
            "posterior entropy": self.posterior_entropy,
            "latent": self.latent,
        }


@dataclass(frozen=True, repr=False)
class LatentBitsPerDim(OfLatents):
    """The bound over a data set, in bits per dimension of the images; all figures except timesteps and counts.

    `print` shows the figures in four lines, `to_dict` returns all of them, and `table` the terms of the diffusion's
    bound, or the bound of each example with `by="example"`.

    Attributes:
        total: reconstruction + posterior_entropy + latent, an upper bound on the mean negative log-likelihood.
        reconstruction: −log p(x | z).
        posterior_entropy: −H(q(z | x)), minus the entropy of q(z | x), as it enters the sum: what q(z | x) gives back
            of the bits of z. A density's entropy may be negative, so that this may be positive.
        latent: the diffusion's bound on −log p(z), prior + rate + decoder.
        prior, rate, decoder: the parts of the diffusion's bound, as in `BitsPerDim`.
        standard_error: standard error of `total` for the population that the examples were drawn from.
        estimation_error: standard error of `total` as an estimate of the bound of these examples, due to the drawn z,
            noise and times. It is measured with `num_latents` of 2 or more. From one draw it cannot be told from the
            differences between the examples, and is `standard_error`, which it cannot exceed.
        per_example: the bound of each example, in order; their mean is `total`.
        per_timestep: the diffusion's term at each of `timesteps`.
        timesteps: the visited timesteps (diffusers' indices, ascending).
        num_latents: number of z drawn for each example.
        num_examples: number of examples scored.
        num_model_evaluations: number of calls of the diffusion's model in total, counted for each example.
    """

    total: float
    reconstruction: float
    posterior_entropy: float
    latent: float
    prior: float
    rate: float
    decoder: float
    standard_error: float
    estimation_error: float
    per_example: list[float]
    per_timestep: list[float]
    timesteps: list[int]
    num_latents: int
    num_examples: int
    num_model_evaluations: int

    def __str__(self) -> str:
        of_latent = {"prior": self.prior, "rate": self.rate, "decoder": self.decoder}
        return (
            f"{self.first_line}\n"
            f"= {in_parts(self.parts)}\n"
            f"latent = {in_parts(of_latent)}\n"
            f"{self.last_line}; standard error from latents, noise and timesteps alone: {self.estimation_error:.4f}"
        )

    @property
    def _tables(self) -> dict[str, tuple[Iterable[int], Iterable[float]]]:
        return {"timestep": (self.timesteps, self.per_timestep), **super()._tables}

    @classmethod
    def of(
        cls, latent: BitsPerDim, reconstruction: Tensor, posterior_entropy: Tensor, share: float
    ) -> LatentBitsPerDim:
        """The bound from its parts, with one z for each of N examples.

        Args:
            latent: the diffusion's bound of the latents.
            reconstruction, posterior_entropy: the other two parts, in bits per dimension of the images, `[N]`.
            share: the number of dimensions of the latents, divided by that of the images.
        """
        of_latents = share * torch.tensor(latent.per_example, dtype=torch.float64, device="cpu")
        totals = reconstruction + posterior_entropy + of_latents
        error = standard_error(totals)
        return cls(
            total=totals.mean().item(),
            reconstruction=reconstruction.mean().item(),
            posterior_entropy=posterior_entropy.mean().item(),
            latent=share * latent.total,
            prior=share * latent.prior,
            rate=share * latent.rate,
            decoder=share * latent.decoder,
            standard_error=error,
            estimation_error=error,
            per_example=totals.tolist(),
            per_timestep=[share * value for value in latent.per_timestep],
            timesteps=latent.timesteps,
            num_latents=1,
            num_examples=latent.num_examples,
            num_model_evaluations=latent.num_model_evaluations,
        )

    @classmethod
    def mean_of(cls, draws: Sequence[LatentBitsPerDim]) -> LatentBitsPerDim:
        """The mean of several bounds of the same examples, each with a z of its own for every example."""
        if len(draws) == 1:
            return draws[0]
        totals = torch.tensor([each.per_example for each in draws], dtype=torch.float64, device="cpu")
        of_examples = totals.mean(dim=0)
        return dataclasses.replace(
            draws[0],
            **cls._pooled(draws),
            standard_error=standard_error(of_examples),
            estimation_error=math.sqrt(totals.var(dim=0).sum().item() / len(draws)) / len(of_examples),
            per_example=of_examples.tolist(),
            num_latents=len(draws),
        )

    @classmethod
    def merged(cls, parts: Sequence[LatentBitsPerDim]) -> LatentBitsPerDim:
        """The bound over several sets of examples together, each scored separately in the same way.

        Raises:
            ValueError: for no parts, or parts with different timesteps or numbers of latents.
        """
        if not parts or len({(*part.timesteps, part.num_latents) for part in parts}) > 1:
            raise ValueError("`parts` must be at least one bound, all along the same timesteps, of as many latents.")
        per_example = [value for part in parts for value in part.per_example]
        error = standard_error(torch.tensor(per_example, dtype=torch.float64, device="cpu"))
        is_measured = parts[0].num_latents > 1
        return dataclasses.replace(
            parts[0],
            **cls._pooled(parts),
            standard_error=error,
            estimation_error=pooled_error(parts, [part.estimation_error for part in parts]) if is_measured else error,
            per_example=per_example,
            num_examples=len(per_example),
        )

    @classmethod
    def _pooled(cls, parts: Sequence[LatentBitsPerDim]) -> dict[str, Any]:
        """What is the mean over all parts, weighted by their examples, or the sum."""
        means = ("total", "reconstruction", "posterior_entropy", "latent", "prior", "rate", "decoder")
        return {
            **{name: pooled_mean(parts, [getattr(part, name) for part in parts]) for name in means},
            "per_timestep": pooled_means(parts, [part.per_timestep for part in parts]),
            "num_model_evaluations": sum(part.num_model_evaluations for part in parts),
        }


@torch.no_grad()
def latent_bits_per_dim(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    batches: Batches,
    autoencoder: LatentModel,
    *,
    num_evaluations: int | None = None,
    num_latents: int = 1,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> LatentBitsPerDim:
    """The bound of a latent diffusion over a data set, in bits per dimension of the images.

    Args:
        denoise: the diffusion's model of latents, as for `bits_per_dim`.
        scheduler: its process, as for `bits_per_dim`; the latents are continuous, whatever its `num_levels`.
        batches: images `[B, *anything]` in [−1, 1], as for `bits_per_dim`, with the conditioning of `denoise`.
        autoencoder: q(z | x) and p(x | z), such as `ddpm_hf.pipelines.autoencoders.Autoencoder`.
        num_evaluations: None for the full sum over the visited timesteps, or a number of model calls for each z, for
            an unbiased estimate, as for `bits_per_dim`.
        num_latents: number of z drawn for each example, at least 1; with 2 or more the result's `estimation_error` is
            measured.
        generator: for the latents, the noise and the times; on the device of the batches, or on the CPU.
        progress: a function that wraps the iteration over batches, such as `tqdm.tqdm`.

    Raises:
        ValueError: as `bits_per_dim`; also if the autoencoder has no likelihood, or its output is not finite.
    """
    check_generator(generator)
    require_count(num_latents=num_latents)
    diffusion = diffusion_of_latents(scheduler)
    count = partial(bits_per_dim, denoise, diffusion, num_evaluations=num_evaluations, generator=generator)
    parts = []
    for x, conditioning in checked_batches(batches, autoencoder.num_levels, progress):
        q, draws = checked_posterior(autoencoder, x), []
        for _ in range(num_latents):
            z = q.sample(randn_like(q.mean, generator))
            of_latents = count([(z, conditioning)])
            nats = (-checked_log_likelihood(autoencoder, x, z), -q.entropy())
            reconstruction, entropy = (nats_to_bits(each).cpu() / x[0].numel() for each in nats)
            draws.append(LatentBitsPerDim.of(of_latents, reconstruction, entropy, z[0].numel() / x[0].numel()))
        parts.append(LatentBitsPerDim.mean_of(draws))
    if not parts:
        raise ValueError("`batches` holds no examples.")
    return LatentBitsPerDim.merged(parts)


@torch.no_grad()
def latent_log_weights(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    x: Tensor,
    autoencoder: LatentModel,
    conditioning: Mapping[str, Any] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log w of one z and one path per example, w = p(x | z) w_path/q(z | x); nats per example, float64 `[B]`.

    E w is p(x): w_path, of `log_path_weights`, has the expectation p(z) given z.

    Args:
        denoise, scheduler, autoencoder: as for `latent_bits_per_dim`.
        x: `[B, *anything]`.
        conditioning: further arguments of `denoise`.
        generator: for the latents and the noise; on the device of `x`, or on the CPU.

    Raises:
        ValueError: as `log_path_weights`; also if the autoencoder has no likelihood, or its output is not finite.
    """
    q = checked_posterior(autoencoder, x)
    z = q.sample(randn_like(q.mean, generator))
    of_path = log_path_weights(denoise, diffusion_of_latents(scheduler), z, conditioning, generator=generator)
    return checked_log_likelihood(autoencoder, x, z) + of_path - q.log_prob(z)


@torch.no_grad()
def latent_importance_weighted_bits_per_dim(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    batches: Batches,
    autoencoder: LatentModel,
    *,
    num_paths: int = 8,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> ImportanceWeightedBits:
    """The importance-weighted bound of a latent diffusion, tighter than `latent_bits_per_dim` (Burda et al. 2016).

    Every path has its own z; see `latent_log_weights`.

    Args:
        denoise, scheduler, batches, autoencoder: as for `latent_bits_per_dim`.
        num_paths: M ≥ 1, latents and paths per example.
        generator: for the latents and the noise; on the device of the batches, or on the CPU.
        progress: a function that wraps the iteration over batches, such as `tqdm.tqdm`.

    Returns:
        The bound in bits per dimension of the images.

    Raises:
        ValueError: as `importance_weighted_bits_per_dim`, and as `latent_log_weights`.
    """
    check_generator(generator)
    diffusion = diffusion_of_latents(scheduler)

    def log_weights(x: Tensor, conditioning: Mapping[str, Any]) -> Tensor:
        return latent_log_weights(denoise, diffusion, x, autoencoder, conditioning, generator=generator)

    checked = checked_batches(batches, autoencoder.num_levels, progress)
    return bits_of_weights(log_weights, checked, num_paths, len(diffusion.times))


def diffusion_of_latents(scheduler: DiffusionSource) -> GaussianDiffusion:
    """The diffusion with the decoder of continuous data."""
    diffusion = diffusion_of(scheduler)
    return diffusion if diffusion.num_levels is None else dataclasses.replace(diffusion, num_levels=None)


def checked_posterior(autoencoder: LatentModel, x: Tensor) -> DiagonalGaussian:
    """q(z | x); raises ValueError if it is not finite."""
    q = autoencoder.posterior(x)
    if not bool((q.mean.isfinite() & q.log_variance.isfinite()).all()):
        raise ValueError("The autoencoder's q(z | x) is not finite for some images.")
    return q


def checked_log_likelihood(autoencoder: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """log p(x | z), nats per example, float64 `[B]`; raises ValueError if it is not finite."""
    log_likelihood = to_float64(autoencoder.log_likelihood(x, z))
    if not bool(log_likelihood.isfinite().all()):
        raise ValueError("The autoencoder's p(x | z) is not finite for some images: its decoder's output is not.")
    return log_likelihood
