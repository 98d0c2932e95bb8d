# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The exact likelihood of the model that the probability-flow ODE defines (`diffusion.probability_flow`).

Along the flow the log-density changes by the divergence (Chen et al. 2018; Song et al. 2021, Eq. 39):

    log p(x̄ at s̄_1) = log p(x̄ at s̄_T) + ∫ ∇·(s̄ ε_θ) d log s̄,    log p(x̄ at s̄_T) = log p_T(x_T) + ½ D log ᾱ_T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._renamed import old_names
from ..diffusion.denoiser import Denoiser, check_generator
from ..diffusion.discretized_likelihood import gaussian_log_density
from ..diffusion.gaussian_diffusion import DiffusionSource, diffusion_of
from ..diffusion.gaussian_process import unknown
from ..diffusion.numerics import mean_flat, nats_to_bits, require_count, standard_error, to_float64, upcast
from ..diffusion.ode_solver import grid, solve_adaptively, solve_on
from ..diffusion.probability_flow import ProbabilityFlow
from .batches import Batches, Progress, checked_batches, require_no_dropout
from .summary import Summary


__getattr__ = old_names(__name__)

TRACES = ("hutchinson", "exact")
MAX_EXACT_DIMENSIONS = 4096


LogPrior = Callable[[Tensor], Tensor]
"""log_prior(x_T) -> [B], the log-density in nats of the prior at x_T, float64 `[B, *anything]`."""


@dataclass(frozen=True)
class OdeLikelihood:
    """The likelihood of a batch.

    Attributes:
        log_density: log p of each example, summed over its dimensions, nats, float64 `[B]`.
        latents: x_T, in the shape and dtype of the examples.
        num_model_evaluations: number of model calls, each with the whole batch.
    """

    log_density: Tensor
    latents: Tensor
    num_model_evaluations: int


@dataclass(frozen=True, repr=False)
class OdeBitsPerDim(Summary):
    """The likelihood of a data set by the ODE.

    `print` shows the figures in two lines, `to_dict` returns all of them, and `table` the bits/dim of each example.

    Attributes:
        total: mean over the examples, bits/dim: for discrete data an upper bound on the negative log-likelihood, for
            continuous data the negative log-density.
        standard_error: standard error of `total` for the population that the examples were drawn from. It includes the
            spread of the examples, of the dequantisation noise and of Hutchinson's probes.
        per_example: the bits/dim of each example, in order.
        num_examples: number of examples scored.
        num_model_evaluations: number of model calls in total, counted for each example.
    """

    total: float
    standard_error: float
    per_example: list[float]
    num_examples: int
    num_model_evaluations: int

    HEADLINES = ("total", "standard_error", "num_examples")

    @property
    def parts(self) -> dict[str, float]:
        """The parts that add up to the total: there are none."""
        return {}

    def __str__(self) -> str:
        return f"{self.first_line}\n{self.last_line}"

    @classmethod
    def of(cls, bits: Tensor, num_model_evaluations: int) -> OdeBitsPerDim:
        """The summary of examples with the given bits/dim, `[N]`."""
        return cls(bits.mean().item(), standard_error(bits), bits.tolist(), len(bits), num_model_evaluations)

    @classmethod
    def merged(cls, parts: Sequence[OdeBitsPerDim]) -> OdeBitsPerDim:
        """The likelihood of several sets of examples together, each scored separately."""
        bits = torch.tensor([each for part in parts for each in part.per_example], dtype=torch.float64, device="cpu")
        return cls.of(bits, sum(part.num_model_evaluations for part in parts))


# --- likelihood -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def ode_log_likelihood(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    x: Tensor,
    conditioning: Mapping[str, Any] | None = None,
    *,
    first_time: float = 1.0,
    trace: str = "hutchinson",
    num_probes: int = 1,
    log_prior: LogPrior | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str | None = None,
    num_steps: int | None = None,
    generator: torch.Generator | None = None,
) -> OdeLikelihood:
    """log p(x), nats, by the instantaneous change of variables (Chen et al. 2018; Song et al. 2021, Eq. 39).

    This is the density of x̄ = x_t/√ᾱ_t at t = `first_time`: of the data, at their own scale, with added noise of
    standard deviation s̄ = √((1 − ᾱ_t)/ᾱ_t). The ODE does not reach t = 0, where the model was not trained. Song et al.
    start at 1e-5 of their unit of time for the same reason, and report the density of x_t, whose log is larger by
    −½ D log ᾱ_t.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)`, the model in evaluation mode. It must be differentiable
            with respect to x_t and treat examples independently. Its timesteps are real, max(t − 1, 0), floating
            `[B]`.
        scheduler: a `DDPMPaperScheduler` or a `GaussianDiffusion`; the times that it visits do not matter. The ODE
            ends at T, or at T − 1 with zero terminal SNR.
        x: the examples, `[B, *anything]`: x̄ at `first_time`.
        conditioning: further arguments of `denoise`.
        first_time: the paper's time at which the ODE starts, a real number > 0; training starts at 1.
        trace: how the trace of the Jacobian is computed: "hutchinson", an unbiased estimate from Rademacher probes
            that stay fixed during one solve (Grathwohl et al. 2019); or "exact", one vector-Jacobian product per
            dimension.
        num_probes: number of probes that "hutchinson" averages, each for one vector-Jacobian product per model call.
        log_prior: `log_prior(x_T) -> [B]`, nats; standard normal if not given.
        rtol, atol: relative and absolute tolerance of a step. They hold for every example: for the root mean square
            over x̄, and for the log-density per dimension. Rounding in half precision exceeds them, so that no step
            would be small enough: score float32 samples with a float32 model.
        method: the solver; None for "dopri5", or for "midpoint" with `num_steps`.
        num_steps: None for adaptive steps by one of `ADAPTIVE_METHODS`; or K ≥ 1 steps, even in log-SNR, by one of
            `FIXED_METHODS`. With few steps the result approximates the ODE's likelihood; it may err to either side and
            is not a bound.
        generator: for the probes; on the device of `x`, or on the CPU.

    Raises:
        ValueError: for arguments out of range, for the prediction type "mean", which needs a pair of times, and for a
            model that is not differentiable, whose dropout is active, or whose output is not finite.
        ModuleNotFoundError: if torchdiffeq is not installed.
    """
    require_no_dropout(denoise)
    flow = ProbabilityFlow(denoise, scheduler, x, conditioning, first_time)
    directions = _directions(trace, num_probes, x, generator)

    def field(log_s: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return flow.velocity_and_divergence(log_s, state[0], directions())

    start = (to_float64(x), to_float64(x.new_zeros(len(x))))
    if num_steps is None:
        x_bar, mean_divergence = solve_adaptively(field, start, flow.first, flow.last, rtol, atol, method)
    else:  # in log s̄, over which the divergence varies slowly: in s̄, few steps near the data would dominate
        x_bar, mean_divergence = solve_on(grid(flow.first, flow.last, num_steps, start[0]), field, start, method)
    x_T, dimensions = flow.alpha_last * x_bar, x[0].numel()
    log_p_T = (_log_standard_normal if log_prior is None else log_prior)(x_T)
    if not isinstance(log_p_T, Tensor) or log_p_T.shape != x.shape[:1]:
        kind = list(log_p_T.shape) if isinstance(log_p_T, Tensor) else type(log_p_T).__name__
        raise ValueError(f"`log_prior` must give one number per example, [{len(x)}], but gave {kind}.")
    if bool(log_p_T.isnan().any()):
        raise ValueError("`log_prior` must give log-densities, but gave NaN.")
    log_density = to_float64(log_p_T) + dimensions * (math.log(flow.alpha_last) + mean_divergence)
    return OdeLikelihood(log_density, x_T.to(x.dtype), flow.num_calls)


@torch.no_grad()
def ode_bits_per_dim(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    batches: Batches,
    *,
    num_dequantizations: int = 1,
    first_time: float = 1.0,
    trace: str = "hutchinson",
    num_probes: int = 1,
    log_prior: LogPrior | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str | None = None,
    num_steps: int | None = None,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> OdeBitsPerDim:
    """The likelihood of a data set in bits/dim, from the ODE's density of x̄ at `first_time`.

    Data with K levels in [−1, 1] (`scheduler.num_levels`), whose bins are 2/(K − 1) wide, are dequantised uniformly
    (Theis et al. 2016). With u uniform over the bin,

        −log P(x) ≤ −E_u log p(x + u) − D log(2/(K − 1)),

    where P(x) is the probability of the bin under p. For continuous data the result is −log p(x).

    Args:
        batches: tensors `[B, *anything]` on the model's device, or pairs of such a tensor and its conditioning.
        num_dequantizations: number of draws of u per example, which are averaged; 1 for continuous data.
        generator: for u and the probes; on the device of the batches, or on the CPU.
        progress: a function that wraps the iteration over batches, such as `tqdm.tqdm`.

    The other arguments and their errors are those of `ode_log_likelihood`.

    Raises:
        ValueError: if there are no examples, or values are not levels of the data.
    """
    num_levels = diffusion_of(scheduler).num_levels
    require_count(num_dequantizations=num_dequantizations)
    if num_levels is None and num_dequantizations != 1:
        raise ValueError(
            f"`num_dequantizations` must be 1 for continuous data (`num_levels` None), but is {num_dequantizations}."
        )
    totals, num_model_evaluations = [], 0
    for x, conditioning in checked_batches(batches, num_levels, progress):
        draws = []
        for _ in range(num_dequantizations):
            found = ode_log_likelihood(
                denoise,
                scheduler,
                x if num_levels is None else dequantize(x, num_levels, generator),
                conditioning,
                first_time=first_time,
                trace=trace,
                num_probes=num_probes,
                log_prior=log_prior,
                rtol=rtol,
                atol=atol,
                method=method,
                num_steps=num_steps,
                generator=generator,
            )
            num_model_evaluations += len(x) * found.num_model_evaluations
            draws.append(-found.log_density.cpu() / x[0].numel())
        totals.append(torch.stack(draws).mean(dim=0))
    if not totals:
        raise ValueError("`batches` holds no examples.")
    bits = nats_to_bits(torch.cat(totals) - (0.0 if num_levels is None else math.log(2 / (num_levels - 1))))
    return OdeBitsPerDim.of(bits, num_model_evaluations)


def dequantize(x: Tensor, num_levels: int, generator: torch.Generator | None = None) -> Tensor:
    """x + u with u uniform in ±1/(num_levels − 1), the bin of x's level (Theis et al. 2016); at least float32."""
    check_generator(generator)
    x = upcast(x)
    device = x.device if generator is None else generator.device
    u = torch.rand(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
    return x + (2 * u - 1) / (num_levels - 1)


def _directions(
    trace: str, num_probes: int, x: Tensor, generator: torch.Generator | None
) -> Callable[[], Iterable[Tensor]]:
    """Directions v, float64 like x, such that Σ v·J·v is the trace of J or an unbiased estimate of it."""
    if trace not in TRACES:
        raise ValueError(unknown("trace", trace, TRACES))
    check_generator(generator)
    require_count(num_probes=num_probes)
    if trace == "exact":
        if x[0].numel() > MAX_EXACT_DIMENSIONS:
            raise ValueError(
                f"`trace` 'exact' takes one product per dimension, at most {MAX_EXACT_DIMENSIONS}, but an example has"
                f" {x[0].numel()}; use 'hutchinson'."
            )
        return lambda: _unit_vectors(x)
    device = x.device if generator is None else generator.device
    signs = torch.randint(2, (num_probes, *x.shape), generator=generator, device=device).to(x.device)
    probes = (2 * to_float64(signs) - 1) / math.sqrt(num_probes)
    return lambda: probes


def _unit_vectors(x: Tensor) -> Iterator[Tensor]:
    for d in range(x[0].numel()):
        vector = to_float64(torch.zeros_like(x, memory_format=torch.contiguous_format))
        vector.view(len(x), -1)[:, d] = 1
        yield vector


def _log_standard_normal(x: Tensor) -> Tensor:
    return x[0].numel() * mean_flat(gaussian_log_density(x, torch.zeros_like(x), torch.zeros_like(x)))
