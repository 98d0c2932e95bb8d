# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Schedulers' configurations as diffusers stores them: arguments that stock lacks, and names that have changed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

import numpy as np
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
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

# Variance types with which stock's `step` fails or gives NaN, and the nearest types with which it works. The first two
# are the same variance. Stock takes the square root of "learned", which is a log-variance; of its types only
# "learned_range" splits the model's output. It does not know "optimal". Our key stores the true type.
NEAREST_IN_STOCK = {"fixed_large_log": "fixed_large", "learned": "learned_range", "optimal": "fixed_small"}

# Arguments that were not given: diffusers takes them from the defaults of the class that loads the configuration.
DEFAULTS_KEY = "_use_default_values"


Init = TypeVar("Init", bound=Callable[..., None])


def registered(init: Init) -> Init:
    """diffusers' decorator `register_to_config`, which has no types; with these the arguments are checked."""
    return register_to_config(init)


class CountingConfig(FrozenDict):
    """A configuration that counts how often its values are set; diffusers calls it frozen, but it can be changed."""

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
        self.__dict__["_times_set"] = self._times_set + 1


@dataclass(frozen=True)
class SeenConfig:
    """The values of a configuration when it was last read.

    diffusers keeps each value twice, as an item and as an attribute, and either can be changed without the other.
    """

    attributes: tuple[Any, ...]
    items: tuple[Any, ...]
    betas: tuple[Any, Any]  # arrays, which are compared by identity
    config: CountingConfig | None  # the configuration itself, if it counts its changes
    times_set: int

    @classmethod
    def of(cls, config: Any) -> Self:
        values = (_ATTRIBUTES(config), _ITEMS(config), (config.trained_betas, config[_BETAS]))
        return cls(*values, config, config._times_set) if isinstance(config, CountingConfig) else cls(*values, None, 0)

    def is_untouched(self, config: Any) -> bool:
        """Whether it is the same configuration and no value has been set since; much faster than a comparison."""
        return config is self.config and config._times_set == self.times_set  # type: ignore[union-attr]  # None is no configuration

    def is_current(self, config: Any) -> bool:
        """Whether a configuration, the same one or its replacement, has these values; takes about a microsecond."""
        return (
            _ATTRIBUTES(config) == self.attributes
            and _ITEMS(config) == self.items
            and config.trained_betas is self.betas[0]
            and config[_BETAS] is self.betas[1]
        )

    def changed_in(self, config: Any) -> dict[str, Any]:
        """The arguments whose item or attribute has changed, with their new values."""
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
    """The noise schedule of a configuration, before it is rescaled to zero terminal SNR.

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


def own_defaults(cls: type[ConfigMixin]) -> dict[str, Any]:
    """The defaults of the arguments that stock schedulers lack."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: parameters[name].default for name in OWN_ARGUMENTS}


def normal_own_arguments(stored: Any, defaults: dict[str, Any]) -> tuple[dict[str, Any], DenoisingErrors | None]:
    """The values under our key, checked and in JSON's types, and the denoising errors among them.

    Raises:
        ValueError: for values out of range, or errors measured on data with another number of levels.
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
    """The values under our key in a configuration, checked, since anyone or a later version may have written them."""
    known = (*OWN_ARGUMENTS, "variance_type")
    if not isinstance(stored, dict) or not set(stored) <= set(known):
        raise ValueError(
            f"`{OWN_CONFIG_KEY}` must map some of {', '.join(known)} to values, but is {stored!r};"
            " a later version of ddpm_hf may know more."
        )
    return stored


def in_todays_names(config: dict[str, Any], variance_type: str | None) -> dict[str, Any]:
    """A configuration with the true variance type instead of stock's nearest, and with diffusers' current names."""
    config = dict(config)
    if variance_type is not None and config.get("variance_type") == NEAREST_IN_STOCK.get(variance_type):
        config["variance_type"] = variance_type  # otherwise the user has chosen another type since
    defaults = config.get(DEFAULTS_KEY, [])
    is_chosen = "prediction_type" in config and "prediction_type" not in defaults
    if config.pop("predict_epsilon", True) is False and not is_chosen:  # before diffusers 0.9
        config["prediction_type"] = "sample"
        config[DEFAULTS_KEY] = [name for name in defaults if name != "prediction_type"]
    config.pop("tensor_format", None)  # before diffusers 0.6: NumPy or torch
    return config


def names_at_default(config: dict[str, Any], cls: type[ConfigMixin]) -> list[str]:
    """The arguments in a configuration that were not given; diffusers also lists those given by position."""
    parameters = inspect.signature(cls.__init__).parameters

    def is_default(name: str) -> bool:
        value = config[name]
        return name not in parameters or (not isinstance(value, np.ndarray) and value == parameters[name].default)

    return [name for name in config.get(DEFAULTS_KEY, []) if is_default(name)]


def normal_values(config: Any) -> dict[str, Any]:
    """The values of a configuration in their normal form: lists, as in JSON, and T = the number of betas."""
    normal: dict[str, Any] = {}
    if config.variance_type is None:  # some classes of diffusers write None for stock's default
        normal["variance_type"] = "fixed_small"
    if config.trained_betas is not None:
        betas = np.asarray(config.trained_betas, dtype=np.float64).tolist()
        normal |= {"trained_betas": betas, "num_train_timesteps": len(betas)}
    return normal
