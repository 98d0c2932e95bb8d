# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The learned reverse process: it turns a model's output into p_θ(x_s | x_t) = N(μ_θ, σ² I).

The mean is the posterior mean with the predicted x̂_0 in place of x_0 (Ho et al. 2020, Eq. 7, 11 and 15):

    μ_θ = c₁ x̂_0 + c₂ x_t,    x̂_0 from the model's output, optionally constrained to the range of the data.

The variance is one of

    fixed_small, fixed_small_log    σ² = β̃    the posterior variance, optimal if the data are a single point
    fixed_large, fixed_large_log    σ² = β    optimal if the data are N(0, I)             (Ho et al. 2020, section 3.2)
    optimal                         σ² = β̃ + c₁² e_t, with the model's own mean squared error e_t: the least bound
                                                                                          (Bao et al. 2022, Theorem 1)
    learned                         log σ² = the second half of the model's channels
    learned_range                   log σ² = ν log β + (1 − ν) log β̃; the second half of the model's channels is 2ν − 1
                                                                                     (Nichol & Dhariwal 2021, Eq. 15)

("_log" names the same variance: stock diffusers stores its logarithm; this package stores both.)

DDIM (Song, Meng & Ermon 2021, Eq. 12) follows the same chain with a chosen amount of noise, for any η in [0, 1]:

    x_s = √ᾱ_s x̂_0 + √(1 − ᾱ_s − η² β̃) ε̂ + η √β̃ z,    ε̂ = (x_t − √ᾱ_t x̂_0)/√(1 − ᾱ_t),

η = 1 is the step above with the variance β̃, and η = 0 adds no noise.

A chain visits the times 0 = τ_0 < τ_1 < … < τ_K ≤ T, and every coefficient belongs to a pair (τ_{k−1}, τ_k). In the
first pair β̃ is 0, and a Gaussian of variance 0 has no density. The argument `first_variance` chooses this one entry.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple, overload

import torch
from torch import Tensor

from .denoising_errors import DenoisingErrors
from .gaussian_process import (
    PREDICTION_TYPES,
    StepCoefficients,
    check_eta,
    ddim_coefficients,
    linear_combination,
    unknown,
    x0_from_prediction,
)
from .noise_schedule import NoiseSchedule
from .numerics import Coefficient, expand_like, move_coefficients, require_count, require_samples, upcast
from .reverse_coefficients import CoefficientTable, ReverseCoefficients
from .reverse_variances import VARIANCE_TYPES, ReverseVariances, check_first_variance


UNDETERMINED = (
    "`prediction_type` 'epsilon' says nothing about x_0 at a timestep whose signal-to-noise ratio is 0"
    " (`rescale_betas_zero_snr`, or a last beta of 1); use 'v_prediction' or 'sample', or do not visit that timestep."
)


class ReverseStep(NamedTuple):
    """p_θ(x_s | x_t); `variance` and `log_variance` broadcast against `mean`, at least float32."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    pred_original_sample: Tensor

    def of_examples(self, rows: Tensor) -> ReverseStep:
        """The reverse step of the examples with the given indices, int64 `[N]`."""
        size = len(self.mean)
        return ReverseStep(*(each[rows] if each.ndim and len(each) == size else each for each in self))


@dataclass(frozen=True, eq=False)
class ReverseProcess:
    """p_θ over a chain of visited times.

    Args:
        schedule: the noise schedule.
        times: the visited times of the paper's clock, ascending, each in 1 … T; 0 is always visited and not listed.
        prediction_type: what the model predicts, in the first half of its channels if it learns a variance: one of
            `PREDICTION_TYPES`. "mean" refers to q(x_{t−1} | x_t, x_0) even if the chain skips times.
        variance_type: one of `VARIANCE_TYPES`.
        first_variance: the variance of the decoder p_θ(x_0 | x_{τ_1}).
            "posterior": β̃ of the second visited pair, as in the original implementations. "beta": β of the first
            pair, as in fixed_large of diffusers. "measured": the variance that minimised L_0 in `denoising_errors`:
            that of a discrete normal law for discrete data, e itself for continuous data. A number: that variance.
            On 8-bit images the choice changes the bound of fixed_large by about 0.1 bits/dim. With "learned_range" it
            fixes the variance of the first pair; "learned" ignores it.
            None: "posterior" for β̃, "beta" for β, "measured" for "optimal". For "learned_range" it is the learned
            variance if τ_1 = 1, the only time at which a decoder is trained; for later τ_1 it is "measured" if the
            decoder's variance was measured.
        constrain: a function applied to the predicted x̂_0, such as `clip_sample(1.0)`.
        denoising_errors: the model's measured errors, for "optimal" and "measured".

    Raises:
        ValueError: for an unknown name, times that are not ascending within 1 … T, or a `first_variance` ≤ 0.
    """

    schedule: NoiseSchedule
    times: Sequence[int]
    prediction_type: str = "epsilon"
    variance_type: str = "fixed_small"
    first_variance: str | float | None = None
    constrain: Callable[[Tensor], Tensor] | None = None
    denoising_errors: DenoisingErrors | None = None

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(unknown("prediction_type", self.prediction_type, PREDICTION_TYPES))
        if self.variance_type not in VARIANCE_TYPES:
            raise ValueError(unknown("variance_type", self.variance_type, VARIANCE_TYPES))
        check_first_variance(self.first_variance)
        check_times(self.times, self.schedule.T)

    @cached_property
    def learns_variance(self) -> bool:
        return self.variance_type in ("learned", "learned_range")

    @property
    def learns_of_neighbours(self) -> bool:
        """Whether the variance was learned for steps between neighbouring times only."""
        return self.variance_type == "learned"

    @cached_property
    def measures_decoder(self) -> bool:
        """Whether the decoder has the measured variance; for discrete data it is then a discrete normal law."""
        if self.first_variance is not None:
            return self.first_variance == "measured" and self.variance_type != "learned"
        has_measured = self.denoising_errors is not None and self.denoising_errors.decoder_variances is not None
        is_untrained = self.variance_type == "learned_range" and self.times[0] > 1
        return self.variance_type == "optimal" or (is_untrained and has_measured)

    @cached_property
    def has_element_variances(self) -> bool:
        """Whether every element of an example has its own variance."""
        return self.variance_type == "optimal" and bool(self.denoising_errors and self.denoising_errors.shape)

    @property
    def is_undetermined(self) -> bool:
        """Whether the chain visits a time at which the prediction does not determine x_0: "epsilon" at SNR 0."""
        last = self.schedule.log_alphas_cumprod[self.times[-1]]
        return self.prediction_type in ("epsilon", "score") and bool(torch.isneginf(last))

    # --- coefficients of the chain ---

    @cached_property
    def table(self) -> ReverseCoefficients:
        """The coefficients of the visited pairs (τ_{k−1}, τ_k), k = 1 … K, float64 `[K]`."""
        steps = self._steps
        # A "mean" output refers to the pair (t − 1, t), even if the chain skips times.
        _, t = self._pairs
        neighbours = StepCoefficients.between(self.schedule, t - 1, t)
        x0_coef_output, x0_coef_xt = x0_from_prediction(self.prediction_type, neighbours)
        log_small, log_large = self._variances.log_small_and_large
        return ReverseCoefficients(
            x0_coef_output=x0_coef_output,
            x0_coef_xt=x0_coef_xt,
            mean_coef_x0=steps.posterior_coef_x0,
            mean_coef_xt=steps.posterior_coef_xt,
            posterior_log_variance=steps.posterior_log_variance,
            log_variance_small=log_small,
            log_variance_large=log_large,
            log_variance=self._variances.log_variance,
            snr_drop=self._snr_drops(),
        )

    @property
    def _earlier(self) -> Sequence[int]:
        """The earlier time of each pair, which its step leads to."""
        return (0, *self.times[:-1])

    @property
    def _pairs(self) -> tuple[Tensor, Tensor]:
        """The earlier times s and the later ones t, int64 `[K]`."""
        return torch.tensor(self._earlier, device="cpu"), torch.tensor(self.times, device="cpu")

    @cached_property
    def _steps(self) -> StepCoefficients:
        return StepCoefficients.between(self.schedule, *self._pairs)

    @cached_property
    def _element_tables(self) -> dict[torch.device, Tensor]:
        """log σ² for every element, `[K, *shape]`, one table per device."""
        return {}

    @cached_property
    def _tables(self) -> dict[float | None, CoefficientTable]:
        """The chain's coefficients for each η of DDIM; the key None is for the variance type."""
        return {None: CoefficientTable(self.table)}

    def coefficients(self, index: int | Tensor, eta: float | None = None) -> ReverseCoefficients:
        """The coefficients of one pair as numbers, or of one pair per example as `[B]` tensors on the index's device.

        Args:
            index: 0 … K − 1, an int or an integer tensor `[]` or `[B]`.
            eta: DDIM's η in [0, 1]; the mean and the variance are then DDIM's. None: those of the variance type.
        """
        if eta is not None:
            check_eta(eta)
            if eta not in self._tables:
                self._tables[eta] = CoefficientTable(self._ddim_table(eta))
        return self._tables[eta].at(index)

    def _ddim_table(self, eta: float) -> ReverseCoefficients:
        s, t = self._pairs
        coef_x0, coef_xt, log_variance = ddim_coefficients(self.schedule, t, s, eta)
        return replace(self.table, mean_coef_x0=coef_x0, mean_coef_xt=coef_xt, log_variance=log_variance)

    @cached_property
    def _variances(self) -> ReverseVariances:
        return ReverseVariances(
            self.variance_type,
            self.first_variance,
            self.measures_decoder,
            self.denoising_errors,
            self._steps,
            self.schedule.log_snr[list(self.times)],
        )

    def _snr_drops(self) -> Tensor:
        """SNR_s − SNR_t of the chain; for the first pair, where SNR_0 = ∞, from an extrapolated log-SNR."""
        log_snr = self.schedule.log_snr[list(self.times)]
        # A chain of one pair has nothing to extrapolate from: its drop is 0, and `rate_loss` refuses it.
        step = log_snr[:1] - log_snr[1:2] if len(self.times) > 1 else torch.zeros_like(log_snr)
        log_snr_before = torch.cat([log_snr[:1] + step, self.schedule.log_snr[list(self._earlier[1:])]])
        return -torch.exp(log_snr_before) * torch.expm1(log_snr - log_snr_before)

    # --- several chains in one ---

    def pairs_apart(self, stride: int) -> ReverseProcess:
        """The pairs of the `stride` chains that visit every `stride`-th time: (τ_{k−stride}, τ_k) at index k − 1.

        All of these chains end with τ_1 and 0: if τ_{k−stride} does not exist, the pair is (τ_1, τ_k), and all chains
        share the first pair (0, τ_1). The result serves to look up pairs; it is not a chain to sample from.

        Raises:
            ValueError: for a stride that is not an int ≥ 1, or a stride above 1 with "learned", whose variance is that
                of neighbouring times.
        """
        require_count(stride=stride)
        if stride == 1:
            return self
        if self.learns_of_neighbours:
            raise ValueError(
                "`stride` must be 1 for variance_type 'learned', which holds for neighbouring times only;"
                " 'learned_range' holds for any pair."
            )
        if stride not in self._pairs_apart:
            mine = {field.name: getattr(self, field.name) for field in fields(ReverseProcess)}
            self._pairs_apart[stride] = _PairsApart(**mine, stride=stride)
        return self._pairs_apart[stride]

    @cached_property
    def _pairs_apart(self) -> dict[int, ReverseProcess]:
        return {}

    # --- the distribution ---

    def predict(
        self, model_output: Tensor, x_t: Tensor, row: ReverseCoefficients
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """μ_θ, the constrained x̂_0, and log σ² if the model predicts it (else None); at least float32.

        Raises:
            ValueError: if shapes do not match, or the number of channels does not fit the variance type.
        """
        prediction, channels = self.split_output(model_output, x_t)
        prediction, x_t = upcast(prediction), upcast(x_t)
        if self.prediction_type == "sample":
            x_0 = prediction
        else:
            x_0 = linear_combination(row.x0_coef_output, prediction, row.x0_coef_xt, x_t)
        if self.constrain is not None:
            x_0 = self.constrain(x_0)
        mean = linear_combination(row.mean_coef_x0, x_0, row.mean_coef_xt, x_t)  # (Ho et al. 2020, Eq. 7)
        return mean, x_0, None if channels is None else self._learned_log_variance(upcast(channels), row)

    def p_mean_variance(self, model_output: Tensor, x_t: Tensor, index: int | Tensor) -> ReverseStep:
        """p_θ(x_s | x_t) for the visited pair k = `index` + 1, one for the batch or one per example.

        Args:
            model_output: `[B, C, …]`, or `[B, 2C, …]` where the variance is learned.
            x_t: `[B, C, …]`.
            index: an int, or an integer tensor `[]` or `[B]`, 0 … K − 1.
        """
        row = self.coefficients(index)
        mean, x_0, log_variance = self.predict(model_output, x_t, row)
        if log_variance is None:
            fixed = cast_variance(self.log_variance(index, row, mean), mean)
            log_variance = fixed if isinstance(fixed, Tensor) else mean.new_full((), fixed)
        return ReverseStep(mean, torch.exp(log_variance), log_variance, x_0)

    def log_variance(self, index: int | Tensor, row: ReverseCoefficients, mean: Tensor) -> Coefficient:
        """log σ² for a variance that the model does not predict, in float64; `cast_variance` adapts it to `mean`.

        Raises:
            ValueError: if every element has its own variance and the examples have another shape.
        """
        if not self.has_element_variances or self.denoising_errors is None:
            return row.log_variance
        if mean.shape[1:] != self.denoising_errors.shape:
            raise ValueError(
                f"`denoising_errors` are for examples of shape {list(self.denoising_errors.shape)}, but `sample` has"
                f" {list(mean.shape[1:])}; measure them for all elements together, or on such examples."
            )
        device = mean.device
        if device not in self._element_tables:
            self._element_tables[device] = move_coefficients(self._variances.optimal_log_variance, device)
        rows = index.reshape(-1).long() if isinstance(index, Tensor) else slice(index, index + 1)
        return self._element_tables[device][rows]  # [1 or B, *shape]

    def _learned_log_variance(self, channels: Tensor, row: ReverseCoefficients) -> Tensor:
        if self.variance_type == "learned":
            return channels
        small, large = (expand_like(c, channels) for c in (row.log_variance_small, row.log_variance_large))
        return small + (channels + 1) / 2 * (large - small)

    def split_output(self, model_output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prediction, `[B, C, …]` like `x_t`, and the channels of a learned variance, or None.

        Raises:
            ValueError: if shapes do not match, or the number of channels does not fit the variance type.
        """
        is_usual = not self.learns_variance and model_output.shape == x_t.shape and x_t.ndim > 0
        if is_usual and model_output.is_floating_point() and x_t.is_floating_point():
            return model_output, None
        channels = None
        fits_twice = model_output.ndim == x_t.ndim > 1 and model_output.shape[1] == 2 * x_t.shape[1]
        if fits_twice != self.learns_variance:
            raise ValueError(
                f"`model_output` must have {'twice the' if self.learns_variance else 'the'} channels of `sample` for"
                f" variance_type {self.variance_type!r}, but their shapes are {list(model_output.shape)} and"
                f" {list(x_t.shape)}."
            )
        if self.learns_variance:
            model_output, channels = model_output.chunk(2, dim=1)
        require_samples(sample=x_t)
        require_samples(model_output=model_output)
        if model_output.shape != x_t.shape:
            raise ValueError(
                f"`model_output` of shape {list(model_output.shape)} does not fit `sample` (`noisy_samples`) of shape"
                f" {list(x_t.shape)}."
            )
        return model_output, channels


@dataclass(frozen=True, eq=False)
class _PairsApart(ReverseProcess):
    """The result of `ReverseProcess.pairs_apart`."""

    stride: int = 1

    @property
    def _earlier(self) -> Sequence[int]:
        first = self.times[0]
        return (0, *[first] * self.stride, *self.times[1 : -self.stride])[: len(self.times)]


@overload
def cast_variance(variance: Tensor, mean: Tensor) -> Tensor: ...
@overload
def cast_variance(variance: float, mean: Tensor) -> float: ...
def cast_variance(variance: Coefficient, mean: Tensor) -> Coefficient:
    """A variance, its logarithm or its root, `[]`, `[B]` or `[B, *shape]`, broadcastable to `mean` in its dtype."""
    if isinstance(variance, Tensor) and variance.ndim > 1:
        return variance.to(mean.dtype)
    return expand_like(variance, mean)


def check_times(times: Sequence[int], T: int) -> None:
    """Raise ValueError unless `times` is a strictly ascending list of ints within 1 … T."""
    if len(times) == 0:
        raise ValueError("`times` must name at least one time.")
    if any(isinstance(t, bool) or not isinstance(t, int) for t in times) or not 1 <= min(times) <= max(times) <= T:
        raise ValueError(f"`times` must be ints in 1 ... {T}, but are {list(times)}.")
    if any(s >= t for s, t in itertools.pairwise(times)):
        raise ValueError(f"`times` must ascend without repetition, but are {list(times)}.")
