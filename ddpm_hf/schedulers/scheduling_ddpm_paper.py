# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperScheduler`: the mathematics of this package as a diffusers scheduler.

diffusers counts timesteps 0 … T − 1, the paper counts t = 1 … T; `visited_chain` converts.

Everything is derived from the configuration, which may change at any time: training scripts switch the prediction type
by `register_to_config`, and stock pipelines replace the whole configuration to turn `clip_sample` off. The scheduler
therefore checks the configuration at every use, and recomputes derived values only after a change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from torch import Tensor
from typing_extensions import Self

from ..diffusion.denoising_errors import DenoisingErrors
from ..diffusion.gaussian_process import check_eta
from ..diffusion.losses import min_snr_weights
from ..diffusion.noise_schedule import NoiseSchedule
from ..diffusion.reverse_process import ReverseStep
from .configuration import DEFAULTS_KEY, OWN_ARGUMENTS, names_at_default, registered
from .configured_chain import ConfiguredChain
from .convertible import ConvertibleScheduler
from .noise import noise_like
from .noise_free_steps import NoiseFreeSteps, step_output
from .visited_chain import check_arguments


class DDPMPaperScheduler(ConvertibleScheduler, NoiseFreeSteps, ConfiguredChain, SchedulerMixin, ConfigMixin):
    """DDPM (Ho et al. 2020) with exact coefficients, every variance type, and the variational bound.

    It replaces `diffusers.DDPMScheduler`: the first fifteen arguments have the same names, meanings and defaults, and
    either class can be built from the other's `config`. Coefficients are float64; samples keep their dtype.

    Args:
        num_train_timesteps (`int`): T ≥ 1, the number of diffusion steps.
        beta_start, beta_end (`float`): ends of the range of β, in (0, 1].
        beta_schedule (`str`): "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid" or "laplace". For any other,
            see `from_schedule`.
        trained_betas (`list[float]` or array, *optional*): β_1 … β_T in (0, 1], instead of the four arguments above;
            T is their number.
        variance_type (`str`): "fixed_small" (β̃) or "fixed_large" (β), either also with "_log", which names the same
            variance; "learned" or "learned_range" (Nichol & Dhariwal 2021, Eq. 15), for models with twice the
            channels; or "optimal" (Bao et al. 2022, Theorem 1), which needs `denoising_errors`.
        clip_sample (`bool`): clip the predicted x_0 to ± `clip_sample_range`.
        prediction_type (`str`): "epsilon", "sample", "v_prediction", or "mean", the posterior mean μ̃ (Ho et al. 2020,
            Eq. 7 and 8) of the pair (t − 1, t), even if the chain skips times.
        thresholding (`bool`): dynamic thresholding (Saharia et al. 2022, section 2.3) instead of clipping.
        dynamic_thresholding_ratio (`float`): the quantile of dynamic thresholding, in (0, 1].
        clip_sample_range (`float`): positive.
        sample_max_value (`float`): the greatest dynamic threshold, > 0.
        timestep_spacing (`str`): "linspace", "leading" or "trailing" (Lin et al. 2024, Table 2).
        steps_offset (`int`): added to the timesteps of "leading".
        rescale_betas_zero_snr (`bool`): rescale β so that ᾱ_T = 0 (Lin et al. 2024, Algorithm 1); a chain with
            "epsilon" must then not visit T.
        num_levels (`int`, *optional*): number of evenly spaced levels of the data in [−1, 1], which L_0 needs: 256 for
            8-bit images; None for continuous data, whose L_0 is a density.
        first_variance (`str` or `float`, *optional*): the variance of the decoder p_θ(x_0 | x_1), which the bound
            uses and `step` does not: "posterior" (β̃ of the next pair, as in the original code), "beta", a number, or
            "measured", from the `denoising_errors`. None means "posterior" for fixed_small, "beta" for fixed_large and
            "measured" for optimal. For learned_range None means the learned variance if the chain visits timestep 0,
            where the decoder is learned, and otherwise "measured" if the decoder was measured.
        denoising_errors (`DenoisingErrors` or its dictionary, *optional*): the model's errors, as
            `measure_denoising_errors` returns them, for the variance "optimal", the decoder "measured" and the
            timesteps "optimal".

    Raises:
        ValueError: for any argument outside its range; the message names it.
    """

    __module__ = "ddpm_hf.scheduling_ddpm_paper"  # the name in files that stock pipelines saved: see `_moved`
    _compatibles = [e.name for e in KarrasDiffusionSchedulers]
    ignore_for_config = list(OWN_ARGUMENTS)
    order = 1

    @registered
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
        self.num_inference_steps = None
        self._chosen_times = None
        self._derive()
        if DEFAULTS_KEY in self.config:
            self.register_to_config(**{DEFAULTS_KEY: names_at_default(self.config, type(self))})

    # --- configuration ---

    @classmethod
    def from_schedule(cls, schedule: NoiseSchedule, **kwargs: Any) -> Self:
        """A scheduler with any noise schedule, saved as its betas, which stock schedulers can read.

        Args:
            schedule: a noise schedule, such as `NoiseSchedule.linear_log_snr(1000, 13.0, -9.0)`.
            kwargs: the other arguments of the class.
        """
        return cls(num_train_timesteps=schedule.T, trained_betas=schedule.betas.tolist(), **kwargs)

    # --- for stock's pipelines ---

    def scale_model_input(self, sample: Tensor, timestep: int | None = None) -> Tensor:
        """The sample unchanged; some other schedulers scale it."""
        return sample

    # --- the forward process ---

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: int | Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε (Ho et al. 2020, Eq. 4), exact in every dtype.

        Args:
            original_samples, noise: `[B, *anything]`.
            timesteps: 0 … T − 1, an int or a tensor `[]`, `[1]` or `[B]`.

        Raises:
            ValueError: for samples that are not floating, shapes that do not match, or timesteps out of range.
        """
        check_arguments(timesteps, original_samples=original_samples, noise=noise)
        chain = self._chain
        return chain.diffusion.q_sample(original_samples, noise, chain.times(timesteps))

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: int | Tensor) -> Tensor:
        """v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans & Ho 2022, appendix D); arguments as in `add_noise`."""
        check_arguments(timesteps, sample=sample, noise=noise)
        chain = self._chain
        return chain.diffusion.velocity(sample, noise, chain.times(timesteps))

    def q_mean_variance(self, original_samples: Tensor, timesteps: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_t | x_0) (Ho et al. 2020, Eq. 4), at least float32.

        The mean has the shape of `original_samples`, the other two broadcast against it; the variance, 1 − ᾱ_t, lies
        in (0, 1].
        """
        check_arguments(timesteps, original_samples=original_samples)
        chain = self._chain
        return chain.diffusion.q_mean_variance(original_samples, chain.times(timesteps))

    def q_posterior_mean_variance(
        self, original_samples: Tensor, noisy_samples: Tensor, timesteps: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log-variance of q(x_s | x_t, x_0); s is the next visited time (Ho et al. 2020, Eq. 6, 7).

        At the last visited timestep s = 0: the variance is 0 and the log-variance −inf. Shapes as in
        `q_mean_variance`.
        """
        check_arguments(timesteps, original_samples=original_samples, noisy_samples=noisy_samples)
        chain = self._chain
        return chain.diffusion.q_posterior_mean_variance(original_samples, noisy_samples, chain.index(timesteps))

    def training_target(self, original_samples: Tensor, noise: Tensor, timesteps: int | Tensor) -> Tensor:
        """The training target of the `prediction_type`: the noise, x_0, v or the posterior mean; like x_0."""
        if self.diffusion.prediction_type in ("epsilon", "sample"):
            return self.diffusion.training_target(original_samples, noise, 1)
        check_arguments(timesteps, original_samples=original_samples, noise=noise)
        chain = self._chain
        return chain.diffusion.training_target(original_samples, noise, chain.times(timesteps))

    def min_snr_weights(self, timesteps: int | Tensor, gamma: float = 5.0) -> Tensor:
        """The min-SNR-γ weight of each example's squared error against its `training_target` (Hang et al. 2023).

        The squared error of the predicted x_0 then has the weight min(SNR, γ); see `losses.min_snr_weights`.

        Args:
            timesteps: an int, or a tensor `[B]`; the result is on its device.
            gamma: γ > 0.

        Returns:
            float64, `[]` for an int, otherwise `[B]`.
        """
        chain = self._chain
        t = chain.times(timesteps)
        return min_snr_weights(chain.diffusion.schedule, t, chain.diffusion.prediction_type, gamma)

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
        return chain.diffusion.p_mean_variance(model_output, noisy_samples, chain.index(timesteps, determined=True))

    def score(self, model_output: Tensor, noisy_samples: Tensor, timesteps: int | Tensor) -> Tensor:
        """The model's score ∇ log p_t(x_t) = −ε_θ/σ_t, in the shape of `noisy_samples`, at least float32.

        For the optimal model it is ∇ log q(x_t) (Vincent 2011; Song et al. 2021, Eq. 7). Clipping and thresholding are
        not applied.

        Args:
            model_output, noisy_samples: as in `p_mean_variance`.
            timesteps: any of 0 … T − 1.

        Raises:
            ValueError: for channels that do not fit the variance type, shapes that do not fit, timesteps out of range.
        """
        check_arguments(timesteps, noisy_samples=noisy_samples)
        chain = self._chain
        return chain.diffusion.score(model_output, noisy_samples, chain.times(timesteps))

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """One reverse step x_t → x_s (Ho et al. 2020, Algorithm 2); the last step returns the mean.

        The parameters are exactly those of stock's `step`: stock pipelines look for names such as `eta` in the
        signature and pass values for them. DDIM's step is `ddim_step`.

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
        """One DDIM step x_t → x_s (Song, Meng & Ermon 2021, Eq. 12 and 16); the `variance_type` has no effect.

        x̂_0 is constrained as in `step`, and ε̂ is computed from the constrained x̂_0.

        Args:
            eta: DDIM's η in [0, 1]: 0 adds no noise, 1 adds the noise of "fixed_small".
            model_output, timestep, sample, generator, return_dict: as in `step`.

        Returns:
            As `step`.

        Raises:
            ValueError: for an `eta` outside [0, 1], and otherwise as `step`.
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
        """The step with the variance of `variance_type`, or DDIM's step if `eta` is not None."""
        if isinstance(timestep, Tensor) and timestep.ndim > 0:
            check_arguments(timestep, sample=sample)
        chain = self._chain
        diffusion, index = chain.diffusion, chain.index(timestep, determined=True)
        draw_noise = partial(noise_like, sample, model_output.dtype, generator)
        x_s, x_0 = diffusion.step(model_output, sample, index, draw_noise, eta)
        return step_output(x_s, x_0, sample.dtype, return_dict)

    def _get_variance(self, t: int) -> Tensor:
        """The variance of the noise that `step` adds, for fixed variance types; 0 at the last visited timestep."""
        chain = self._chain
        index = chain.index(t)
        log_variance = chain.diffusion.coefficients(index).log_variance
        return torch.tensor(math.exp(log_variance) if index > 0 else 0.0, dtype=torch.float64, device="cpu")

    # --- the bound ---

    def vlb_loss(
        self, model_output: Tensor, original_samples: Tensor, noisy_samples: Tensor, timesteps: int | Tensor
    ) -> Tensor:
        """One term of the variational bound per example, bits/dim, `[B]`, differentiable (Ho et al. 2020, Eq. 5).

        The term is L_{t−1} = KL(q(x_s | x_t, x_0) ‖ p_θ(x_s | x_t)), or at the last visited timestep the decoder term
        L_0 = −log p_θ(x_0 | x_1): the probability of the level for data with `num_levels` levels in [−1, 1] (Eq. 13),
        the density for continuous data. The sum over the visited timesteps plus `prior_loss` bounds the negative
        log-likelihood; see `bits_per_dim`. A clipped x_0 has no gradient: train on L_vlb with `clip_sample=False`.

        Args:
            model_output, noisy_samples, timesteps: as in `p_mean_variance`.
            original_samples: x_0, `[B, C, …]`.
        """
        check_arguments(timesteps, original_samples=original_samples, noisy_samples=noisy_samples)
        chain = self._chain
        index = chain.index(timesteps, determined=True)
        return chain.diffusion.vlb_terms(model_output, original_samples, noisy_samples, index)

    def prior_loss(self, original_samples: Tensor) -> Tensor:
        """L_T = KL(q(x_T | x_0) ‖ N(0, I)) at the first visited timestep, bits/dim, `[B]` (Ho et al. 2020, Eq. 5)."""
        return self.diffusion.prior_bits(original_samples)

    @property
    def expected_terms(self) -> Tensor:
        """The expected value of each term of the bound, nats/dim, float64 `[K]`, the decoder term first.

        It is exact for the variance "optimal" on data distributed like those of the `denoising_errors`. Without
        `denoising_errors` it is the expectation for data N(0, I).
        """
        return self.diffusion.expected_terms
