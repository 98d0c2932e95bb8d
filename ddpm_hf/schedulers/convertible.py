# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Schedulers loaded, made from those of other classes, and turned into stock's."""

from __future__ import annotations

import inspect
import os
from typing import Any

from diffusers import DDPMScheduler
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from typing_extensions import Self

from ..hub_errors import hub_errors
from .configuration import (
    DEFAULTS_KEY,
    NEAREST_IN_STOCK,
    OWN_ARGUMENTS,
    OWN_CONFIG_KEY,
    in_todays_names,
    names_at_default,
    own_arguments,
    own_defaults,
)
from .conversion import betas_unlike, check_process, in_our_terms


class ConvertibleScheduler:
    """The part of a scheduler that comes from configurations and goes into them."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None = None, *args: Any, **kwargs: Any
    ):
        """As in diffusers: from a folder or the Hub, `subfolder="scheduler"` of a pipeline's.

        Raises:
            HubError: an OSError, if there is none, or it cannot be reached, with the next thing to do.
        """
        with hub_errors(str(pretrained_model_name_or_path), kwargs.get("revision")):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_config(cls, config: dict[str, Any] | None = None, return_unused_kwargs: bool = False, **kwargs: Any):
        """As in diffusers; from the configuration of any compatible scheduler, ours and stock's."""
        own = own_defaults(cls)
        if isinstance(config, dict):
            stored = own_arguments(config.get(OWN_CONFIG_KEY, {}))
            own |= {name: value for name, value in stored.items() if name in OWN_ARGUMENTS}
            check_process(config, [config["_class_name"]] if "_class_name" in config else [])
            config = in_our_terms(in_todays_names(config, stored.get("variance_type")))
        own |= {name: kwargs.pop(name) for name in OWN_ARGUMENTS if name in kwargs}
        scheduler, unused = super().from_config(config, return_unused_kwargs=True, **kwargs)
        scheduler._register_own(**own)
        scheduler._derive()
        return (scheduler, unused) if return_unused_kwargs else scheduler

    @classmethod
    def from_scheduler(cls, scheduler: SchedulerMixin, keep_timesteps: bool = False) -> Self:
        """A scheduler in the place of one of another class.

        Its arguments are kept, those at the defaults of its class included, and so is ᾱ, which it may have changed by
        itself. What its class has no argument for is at the defaults of this class.

        Args:
            keep_timesteps: visit the timesteps that the scheduler has been set to, in the place of all of them.

        Raises:
            ValueError: for the scheduler of another process, such as flow matching, for what is no scheduler, and for
                timesteps to be kept that are not whole numbers, or of which some are visited twice.
        """
        if not isinstance(scheduler, SchedulerMixin) or not isinstance(scheduler, ConfigMixin):
            raise ValueError(f"`scheduler` must be a scheduler of diffusers, but is {type(scheduler).__name__}.")
        check_process(scheduler.config, [base.__name__ for base in type(scheduler).__mro__])
        # The attributes, which schedulers read, and not the items: they can be assigned by themselves.
        config = {name: getattr(scheduler.config, name, value) for name, value in scheduler.config.items()}
        at_default = names_at_default(config, type(scheduler))
        config = in_todays_names({**config, DEFAULTS_KEY: at_default}, None)
        parameters = inspect.signature(cls.__init__).parameters
        converted = cls.from_config({**config, DEFAULTS_KEY: [name for name in at_default if name not in parameters]})
        table = getattr(scheduler, "alphas_cumprod", None)
        betas = None if table is None else betas_unlike(table, converted.alphas_cumprod)
        if betas is not None:
            converted.register_to_config(trained_betas=betas, rescale_betas_zero_snr=False)
        if keep_timesteps and not _visits_all(scheduler, len(converted)):
            converted.timesteps = _whole_timesteps(scheduler)
        return converted

    def to_stock(self) -> DDPMScheduler:
        """The nearest `diffusers.DDPMScheduler`, whose configuration holds all that makes this one again.

        Stock's "fixed_large_log" and "learned" give NaN: they become "fixed_large", the same variance, and
        "learned_range". The prediction type "mean" has nothing near it in stock, whose `step` then says so.
        """
        variance_type, config = self.variance_type, dict(self.config)
        if variance_type in NEAREST_IN_STOCK:
            config["variance_type"] = NEAREST_IN_STOCK[variance_type]
            config[OWN_CONFIG_KEY] = {**config[OWN_CONFIG_KEY], "variance_type": variance_type}
        return DDPMScheduler.from_config(config)


def _visits_all(scheduler: SchedulerMixin, T: int) -> bool:
    """Whether a scheduler is set to all T training timesteps, which some classes visit more than once."""
    steps = getattr(scheduler, "num_inference_steps", None)
    return (len(scheduler.timesteps) if steps is None else steps) == T


def _whole_timesteps(scheduler: SchedulerMixin) -> Tensor:
    """The timesteps that a scheduler is set to, int64 `[K]`.

    Raises:
        ValueError: for those of Euler's or Heun's methods, which lie between two of a chain or come twice.
    """
    timesteps = scheduler.timesteps
    whole = timesteps.long()
    between = timesteps[whole != timesteps].tolist()
    if between or len(whole.unique()) < len(whole):
        what = f"{between[0]:g}, between two of a chain's" if between else "some timesteps twice"
        raise ValueError(
            f"`scheduler`, a {type(scheduler).__name__}, visits {what}; a chain visits whole timesteps, once each."
            " Take a scheduler that has not been set, and set the converted one."
        )
    return whole
