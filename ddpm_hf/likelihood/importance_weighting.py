# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The importance-weighted bound, which is tighter for the same chain: several noisy paths (Burda et al. 2016).

A model's likelihood is an expectation over the paths x_1 … x_T of the forward process,

    p_θ(x_0) = E_q w,    w = p_θ(x_0 … x_T)/q(x_1 … x_T | x_0),

and the variational bound is E −log w (Ho et al. 2020, Eq. 3 and 5). By Jensen's inequality the mean of M weights gives
a tighter bound, which falls with M towards the negative log-likelihood:

    −log p_θ(x_0) ≤ E −log (1/M Σ_m w_m) ≤ E −log w.

A path starts at its noisy end and follows the posteriors q(x_s | x_t, x_0). Each step's term of log w is then a
function of the drawn noise z, and small steps lose no digits:

    x_s = c₁ x_0 + c₂ x_t + √β̃ z,    log p_θ(x_s | x_t)/q(x_s | x_t, x_0) = ½ (log(β̃/σ²) + z² − (x_s − μ_θ)²/σ²)

with x_s − μ_θ = √β̃ z + c₁ (x_0 − x̂_0). The last step is the decoder, with the term −L_0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser, check_generator, randn_like
from ..diffusion.discretized_likelihood import decoder_nll
from ..diffusion.finiteness import FiniteTerms, require_finite
from ..diffusion.gaussian_diffusion import DiffusionSource, GaussianDiffusion, diffusion_of
from ..diffusion.gaussian_process import linear_combination
from ..diffusion.numerics import (
    cast_back,
    log1mexp,
    mean_flat,
    nats_to_bits,
    require_count,
    require_samples,
    standard_error,
    to_float64,
)
from ..diffusion.reverse_coefficients import ReverseCoefficients
from ..diffusion.reverse_process import ReverseStep
from .batches import Batches, Progress, checked_batches, require_no_dropout
from .summary import Summary, pooled_mean


LogWeights = Callable[[Tensor, Mapping[str, Any]], Tensor]
"""log_weights(x_0, conditioning) -> log w of one path per example, nats, `[B]`."""


@torch.no_grad()
def log_path_weights(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    x_0: Tensor,
    conditioning: Mapping[str, Any] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log w of one path per example, along the scheduler's visited timesteps; nats per example, float64 `[B]`.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)`, the model in evaluation mode; called once per timestep.
        scheduler: a `DDPMPaperScheduler` or a `GaussianDiffusion`.
        x_0: `[B, *anything]`, in [−1, 1] on the model's device.
        conditioning: further arguments of `denoise`.
        generator: for the noise; on the device of `x_0`, or on the CPU.

    Raises:
        ValueError: if the chain visits a time at which the model's prediction does not determine x_0, if examples are
            not finite, if the model's dropout is active, or if its output is not finite; the message names the
            timesteps.
    """
    require_no_dropout(denoise)
    require_samples(x_0=x_0)
    require_finite(x_0=x_0)
    diffusion = diffusion_of(scheduler)
    diffusion.require_determined()
    data, finite = to_float64(x_0), []
    x_t, log_w = _sample_x_T(diffusion, data, generator)  # nats per dimension until the return
    for k in range(len(diffusion.times) - 1, -1, -1):
        output = diffusion.model_output(denoise, cast_back(x_t, x_0.dtype), diffusion.times[k], conditioning)
        p = diffusion.p_mean_variance(to_float64(output), x_t, k)
        if k > 0:
            x_t, log_ratio = _step(diffusion.coefficients(k), p, data, x_t, randn_like(data, generator))
        else:
            log_ratio = -to_float64(decoder_nll(p, data, diffusion.num_levels, diffusion.measures_decoder))
        log_w = log_w + log_ratio
        finite.append(FiniteTerms.of(log_ratio, output, diffusion.times[k] - 1))
    FiniteTerms.require(finite, "The weight of a path")
    return data[0].numel() * log_w


def _sample_x_T(diffusion: GaussianDiffusion, x_0: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """x_T ~ q(x_T | x_0), and log N(x_T; 0, I)/q(x_T | x_0), nats/dim, `[B]`."""
    T, noise = diffusion.times[-1], randn_like(x_0, generator)
    x_T = diffusion.q_sample(x_0, noise, T)
    log_variance = log1mexp(diffusion.schedule.log_alpha_cumprod(T)).item()
    return x_T, 0.5 * mean_flat(log_variance + noise**2 - x_T**2)


def _step(row: ReverseCoefficients, p: ReverseStep, x_0: Tensor, x_t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """x_s ~ q(x_s | x_t, x_0) from its noise z, and log p_θ(x_s | x_t)/q(x_s | x_t, x_0), nats/dim, `[B]`."""
    deviation = math.exp(0.5 * row.posterior_log_variance)
    x_s = linear_combination(row.mean_coef_x0, x_0, row.mean_coef_xt, x_t).add_(z, alpha=deviation)
    log_variance = to_float64(p.log_variance)
    from_the_mean = torch.exp(-0.5 * log_variance) * (
        deviation * z + row.mean_coef_x0 * (x_0 - p.pred_original_sample)
    )
    return x_s, 0.5 * mean_flat(row.posterior_log_variance - log_variance + z**2 - from_the_mean**2)


@dataclass(frozen=True, repr=False)
class ImportanceWeightedBits(Summary):
    """The importance-weighted bound over a data set, in bits/dim.

    `print` shows the figures in three lines, `to_dict` returns all of them, and `table` the bound by number of paths,
    or of each example with `by="example"`.

    Attributes:
        total: the bound with `num_paths` paths per example, an upper bound on the mean negative log-likelihood.
        standard_error: standard error of `total` for the population that the examples were drawn from.
        by_num_paths: the bound with 1, 2, 4 … paths, and with all of them, from the same weights. The bound with one
            path estimates the variational bound of the same chain; the decrease with more paths shows how much further
            paths would gain.
        per_example: the bound of each example, in order; their mean is `total`.
        num_paths: M, paths per example.
        num_examples: number of examples scored.
        num_model_evaluations: number of model calls in total, one for each example, path and timestep.
    """

    by_num_paths: dict[int, float]
    per_example: list[float]
    num_model_evaluations: int

    HEADLINES = ("total", "standard_error", "num_paths", "num_examples")

    def __str__(self) -> str:
        of_paths = ", ".join(f"{count}: {bits:.4f}" for count, bits in self.by_num_paths.items())
        return f"{self.first_line}\nby number of paths: {of_paths}\n{self.last_line}"

    @property
    def _tables(self) -> dict[str, tuple[Iterable[int], Iterable[float]]]:
        return {"paths": (self.by_num_paths, self.by_num_paths.values()), **super()._tables}

    @property
    def total(self) -> float:
        return self.by_num_paths[self.num_paths]

    @property
    def standard_error(self) -> float:
        return standard_error(torch.tensor(self.per_example, dtype=torch.float64, device="cpu"))

    @property
    def num_paths(self) -> int:
        return max(self.by_num_paths)

    @property
    def num_examples(self) -> int:
        return len(self.per_example)

    @classmethod
    def of(cls, log_weights: Tensor, dimensions: int, num_model_evaluations: int) -> ImportanceWeightedBits:
        """The bounds of N examples with D = `dimensions`, from log w in nats, `[M, N]`, of M paths each."""
        M = len(log_weights)
        counts = [2**k for k in range(M.bit_length()) if 2**k < M] + [M]
        bits = {count: _bound(log_weights, count) / dimensions for count in counts}  # [N] each
        means = {count: of_examples.mean().item() for count, of_examples in bits.items()}
        return cls(means, bits[M].tolist(), num_model_evaluations)

    @classmethod
    def merged(cls, parts: Sequence[ImportanceWeightedBits]) -> ImportanceWeightedBits:
        """The bound over several sets of examples together, each scored separately with the same number of paths.

        Raises:
            ValueError: for no parts, or parts with different numbers of paths.
        """
        if not parts or any(part.num_paths != parts[0].num_paths for part in parts):
            raise ValueError("`parts` must be at least one bound, all with the same number of paths.")
        per_example = [value for part in parts for value in part.per_example]
        by_num_paths = {
            count: pooled_mean(parts, (part.by_num_paths[count] for part in parts)) for count in parts[0].by_num_paths
        }
        return cls(by_num_paths, per_example, sum(part.num_model_evaluations for part in parts))


@torch.no_grad()
def importance_weighted_bits_per_dim(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    batches: Batches,
    *,
    num_paths: int = 8,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> ImportanceWeightedBits:
    """The importance-weighted bound in bits/dim, tighter than `bits_per_dim` of the same chain (Burda et al. 2016).

    It follows the scheduler's visited timesteps: K timesteps take K · M model calls per example. A chain of fewer
    timesteps is another model with the same network: compare the result with the bound of this chain, which
    `by_num_paths[1]` estimates.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)`, the model in evaluation mode.
        scheduler: a `DDPMPaperScheduler` or a `GaussianDiffusion`.
        batches: as for `bits_per_dim`.
        num_paths: M ≥ 1, paths per example.
        generator: for the noise; on the device of the batches, or on the CPU.
        progress: a function that wraps the iteration over batches, such as `tqdm.tqdm`.

    Raises:
        ValueError: if there are no examples, `num_paths` is below 1, values are not levels of the data, the model's
            dropout is active, or its output is not finite; the message names the timesteps.
    """
    check_generator(generator)
    diffusion = diffusion_of(scheduler)

    def log_weights(x_0: Tensor, conditioning: Mapping[str, Any]) -> Tensor:
        return log_path_weights(denoise, diffusion, x_0, conditioning, generator=generator)

    checked = checked_batches(batches, diffusion.num_levels, progress)
    return bits_of_weights(log_weights, checked, num_paths, len(diffusion.times))


def bits_of_weights(
    log_weights: LogWeights,
    batches: Iterable[tuple[Tensor, Mapping[str, Any]]],
    num_paths: int,
    evaluations: int,
) -> ImportanceWeightedBits:
    """The importance-weighted bound from a function that draws weights.

    Args:
        log_weights: draws log w of a path for each example of a batch.
        batches: examples and their conditioning, checked.
        num_paths: M ≥ 1, paths per example.
        evaluations: model calls for a path.

    Raises:
        ValueError: if there are no examples, or `num_paths` is below 1.
    """
    require_count(num_paths=num_paths)
    parts = []
    for x_0, conditioning in batches:
        paths = [log_weights(x_0, conditioning).cpu() for _ in range(num_paths)]
        calls = len(x_0) * num_paths * evaluations
        parts.append(ImportanceWeightedBits.of(torch.stack(paths), x_0[0].numel(), calls))
    if not parts:
        raise ValueError("`batches` holds no examples.")
    return ImportanceWeightedBits.merged(parts)


def _bound(log_weights: Tensor, count: int) -> Tensor:
    """−log of the mean of `count` weights in bits, averaged over all disjoint groups of `count` paths; `[N]`."""
    groups = log_weights[: len(log_weights) // count * count].unflatten(0, (-1, count))
    return nats_to_bits(math.log(count) - torch.logsumexp(groups, dim=1)).mean(dim=0)
