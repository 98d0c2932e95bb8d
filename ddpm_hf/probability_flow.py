# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
r"""The probability-flow ODE: a deterministic way between data and noise, with the exact likelihood of what it models.

The SDE of the schedule has an ODE with the same marginals (Song et al. 2021, Eq. 13). In the coordinates
x̄ = x_t/√ᾱ_t and s̄ = √((1 − ᾱ_t)/ᾱ_t) = e^(−log SNR_t/2) it knows of no schedule (Song, Meng & Ermon 2021, Eq. 14):

    dx̄ = ε_θ(x_t, t) ds̄,    that is    dx̄ / d log s̄ = s̄ ε_θ,

which is integrated over log s̄ by adaptive steps, over s̄ by fixed ones, the model being asked at the real time t that
belongs to s̄. Along the flow the density changes as its divergence says (Chen et al. 2018; Song et al. 2021, Eq. 39):

    log p(x̄ at s̄_1) = log p(x̄ at s̄_T) + ∫ ∇·(s̄ ε_θ) d log s̄,    log p(x̄ at s̄_T) = log p_T(x_T) + ½ D log ᾱ_T.

ε_θ is what the model says, of whatever prediction type; x̂_0 is not constrained here. The solver is torchdiffeq's, the
extra `ode`. Its state is float64; the model sees samples in the dtype of those that were given, and times in it too,
but in float32 for half precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .decoders import gaussian_log_density
from .finiteness import outputs_sentence, require_finite
from .gaussian_process import MarginalCoefficients, conversion, linear_combination, unknown
from .likelihood import Batches, Denoiser, checked_batches
from .noise_schedule import NoiseSchedule
from .numerics import (
    mean_flat,
    nats_to_bits,
    promote,
    require_count,
    require_positive,
    require_samples,
    standard_error,
    to_float64,
)
from .reverse_process import ReverseProcess


# Without "fehlberg2", whose own estimate of its error is hundreds of times too small here.
ADAPTIVE_METHODS = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
FIXED_METHODS = ("euler", "midpoint", "rk4", "heun2", "heun3")  # the last two in newer versions of torchdiffeq
TRACES = ("hutchinson", "exact")
MAX_EXACT_DIMENSIONS = 4096

State = Tensor | tuple[Tensor, ...]
LogPrior = Callable[[Tensor], Tensor]
"""log_prior(x_T) -> [B], the log-density in nats that x_T, float64 `[B, *anything]`, is taken to have."""


class FlowScheduler(Protocol):
    """What the flow asks of a scheduler, whatever times it visits; `DDPMPaperScheduler` has it all."""

    schedule: NoiseSchedule
    process: ReverseProcess
    num_levels: int | None


class FlowResult(NamedTuple):
    """Where the flow has led: samples like those it started from, and how often the model was called."""

    sample: Tensor
    num_model_evaluations: int


@dataclass(frozen=True)
class FlowLikelihood:
    """The likelihood of a batch.

    Attributes:
        log_density: log p of each example, of all its dimensions together, nats, float64 `[B]`.
        latents: x_T, in the shape and dtype of the examples.
        num_model_evaluations: how often the model was called, each time with the whole batch.
    """

    log_density: Tensor
    latents: Tensor
    num_model_evaluations: int


@dataclass(frozen=True)
class FlowBitsPerDim:
    """The likelihood of a data set by the flow.

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

    @classmethod
    def of(cls, bits: Tensor, num_model_evaluations: int) -> FlowBitsPerDim:
        """The summary of examples that take so many bits/dim, `[N]`."""
        return cls(bits.mean().item(), standard_error(bits), bits.tolist(), len(bits), num_model_evaluations)

    @classmethod
    def merged(cls, parts: Sequence[FlowBitsPerDim]) -> FlowBitsPerDim:
        """The likelihood of several sets of examples together, each scored by itself."""
        bits = torch.tensor([each for part in parts for each in part.per_example], dtype=torch.float64, device="cpu")
        return cls.of(bits, sum(part.num_model_evaluations for part in parts))


# --- likelihood -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def flow_log_likelihood(
    denoise: Denoiser,
    scheduler: FlowScheduler,
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
) -> FlowLikelihood:
    """log p(x), nats, by the instantaneous change of variables (Chen et al. 2018; Song et al. 2021, Eq. 39).

    The density is that of x̄ = x_t/√ᾱ_t at t = `first_time`: of the data, at their own scale, with noise of standard
    deviation s̄ = √((1 − ᾱ_t)/ᾱ_t). The flow does not reach t = 0, where the model has seen nothing; Song et al. start
    at 1e-5 of their unit of time for the same reason, and report the density of x_t, larger by −½ D log ᾱ_t.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)`, the model in evaluation mode, differentiable with respect
            to x_t, each example by itself. Its timesteps are diffusers' but real, t − 1, or 0 where t < 1; floating
            `[B]`.
        scheduler: a `DDPMPaperScheduler`, whatever times it visits; the flow ends at T, or at T − 1 with zero terminal
            SNR.
        x: the examples, `[B, *anything]`: x̄ at `first_time`.
        conditioning: more arguments of `denoise`.
        first_time: the paper's time at which the flow starts, a real number > 0; the model was trained from 1 on.
        trace: of the Jacobian: "hutchinson", an unbiased estimate by Rademacher probes that stay the same during one
            solve (Grathwohl et al. 2019); or "exact", one vector-Jacobian product per dimension.
        num_probes: averaged by "hutchinson", each at the cost of one vector-Jacobian product per model call.
        log_prior: `log_prior(x_T) -> [B]`, nats; standard normal if not given.
        rtol, atol: what the error of a step may be, relative and absolute. They hold for every example by itself: for
            the root mean square over x̄, and for the log-density per dimension. What half precision rounds away is
            more than that, and no step would be small enough: score float32 samples, by a float32 model.
        method: None for "dopri5", or for "midpoint" with `num_steps`.
        num_steps: None for a solver that chooses its steps by `rtol` and `atol`, one of `ADAPTIVE_METHODS`; or K ≥ 1
            steps of one of `FIXED_METHODS`, even in log-SNR. Few give an approximation of the flow's likelihood, to
            either side, and no bound.
        generator: for the probes; on the device of `x`, or the CPU.

    Raises:
        ValueError: for arguments out of range, "mean" as the prediction type, which needs a pair of times, a model
            that is not differentiable, or one whose output is not finite, with the timestep where it is not.
        ModuleNotFoundError: without torchdiffeq.
    """
    flow = _Flow(denoise, scheduler, x, conditioning, first_time)
    directions = _directions(trace, num_probes, x, generator)

    def field(log_s: Tensor, state: State) -> State:
        return flow.velocity_and_divergence(log_s, state[0], directions())

    start = (to_float64(x), to_float64(x.new_zeros(len(x))))
    if num_steps is None:
        x_bar, mean_divergence = _solve_adaptively(field, start, flow.first, flow.last, rtol, atol, method)
    else:  # in log s̄, over which the divergence is even: in s̄ the few steps near the data would decide all
        x_bar, mean_divergence = _solve_on(_grid(flow.first, flow.last, num_steps, start[0]), field, start, method)
    x_T, dimensions = flow.alpha_last * x_bar, x[0].numel()
    log_p_T = (_log_standard_normal if log_prior is None else log_prior)(x_T)
    if not isinstance(log_p_T, Tensor) or log_p_T.shape != x.shape[:1]:
        kind = list(log_p_T.shape) if isinstance(log_p_T, Tensor) else type(log_p_T).__name__
        raise ValueError(f"`log_prior` must give one number per example, [{len(x)}], but gave {kind}.")
    if bool(log_p_T.isnan().any()):
        raise ValueError("`log_prior` must give log-densities, but gave NaN.")
    log_density = to_float64(log_p_T) + dimensions * (math.log(flow.alpha_last) + mean_divergence)
    return FlowLikelihood(log_density, x_T.to(x.dtype), flow.num_calls)


@torch.no_grad()
def flow_bits_per_dim(
    denoise: Denoiser,
    scheduler: FlowScheduler,
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
) -> FlowBitsPerDim:
    """The likelihood of a data set in bits/dim, by the flow's density of x̄ at `first_time`.

    For data of K levels in [−1, 1] (`scheduler.num_levels`), whose bins are 2/(K − 1) wide, by uniform dequantisation
    (Theis et al. 2016): with u uniform over the bin,

        −log P(x) ≤ −E_u log p(x + u) − D log(2/(K − 1)),

    P(x) being what p gives to the bin. For continuous data, −log p(x) itself.

    Args:
        batches: tensors `[B, *anything]` on the model's device, or pairs of one and its conditioning.
        num_dequantizations: draws of u per example, averaged; 1 for continuous data.
        generator: for u and the probes; on the device of the batches, or the CPU.
        progress: wraps the iteration over batches, such as `tqdm.tqdm`.

    The other arguments and what they raise are those of `flow_log_likelihood`.

    Raises:
        ValueError: for no examples, and for values that are not levels of the data.
    """
    num_levels = scheduler.num_levels
    require_count(num_dequantizations=num_dequantizations)
    if num_levels is None and num_dequantizations != 1:
        raise ValueError(
            f"`num_dequantizations` must be 1 for continuous data (`num_levels` None), but is {num_dequantizations}."
        )
    totals, num_model_evaluations = [], 0
    for x, conditioning in checked_batches(batches, num_levels, progress):
        draws = []
        for _ in range(num_dequantizations):
            found = flow_log_likelihood(
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
    return FlowBitsPerDim.of(bits, num_model_evaluations)


def dequantize(x: Tensor, num_levels: int, generator: torch.Generator | None = None) -> Tensor:
    """x + u, u uniform over the bin of its level, ±1/(num_levels − 1) (Theis et al. 2016), in at least float32."""
    x = promote(x)
    device = x.device if generator is None else generator.device
    u = torch.rand(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
    return x + (2 * u - 1) / (num_levels - 1)


# --- there and back -------------------------------------------------------------------------------------------------


@torch.no_grad()
def flow_sample(
    denoise: Denoiser,
    scheduler: FlowScheduler,
    x_T: Tensor,
    conditioning: Mapping[str, Any] | None = None,
    *,
    first_time: float = 1.0,
    denoise_last: bool = True,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str | None = None,
    num_steps: int | None = None,
) -> FlowResult:
    """The data that the flow leads to from noise x_T (Song et al. 2021, section 4.3).

    Args:
        x_T: standard normal, `[B, *anything]`; at T − 1 for a schedule of zero terminal SNR.
        denoise_last: whether to end with the predicted x_0 at `first_time`, one more model call, and not with x̄ there,
            which still has the noise of that level.
        num_steps: if so many steps are taken, then in s̄, where ε_θ is the slope: "euler" is DDIM without noise (Song,
            Meng & Ermon 2021, Eq. 13), "heun2" the solver of Karras et al. (2022, Algorithm 1).

    The other arguments and what is raised are those of `flow_log_likelihood`.

    Returns:
        x_0 in the shape and dtype of `x_T`, and the number of model calls.
    """
    flow = _Flow(denoise, scheduler, x_T, conditioning, first_time)
    start = to_float64(x_T) / flow.alpha_last
    x_bar = flow.follow(start, flow.last, flow.first, rtol, atol, method, num_steps)
    if denoise_last:
        x_bar = _finite(x_bar - flow.velocity(flow.first, x_bar))  # x̂_0 = x̄ − s̄ ε
    return FlowResult(x_bar.to(x_T.dtype), flow.num_calls)


@torch.no_grad()
def flow_encode(
    denoise: Denoiser,
    scheduler: FlowScheduler,
    x: Tensor,
    conditioning: Mapping[str, Any] | None = None,
    *,
    first_time: float = 1.0,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str | None = None,
    num_steps: int | None = None,
) -> FlowResult:
    """The noise x_T that the flow leads to from the data x: the inverse of `flow_sample` with `denoise_last=False`.

    Args:
        x: x̄ at `first_time`, `[B, *anything]`.

    The other arguments and what is raised are those of `flow_sample`.

    Returns:
        x_T in the shape and dtype of `x`, and the number of model calls.
    """
    flow = _Flow(denoise, scheduler, x, conditioning, first_time)
    x_bar = flow.follow(to_float64(x), flow.first, flow.last, rtol, atol, method, num_steps)
    return FlowResult((flow.alpha_last * x_bar).to(x.dtype), flow.num_calls)


# --- the vector field -----------------------------------------------------------------------------------------------


class _Flow:
    """dx̄ / d log s̄ of a model between log s̄ at the first time and at the last, counting the model's calls."""

    def __init__(
        self,
        denoise: Denoiser,
        scheduler: FlowScheduler,
        like: Tensor,
        conditioning: Mapping[str, Any] | None,
        first_time: float,
    ):
        require_samples(x=like)
        require_finite(x=like)
        if len(like) == 0 or like[0].numel() == 0:
            raise ValueError(f"`x` must hold at least one example, but its shape is {list(like.shape)}.")
        self.process, self.continuous = scheduler.process, scheduler.schedule.continuous
        if self.process.prediction_type == "mean":
            raise ValueError(
                "`prediction_type` 'mean' refers to a pair of times, and the flow has one at a time; it needs"
                " 'epsilon', 'sample' or 'v_prediction'."
            )
        last_time = self.continuous.last_time
        if isinstance(first_time, bool) or not isinstance(first_time, Real) or not 0 < first_time < last_time:
            raise ValueError(
                f"`first_time` must be a number between 0 and {last_time}, where the flow ends, but is {first_time!r}."
            )
        self.denoise, self.conditioning, self.dtype = denoise, conditioning or {}, like.dtype
        self.first, self.last = (-0.5 * self.continuous.log_snr(float(t)).item() for t in (first_time, last_time))
        self.alpha_last = math.exp(0.5 * self.continuous.log_alpha_cumprod(float(last_time)).item())
        self.num_calls = 0

    def follow(
        self,
        x_bar: Tensor,
        start: float,
        end: float,
        rtol: float,
        atol: float,
        method: str | None,
        num_steps: int | None,
    ) -> Tensor:
        """x̄ at log s̄ = `end`, from x̄ at `start`."""
        if num_steps is None:
            return _solve_adaptively(self.velocity, x_bar, start, end, rtol, atol, method)
        s = _grid(start, end, num_steps, x_bar).exp()
        return _solve_on(s, lambda s, x: self.velocity(s.log(), x) / s, x_bar, method)

    def velocity(self, log_s: float | Tensor, x_bar: Tensor) -> Tensor:
        """s̄ ε_θ, like x̄."""
        # A solver may look beyond the ends when it chooses its first step.
        log_s = min(max(float(log_s), self.first), self.last)
        log_snr = torch.tensor(-2 * log_s, dtype=torch.float64, device="cpu")
        log_alpha, log_sigma = (0.5 * torch.nn.functional.logsigmoid(sign * log_snr).item() for sign in (1, -1))
        step = MarginalCoefficients(alpha_t=math.exp(log_alpha), sigma_t=math.exp(log_sigma))
        exact_x_t = step.alpha_t * x_bar
        prediction = to_float64(self._predict(exact_x_t.to(self.dtype), self.continuous.time_at(log_snr).item()))
        c, d = conversion(self.process.prediction_type, "epsilon", step)
        # What is added is not the rounded x_t that the model saw: ε divides it by σ_t.
        return math.exp(log_s) * linear_combination(c, prediction, d, exact_x_t)

    def _predict(self, x_t: Tensor, time: float) -> Tensor:
        timesteps = torch.full((len(x_t),), max(time - 1, 0.0), dtype=promote(x_t).dtype, device=x_t.device)
        output = self.denoise(x_t, timesteps, **self.conditioning)
        self.num_calls += 1
        prediction, _ = self.process.split_output(output, x_t)
        if x_t.requires_grad and not prediction.requires_grad:
            raise ValueError(
                "`denoise` must be differentiable with respect to x_t, but its output carries no gradient; do not run"
                " it under torch.no_grad or torch.inference_mode."
            )
        if not bool(prediction.isfinite().all()):
            raise ValueError(_NOT_FOLLOWED + outputs_sentence(timesteps[:1].cpu()))
        return prediction

    def velocity_and_divergence(
        self, log_s: Tensor, x_bar: Tensor, directions: Iterable[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """s̄ ε_θ and Σ v·∂(s̄ ε_θ)/∂x̄·v over the directions, divided by the number of dimensions, `[B]`."""
        with torch.enable_grad():
            x_bar = x_bar.detach().requires_grad_()
            velocity = self.velocity(log_s, x_bar)
        divergence = to_float64(torch.zeros((), device=x_bar.device))
        for direction in directions:
            (product,) = torch.autograd.grad(velocity, x_bar, direction, retain_graph=True)
            divergence = divergence + mean_flat(direction * product)
        return velocity.detach(), divergence


def _directions(
    trace: str, num_probes: int, x: Tensor, generator: torch.Generator | None
) -> Callable[[], Iterable[Tensor]]:
    """Directions v, float64 like x, with Σ v·J·v the trace of J, or an unbiased estimate of it."""
    if trace not in TRACES:
        raise ValueError(unknown("trace", trace, TRACES))
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


# --- the solver -----------------------------------------------------------------------------------------------------


Field = Callable[[Tensor, State], State]


def _solve_adaptively(
    field: Field, state: State, start: float, end: float, rtol: float, atol: float, method: str | None
) -> State:
    """The state at `end`, by steps as large as the tolerance lets them be."""
    require_positive(rtol=rtol, atol=atol)
    method = _check_method("dopri5" if method is None else method, ADAPTIVE_METHODS, " for adaptive steps")
    first = state[0] if isinstance(state, tuple) else state
    times = torch.tensor([start, end], dtype=first.dtype, device=first.device)
    # A step ends where the flow does: what solvers interpolate is less exact than their steps.
    options = {"norm": _largest_of_examples, "step_t": times[1:], "dtype": times.dtype}
    return _solve(field, state, times, method, options, rtol=rtol, atol=atol)


def _grid(start: float, end: float, num_steps: int, like: Tensor) -> Tensor:
    """So many steps from log s̄ = `start` to `end`, for states like this one."""
    require_count(num_steps=num_steps)
    return torch.linspace(start, end, num_steps + 1, dtype=like.dtype, device=like.device)


def _solve_on(grid: Tensor, field: Field, state: State, method: str | None) -> State:
    """The state at the end of the grid, by the steps of the grid."""
    method = _check_method("midpoint" if method is None else method, FIXED_METHODS, " with `num_steps`")
    return _solve(field, state, grid[[0, -1]], method, {"grid_constructor": lambda *_: grid})


def _solve(
    field: Field, state: State, times: Tensor, method: str, options: Mapping[str, Any], **tolerances: float
) -> State:
    """The state at the last of two times, by torchdiffeq."""
    odeint = _odeint()
    try:
        solution = odeint(field, state, times, method=method, options=options, **tolerances)
    except AssertionError as error:
        if not str(error).startswith(("underflow in dt", "non-finite values")):
            raise
        raise ValueError(_NOT_SOLVED) from error
    if isinstance(solution, tuple):
        return tuple(_finite(part[-1]) for part in solution)
    return _finite(solution[-1])


def _finite(x: Tensor) -> Tensor:
    if not bool(x.isfinite().all()):
        raise ValueError(_NOT_SOLVED)
    return x


_NOT_FOLLOWED = "The flow could not be followed to its end: "
_NOT_SOLVED = _NOT_FOLLOWED + "what `denoise` gives is too large, or changes too fast."


def _largest_of_examples(state: State) -> Tensor:
    """The solver's norm: the largest root mean square of an example, so that a batch does not hide its error."""
    parts = state if isinstance(state, tuple) else (state,)
    return torch.stack([mean_flat(part**2).amax() for part in parts]).amax().sqrt()


def _odeint() -> Callable[..., State]:
    try:
        from torchdiffeq import odeint
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The probability flow is solved by torchdiffeq, which is not installed: `pip install torchdiffeq`, or"
            " ddpm_hf with its extra `ode`."
        ) from error
    return odeint


def _check_method(method: str, allowed: tuple[str, ...], where: str = "") -> str:
    """The method; ValueError unless it is one of those allowed."""
    if method not in allowed:
        raise ValueError(unknown("method", method, allowed)[:-1] + f"{where}.")
    return method
