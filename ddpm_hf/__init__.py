# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""ddpm_hf: the exact mathematics of DDPM (Ho et al. 2020), with likelihoods, inside the classes of diffusers."""

from typing import TYPE_CHECKING

from ._lazy import lazy_names
from ._moved import register_moved_modules
from .version import __version__ as __version__


if TYPE_CHECKING:  # the same names once more; `as` marks them as exported
    from .compression.images import Compressed as Compressed
    from .diffusion.denoising_errors import DenoisingErrors as DenoisingErrors
    from .diffusion.gaussian_diffusion import GaussianDiffusion as GaussianDiffusion
    from .diffusion.guidance import autoguidance as autoguidance
    from .diffusion.guidance import classifier_free_guidance as classifier_free_guidance
    from .diffusion.guidance import timestep_interval as timestep_interval
    from .diffusion.langevin import predictor_corrector as predictor_corrector
    from .diffusion.noise_schedule import NoiseSchedule as NoiseSchedule
    from .diffusion.numerics import slerp as slerp
    from .diffusion.numerics import spherical_interpolation as spherical_interpolation
    from .diffusion.probability_flow import ode_encode as ode_encode
    from .diffusion.probability_flow import ode_sample as ode_sample
    from .hub.push import push_folder as push_folder
    from .hub_errors import HubError as HubError
    from .likelihood.cascade import CascadeBitsPerDim as CascadeBitsPerDim
    from .likelihood.cascade import cascade_bits_per_dim as cascade_bits_per_dim
    from .likelihood.importance_weighting import ImportanceWeightedBits as ImportanceWeightedBits
    from .likelihood.importance_weighting import importance_weighted_bits_per_dim as importance_weighted_bits_per_dim
    from .likelihood.importance_weighting import log_path_weights as log_path_weights
    from .likelihood.information import Information as Information
    from .likelihood.information import information_of as information_of
    from .likelihood.latent_ode import latent_ode_bits_per_dim as latent_ode_bits_per_dim
    from .likelihood.latents import LatentBitsPerDim as LatentBitsPerDim
    from .likelihood.latents import latent_bits_per_dim as latent_bits_per_dim
    from .likelihood.latents import (
        latent_importance_weighted_bits_per_dim as latent_importance_weighted_bits_per_dim,
    )
    from .likelihood.measurement import measure_denoising_errors as measure_denoising_errors
    from .likelihood.ode import ode_bits_per_dim as ode_bits_per_dim
    from .likelihood.ode import ode_log_likelihood as ode_log_likelihood
    from .likelihood.unclip import unclip_bits_per_dim as unclip_bits_per_dim
    from .likelihood.variational import BitsPerDim as BitsPerDim
    from .likelihood.variational import bits_per_dim as bits_per_dim
    from .pipelines.compressing import Decompressed as Decompressed
    from .pipelines.compressing import compress as compress
    from .pipelines.compressing import decompress as decompress
    from .pipelines.pipeline_ddpm_paper import DDPMPaperPipeline as DDPMPaperPipeline
    from .pipelines.pipeline_ddpm_paper_latent import DDPMPaperLatentPipeline as DDPMPaperLatentPipeline
    from .pipelines.pipeline_ddpm_paper_prior import DDPMPaperPriorPipeline as DDPMPaperPriorPipeline
    from .pipelines.pipeline_ddpm_paper_super_resolution import (
        DDPMPaperSuperResolutionPipeline as DDPMPaperSuperResolutionPipeline,
    )
    from .pipelines.pipeline_ddpm_paper_text_to_image import (
        DDPMPaperTextToImagePipeline as DDPMPaperTextToImagePipeline,
    )
    from .pipelines.pipeline_ddpm_paper_unclip import DDPMPaperUnCLIPPipeline as DDPMPaperUnCLIPPipeline
    from .schedulers.scheduling_ddpm_paper import DDPMPaperScheduler as DDPMPaperScheduler
else:
    __getattr__, __dir__, _names = lazy_names(
        __name__,
        {
            "compression.images": ("Compressed",),
            "diffusion.denoising_errors": ("DenoisingErrors",),
            "diffusion.gaussian_diffusion": ("GaussianDiffusion",),
            "diffusion.guidance": ("autoguidance", "classifier_free_guidance", "timestep_interval"),
            "diffusion.langevin": ("predictor_corrector",),
            "diffusion.noise_schedule": ("NoiseSchedule",),
            "diffusion.numerics": ("slerp", "spherical_interpolation"),
            "diffusion.probability_flow": ("ode_encode", "ode_sample"),
            "hub.push": ("push_folder",),
            "hub_errors": ("HubError",),
            "likelihood.cascade": ("CascadeBitsPerDim", "cascade_bits_per_dim"),
            "likelihood.importance_weighting": (
                "ImportanceWeightedBits",
                "importance_weighted_bits_per_dim",
                "log_path_weights",
            ),
            "likelihood.information": ("Information", "information_of"),
            "likelihood.latent_ode": ("latent_ode_bits_per_dim",),
            "likelihood.latents": (
                "LatentBitsPerDim",
                "latent_bits_per_dim",
                "latent_importance_weighted_bits_per_dim",
            ),
            "likelihood.measurement": ("measure_denoising_errors",),
            "likelihood.ode": ("ode_bits_per_dim", "ode_log_likelihood"),
            "likelihood.unclip": ("unclip_bits_per_dim",),
            "likelihood.variational": ("BitsPerDim", "bits_per_dim"),
            "pipelines.compressing": ("Decompressed", "compress", "decompress"),
            "pipelines.pipeline_ddpm_paper": ("DDPMPaperPipeline",),
            "pipelines.pipeline_ddpm_paper_latent": ("DDPMPaperLatentPipeline",),
            "pipelines.pipeline_ddpm_paper_prior": ("DDPMPaperPriorPipeline",),
            "pipelines.pipeline_ddpm_paper_super_resolution": ("DDPMPaperSuperResolutionPipeline",),
            "pipelines.pipeline_ddpm_paper_text_to_image": ("DDPMPaperTextToImagePipeline",),
            "pipelines.pipeline_ddpm_paper_unclip": ("DDPMPaperUnCLIPPipeline",),
            "schedulers.scheduling_ddpm_paper": ("DDPMPaperScheduler",),
        },
    )
    __all__ = ["__version__", *_names]


register_moved_modules()
