# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The mathematics of diffusion. It imports nothing but torch.

Read the modules in this order:

    noise_schedule           log ᾱ_t, which determines every coefficient
    gaussian_process         q(x_t | x_0), q(x_t | x_s), q(x_s | x_t, x_0), and the five predictions
    denoising_errors         a model's error at each noise level; the optimal variance, and the cost of each step
    reverse_variances        σ² of every visited pair of times
    reverse_process          p_θ(x_s | x_t) from a model's output
    discretized_likelihood   the decoder p_θ(x_0 | x_1) for discrete and continuous data
    discretized_logistic     bins of the logistic distribution, for an autoencoder's p(x | z)
    diagonal_gaussian        a Gaussian of independent elements, as an autoencoder's q(z | x)
    bound_terms              L_T, L_{t−1} and L_0 of one example
    gaussian_diffusion       `GaussianDiffusion`: a chain with all of the above
    losses                   training losses per example
    timestep_sampling        the timesteps at which a training step evaluates the loss
    timestep_spacing         the times that a chain visits
    guidance                 a denoiser made of two: classifier-free guidance, autoguidance
    multistep                DDIM's steps without noise, of second order (DPM-Solver++)
    probability_flow         the ODE with the same marginals: samples and latents
    langevin                 predictor-corrector sampling
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:  # the same names once more; `as` marks them as exported
    from .denoiser import Denoiser as Denoiser
    from .denoising_errors import DenoisingErrors as DenoisingErrors
    from .gaussian_diffusion import GaussianDiffusion as GaussianDiffusion
    from .guidance import autoguidance as autoguidance
    from .guidance import classifier_free_guidance as classifier_free_guidance
    from .guidance import timestep_interval as timestep_interval
    from .langevin import predictor_corrector as predictor_corrector
    from .noise_schedule import ContinuousSchedule as ContinuousSchedule
    from .noise_schedule import NoiseSchedule as NoiseSchedule
    from .probability_flow import ode_encode as ode_encode
    from .probability_flow import ode_sample as ode_sample
    from .reverse_process import ReverseProcess as ReverseProcess
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "denoiser": ("Denoiser",),
            "gaussian_diffusion": ("GaussianDiffusion",),
            "denoising_errors": ("DenoisingErrors",),
            "guidance": ("autoguidance", "classifier_free_guidance", "timestep_interval"),
            "langevin": ("predictor_corrector",),
            "noise_schedule": ("ContinuousSchedule", "NoiseSchedule"),
            "probability_flow": ("ode_encode", "ode_sample"),
            "reverse_process": ("ReverseProcess",),
        },
    )
