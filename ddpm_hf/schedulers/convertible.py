# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Loading schedulers, making them from schedulers of other classes, and converting them to stock's."""

from __future__ import annotations

import inspect
import os
from typing import Any, Literal, overload

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


class ConvertibleScheduler(SchedulerMixin, ConfigMixin):
    """The part of a scheduler that converts from and to configurations."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None = None, *args: Any, **kwargs: Any
    ) -> Self:
        """As in diffusers: from a folder or the Hub; a pipeline's scheduler has `subfolder="scheduler"`.

        Raises:
            HubError: an OSError, if there is no scheduler, or the Hub cannot be reached; it says what to do next.
        """
        with hub_errors(str(pretrained_model_name_or_path), kwargs.get("revision")):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @overload
    @classmethod
    def from_config(
        cls, config: dict[str, Any] | None = None, return_unused_kwargs: Literal[False] = False, **kwargs: Any
    ) -> Self: ...
    @overload
    @classmethod
    def from_config(
        cls, config: dict[str, Any] | None = None, *, return_unused_kwargs: Literal[True], **kwargs: Any
    ) -> tuple[Self, dict[str, Any]]: ...
    @classmethod
    def from_config(
        cls, config: dict[str, Any] | None = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """As in diffusers, from the configuration of any compatible scheduler, ours or stock's."""
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
        """Convert a scheduler of another class.

        All its arguments are kept, including the defaults of its class, and so is its ᾱ, even if it differs from the
        arguments. Arguments that its class lacks have the defaults of this class.

        Args:
            scheduler: any scheduler of diffusers with the process of a DDPM.
            keep_timesteps: whether to visit the timesteps that the scheduler is set to, instead of all timesteps.

        Raises:
            ValueError: if `scheduler` is not a scheduler, or has another process, such as flow matching; or if its
                timesteps are to be kept and are not whole numbers, or repeat.
        """
        if not isinstance(scheduler, SchedulerMixin) or not isinstance(scheduler, ConfigMixin):
            raise ValueError(f"`scheduler` must be a scheduler of diffusers, but is {type(scheduler).__name__}.")
        check_process(scheduler.config, [base.__name__ for base in type(scheduler).__mro__])
        # Schedulers read the attributes, and users may have assigned these without the items.
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
        """The nearest `diffusers.DDPMScheduler`; its configuration restores this scheduler exactly.

        Stock's "fixed_large_log" and "learned" give NaN: they become "fixed_large", which is the same variance, and
        "learned_range". "optimal" becomes "fixed_small". Stock has nothing like the prediction type "mean"; its `step`
        refuses it.
        """
        variance_type, config = self.variance_type, dict(self.config)
        if variance_type in NEAREST_IN_STOCK:
            config["variance_type"] = NEAREST_IN_STOCK[variance_type]
            config[OWN_CONFIG_KEY] = {**config[OWN_CONFIG_KEY], "variance_type": variance_type}
        return DDPMScheduler.from_config(config)


def _visits_all(scheduler: SchedulerMixin, T: int) -> bool:
    """Whether a scheduler is set to all T training timesteps; some classes visit each more than once."""
    steps = getattr(scheduler, "num_inference_steps", None)
    return (len(scheduler.timesteps) if steps is None else steps) == T


def _whole_timesteps(scheduler: SchedulerMixin) -> Tensor:
    """The timesteps that a scheduler is set to, int64 `[K]`.

    Raises:
        ValueError: for fractional or repeated timesteps, as Euler's and Heun's methods have them.
    """
    timesteps = scheduler.timesteps
    whole = timesteps.long()
    between = timesteps[whole != timesteps].tolist()
    if between or len(whole.unique()) < len(whole):
        what = f"{between[0]:g}, between two of a chain's" if between else "some timesteps twice"
        raise ValueError(
            f"`scheduler`, a {type(scheduler).__name__}, visits {what}; a chain visits whole timesteps, once each."
            " Convert a scheduler whose timesteps have not been set, and set them afterwards."
        )
    return whole
