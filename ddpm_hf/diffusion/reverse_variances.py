# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""σ² of every pair of visited times if the model does not predict it; `reverse_process` describes the types."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .denoising_errors import DenoisingErrors, optimal_log_variances
from .gaussian_process import StepCoefficients, unknown
from .numerics import is_number


FIXED_VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
VARIANCE_TYPES = (*FIXED_VARIANCE_TYPES, "learned", "learned_range", "optimal")
FIRST_VARIANCES = ("posterior", "beta", "measured")


@dataclass(frozen=True, eq=False)
class ReverseVariances:
    """The variances of a chain.

    Args:
        variance_type: one of `VARIANCE_TYPES`.
        first_variance: the variance of the first pair, that is of the decoder; see `ReverseProcess`.
        measures_decoder: whether the first variance is the measured one, which minimises L_0.
        denoising_errors: the model's errors, if they have been measured.
        steps: the coefficients of the visited pairs, `[K]`.
        log_snr: log-SNR at the later time of each pair, `[K]`.
    """

    variance_type: str
    first_variance: str | float | None
    measures_decoder: bool
    denoising_errors: DenoisingErrors | None
    steps: StepCoefficients
    log_snr: Tensor

    @cached_property
    def log_small_and_large(self) -> tuple[Tensor, Tensor]:
        """log β̃ and log β of the chain, `[K]`, with the first entries that `first_variance` chooses."""
        steps = self.steps
        # A chain of one pair has no second pair to take β̃ from; its β is the only other scale there is.
        posterior = steps.posterior_log_variance[1:2] if len(self.log_snr) > 1 else steps.log_beta[:1]
        beta = steps.log_beta[:1]
        if self.measures_decoder:
            first_small = first_large = _mean_of_elements(self._measured_decoder)
        elif is_number(self.first_variance):
            first_small = first_large = torch.full_like(beta, math.log(self.first_variance))
        else:
            first_small = beta if self.first_variance == "beta" else posterior
            first_large = posterior if self.first_variance == "posterior" else beta
        return (
            torch.cat([first_small, steps.posterior_log_variance[1:]]),
            torch.cat([first_large, steps.log_beta[1:]]),
        )

    @property
    def log_variance(self) -> Tensor:
        """log σ² of the chain by its variance type, `[K]`; the mean σ² if every element has its own."""
        if self.variance_type != "optimal":
            log_small, log_large = self.log_small_and_large
            return log_small if self.variance_type.startswith("fixed_small") else log_large
        return _mean_of_elements(self.optimal_log_variance)

    @cached_property
    def optimal_log_variance(self) -> Tensor:
        """log σ*² of the chain, `[K, *shape]`, with the `shape` of `denoising_errors`."""
        log_variance = optimal_log_variances(self._measured, self.steps, self.log_snr)
        log_variance[0] = self._measured_decoder[0] if self.measures_decoder else self.log_small_and_large[1][0]
        return log_variance

    @property
    def _measured(self) -> DenoisingErrors:
        if self.denoising_errors is None:
            what = "`variance_type` 'optimal'" if self.variance_type == "optimal" else "`first_variance` 'measured'"
            raise ValueError(
                f"{what} needs `denoising_errors`; measure them on training data by `measure_denoising_errors`."
            )
        return self.denoising_errors

    @property
    def _measured_decoder(self) -> Tensor:
        """log of the variance that minimises L_0 at the first time: `[1]`, or `[1, *shape]` for continuous data."""
        return self._measured.log_decoder_variance(self.log_snr[:1])


def check_first_variance(value: str | float | None) -> None:
    """Raise ValueError unless `first_variance` is a name, a positive number or None."""
    if is_number(value):
        if not 0 < value < math.inf:
            raise ValueError(f"`first_variance` must be a positive number, but is {value}.")
    elif value is not None and value not in FIRST_VARIANCES:
        raise ValueError(unknown("first_variance", value, FIRST_VARIANCES) + " A number or None is allowed too.")


def _mean_of_elements(log_variance: Tensor) -> Tensor:
    """log of the mean of σ² over elements, from log σ² `[K, *shape]`: `[K]`."""
    of_elements = log_variance.reshape(len(log_variance), -1)
    return torch.logsumexp(of_elements, dim=1) - math.log(of_elements.shape[1])
