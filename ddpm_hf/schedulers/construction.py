# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Builds the diffusion that a scheduler's configuration describes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..diffusion.constraints import clip_sample, dynamic_threshold
from ..diffusion.denoising_errors import DenoisingErrors
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.gaussian_process import unknown
from ..diffusion.timestep_spacing import TIMESTEP_SPACINGS
from .configuration import noise_schedule


# Without "score", which means something else in diffusers.
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "mean")


def diffusion_from(
    config: Any, own: dict[str, Any], errors: DenoisingErrors | None, chosen_times: list[int] | None
) -> GaussianDiffusion:
    """The diffusion that a configuration describes.

    Args:
        config: stock's fifteen arguments, in their normal form.
        own: the arguments that stock schedulers lack, without the errors.
        errors: the model's denoising errors, if they have been measured.
        chosen_times: the visited times; all times if None.

    Raises:
        ValueError: for values out of range; the message names the argument.
    """
    _check_names(config)
    schedule = noise_schedule(config)
    schedule = schedule.rescale_zero_terminal_snr() if config.rescale_betas_zero_snr else schedule
    diffusion = GaussianDiffusion(
        schedule=schedule,
        times=_kept_times(chosen_times, schedule.T),
        prediction_type=config.prediction_type,
        variance_type=config.variance_type,
        first_variance=own["first_variance"],
        constrain=_build_constraint(config),
        denoising_errors=errors,
        num_levels=own["num_levels"],
    )
    check_neighbours(diffusion)
    return diffusion


def check_neighbours(diffusion: GaussianDiffusion) -> None:
    """Raise ValueError if the variance holds for neighbouring times only and the chain skips times."""
    T, visited = diffusion.schedule.T, len(diffusion.times)
    if diffusion.learns_of_neighbours and visited < T:
        raise ValueError(
            f"`variance_type` 'learned' is a variance of neighbouring timesteps: all {T} must be visited, but"
            f" {visited} were asked for; 'learned_range' is of any."
        )


def _check_names(config: Any) -> None:
    """Raise ValueError for an invalid value that neither the schedule nor the reverse process checks."""
    if config.timestep_spacing not in TIMESTEP_SPACINGS:
        raise ValueError(unknown("timestep_spacing", config.timestep_spacing, TIMESTEP_SPACINGS))
    if config.prediction_type not in PREDICTION_TYPES:
        raise ValueError(unknown("prediction_type", config.prediction_type, PREDICTION_TYPES))
    if isinstance(config.steps_offset, bool) or not isinstance(config.steps_offset, int):
        raise ValueError(f"`steps_offset` must be an int, but is {config.steps_offset!r}.")


def _kept_times(chosen: list[int] | None, T: int) -> Sequence[int]:
    """The visited times: the chosen ones, or all of 1 … T.

    Raises:
        ValueError: for chosen times beyond T, if T has become smaller since they were chosen.
    """
    if chosen is None:
        return range(1, T + 1)
    if chosen[-1] > T:
        raise ValueError(
            f"The chain visits timestep {chosen[-1] - 1}, but `num_train_timesteps` is {T} now; choose its timesteps"
            " again by `set_timesteps`."
        )
    return chosen


def _build_constraint(config: Any) -> Callable[[Tensor], Tensor] | None:
    for name in ("clip_sample_range", "sample_max_value"):
        if not config[name] > 0:
            raise ValueError(f"`{name}` must be positive, but is {config[name]}.")
    if not 0 < config.dynamic_thresholding_ratio <= 1:
        raise ValueError(
            f"`dynamic_thresholding_ratio` must be in (0, 1], but is {config.dynamic_thresholding_ratio}."
        )
    if config.thresholding:
        return dynamic_threshold(config.dynamic_thresholding_ratio, config.sample_max_value)
    return clip_sample(config.clip_sample_range) if config.clip_sample else None
