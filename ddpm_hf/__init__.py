# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""ddpm_hf: the exact mathematics of DDPM (Ho et al. 2020), with likelihoods, inside the classes of diffusers."""

from .denoising_errors import DenoisingErrors
from .guidance import autoguidance, classifier_free_guidance, timestep_interval
from .hub import push_folder
from .hub_errors import HubError
from .importance_weighting import ImportanceWeightedBits, importance_weighted_bits_per_dim, log_path_weights
from .langevin import predictor_corrector
from .likelihood import BitsPerDim, bits_per_dim
from .measurement import measure_denoising_errors
from .noise_schedule import NoiseSchedule
from .numerics import spherical_interpolation
from .pipeline_ddpm_paper import DDPMPaperPipeline
from .probability_flow import flow_bits_per_dim, flow_encode, flow_log_likelihood, flow_sample
from .scheduling_ddpm_paper import DDPMPaperScheduler
from .version import __version__


__all__ = [
    "BitsPerDim",
    "DDPMPaperPipeline",
    "DDPMPaperScheduler",
    "DenoisingErrors",
    "HubError",
    "ImportanceWeightedBits",
    "NoiseSchedule",
    "__version__",
    "autoguidance",
    "bits_per_dim",
    "classifier_free_guidance",
    "flow_bits_per_dim",
    "flow_encode",
    "flow_log_likelihood",
    "flow_sample",
    "importance_weighted_bits_per_dim",
    "log_path_weights",
    "measure_denoising_errors",
    "predictor_corrector",
    "push_folder",
    "spherical_interpolation",
    "timestep_interval",
]
