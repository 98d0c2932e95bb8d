# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""ddpm_hf: the exact mathematics of DDPM (Ho et al. 2020), with likelihoods, inside the classes of diffusers."""

from ._lazy import lazy_names
from ._moved import register_moved_modules
from .version import __version__


__getattr__, __dir__, _names = lazy_names(
    __name__,
    {
        "diffusion.denoising_errors": ("DenoisingErrors",),
        "diffusion.gaussian_diffusion": ("GaussianDiffusion",),
        "diffusion.guidance": ("autoguidance", "classifier_free_guidance", "timestep_interval"),
        "diffusion.langevin": ("predictor_corrector",),
        "diffusion.noise_schedule": ("NoiseSchedule",),
        "diffusion.numerics": ("slerp", "spherical_interpolation"),
        "diffusion.probability_flow": ("ode_encode", "ode_sample"),
        "hub.push": ("push_folder",),
        "hub_errors": ("HubError",),
        "likelihood.importance_weighting": (
            "ImportanceWeightedBits",
            "importance_weighted_bits_per_dim",
            "log_path_weights",
        ),
        "likelihood.measurement": ("measure_denoising_errors",),
        "likelihood.ode": ("ode_bits_per_dim", "ode_log_likelihood"),
        "likelihood.variational": ("BitsPerDim", "bits_per_dim"),
        "pipelines.pipeline_ddpm_paper": ("DDPMPaperPipeline",),
        "schedulers.scheduling_ddpm_paper": ("DDPMPaperScheduler",),
    },
)
__all__ = ["__version__", *_names]

register_moved_modules()
