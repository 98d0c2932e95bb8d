# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The chain of a scheduler, which is derived from its configuration and its timesteps at every use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from torch import Tensor

from ..diffusion.denoising_errors import DenoisingErrors, step_costs
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.gaussian_process import unknown
from ..diffusion.noise_schedule import NoiseSchedule
from ..diffusion.numerics import in_int64
from ..diffusion.timestep_spacing import TIMESTEP_SPACINGS, log_snr_times, optimal_times, quadratic_times, spaced_times
from .configuration import (
    OWN_CONFIG_KEY,
    CountingConfig,
    SeenConfig,
    normal_own_arguments,
    normal_values,
    own_defaults,
)
from .construction import check_neighbours, diffusion_from
from .visited_chain import VisitedChain, as_int, times_of, timesteps_of


CHOSEN_SPACINGS = ("quadratic", "log_snr", "optimal")  # for `set_timesteps`; stock schedulers do not know them


@dataclass(frozen=True, eq=False)
class _Derived:
    """The values derived from a scheduler's configuration."""

    chain: VisitedChain
    optimal: _OptimalTimes = field(default_factory=lambda: _OptimalTimes())  # independent of the chain


class _OptimalTimes:
    """The times that minimise the bound, for each number of steps.

    The costs of steps are computed once for all numbers of steps, which takes long with one error per element.
    """

    def __init__(self) -> None:
        self._costs: Tensor | None = None
        self._chains: dict[int, list[int]] = {}

    def of(self, num_inference_steps: int, schedule: NoiseSchedule, errors: DenoisingErrors) -> list[int]:
        if self._costs is None:
            self._costs = step_costs(schedule, errors)
        if num_inference_steps not in self._chains:
            self._chains[num_inference_steps] = optimal_times(self._costs, num_inference_steps, at_most=True)
        return self._chains[num_inference_steps]


class ConfiguredChain(ConfigMixin):
    """The part of a scheduler that keeps its diffusion up to date with its diffusers configuration."""

    num_inference_steps: int | None
    custom_timesteps: bool
    _internal_dict: CountingConfig
    _seen: SeenConfig
    _derived: _Derived
    _timesteps: Tensor
    _chosen_times: list[int] | None  # None: all of them

    def _register_own(self, **own: Any) -> None:
        self.register_to_config(**{OWN_CONFIG_KEY: own})

    def register_to_config(self, **kwargs: Any) -> None:
        """As in diffusers. The new configuration counts its changes, so that a step need not compare values."""
        super().register_to_config(**kwargs)
        self._internal_dict = CountingConfig(self._internal_dict)

    def _follow_config(self) -> None:
        config = self._internal_dict
        if self._seen.is_untouched(config):
            return
        if self._seen.is_current(config):
            self._seen = SeenConfig.of(config)
        else:
            self.register_to_config(**self._seen.changed_in(config))
            self._derive()

    def _derive(self) -> None:
        """Check the configuration, bring its values into their normal form, and derive the diffusion from them."""
        own, errors = normal_own_arguments(self.config[OWN_CONFIG_KEY], own_defaults(type(self)))
        self.register_to_config(**{OWN_CONFIG_KEY: own}, **normal_values(self.config))
        config = self.config
        diffusion = diffusion_from(config, own, errors, self._chosen_times)
        self._derived = _Derived(VisitedChain(diffusion))
        self._seen = SeenConfig.of(config)
        if self._chosen_times is None:
            self._timesteps = timesteps_of(diffusion.times)

    @property
    def _chain(self) -> VisitedChain:
        """The chain for the current configuration and timesteps."""
        self._follow_config()
        if self._timesteps._version:  # changed in place: our own tensor starts with version 0
            self.timesteps = self._timesteps
        return self._derived.chain

    @property
    def diffusion(self) -> GaussianDiffusion:
        """The diffusion over the visited chain for the current configuration; it counts times as the paper does."""
        return self._chain.diffusion

    @property
    def process(self) -> GaussianDiffusion:
        """`diffusion` under its name before version 0.2."""
        return self.diffusion

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of the current configuration."""
        return self.diffusion.schedule

    @property
    def num_levels(self) -> int | None:
        """Number of levels of the data; None for continuous data."""
        return self.diffusion.num_levels

    @property
    def first_variance(self) -> str | float | None:
        """The decoder's variance, as in the argument of the same name."""
        return self.diffusion.first_variance

    @property
    def denoising_errors(self) -> DenoisingErrors | None:
        """The model's mean squared errors, if they have been measured."""
        return self.diffusion.denoising_errors

    @property
    def variance_type(self) -> str:
        return self.diffusion.variance_type

    @property
    def betas(self) -> Tensor:
        """β of every training timestep, float64 `[T]`."""
        return self.schedule.betas

    @property
    def alphas(self) -> Tensor:
        """1 − β of every training timestep, float64 `[T]`."""
        return torch.exp(self.schedule.log_alphas_cumprod.diff())

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ of every training timestep, float64 `[T]`."""
        return self.schedule.alphas_cumprod[1:]

    def __len__(self) -> int:
        return self.schedule.T

    # --- the chain ---

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
        timestep_spacing: str | None = None,
    ) -> None:
        """Choose the timesteps that the chain visits; posterior, reverse steps and the bound all follow them.

        Args:
            num_inference_steps: K in 1 … T. Give either this or `timesteps`.
            device: the device of `self.timesteps`.
            timesteps: descending timesteps, each in 0 … T − 1.
            timestep_spacing: how the K timesteps are spaced: a value of the scheduler's own argument of that name,
                which is the default; "quadratic", even in √t; "log_snr", even in the log-SNR; or "optimal", at most K
                timesteps that minimise the bound for the model's `denoising_errors` with the variance "optimal"
                (Watson et al. 2021).

        Raises:
            ValueError: if both or neither of `num_inference_steps` and `timesteps` are given; for values out of range;
                for "optimal" without `denoising_errors`; if the chain visits a timestep of signal-to-noise ratio 0
                with epsilon prediction, which does not determine x_0 there; and if the variance is "learned", which
                holds for neighbouring times only, and the chain skips timesteps.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("Pass one of `num_inference_steps` and `timesteps`, and only one.")
        if timesteps is not None and timestep_spacing is not None:
            raise ValueError(
                "`timestep_spacing` spaces `num_inference_steps`; it has no effect on `timesteps`, so leave it out."
            )
        self._follow_config()
        if timesteps is not None:
            times = times_of(timesteps, self._derived.chain.diffusion.schedule.T)
        else:
            times = self._spaced_times(timestep_spacing, as_int(num_inference_steps, "num_inference_steps"))
        self._visit(times, num_inference_steps)
        self._timesteps = timesteps_of(times, device)

    @property
    def timesteps(self) -> Tensor:
        """The visited timesteps, int64 `[K]`, descending.

        Assigning them, or changing them in place, has the effect of `set_timesteps(timesteps=...)`. The assigned
        tensor is copied, and its device is kept.

        Raises:
            ValueError: as `set_timesteps`: on assignment, or at the next use after a change in place.
        """
        self._follow_config()
        return self._timesteps

    @timesteps.setter
    def timesteps(self, timesteps: Sequence[int] | Tensor) -> None:
        self._follow_config()
        times = times_of(timesteps, self._derived.chain.diffusion.schedule.T)
        if times != list(self._derived.chain.diffusion.times):
            self._visit(times, None)
        self._timesteps = timesteps_of(times, timesteps.device if isinstance(timesteps, Tensor) else None)

    def _visit(self, times: list[int], num_inference_steps: int | None) -> None:
        """Visit other times; `num_inference_steps` is None if the user gave the timesteps."""
        chain = self._derived.chain
        if times != list(chain.diffusion.times):  # pipelines set the same times again; this keeps their tables
            chain = VisitedChain(chain.diffusion.visiting(times))
        chain.diffusion.require_determined()
        check_neighbours(chain.diffusion)
        self._derived = replace(self._derived, chain=chain)
        self._chosen_times = times
        self.num_inference_steps = num_inference_steps
        self.custom_timesteps = num_inference_steps is None

    def _spaced_times(self, spacing: str | None, num_inference_steps: int) -> list[int]:
        """K times by the name of their spacing."""
        schedule = self._derived.chain.diffusion.schedule
        if spacing == "quadratic":
            return quadratic_times(num_inference_steps, schedule.T)
        if spacing == "log_snr":
            return log_snr_times(num_inference_steps, schedule)
        if spacing == "optimal":
            return self._optimal_times(num_inference_steps)
        if spacing is not None and spacing not in TIMESTEP_SPACINGS:
            raise ValueError(unknown("timestep_spacing", spacing, (*TIMESTEP_SPACINGS, *CHOSEN_SPACINGS)))
        spacing = self.config.timestep_spacing if spacing is None else spacing
        return spaced_times(spacing, num_inference_steps, schedule.T, self.config.steps_offset)

    def _optimal_times(self, num_inference_steps: int) -> list[int]:
        """At most K times that minimise the bound, found once, since a pipeline asks again for every batch."""
        errors = self._derived.chain.diffusion.denoising_errors
        if errors is None:
            raise ValueError(
                "`timestep_spacing` 'optimal' needs the scheduler's `denoising_errors`; measure them on training data"
                " by `measure_denoising_errors`."
            )
        return self._derived.optimal.of(num_inference_steps, self._derived.chain.diffusion.schedule, errors)

    def previous_timestep(self, timestep: int | Tensor) -> int | Tensor:
        """The timestep that the chain visits after the given one; −1 for the data."""
        chain = self._chain
        if self.num_inference_steps is None and not self.custom_timesteps:
            return in_int64(timestep) - 1
        return chain.diffusion.pair(chain.index(timestep))[0] - 1
