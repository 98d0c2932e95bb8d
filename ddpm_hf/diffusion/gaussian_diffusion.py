# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
r"""`GaussianDiffusion`: a chain of visited times with the mathematics of one batch.

It owns the noise schedule, the visited times, the prediction type, the variance and the number of levels of the data.
Sampling, likelihoods and training use it. It calls the model only in `model_output`. It counts in two ways:

    t = 0 … T           the paper's times, where t = 0 is the data
    index = 0 … K − 1   the pairs of neighbouring visited times, ascending: pair 0 leads from the first visited time
                        to the data, pair k from the (k + 1)-th visited time to the k-th

Models count timesteps from 0, as diffusers does: for x_t the model gets the timestep t − 1. Only `model_output`
converts. A family whose models scale their input, or whose time is not an index, overrides it.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from .bound_terms import prior_kl, vlb_terms
from .denoiser import Denoiser, denoiser_of
from .denoising_errors import chain_costs
from .gaussian_process import (
    convert_prediction,
    ddim_coefficients,
    linear_combination,
    q_mean_variance,
    q_posterior_mean_variance,
    q_sample,
    velocity,
)
from .multistep import extrapolate, extrapolation_weight
from .numerics import Times, check_num_levels, expand_like, in_int64, nats_to_bits, upcast
from .reverse_process import UNDETERMINED, ReverseProcess, cast_variance


Index = int | Tensor
"""A pair of visited times, 0 … K − 1: an int for the whole batch, or an integer tensor `[]` or `[B]`."""


@dataclass(frozen=True, eq=False)
class GaussianDiffusion(ReverseProcess):
    """A diffusion over a chain of visited times: forward process, posterior, reverse process and bound.

    Args:
        num_levels: number of evenly spaced levels of the data in [−1, 1], which L_0 needs: 256 for 8-bit images; None
            for continuous data, whose L_0 is a density.

    The other arguments are those of `ReverseProcess`.

    Raises:
        ValueError: as `ReverseProcess`; also if `num_levels` is neither an int ≥ 2 nor None, or is not the number of
            levels that the `denoising_errors` were measured on.
    """

    num_levels: int | None = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_num_levels(self.num_levels)
        if self.denoising_errors is not None:
            self.denoising_errors.check_levels(self.num_levels)

    def visiting(self, times: Sequence[int]) -> Self:
        """The same diffusion over another chain of times, ascending within 1 … T."""
        return dataclasses.replace(self, times=times)

    def require_determined(self) -> None:
        """Raise ValueError if the chain visits a time at which the model's output does not determine x_0."""
        if self.is_undetermined:
            raise ValueError(UNDETERMINED)

    def pair(self, index: Index) -> tuple[Tensor, Tensor]:
        """The times (s, t) of each pair, int64 in the shape of `index` and on its device."""
        index = _as_tensor(index)
        times = self._times_on(index.device)
        return times.take(index), times.take(index + 1)

    def _times_on(self, device: torch.device) -> Tensor:
        if device not in self._times_tables:
            times = torch.tensor([0, *self.times], device="cpu")
            self._times_tables[device] = times.to(device, non_blocking=True)
        return self._times_tables[device]

    @cached_property
    def _times_tables(self) -> dict[torch.device, Tensor]:
        return {}

    # --- the model --------------------------------------------------------------------------------------------------

    def model_output(
        self, denoise: Denoiser, x_t: Tensor, t: float | Tensor, conditioning: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The model's output for x_t, `[B, *anything]`.

        Args:
            denoise: `denoise(x_t, timesteps, **conditioning)`, or a model; see `denoiser_of`.
            x_t: `[B, *anything]`.
            t: times ≥ 1, an int, or an integer tensor `[B]`; or a real time > 0 of the probability-flow ODE, for which
                the model gets the real timestep max(t − 1, 0).
            conditioning: further arguments of `denoise`.
        """
        return denoiser_of(denoise)(x_t, _timesteps(t, x_t), **(conditioning or {}))

    # --- the forward process ----------------------------------------------------------------------------------------

    def q_sample(self, x_0: Tensor, noise: Tensor, t: Times) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε (Ho et al. 2020, Eq. 4), like `x_0`; any times, visited or not."""
        return q_sample(self.schedule, x_0, noise, t)

    def velocity(self, x_0: Tensor, noise: Tensor, t: Times) -> Tensor:
        """v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans & Ho 2022, appendix D), like `x_0`."""
        return velocity(self.schedule, x_0, noise, t)

    def q_mean_variance(self, x_0: Tensor, t: Times) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_t | x_0) (Ho et al. 2020, Eq. 4), at least float32."""
        return q_mean_variance(self.schedule, x_0, t)

    def q_posterior_mean_variance(self, x_0: Tensor, x_t: Tensor, index: Index) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_s | x_t, x_0) for visited pairs (Ho et al. 2020, Eq. 6 and 7)."""
        s, t = self.pair(index)
        return q_posterior_mean_variance(self.schedule, x_0, x_t, s, t)

    def training_target(self, x_0: Tensor, noise: Tensor, t: Times) -> Tensor:
        """The training target at times t for the `prediction_type`; like `x_0`.

        "mean" is the mean of q(x_{t−1} | x_t, x_0), even if the chain skips times.
        """
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x_0
        if self.prediction_type == "v_prediction":
            return self.velocity(x_0, noise, t)
        if self.prediction_type == "score":
            return self.noise_score(noise, t)
        exact_x_0 = upcast(x_0)
        x_t = self.q_sample(exact_x_0, upcast(noise), t)
        mean, _, _ = q_posterior_mean_variance(self.schedule, exact_x_0, x_t, in_int64(t) - 1, t)
        return mean.to(x_0.dtype)

    def noise_score(self, noise: Tensor, t: Times) -> Tensor:
        """∇ log q(x_t | x_0) = −ε/σ_t (Vincent 2011), like `noise`."""
        _, sigma = self.schedule.marginal_coefficients(t)
        return (-upcast(noise) / expand_like(sigma, upcast(noise))).to(noise.dtype)

    # --- the reverse process ----------------------------------------------------------------------------------------

    def score(self, model_output: Tensor, x_t: Tensor, t: Times) -> Tensor:
        """The model's ∇ log p_t(x_t), −ε_θ/σ_t, unconstrained and at least float32 (Song et al. 2021, Eq. 7)."""
        prediction, _ = self.split_output(model_output, x_t)
        kind = self.prediction_type
        return convert_prediction(upcast(prediction), upcast(x_t), kind, "score", self.schedule, t)

    def step(
        self,
        model_output: Tensor,
        x_t: Tensor,
        index: Index,
        draw_noise: Callable[[], Tensor],
        eta: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x_s ~ p_θ(x_s | x_t) and the predicted x̂_0, at least float32 (Ho et al. 2020, Algorithm 2).

        The step to the data returns the mean and draws no noise.

        Args:
            model_output, x_t: as in `p_mean_variance`.
            index: one pair for the whole batch, or one for each example.
            draw_noise: returns standard normal noise like `x_t`; called only if the step adds noise.
            eta: DDIM's η in [0, 1], which replaces the variance type (Song, Meng & Ermon 2021, Eq. 12 and 16).
        """
        row = self.coefficients(index, eta)
        mean, x_0, learned = self.predict(model_output, x_t, row)
        if eta == 0 or (not isinstance(index, Tensor) and index == 0):
            return mean, x_0
        if eta is None:
            log_variance = self.log_variance(index, row, mean) if learned is None else learned
        else:
            log_variance = row.log_variance
        if not isinstance(log_variance, Tensor):
            return mean.add_(draw_noise(), alpha=math.exp(0.5 * log_variance)), x_0
        std = cast_variance(torch.exp(0.5 * log_variance), mean)
        if isinstance(index, Tensor):
            std = std * expand_like(index > 0, mean)
        return mean.addcmul_(std, draw_noise()), x_0

    def second_order_step(
        self, model_output: Tensor, x_t: Tensor, index: int, earlier_x_0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The noise-free step of second order, x_s and the predicted x̂_0, at least float32 (Lu et al. 2022).

        Args:
            model_output, x_t: as in `p_mean_variance`.
            index: the pair of the whole batch.
            earlier_x_0: the x̂_0 of the step before, from pair `index` + 1. None at the first step of a chain, which is
                DDIM's with η = 0, as is the last one, to the data.
        """
        row = self.coefficients(index, 0.0)
        mean, x_0, _ = self.predict(model_output, x_t, row)
        if earlier_x_0 is None or index == 0:
            return mean, x_0
        s, t, u = self.times[index - 1 : index + 2]
        weight = extrapolation_weight(self.schedule, u, t, s)
        data = extrapolate(x_0, earlier_x_0, weight)
        return linear_combination(row.mean_coef_x0, data, row.mean_coef_xt, upcast(x_t)), x_0

    def encode_step(self, model_output: Tensor, x_s: Tensor, index: int) -> Tensor:
        """DDIM's step without noise, backwards: from the later time of pair `index` to the next visited time.

        The result is like `x_s`, at least float32 (Song, Meng & Ermon 2021, section 4.3).
        """
        _, x_0, _ = self.predict(model_output, x_s, self.coefficients(index))
        s, t = self.times[index : index + 2]
        coef_x0, coef_xs, _ = ddim_coefficients(self.schedule, s, t)
        return linear_combination(float(coef_x0), x_0, float(coef_xs), upcast(x_s))

    # --- the bound --------------------------------------------------------------------------------------------------

    def vlb_terms(self, model_output: Tensor, x_0: Tensor, x_t: Tensor, index: Index) -> Tensor:
        """The term of the bound for each example's pair, L_{t−1} or L_0, bits/dim, `[B]` (Ho et al. 2020, Eq. 5).

        Arguments as in `bound_terms.vlb_terms`.
        """
        return vlb_terms(self, model_output, x_0, x_t, _as_tensor(index), self.num_levels)

    def prior_bits(self, x_0: Tensor) -> Tensor:
        """L_T = KL(q(x_T | x_0) ‖ N(0, I)) at the last visited time, bits/dim, `[B]` (Ho et al. 2020, Eq. 5)."""
        return nats_to_bits(prior_kl(self.schedule, x_0, self.times[-1]))

    @property
    def expected_terms(self) -> Tensor:
        """The expected value of each term of the bound, nats/dim, float64 `[K]`, the decoder term first.

        It is exact for the variance "optimal" on data distributed like those of the `denoising_errors`. Without
        `denoising_errors` it is the expectation for data N(0, I).
        """
        return chain_costs(self.schedule, self.denoising_errors, self.times)


class HasDiffusion(Protocol):
    """An object that owns a diffusion, such as a `DDPMPaperScheduler`."""

    @property
    def diffusion(self) -> GaussianDiffusion: ...


class HasConfig(Protocol):
    """A scheduler of diffusers, which `diffusion_of` converts."""

    @property
    def config(self) -> Any: ...


DiffusionSource = GaussianDiffusion | HasDiffusion | HasConfig
"""A diffusion, or a scheduler that has one or can be converted: see `diffusion_of`."""

ADAPTER = "ddpm_hf.schedulers.scheduling_ddpm_paper"


def diffusion_of(source: DiffusionSource) -> GaussianDiffusion:
    """The diffusion itself, or the one that a scheduler owns; a stock scheduler is converted, with its timesteps.

    Raises:
        ValueError: if `source` is not a scheduler, or is a scheduler of another process.
    """
    if isinstance(source, GaussianDiffusion):
        return source
    diffusion = getattr(source, "diffusion", None)
    if isinstance(diffusion, GaussianDiffusion):
        return diffusion
    if hasattr(source, "config"):
        # Only here does the mathematics need the adapter. diffusers is installed, since `source` came from it.
        adapter = importlib.import_module(ADAPTER).DDPMPaperScheduler
        return adapter.from_scheduler(source, keep_timesteps=True).diffusion
    raise ValueError(
        f"`scheduler` must be a DDPMPaperScheduler, a scheduler of diffusers or a GaussianDiffusion, but is"
        f" {type(source).__name__}."
    )


def _as_tensor(index: Index) -> Tensor:
    """An index in int64, on the CPU if it is an int."""
    return index.long() if isinstance(index, Tensor) else torch.tensor(index, device="cpu")


def _timesteps(t: float | Tensor, x_t: Tensor) -> Tensor:
    """The model's timesteps for times t, `[B]` on the device of x_t."""
    if isinstance(t, Tensor):
        return (in_int64(t) - 1).to(x_t.device, non_blocking=True)
    if isinstance(t, int):
        return torch.full((len(x_t),), t - 1, dtype=torch.int64, device=x_t.device)
    return torch.full((len(x_t),), max(t - 1, 0.0), dtype=upcast(x_t).dtype, device=x_t.device)
