# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The exact likelihood of what the probability-flow ODE models; `diffusion.probability_flow` has the ODE itself.

Along the flow the density changes as its divergence says (Chen et al. 2018; Song et al. 2021, Eq. 39):

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
from ..diffusion.ode_solver import State, grid, solve_adaptively, solve_on
from ..diffusion.probability_flow import ProbabilityFlow
from .batches import Batches, checked_batches
from .summary import Summary


__getattr__ = old_names(__name__)

TRACES = ("hutchinson", "exact")
MAX_EXACT_DIMENSIONS = 4096


LogPrior = Callable[[Tensor], Tensor]
"""log_prior(x_T) -> [B], the log-density in nats that x_T, float64 `[B, *anything]`, is taken to have."""


@dataclass(frozen=True)
class OdeLikelihood:
    """The likelihood of a batch.

    Attributes:
        log_density: log p of each example, of all its dimensions together, nats, float64 `[B]`.
        latents: x_T, in the shape and dtype of the examples.
        num_model_evaluations: how often the model was called, each time with the whole batch.
    """

    log_density: Tensor
    latents: Tensor
    num_model_evaluations: int


@dataclass(frozen=True, repr=False)
class OdeBitsPerDim(Summary):
    """The likelihood of a data set by the ODE.

    `print` shows the figures in two lines, `to_dict` gives all of them, and `table` that of each example.

    Attributes:
        total: the mean over the examples, bits/dim: of discrete data an upper bound on the negative log-likelihood,
            of continuous data the negative log-density.
        standard_error: of `total` as an estimate for the population that the examples were drawn from; it contains the
            spread of the examples, of the dequantisation and of Hutchinson's probes.
        per_example: the same of each example, in order.
        num_examples: examples scored.
        num_model_evaluations: images that went through the model, in total.
    """

    total: float
    standard_error: float
    per_example: list[float]
    num_examples: int
    num_model_evaluations: int

    HEADLINES = ("total", "standard_error", "num_examples")

    def __str__(self) -> str:
        return f"{self.first_line}\n{self.last_line}"

    @classmethod
    def of(cls, bits: Tensor, num_model_evaluations: int) -> OdeBitsPerDim:
        """The summary of examples that take so many bits/dim, `[N]`."""
        return cls(bits.mean().item(), standard_error(bits), bits.tolist(), len(bits), num_model_evaluations)

    @classmethod
    def merged(cls, parts: Sequence[OdeBitsPerDim]) -> OdeBitsPerDim:
        """The likelihood of several sets of examples together, each scored by itself."""
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

    The density is that of x̄ = x_t/√ᾱ_t at t = `first_time`: of the data, at their own scale, with noise of standard
    deviation s̄ = √((1 − ᾱ_t)/ᾱ_t). The ODE does not reach t = 0, where the model has seen nothing; Song et al. start
    at 1e-5 of their unit of time for the same reason, and report the density of x_t, larger by −½ D log ᾱ_t.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)`, the model in evaluation mode, differentiable with respect
            to x_t, each example by itself. Its timesteps are diffusers' but real, t − 1, or 0 where t < 1; floating
            `[B]`.
        scheduler: a `DDPMPaperScheduler` or a `GaussianDiffusion`, whatever times it visits; the ODE ends at T, or at
            T − 1 with zero terminal SNR.
        x: the examples, `[B, *anything]`: x̄ at `first_time`.
        conditioning: more arguments of `denoise`.
        first_time: the paper's time at which the ODE starts, a real number > 0; the model was trained from 1 on.
        trace: of the Jacobian: "hutchinson", an unbiased estimate by Rademacher probes that stay the same during one
            solve (Grathwohl et al. 2019); or "exact", one vector-Jacobian product per dimension.
        num_probes: averaged by "hutchinson", each at the cost of one vector-Jacobian product per model call.
        log_prior: `log_prior(x_T) -> [B]`, nats; standard normal if not given.
        rtol, atol: what the error of a step may be, relative and absolute. They hold for every example by itself: for
            the root mean square over x̄, and for the log-density per dimension. What half precision rounds away is
            more than that, and no step would be small enough: score float32 samples, by a float32 model.
        method: None for "dopri5", or for "midpoint" with `num_steps`.
        num_steps: None for a solver that chooses its steps by `rtol` and `atol`, one of `ADAPTIVE_METHODS`; or K ≥ 1
            steps of one of `FIXED_METHODS`, even in log-SNR. Few give an approximation of the ODE's likelihood, to
            either side, and no bound.
        generator: for the probes; on the device of `x`, or the CPU.

    Raises:
        ValueError: for arguments out of range, "mean" as the prediction type, which needs a pair of times, a model
            that is not differentiable or gives values that are not finite.
        ModuleNotFoundError: without torchdiffeq.
    """
    flow = ProbabilityFlow(denoise, scheduler, x, conditioning, first_time)
    directions = _directions(trace, num_probes, x, generator)

    def field(log_s: Tensor, state: State) -> State:
        return flow.velocity_and_divergence(log_s, state[0], directions())

    start = (to_float64(x), to_float64(x.new_zeros(len(x))))
    if num_steps is None:
        x_bar, mean_divergence = solve_adaptively(field, start, flow.first, flow.last, rtol, atol, method)
    else:  # in log s̄, over which the divergence is even: in s̄ the few steps near the data would decide all
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
    progress: Callable[[Iterable[Tensor]], Iterable[Tensor]] | None = None,
) -> OdeBitsPerDim:
    """The likelihood of a data set in bits/dim, by the ODE's density of x̄ at `first_time`.

    For data of K levels in [−1, 1] (`scheduler.num_levels`), whose bins are 2/(K − 1) wide, by uniform dequantisation
    (Theis et al. 2016): with u uniform over the bin,

        −log P(x) ≤ −E_u log p(x + u) − D log(2/(K − 1)),

    P(x) being what p gives to the bin. For continuous data, −log p(x) itself.

    Args:
        batches: tensors `[B, *anything]` on the model's device, or pairs of one and its conditioning.
        num_dequantizations: draws of u per example, averaged; 1 for continuous data.
        generator: for u and the probes; on the device of the batches, or the CPU.
        progress: wraps the iteration over batches, such as `tqdm.tqdm`.

    The other arguments and what they raise are those of `ode_log_likelihood`.

    Raises:
        ValueError: for no examples, and for values that are not levels of the data.
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
    """x + u, u uniform over the bin of its level, ±1/(num_levels − 1) (Theis et al. 2016), in at least float32."""
    check_generator(generator)
    x = upcast(x)
    device = x.device if generator is None else generator.device
    u = torch.rand(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
    return x + (2 * u - 1) / (num_levels - 1)


def _directions(
    trace: str, num_probes: int, x: Tensor, generator: torch.Generator | None
) -> Callable[[], Iterable[Tensor]]:
    """Directions v, float64 like x, with Σ v·J·v the trace of J, or an unbiased estimate of it."""
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
