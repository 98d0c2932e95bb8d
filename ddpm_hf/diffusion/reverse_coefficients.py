# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The coefficients of a reverse step for its pair of times: numbers for one pair, tensors for one pair per example."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from .gaussian_process import Coefficients
from .numerics import Coefficient, move_coefficients


@dataclass(frozen=True)
class ReverseCoefficients(Coefficients):
    """The coefficients of a reverse step for its pair of times s < t."""

    x0_coef_output: Coefficient  # x̂_0 = x0_coef_output · model output + x0_coef_xt · x_t
    x0_coef_xt: Coefficient
    mean_coef_x0: Coefficient  # μ_θ = mean_coef_x0 · x̂_0 + mean_coef_xt · x_t
    mean_coef_xt: Coefficient
    posterior_log_variance: Coefficient  # log β̃, −inf for the first pair
    log_variance_small: Coefficient  # log β̃, with the first entry from `first_variance`
    log_variance_large: Coefficient  # log β, with the first entry from `first_variance`
    log_variance: Coefficient  # log σ² of the variance type; the mean σ² if by element, β if learned
    snr_drop: Coefficient  # SNR_s − SNR_t; for the first pair from a log-SNR extrapolated in equal steps


@dataclass(frozen=True, eq=False)
class CoefficientTable:
    """The coefficients of a chain, looked up by pair."""

    columns: ReverseCoefficients  # float64 `[K]`

    @cached_property
    def rows(self) -> list[ReverseCoefficients]:
        """The table as Python numbers, one set per pair, so that a step at one time for the batch reads no tensor."""
        columns = [getattr(self.columns, field.name).tolist() for field in fields(ReverseCoefficients)]
        return [ReverseCoefficients(*row) for row in zip(*columns, strict=True)]

    @cached_property
    def _on_devices(self) -> dict[torch.device, ReverseCoefficients]:
        return {}

    def at(self, index: int | Tensor) -> ReverseCoefficients:
        if not isinstance(index, Tensor):
            if not 0 <= index < len(self.rows):
                raise ValueError(f"`index` must lie in 0 ... {len(self.rows) - 1}, but is {index}.")
            return self.rows[index]
        device, index = index.device, index.long()
        if device not in self._on_devices:
            self._on_devices[device] = self.columns.map(lambda column: move_coefficients(column, device))
        return self._on_devices[device].map(lambda column: column.take(index))
