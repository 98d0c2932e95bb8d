# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Schedulers' configurations as diffusers keeps them: what stock has no name for, and names that have changed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
from diffusers.configuration_utils import FrozenDict
from typing_extensions import Self

from ..diffusion.denoising_errors import DenoisingErrors
from ..diffusion.gaussian_process import unknown
from ..diffusion.noise_schedule import NoiseSchedule
from ..diffusion.numerics import check_num_levels
from ..diffusion.reverse_variances import check_first_variance


BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")

# What stock schedulers have no argument for: it travels in their configuration under one private key.
OWN_CONFIG_KEY = "_ddpm_hf"
OWN_ARGUMENTS = ("num_levels", "first_variance", "denoising_errors")

# The arguments that `DDPMPaperScheduler` shares with stock's scheduler, but `trained_betas`, an array.
_SCALARS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "variance_type",
    "clip_sample",
    "prediction_type",
    "thresholding",
    "dynamic_thresholding_ratio",
    "clip_sample_range",
    "sample_max_value",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
    OWN_CONFIG_KEY,
)
_ATTRIBUTES, _ITEMS = attrgetter(*_SCALARS), itemgetter(*_SCALARS)
_BETAS = "trained_betas"

# Variance types with which stock's `step` fails or gives NaN, and the nearest with which it does not. The first pair
# is one variance under two names; stock puts "learned", a log-variance, under a square root, and of what it offers
# only "learned_range" splits the model's output; "optimal" it does not know. The true type travels under our key.
NEAREST_IN_STOCK = {"fixed_large_log": "fixed_large", "learned": "learned_range", "optimal": "fixed_small"}

# Arguments not given: diffusers leaves them to the defaults of the class that a configuration is turned into.
DEFAULTS_KEY = "_use_default_values"


class CountingConfig(FrozenDict):
    """A configuration that counts how often a value of it is set: diffusers means it to be frozen, but it is not."""

    _times_set = 0

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self._count()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._count()

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self._count()

    def _count(self) -> None:
        vars(self)["_times_set"] = self._times_set + 1


@dataclass(frozen=True)
class SeenConfig:
    """The values of a configuration when it was last looked at.

    diffusers keeps each value twice, as an item and as an attribute, and either can be replaced by itself.
    """

    attributes: tuple[Any, ...]
    items: tuple[Any, ...]
    betas: tuple[Any, Any]  # arrays, which are compared by identity alone
    config: CountingConfig | None  # itself, if it counts
    times_set: int

    @classmethod
    def of(cls, config: Any) -> Self:
        values = (_ATTRIBUTES(config), _ITEMS(config), (config.trained_betas, config[_BETAS]))
        return cls(*values, config, config._times_set) if isinstance(config, CountingConfig) else cls(*values, None, 0)

    def is_untouched(self, config: Any) -> bool:
        """Whether it is the same configuration, and no value has been set since; far cheaper than a comparison."""
        return config is self.config and config._times_set == self.times_set

    def is_current(self, config: Any) -> bool:
        """Whether the configuration, the same or one that has replaced it, has these values; takes a microsecond."""
        return (
            _ATTRIBUTES(config) == self.attributes
            and _ITEMS(config) == self.items
            and config.trained_betas is self.betas[0]
            and config[_BETAS] is self.betas[1]
        )

    def changed_in(self, config: Any) -> dict[str, Any]:
        """The arguments that have another value now, by whichever of item and attribute has changed."""
        now = SeenConfig.of(config)
        rows = zip(_SCALARS, self.attributes, now.attributes, self.items, now.items, strict=True)
        changed = {
            name: item if item != old_item else attribute
            for name, old_attribute, attribute, old_item, item in rows
            if item != old_item or attribute != old_attribute
        }
        for old, new in zip(reversed(self.betas), reversed(now.betas), strict=True):
            if new is not old:
                return {**changed, _BETAS: new}
        return changed


def noise_schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """The schedule that a configuration names, before it is rescaled to zero terminal SNR.

    Raises:
        ValueError: for an unknown `beta_schedule`, or values out of range.
    """
    T, name, betas = config["num_train_timesteps"], config["beta_schedule"], config["trained_betas"]
    if name not in BETA_SCHEDULES:
        raise ValueError(unknown("beta_schedule", name, BETA_SCHEDULES))
    if betas is not None:
        return NoiseSchedule.from_betas(betas, argument="trained_betas")
    if name == "squaredcos_cap_v2":
        return NoiseSchedule.cosine(T)
    if name == "laplace":
        return NoiseSchedule.laplace(T)
    return getattr(NoiseSchedule, name)(T, config["beta_start"], config["beta_end"])


def own_defaults(cls: type) -> dict[str, Any]:
    """The defaults of the arguments that stock has no name for."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: parameters[name].default for name in OWN_ARGUMENTS}


def normal_own_arguments(stored: Any, defaults: dict[str, Any]) -> tuple[dict[str, Any], DenoisingErrors | None]:
    """What is registered under our key, checked and as JSON has it, and the denoising errors that it holds.

    Raises:
        ValueError: for values out of range, or errors that were measured on data of another number of levels.
    """
    own = defaults | own_arguments(stored)
    num_levels, first_variance, errors = (own[name] for name in OWN_ARGUMENTS)
    check_num_levels(num_levels)
    check_first_variance(first_variance)
    normal = {
        "num_levels": num_levels,
        "first_variance": float(first_variance) if isinstance(first_variance, Real) else first_variance,
    }
    if errors is None:
        return normal, None
    if not isinstance(errors, DenoisingErrors):
        errors = DenoisingErrors.from_dict(errors)
    errors.check_levels(num_levels)
    return {**normal, "denoising_errors": errors.to_dict()}, errors


def own_arguments(stored: Any) -> dict[str, Any]:
    """What a configuration holds under our key, checked: a stranger, or a later version, may have written it."""
    known = (*OWN_ARGUMENTS, "variance_type")
    if not isinstance(stored, dict) or not set(stored) <= set(known):
        raise ValueError(
            f"`{OWN_CONFIG_KEY}` must map some of {', '.join(known)} to values, but is {stored!r};"
            " a later version of ddpm_hf may know more."
        )
    return stored


def in_todays_names(config: dict[str, Any], variance_type: str | None) -> dict[str, Any]:
    """A configuration with the variance type that stock could not express, and without what diffusers has renamed."""
    config = dict(config)
    if variance_type is not None and config.get("variance_type") == NEAREST_IN_STOCK.get(variance_type):
        config["variance_type"] = variance_type  # otherwise somebody chose another one since
    defaults = config.get(DEFAULTS_KEY, [])
    is_chosen = "prediction_type" in config and "prediction_type" not in defaults
    if config.pop("predict_epsilon", True) is False and not is_chosen:  # before diffusers 0.9
        config["prediction_type"] = "sample"
        config[DEFAULTS_KEY] = [name for name in defaults if name != "prediction_type"]
    config.pop("tensor_format", None)  # before diffusers 0.6: NumPy or torch
    return config


def names_at_default(config: dict[str, Any], cls: type) -> list[str]:
    """The arguments in a configuration that were not given; diffusers counts those given by position among them."""
    parameters = inspect.signature(cls.__init__).parameters

    def is_default(name: str) -> bool:
        value = config[name]
        return name not in parameters or (not isinstance(value, np.ndarray) and value == parameters[name].default)

    return [name for name in config.get(DEFAULTS_KEY, []) if is_default(name)]


def normal_values(config: Any) -> dict[str, Any]:
    """Values of a configuration in their normal form: JSON knows lists alone, and the number of betas is T."""
    normal: dict[str, Any] = {}
    if config.variance_type is None:  # as some classes of diffusers write it, meaning stock's default
        normal["variance_type"] = "fixed_small"
    if config.trained_betas is not None:
        betas = np.asarray(config.trained_betas, dtype=np.float64).tolist()
        normal |= {"trained_betas": betas, "num_train_timesteps": len(betas)}
    return normal
