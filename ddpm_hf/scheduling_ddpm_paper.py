# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperScheduler`: the mathematics of this package as a diffusers scheduler.

Two clocks meet here: diffusers counts timesteps 0 … T − 1, the paper t = 1 … T. `visited_chain` converts.

Everything follows from the configuration, which may change at any time: training scripts switch the prediction type by
`register_to_config`, and stock's pipelines replace the whole configuration to turn `clip_sample` off. Its values are
looked at whenever they are used, and what follows from them is made anew only where they have changed.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from typing_extensions import Self

from .denoising_errors import DenoisingErrors, chain_costs, step_costs
from .gaussian_process import (
    check_eta,
    convert_prediction,
    ddim_coefficients,
    linear_combination,
    q_mean_variance,
    q_posterior_mean_variance,
    q_sample,
    unknown,
    velocity,
)
from .hub_errors import hub_errors
from .likelihood import prior_kl, vlb_terms
from .noise_schedule import NoiseSchedule
from .numerics import demote, expand_like, in_int64, nats_to_bits, promote, require_samples
from .objectives import min_snr_weights
from .reverse_process import (
    UNDETERMINED,
    ReverseProcess,
    ReverseStep,
    cast_variance,
    clip_sample,
    dynamic_threshold,
)
from .scheduler_config import (
    DEFAULTS_KEY,
    NEAREST_IN_STOCK,
    OWN_ARGUMENTS,
    OWN_CONFIG_KEY,
    SeenConfig,
    in_todays_names,
    names_at_default,
    noise_schedule,
    normal_own_arguments,
    own_arguments,
    own_defaults,
)
from .scheduler_conversion import betas_unlike, check_process, in_our_terms
from .timesteps import (
    TIMESTEP_SPACINGS,
    custom_times,
    log_snr_times,
    optimal_times,
    quadratic_times,
    spaced_times,
)
from .visited_chain import VisitedChain, as_index, as_int


CHOSEN_SPACINGS = ("quadratic", "log_snr", "optimal")  # for `set_timesteps`; stock schedulers do not know them

# diffusers' "score" is another thing; the scheduler takes stock's three and the paper's other parameterisation.
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "mean")


@dataclass(frozen=True, eq=False)
class _Derived:
    """What follows from a scheduler's configuration."""

    chain: VisitedChain
    num_levels: int | None
    optimal_chains: dict[int, list[int]] = field(default_factory=dict)  # by K; they do not depend on the chain

    @property
    def schedule(self) -> NoiseSchedule:
        return self.chain.process.schedule


class DDPMPaperScheduler(SchedulerMixin, ConfigMixin):
    """DDPM (Ho et al. 2020) with exact coefficients, every variance type, and the variational bound.

    A drop-in for `diffusers.DDPMScheduler`: the first fifteen arguments are the same, by name, meaning and default,
    and either class can be built from the other's `config`. Coefficients are float64; samples keep their dtype.

    Args:
        num_train_timesteps (`int`): T ≥ 1, the number of diffusion steps.
        beta_start, beta_end (`float`): ends of the range of β, in (0, 1].
        beta_schedule (`str`): "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid" or "laplace". For any other,
            see `from_schedule`.
        trained_betas (`list[float]` or array, *optional*): β_1 … β_T in (0, 1], instead of the four above; T is their
            number.
        variance_type (`str`): "fixed_small" (β̃), "fixed_large" (β), either with "_log" for the same variance,
            "learned" or "learned_range" (Nichol & Dhariwal 2021, Eq. 15), for which the model has twice the channels,
            or "optimal" (Bao et al. 2022), by `denoising_errors`.
        clip_sample (`bool`): clip the predicted x_0 to ± `clip_sample_range`.
        prediction_type (`str`): "epsilon", "sample", "v_prediction", or "mean", the posterior mean μ̃ (Ho et al.
            2020, Eq. 8) of the timestep before, whichever are visited.
        thresholding (`bool`): dynamic thresholding (Saharia et al. 2022) in place of clipping.
        dynamic_thresholding_ratio (`float`): its quantile, in (0, 1].
        clip_sample_range (`float`): > 0.
        sample_max_value (`float`): the greatest dynamic threshold, > 0.
        timestep_spacing (`str`): "linspace", "leading" or "trailing" (Lin et al. 2024, Table 2).
        steps_offset (`int`): added to the timesteps of "leading".
        rescale_betas_zero_snr (`bool`): rescale so that nothing of the data is left at T, a time that "epsilon" must
            not visit.
        num_levels (`int`, *optional*): evenly spaced levels of the data in [−1, 1], for L_0: 256 for 8-bit images;
            None for continuous data, whose L_0 is a density.
        first_variance (`str` or `float`, *optional*): the variance of the decoder p_θ(x_0 | x_1), used by the bound
            and never by `step`: "posterior" (β̃ of the next pair, as the original code has it), "beta", a number, or
            "measured", a discrete normal law fitted with the `denoising_errors`; None takes "posterior" for
            fixed_small, "beta" for fixed_large, "measured" for optimal and, if it was, for a learned_range whose chain
            visits none of the least noisy timestep 0, where a decoder is learned.
        denoising_errors (`DenoisingErrors` or its dictionary, *optional*): the model's, as `measure_denoising_errors`
            takes them, for the variance "optimal", the decoder "measured" and the timesteps "optimal".

    Raises:
        ValueError: for any argument outside its range, naming it.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]
    ignore_for_config = list(OWN_ARGUMENTS)
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        variance_type: str | None = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        num_levels: int | None = 256,
        first_variance: str | float | None = None,
        denoising_errors: DenoisingErrors | Mapping[str, Any] | None = None,
    ):
        self._register_own(num_levels=num_levels, first_variance=first_variance, denoising_errors=denoising_errors)
        self.init_noise_sigma = 1.0
        self.custom_timesteps = False
        self.num_inference_steps: int | None = None
        self._chosen_times: list[int] | None = None  # all of them
        self._derive()
        if DEFAULTS_KEY in self.config:
            self.register_to_config(**{DEFAULTS_KEY: names_at_default(self.config, type(self))})

    # --- configuration ---

    @classmethod
    def from_schedule(cls, schedule: NoiseSchedule, **kwargs: Any) -> Self:
        """A scheduler with any noise schedule, saved as its betas, which stock schedulers can read.

        Args:
            schedule: such as `NoiseSchedule.linear_log_snr(1000, 13.0, -9.0)`.
            kwargs: the other arguments of the class.
        """
        return cls(num_train_timesteps=schedule.T, trained_betas=schedule.betas.tolist(), **kwargs)

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
    def from_scheduler(cls, scheduler: SchedulerMixin) -> Self:
        """A scheduler in the place of one of another class.

        Its arguments are kept, those at the defaults of its class included, and so is ᾱ, which it may have changed by
        itself. What its class has no argument for is at the defaults of this class.

        Raises:
            ValueError: for the scheduler of another process, such as flow matching, and for what is no scheduler.
        """
        if not isinstance(scheduler, SchedulerMixin) or not isinstance(scheduler, ConfigMixin):
            raise ValueError(f"`scheduler` must be a scheduler of diffusers, but is {type(scheduler).__name__}.")
        # The attributes, which schedulers read, and not the items: they can be assigned by themselves.
        config = {name: getattr(scheduler.config, name, value) for name, value in scheduler.config.items()}
        check_process(config, [base.__name__ for base in type(scheduler).__mro__])
        at_default = names_at_default(config, type(scheduler))
        config = in_todays_names({**config, DEFAULTS_KEY: at_default}, None)
        parameters = inspect.signature(cls.__init__).parameters
        converted = cls.from_config({**config, DEFAULTS_KEY: [name for name in at_default if name not in parameters]})
        table = getattr(scheduler, "alphas_cumprod", None)
        betas = None if table is None else betas_unlike(table, converted.alphas_cumprod)
        if betas is not None:
            converted.register_to_config(trained_betas=betas, rescale_betas_zero_snr=False)
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

    def _register_own(self, **own: Any) -> None:
        self.register_to_config(**{OWN_CONFIG_KEY: own})

    def _up_to_date(self) -> _Derived:
        """What follows from the configuration and the timesteps as they are now."""
        self._follow_config()
        if self._timesteps._version:  # changed in place: counts from 0 in a tensor of our own
            self.timesteps = self._timesteps
        return self._derived

    def _follow_config(self) -> None:
        if not self._seen.is_current(self._internal_dict):
            self.register_to_config(**self._seen.changed_in(self._internal_dict))
            self._derive()

    def _derive(self) -> None:
        """Check the configuration, put its values into their normal form, and make what follows from them."""
        own, errors = normal_own_arguments(self.config[OWN_CONFIG_KEY], own_defaults(type(self)))
        self.register_to_config(**{OWN_CONFIG_KEY: own}, **_normal_values(self.config))
        config = self.config
        _check_names(config)
        schedule = noise_schedule(config)
        schedule = schedule.rescale_zero_terminal_snr() if config.rescale_betas_zero_snr else schedule
        process = ReverseProcess(
            schedule=schedule,
            times=_kept_times(self._chosen_times, schedule.T),
            prediction_type=config.prediction_type,
            variance_type=config.variance_type,
            first_variance=own["first_variance"],
            constrain=_build_constraint(config),
            denoising_errors=errors,
        )
        _check_neighbours(process)
        self._derived = _Derived(VisitedChain(process), own["num_levels"])
        self._seen = SeenConfig.of(config)
        if self._chosen_times is None:
            self._timesteps = _timesteps_of(process.times)

    @property
    def _chain(self) -> VisitedChain:
        return self._up_to_date().chain

    @property
    def process(self) -> ReverseProcess:
        """p_θ over the visited times, as the configuration has it now."""
        return self._up_to_date().chain.process

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule, as the configuration has it now."""
        return self._up_to_date().schedule

    @property
    def num_levels(self) -> int | None:
        """Levels of the data, None for continuous data."""
        return self._up_to_date().num_levels

    @property
    def first_variance(self) -> str | float | None:
        """The choice of the decoder's variance."""
        return self.process.first_variance

    @property
    def denoising_errors(self) -> DenoisingErrors | None:
        """The model's mean squared errors, if they have been measured."""
        return self.process.denoising_errors

    @property
    def variance_type(self) -> str:
        return self.process.variance_type

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
            num_inference_steps: K in 1 … T; or
            timesteps: descending timesteps, each in 0 … T − 1.
            device: where `self.timesteps` is put.
            timestep_spacing: how K timesteps are spaced: as the scheduler's own argument of that name, which it is if
                not given; "quadratic", even in √t; "log_snr", even in the log-SNR; or "optimal", which cost the bound
                least for the model's `denoising_errors` with the variance "optimal" (Watson et al. 2021).

        Raises:
            ValueError: for both or none of the first two, for values out of range, for "optimal" without
                `denoising_errors`, where the chain visits a timestep with signal-to-noise ratio 0 with epsilon
                prediction, which says nothing about x_0 there, and for fewer than all T timesteps where the variance
                is "learned", one of neighbouring times.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("Pass one of `num_inference_steps` and `timesteps`, and only one.")
        if timesteps is not None and timestep_spacing is not None:
            raise ValueError(
                "`timestep_spacing` spaces `num_inference_steps`; with `timesteps` there is no use for it."
            )
        self._follow_config()
        if timesteps is not None:
            times = _times_of(timesteps, self._derived.schedule.T)
        else:
            times = self._spaced_times(timestep_spacing, as_int(num_inference_steps, "num_inference_steps"))
        self._visit(times, num_inference_steps)
        self._timesteps = _timesteps_of(times, device)

    @property
    def timesteps(self) -> Tensor:
        """The visited timesteps, int64 `[K]`, descending.

        Posterior, reverse steps and the bound follow what is assigned here, or changed in place, as `set_timesteps`
        follows its argument `timesteps`; the device is that of the assigned tensor. It is copied.

        Raises:
            ValueError: as `set_timesteps`, where something else is assigned, or, if it was changed in place, at use.
        """
        self._follow_config()
        return self._timesteps

    @timesteps.setter
    def timesteps(self, timesteps: Sequence[int] | Tensor) -> None:
        self._follow_config()
        times = _times_of(timesteps, self._derived.schedule.T)
        if times != list(self._derived.chain.process.times):
            self._visit(times, None)
        self._timesteps = _timesteps_of(times, timesteps.device if isinstance(timesteps, Tensor) else None)

    def _visit(self, times: list[int], num_inference_steps: int | None) -> None:
        """Walk another chain: so many timesteps, or, if None, timesteps that were given."""
        process = replace(self._derived.chain.process, times=times)
        if process.is_undetermined:
            raise ValueError(UNDETERMINED)
        _check_neighbours(process)
        self._derived = replace(self._derived, chain=VisitedChain(process))
        self._chosen_times = times
        self.num_inference_steps = num_inference_steps
        self.custom_timesteps = num_inference_steps is None

    def _spaced_times(self, spacing: str | None, num_inference_steps: int) -> list[int]:
        """K times by the name of their spacing."""
        schedule = self._derived.schedule
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
        """At most K times that cost the bound least, found once: a pipeline asks again for every batch."""
        errors = self._derived.chain.process.denoising_errors
        if errors is None:
            raise ValueError(
                "`timestep_spacing` 'optimal' needs the scheduler's `denoising_errors`, which"
                " `measure_denoising_errors` takes on training data."
            )
        chains = self._derived.optimal_chains
        if num_inference_steps not in chains:
            costs = step_costs(self._derived.schedule, errors)
            chains[num_inference_steps] = optimal_times(costs, num_inference_steps, at_most=True)
        return chains[num_inference_steps]

    def previous_timestep(self, timestep: int | Tensor) -> int | Tensor:
        """The timestep visited after the given one, −1 for the data."""
        chain = self._chain
        if self.num_inference_steps is None and not self.custom_timesteps:
            return in_int64(timestep) - 1
        return chain.pair(chain.index(timestep))[0] - 1

    def scale_model_input(self, sample: Tensor, timestep: int | None = None) -> Tensor:
        """The sample itself; other schedulers scale it."""
        return sample

    # --- the forward process ---

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: int | Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε (Ho et al. 2020, Eq. 4), exact in every dtype.

        Args:
            original_samples, noise: `[B, *anything]`.
            timesteps: 0 … T − 1, an int or a tensor `[]`, `[1]` or `[B]`.

        Raises:
            ValueError: for samples that are not floating, shapes that do not fit, timesteps out of range.
        """
        check_arguments(timesteps, original_samples=original_samples, noise=noise)
        chain = self._chain
        t = chain.times(timesteps)
        return q_sample(chain.schedule_for(t), original_samples, noise, t)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: int | Tensor) -> Tensor:
        """v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans & Ho 2022, appendix D); arguments as in `add_noise`."""
        check_arguments(timesteps, sample=sample, noise=noise)
        chain = self._chain
        t = chain.times(timesteps)
        return velocity(chain.schedule_for(t), sample, noise, t)

    def q_mean_variance(self, original_samples: Tensor, timesteps: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_t | x_0) (Ho et al. 2020, Eq. 4), at least float32.

        The mean has the shape of `original_samples`, the other two broadcast against it; the variance, 1 − ᾱ_t, lies
        in (0, 1].
        """
        check_arguments(timesteps, original_samples=original_samples)
        chain = self._chain
        t = chain.times(timesteps)
        return q_mean_variance(chain.schedule_for(t), original_samples, t)

    def q_posterior_mean_variance(
        self, original_samples: Tensor, noisy_samples: Tensor, timesteps: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_s | x_t, x_0), s the next visited time (Ho et al. 2020, Eq. 6 and 7).

        At the last visited timestep s is the data: variance 0, log-variance −inf. Shapes as in `q_mean_variance`.
        """
        check_arguments(timesteps, original_samples=original_samples, noisy_samples=noisy_samples)
        chain = self._chain
        s, t = chain.pair(chain.index(timesteps))
        return q_posterior_mean_variance(chain.schedule_for(t), original_samples, noisy_samples, s, t)

    def training_target(self, original_samples: Tensor, noise: Tensor, timesteps: int | Tensor) -> Tensor:
        """What the model should predict, by `prediction_type`: the noise, x_0, v or the posterior mean; like x_0."""
        chain = self._chain
        kind = chain.process.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "sample":
            return original_samples
        if kind == "v_prediction":
            return self.get_velocity(original_samples, noise, timesteps)
        x_0 = promote(original_samples)
        x_t, t = self.add_noise(x_0, promote(noise), timesteps), chain.times(timesteps)
        mean, _, _ = q_posterior_mean_variance(chain.schedule_for(t), x_0, x_t, t - 1, t)
        return mean.to(original_samples.dtype)

    def min_snr_weights(self, timesteps: int | Tensor, gamma: float = 5.0) -> Tensor:
        """The weight of each example's squared error to its `training_target` under min-SNR-γ (Hang et al. 2023).

        It makes the weight of the predicted x_0's error min(SNR, γ); see `objectives.min_snr_weights`.

        Args:
            timesteps: an int, or a tensor `[B]`, whose device is that of the result.
            gamma: > 0.

        Returns:
            float64, `[]` for an int, otherwise `[B]`.
        """
        chain = self._chain
        t = chain.times(timesteps)
        return min_snr_weights(chain.schedule_for(t), t, chain.process.prediction_type, gamma)

    # --- the reverse process ---

    def p_mean_variance(self, model_output: Tensor, noisy_samples: Tensor, timesteps: int | Tensor) -> ReverseStep:
        """Mean, variance, log-variance of p_θ(x_s | x_t) and `pred_original_sample`, at least float32.

        Args:
            model_output: `[B, C, …]`, or `[B, 2C, …]` for a learned variance.
            noisy_samples: `[B, C, …]`.
            timesteps: visited ones, an int or a tensor `[]`, `[1]` or `[B]`.

        Raises:
            ValueError: for channels that do not fit the variance type, shapes that do not fit, timesteps not visited.
        """
        check_arguments(timesteps, noisy_samples=noisy_samples)
        chain = self._chain
        return chain.process.p_mean_variance(model_output, noisy_samples, chain.index(timesteps, determined=True))

    def score(self, model_output: Tensor, noisy_samples: Tensor, timesteps: int | Tensor) -> Tensor:
        """∇ log p_t(x_t) as the model has it, in the shape of `noisy_samples`, at least float32.

        It is −ε_θ/σ_t: the optimal model's is ∇ log q(x_t) (Vincent 2011; Song et al. 2021, Eq. 7). The model's own,
        without clipping or thresholding.

        Args:
            model_output, noisy_samples: as in `p_mean_variance`.
            timesteps: any of 0 … T − 1.

        Raises:
            ValueError: for channels that do not fit the variance type, shapes that do not fit, timesteps out of range.
        """
        check_arguments(timesteps, noisy_samples=noisy_samples)
        chain = self._chain
        prediction, _ = chain.process.split_output(model_output, noisy_samples)
        t, kind = chain.times(timesteps), chain.process.prediction_type
        schedule = chain.schedule_for(t)
        return convert_prediction(promote(prediction), promote(noisy_samples), kind, "score", schedule, t)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """One reverse step x_t → x_s (Ho et al. 2020, Algorithm 2); at the last visited timestep, the mean.

        The parameters are those of stock's `step` and no others: pipelines look names such as `eta` up in the
        signature and pass values for those that they find. DDIM's step is `ddim_step`.

        Args:
            model_output: `[B, C, …]`, or `[B, 2C, …]` for a learned variance.
            timestep: a visited timestep for the whole batch, int or tensor, or one per example, `[B]`.
            sample: x_t, `[B, C, …]`.
            generator: for the noise; a list has one per example.
            return_dict: whether to return a `DDPMSchedulerOutput` or the tuple of its two fields.

        Returns:
            x_s and the predicted x_0, in the shape and dtype of `sample`.

        Raises:
            ValueError: for channels that do not fit the variance type, shapes that do not fit, timesteps not visited.
        """
        return self._reverse_step(model_output, timestep, sample, None, generator, return_dict)

    def ddim_step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """One step of DDIM x_t → x_s (Song et al. 2021, Eq. 12 and 16), whatever the `variance_type`.

        x̂_0 is constrained as in `step`, and ε̂ follows from the constrained one.

        Args:
            eta: DDIM's η in [0, 1]: 0 adds no noise, 1 adds the noise of "fixed_small".
            model_output, timestep, sample, generator, return_dict: as in `step`.

        Returns:
            As `step`.

        Raises:
            ValueError: for an `eta` outside [0, 1], and as `step`.
        """
        check_eta(eta)
        return self._reverse_step(model_output, timestep, sample, eta, generator, return_dict)

    def _reverse_step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float | None,
        generator: torch.Generator | list[torch.Generator] | None,
        return_dict: bool,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """The step with the variance of `variance_type`, or of DDIM where `eta` is not None."""
        if isinstance(timestep, Tensor) and timestep.ndim > 0:
            check_arguments(timestep, sample=sample)
        chain = self._chain
        process, index = chain.process, chain.index(timestep, determined=True)
        row = process.coefficients(index, eta)
        mean, x_0, log_variance = process.predict(model_output, sample, row)
        if eta != 0 and (isinstance(index, Tensor) or index > 0):
            noise = _noise_like(sample, model_output.dtype, generator)
            if eta is not None:
                log_variance = row.log_variance
            elif log_variance is None:
                log_variance = process.log_variance(index, row, mean)
            std = cast_variance(_standard_deviation(log_variance), mean)
            if isinstance(index, Tensor):
                std = std * expand_like(index > 0, mean)  # no noise is added on the way to the data
            mean = torch.addcmul(mean, std, noise) if isinstance(std, Tensor) else torch.add(mean, noise, alpha=std)
        previous, x_0 = demote(mean, sample.dtype), demote(x_0, sample.dtype)
        if not return_dict:
            return previous, x_0
        return DDPMSchedulerOutput(prev_sample=previous, pred_original_sample=x_0)

    def encode_step(self, model_output: Tensor, timestep: int | Tensor, sample: Tensor) -> Tensor:
        """DDIM's step without noise, backwards: x_s at a visited timestep → x_t at the one visited before it.

        Repeated from the last visited timestep to the first it leads from data to the latents that `ddim_step` leads
        back to the data, the better the more timesteps are visited (Song et al. 2021, section 4.3).

        Args:
            model_output, sample: as for `step`, at x_s.
            timestep: of x_s, for the whole batch, any but the first that the chain visits.

        Raises:
            ValueError: for the first, after which there is none, and as `step`.
        """
        chain = self._chain
        process, index = chain.process, chain.index(timestep, determined=True)
        if isinstance(index, Tensor) or index == len(process.times) - 1:
            raise ValueError(f"`timestep` must be one for the batch, and not the first visited, but is {timestep}.")
        _, x_0, _ = process.predict(model_output, sample, process.coefficients(index))
        s, t = process.times[index : index + 2]
        coef_x0, coef_xs, _ = ddim_coefficients(process.schedule, s, t)
        return demote(linear_combination(float(coef_x0), x_0, float(coef_xs), promote(sample)), sample.dtype)

    def _get_variance(self, t: int) -> Tensor:
        """The variance of the noise that `step` adds at a timestep, for fixed variance types; 0 at the last one."""
        chain = self._chain
        index = chain.index(t)
        log_variance = chain.process.coefficients(index).log_variance
        return torch.tensor(math.exp(log_variance) if index > 0 else 0.0, dtype=torch.float64, device="cpu")

    # --- the bound ---

    def vlb_loss(
        self, model_output: Tensor, original_samples: Tensor, noisy_samples: Tensor, timesteps: int | Tensor
    ) -> Tensor:
        """One term of the variational bound per example, bits/dim, `[B]`, differentiable (Ho et al. 2020, Eq. 5).

        L_{t−1} = KL(q(x_s | x_t, x_0) ‖ p_θ(x_s | x_t)); at the last visited timestep L_0 = −log p_θ(x_0 | x_1), of
        the level's bin for data of `num_levels` levels in [−1, 1] (Eq. 13), of its density for continuous data.
        Their sum over the visited timesteps plus `prior_loss` bounds the negative log-likelihood; see `bits_per_dim`.
        Where `clip_sample` clips the predicted x_0 no gradient passes: train on L_vlb with `clip_sample=False`.

        Args:
            model_output, noisy_samples, timesteps: as in `p_mean_variance`.
            original_samples: x_0, `[B, C, …]`.
        """
        check_arguments(timesteps, original_samples=original_samples, noisy_samples=noisy_samples)
        chain = self._chain
        index = as_index(chain.index(timesteps, determined=True))
        return vlb_terms(chain.process, model_output, original_samples, noisy_samples, index, self.num_levels)

    def prior_loss(self, original_samples: Tensor) -> Tensor:
        """L_T = KL(q(x_T | x_0) ‖ N(0, I)) at the first visited timestep, bits/dim, `[B]` (Ho et al. 2020, Eq. 5)."""
        process = self.process
        return nats_to_bits(prior_kl(process.schedule, original_samples, process.times[-1]))

    @property
    def expected_terms(self) -> Tensor:
        """What each term of the bound will be about, nats/dim, float64 `[K]`, the decoder's first.

        Exact on average for data like those that the `denoising_errors` were measured on and the variance "optimal";
        without them what it would be for data N(0, I).
        """
        process = self.process
        return chain_costs(process.schedule, process.denoising_errors, process.times)


def check_arguments(timesteps: Any, **samples: Tensor) -> None:
    """Raise ValueError unless the named samples are floating and of one shape, with one timestep or one for each."""
    require_samples(**samples)
    batch_size = len(next(iter(samples.values())))
    if not isinstance(timesteps, Tensor):
        return
    is_integer = not (timesteps.is_floating_point() or timesteps.is_complex() or timesteps.dtype == torch.bool)
    if not is_integer or timesteps.ndim > 1 or timesteps.numel() not in (1, batch_size):
        raise ValueError(
            f"`timesteps` must be integers, one for all or one for each of the {batch_size} examples, but are"
            f" {timesteps.dtype} {list(timesteps.shape)}."
        )


def _noise_like(
    sample: Tensor, dtype: torch.dtype, generator: torch.Generator | list[torch.Generator] | None
) -> Tensor:
    """Standard normal noise, the numbers that stock diffusers draws for the same generator."""
    if generator is None or (isinstance(generator, torch.Generator) and generator.device == sample.device):
        return torch.empty_like(sample, dtype=dtype, memory_format=torch.contiguous_format).normal_(
            generator=generator
        )
    if isinstance(generator, list) and len(generator) not in (1, len(sample)):
        raise ValueError(f"`generator` must hold one per example: {len(sample)}, but there are {len(generator)}.")
    return randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=dtype)


def _standard_deviation(log_variance: float | Tensor) -> float | Tensor:
    return torch.exp(0.5 * log_variance) if isinstance(log_variance, Tensor) else math.exp(0.5 * log_variance)


def _normal_values(config: Any) -> dict[str, Any]:
    """Values of a configuration in their normal form: JSON knows lists alone, and the number of betas is T."""
    normal: dict[str, Any] = {}
    if config.variance_type is None:  # as some classes of diffusers write it, meaning stock's default
        normal["variance_type"] = "fixed_small"
    if config.trained_betas is not None:
        betas = np.asarray(config.trained_betas, dtype=np.float64).tolist()
        normal |= {"trained_betas": betas, "num_train_timesteps": len(betas)}
    return normal


def _check_names(config: Any) -> None:
    """Raise ValueError for a value that neither the schedule nor the reverse process looks at."""
    if config.timestep_spacing not in TIMESTEP_SPACINGS:
        raise ValueError(unknown("timestep_spacing", config.timestep_spacing, TIMESTEP_SPACINGS))
    if config.prediction_type not in PREDICTION_TYPES:
        raise ValueError(unknown("prediction_type", config.prediction_type, PREDICTION_TYPES))
    if isinstance(config.steps_offset, bool) or not isinstance(config.steps_offset, int):
        raise ValueError(f"`steps_offset` must be an int, but is {config.steps_offset!r}.")


def _times_of(timesteps: Any, T: int) -> list[int]:
    """The paper's times, ascending, of descending timesteps.

    Raises:
        ValueError: for anything that is no list of descending ints in 0 … T − 1.
    """
    is_array = isinstance(timesteps, (np.ndarray, Tensor))
    if not isinstance(timesteps, Sequence) and not (is_array and timesteps.ndim == 1):
        raise ValueError(f"`timesteps` must be a list of timesteps, but is {timesteps!r}.")
    return custom_times([as_int(t) + 1 for t in (timesteps.tolist() if is_array else timesteps)], T)


@torch.inference_mode(False)  # tensors of inference mode do not count how often they are changed
def _timesteps_of(times: Sequence[int], device: str | torch.device | None = None) -> Tensor:
    """diffusers' timesteps, descending, of the paper's times."""
    return torch.tensor([t - 1 for t in reversed(times)], device="cpu" if device is None else device)


def _kept_times(chosen: list[int] | None, T: int) -> Sequence[int]:
    """The visited times: those chosen, or all of 1 … T.

    Raises:
        ValueError: for chosen ones beyond T, which was larger when they were chosen.
    """
    if chosen is None:
        return range(1, T + 1)
    if chosen[-1] > T:
        raise ValueError(
            f"The chain visits timestep {chosen[-1] - 1}, but `num_train_timesteps` is {T} now; choose its timesteps"
            " anew by `set_timesteps`."
        )
    return chosen


def _check_neighbours(process: ReverseProcess) -> None:
    """Raise ValueError for a variance of neighbouring times on a chain that leaves some out."""
    T, visited = process.schedule.T, len(process.times)
    if process.learns_of_neighbours and visited < T:
        raise ValueError(
            f"`variance_type` 'learned' is a variance of neighbouring timesteps: all {T} must be visited, but"
            f" {visited} were asked for; 'learned_range' is of any."
        )


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
