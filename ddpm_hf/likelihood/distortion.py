# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The bound read as progressive compression: the error of x̂_0 against the bits so far (Ho et al. 2020, figure 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..diffusion.denoiser import Denoiser, check_generator, randn_like
from ..diffusion.finiteness import FiniteTerms
from ..diffusion.gaussian_diffusion import DiffusionSource, diffusion_of
from ..diffusion.numerics import to_float64
from .batches import Batches, Progress, checked_batches, require_no_dropout
from .summary import pooled_mean, pooled_means


@dataclass(frozen=True)
class RateDistortion:
    """A curve over a data set, from pure noise to the image.

    Attributes:
        timesteps: the visited timesteps (diffusers' indices), descending.
        rates: bits/dim that have been sent when x_t is known: the prior term and those of the later timesteps.
        distortions: mean squared error of x̂_0 from x_t, per element, for data in [−1, 1].
        total: bits/dim of the image itself, which is the bound; its distortion is 0.
        num_examples: number of examples.
    """

    timesteps: list[int]
    rates: list[float]
    distortions: list[float]
    total: float
    num_examples: int

    @property
    def psnr(self) -> list[float]:
        """Peak signal-to-noise ratio of x̂_0 in dB, from the mean error: 10 log₁₀(2² / distortion)."""
        return [10 * math.log10(4 / error) if error else math.inf for error in self.distortions]

    @classmethod
    def merged(cls, parts: Sequence[RateDistortion]) -> RateDistortion:
        """The curve over several sets of examples together.

        Raises:
            ValueError: for no parts, or parts with different timesteps.
        """
        if not parts or any(part.timesteps != parts[0].timesteps for part in parts):
            raise ValueError("`parts` must be at least one curve, all along the same timesteps.")
        return cls(
            timesteps=parts[0].timesteps,
            rates=pooled_means(parts, [part.rates for part in parts]),
            distortions=pooled_means(parts, [part.distortions for part in parts]),
            total=pooled_mean(parts, [part.total for part in parts]),
            num_examples=sum(part.num_examples for part in parts),
        )


@torch.no_grad()
def rate_distortion(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    batches: Batches,
    *,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> RateDistortion:
    """The rate and the distortion of a model's chain, with one model call per example and visited time.

    Args:
        denoise, scheduler, batches, generator, progress: as for `bits_per_dim`.

    Raises:
        ValueError: as `bits_per_dim`.
    """
    require_no_dropout(denoise)
    check_generator(generator)
    diffusion = diffusion_of(scheduler)
    diffusion.require_determined()
    count = len(diffusion.times)
    terms, errors = (torch.zeros(count, dtype=torch.float64, device="cpu") for _ in range(2))
    prior, seen = 0.0, 0
    for x_0, conditioning in checked_batches(batches, diffusion.num_levels, progress):
        finite = []
        for k, t in enumerate(diffusion.times):
            x_t = diffusion.q_sample(x_0, randn_like(x_0, generator), t)
            output = diffusion.model_output(denoise, x_t, t, conditioning)
            term = to_float64(diffusion.vlb_terms(output, x_0, x_t, k))
            finite.append(FiniteTerms.of(term, output, torch.full((len(x_0),), t - 1, device="cpu")))
            predicted = diffusion.p_mean_variance(output, x_t, k).pred_original_sample
            errors[k] += (to_float64(x_0) - predicted).square().flatten(1).mean(1).sum().cpu()
            terms[k] += term.sum().cpu()
        FiniteTerms.require(finite, "The rate")
        prior += float(diffusion.prior_bits(x_0).sum())
        seen += len(x_0)
    if not seen:
        raise ValueError("`batches` holds no examples.")
    sent = (prior + torch.cat([torch.zeros(1, dtype=torch.float64), terms.flip(0).cumsum(0)])) / seen
    return RateDistortion(
        timesteps=[t - 1 for t in reversed(diffusion.times)],
        rates=sent[:-1].tolist(),
        distortions=(errors.flip(0) / seen).tolist(),
        total=float(sent[-1]),
        num_examples=seen,
    )
