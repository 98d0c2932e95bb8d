# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Schedulers' configurations as diffusers keeps them: what stock has no name for, and names that have changed."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np


# What stock schedulers have no argument for: it travels in their configuration under one private key.
OWN_CONFIG_KEY = "_ddpm_hf"
OWN_ARGUMENTS = ("num_levels", "first_variance", "denoising_errors")

# Variance types with which stock's `step` fails or gives NaN, and the nearest with which it does not. The first pair
# is one variance under two names; stock puts "learned", a log-variance, under a square root, and of what it offers
# only "learned_range" splits the model's output; "optimal" it does not know. The true type travels under our key.
NEAREST_IN_STOCK = {"fixed_large_log": "fixed_large", "learned": "learned_range", "optimal": "fixed_small"}

# Arguments not given: diffusers leaves them to the defaults of the class that a configuration is turned into.
DEFAULTS_KEY = "_use_default_values"


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
