# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The probability-flow ODE: a deterministic map between data and noise whose model has an exact likelihood.

The SDE of the schedule has an ODE with the same marginals (Song et al. 2021, Eq. 13). In the coordinates
x̄ = x_t/√ᾱ_t and s̄ = √((1 − ᾱ_t)/ᾱ_t) = e^(−log SNR_t/2) the ODE contains no schedule (Song, Meng & Ermon 2021,
Eq. 14):

    dx̄ = ε_θ(x_t, t) ds̄,    that is    dx̄ / d log s̄ = s̄ ε_θ,

Adaptive steps integrate it over log s̄, fixed steps over s̄; the model is called at the real time t that has this s̄.
Along the flow the log-density changes by the divergence (Chen et al. 2018; Song et al. 2021, Eq. 39):

    log p(x̄ at s̄_1) = log p(x̄ at s̄_T) + ∫ ∇·(s̄ ε_θ) d log s̄,    log p(x̄ at s̄_T) = log p_T(x_T) + ½ D log ᾱ_T.

ε_θ follows from any prediction type; x̂_0 is not constrained here. The solver is torchdiffeq's (the extra `ode`). Its
state is float64. The model sees samples and times in the dtype of the given samples, times at least in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._renamed import old_names
from .denoiser import Denoiser
from .finiteness import outputs_sentence, require_finite
from .gaussian_diffusion import DiffusionSource, diffusion_of
from .gaussian_process import MarginalCoefficients, conversion, linear_combination
from .numerics import is_number, mean_flat, require_samples, to_float64
from .ode_solver import NOT_FOLLOWED, grid, require_solved, solve_adaptively, solve_on


__getattr__ = old_names(__name__)


class OdeResult(NamedTuple):
    """The samples at the end of the ODE, in the shape and dtype of its start, and the number of model calls."""

    sample: Tensor
    num_model_evaluations: int


# --- there and back -------------------------------------------------------------------------------------------------


@torch.no_grad()
def ode_sample(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    x_T: Tensor,
    conditioning: Mapping[str, Any] | None = None,
    *,
    first_time: float = 1.0,
    denoise_last: bool = True,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str | None = None,
    num_steps: int | None = None,
) -> OdeResult:
    """Solve the ODE from noise x_T to data (Song et al. 2021, section 4.3).

    Args:
        x_T: standard normal, `[B, *anything]`; at T − 1 for a schedule of zero terminal SNR.
        denoise_last: whether to return the predicted x_0 at `first_time`, which takes one more model call, instead of
            x̄, which still has the noise of that level.
        num_steps: fixed steps, if given, are taken in s̄, where ε_θ is the slope: "euler" is DDIM without noise (Song,
            Meng & Ermon 2021, Eq. 13), "heun2" the solver of Karras et al. (2022, Algorithm 1).

    The other arguments and the errors raised are those of `ode_log_likelihood`.

    Returns:
        x_0 in the shape and dtype of `x_T`, and the number of model calls.
    """
    flow = ProbabilityFlow(denoise, scheduler, x_T, conditioning, first_time)
    start = to_float64(x_T) / flow.alpha_last
    x_bar = flow.follow(start, flow.last, flow.first, rtol, atol, method, num_steps)
    if denoise_last:
        x_bar = require_solved(x_bar - flow.velocity(flow.first, x_bar))  # x̂_0 = x̄ − s̄ ε
    return OdeResult(x_bar.to(x_T.dtype), flow.num_calls)


@torch.no_grad()
def ode_encode(
    denoise: Denoiser,
    scheduler: DiffusionSource,
    x: Tensor,
    conditioning: Mapping[str, Any] | None = None,
    *,
    first_time: float = 1.0,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str | None = None,
    num_steps: int | None = None,
) -> OdeResult:
    """Solve the ODE from data x to noise x_T: the inverse of `ode_sample` with `denoise_last=False`.

    Args:
        x: x̄ at `first_time`, `[B, *anything]`.

    The other arguments and the errors raised are those of `ode_sample`.

    Returns:
        x_T in the shape and dtype of `x`, and the number of model calls.
    """
    flow = ProbabilityFlow(denoise, scheduler, x, conditioning, first_time)
    x_bar = flow.follow(to_float64(x), flow.first, flow.last, rtol, atol, method, num_steps)
    return OdeResult((flow.alpha_last * x_bar).to(x.dtype), flow.num_calls)


# --- the vector field -----------------------------------------------------------------------------------------------


class ProbabilityFlow:
    """dx̄ / d log s̄ of a model, between the first time and the last; it counts the model's calls."""

    def __init__(
        self,
        denoise: Denoiser,
        scheduler: DiffusionSource,
        like: Tensor,
        conditioning: Mapping[str, Any] | None,
        first_time: float,
    ):
        require_samples(x=like)
        require_finite(x=like)
        if len(like) == 0 or like[0].numel() == 0:
            raise ValueError(f"`x` must hold at least one example, but its shape is {list(like.shape)}.")
        self.diffusion = diffusion_of(scheduler)
        self.continuous = self.diffusion.schedule.continuous
        if self.diffusion.prediction_type == "mean":
            raise ValueError(
                "`prediction_type` 'mean' refers to a pair of times, but the ODE evaluates the model at one time; use"
                " 'epsilon', 'sample' or 'v_prediction'."
            )
        last_time = self.continuous.last_time
        if not is_number(first_time) or not 0 < first_time < last_time:
            raise ValueError(
                f"`first_time` must be a number between 0 and {last_time}, where the ODE ends, but is {first_time!r}."
            )
        self.denoise, self.dtype = denoise, like.dtype
        self.conditioning = {name: _differentiable(value) for name, value in (conditioning or {}).items()}
        self.first: float = -0.5 * self.continuous.log_snr(float(first_time)).item()
        self.last: float = -0.5 * self.continuous.log_snr(float(last_time)).item()
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
            return solve_adaptively(self.velocity, x_bar, start, end, rtol, atol, method)
        s = grid(start, end, num_steps, x_bar).exp()
        return solve_on(s, lambda s, x: self.velocity(s.log(), x) / s, x_bar, method)

    def velocity(self, log_s: float | Tensor, x_bar: Tensor) -> Tensor:
        """s̄ ε_θ, like x̄."""
        # A solver may evaluate beyond the ends when it chooses its first step.
        log_s = min(max(float(log_s), self.first), self.last)
        log_snr = torch.tensor(-2 * log_s, dtype=torch.float64, device="cpu")
        log_alpha, log_sigma = (0.5 * torch.nn.functional.logsigmoid(sign * log_snr).item() for sign in (1, -1))
        step = MarginalCoefficients(alpha_t=math.exp(log_alpha), sigma_t=math.exp(log_sigma))
        exact_x_t = step.alpha_t * x_bar
        prediction = to_float64(self._predict(exact_x_t.to(self.dtype), self.continuous.time_at(log_snr).item()))
        c, d = conversion(self.diffusion.prediction_type, "epsilon", step)
        # Uses the unrounded x_t, not the one that the model saw: ε divides rounding errors by σ_t.
        return math.exp(log_s) * linear_combination(c, prediction, d, exact_x_t)

    def _predict(self, x_t: Tensor, time: float) -> Tensor:
        output = self.diffusion.model_output(self.denoise, x_t, float(time), self.conditioning)
        self.num_calls += 1
        prediction, _ = self.diffusion.split_output(output, x_t)
        if x_t.requires_grad and not prediction.requires_grad:
            raise ValueError(
                "`denoise` must be differentiable with respect to x_t, but its output carries no gradient; do not run"
                " it under torch.no_grad or torch.inference_mode."
            )
        if not bool(prediction.isfinite().all()):
            raise ValueError(NOT_FOLLOWED + outputs_sentence(torch.tensor([max(time - 1, 0.0)], device="cpu")))
        return prediction

    def velocity_and_divergence(
        self, log_s: Tensor, x_bar: Tensor, directions: Iterable[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """s̄ ε_θ and Σ v·∂(s̄ ε_θ)/∂x̄·v over the directions, divided by the number of dimensions, `[B]`."""
        with torch.inference_mode(False), torch.enable_grad():
            x_bar = x_bar.detach().clone().requires_grad_()  # tensors made in inference mode have no gradient
            velocity = self.velocity(log_s, x_bar)
        divergence = to_float64(torch.zeros((), device=x_bar.device))
        for direction in directions:
            (product,) = torch.autograd.grad(velocity, x_bar, direction, retain_graph=True)
            divergence = divergence + mean_flat(direction * product)
        return velocity.detach(), divergence


def _differentiable(value: Any) -> Any:
    """A value of the conditioning; tensors made in inference mode, which autograd refuses, are copied."""
    if isinstance(value, Tensor) and value.is_inference():
        with torch.inference_mode(False):
            return value.clone()
    return value
