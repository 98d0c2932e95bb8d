# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The likelihood of images by a diffusion of their latents whose density is that of the probability-flow ODE.

As in `likelihood.latents`, with the ODE's density of z in the place of the diffusion's bound (Vahdat, Kreis & Kautz
2021, who report this bound):

    −log p(x) ≤ E_q[−log p(x | z)] − H(q(z | x)) − E_q[log p_ODE(z)]

p_ODE is a density of all z, so that this is a bound. Only the autoencoder makes it one: the density itself is exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser, check_generator, randn_like
from ..diffusion.gaussian_diffusion import DiffusionSource
from ..diffusion.numerics import nats_to_bits, standard_error
from .batches import Batches, Progress, checked_batches
from .latents import LatentModel, OfLatents, checked_log_likelihood, checked_posterior, diffusion_of_latents
from .ode import ode_log_likelihood
from .summary import in_parts, pooled_mean


@dataclass(frozen=True, repr=False)
class LatentOdeBitsPerDim(OfLatents):
    """The bound over a data set, in bits per dimension of the images.

    Attributes:
        total: reconstruction + posterior_entropy + latent, an upper bound on the mean negative log-likelihood.
        reconstruction: −log p(x | z).
        posterior_entropy: −H(q(z | x)).
        latent: −log p(z) by the ODE.
        standard_error: standard error of `total` for the population that the examples were drawn from. It includes the
            spread of the examples, of z, and of Hutchinson's probes.
        per_example: the bound of each example, in order.
        num_examples: number of examples scored.
        num_model_evaluations: number of calls of the diffusion's model in total, counted for each example.
    """

    total: float
    reconstruction: float
    posterior_entropy: float
    latent: float
    standard_error: float
    per_example: list[float]
    num_examples: int
    num_model_evaluations: int

    def __str__(self) -> str:
        return f"{self.first_line}\n= {in_parts(self.parts)}\n{self.last_line}"

    @classmethod
    def of(cls, bits: Tensor, num_model_evaluations: int) -> LatentOdeBitsPerDim:
        """The bound from its three parts for each of N examples, `[3, N]`."""
        totals = bits.sum(dim=0)
        reconstruction, posterior_entropy, latent = bits.mean(dim=1).tolist()
        return cls(
            total=totals.mean().item(),
            reconstruction=reconstruction,
            posterior_entropy=posterior_entropy,
            latent=latent,
            standard_error=standard_error(totals),
            per_example=totals.tolist(),
            num_examples=len(totals),
            num_model_evaluations=num_model_evaluations,
        )

    @classmethod
    def merged(cls, parts: Sequence[LatentOdeBitsPerDim]) -> LatentOdeBitsPerDim:
        """The bound over several sets of examples together, each scored separately."""
        per_example = [value for part in parts for value in part.per_example]
        names = ("total", "reconstruction", "posterior_entropy", "latent")
        return dataclasses.replace(
            parts[0],
            **{name: pooled_mean(parts, [getattr(part, name) for part in parts]) for name in names},
            standard_error=standard_error(torch.tensor(per_example, dtype=torch.float64, device="cpu")),
            per_example=per_example,
            num_examples=len(per_example),
            num_model_evaluations=sum(part.num_model_evaluations for part in parts),
        )


@torch.no_grad()
def latent_ode_bits_per_dim(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    batches: Batches,
    autoencoder: LatentModel,
    *,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> LatentOdeBitsPerDim:
    """The bound of a latent diffusion over a data set, with the density of the probability-flow ODE.

    Args:
        denoise, scheduler, batches, autoencoder: as for `latent_bits_per_dim`.
        generator: for the latents and the probes; on the device of the batches, or on the CPU.
        progress: a function that wraps the iteration over batches, such as `tqdm.tqdm`.
        options: further arguments of `ode_log_likelihood`: the time at which the ODE starts, its solver and its trace.

    Raises:
        ValueError: as `ode_log_likelihood`; also if there are no examples, and if the autoencoder has no likelihood,
            or its output is not finite.
    """
    check_generator(generator)
    diffusion, parts, calls = diffusion_of_latents(scheduler), [], 0
    for x, conditioning in checked_batches(batches, autoencoder.num_levels, progress):
        q = checked_posterior(autoencoder, x)
        z = q.sample(randn_like(q.mean, generator))
        of_z = ode_log_likelihood(denoise, diffusion, z, conditioning, generator=generator, **options)
        calls += len(x) * of_z.num_model_evaluations
        nats = (-checked_log_likelihood(autoencoder, x, z), -q.entropy(), -of_z.log_density)
        parts.append(torch.stack([nats_to_bits(each).cpu() / x[0].numel() for each in nats]))
    if not parts:
        raise ValueError("`batches` holds no examples.")
    return LatentOdeBitsPerDim.of(torch.cat(parts, dim=1), calls)
