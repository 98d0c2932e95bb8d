# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Likelihoods over data: bits per dimension by the variational bound, by weighted paths and by the ODE."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:  # the same names once more; `as` marks them as exported
    from ..diffusion.bound_terms import posterior_kl as posterior_kl
    from ..diffusion.bound_terms import prior_kl as prior_kl
    from ..diffusion.bound_terms import vlb_terms as vlb_terms
    from ..diffusion.denoiser import Denoiser as Denoiser
    from ..diffusion.denoiser import randn_like as randn_like
    from .batches import Batches as Batches
    from .batches import check_levels as check_levels
    from .batches import checked_batches as checked_batches
    from .cascade import CascadeBitsPerDim as CascadeBitsPerDim
    from .cascade import StageBits as StageBits
    from .cascade import cascade_bits_per_dim as cascade_bits_per_dim
    from .decoder_law import DecoderLaw as DecoderLaw
    from .decoder_law import measured_decoder_scale as measured_decoder_scale
    from .distortion import RateDistortion as RateDistortion
    from .distortion import rate_distortion as rate_distortion
    from .elbo import ElboBits as ElboBits
    from .elbo import elbo_bits_per_dim as elbo_bits_per_dim
    from .importance_weighting import ImportanceWeightedBits as ImportanceWeightedBits
    from .importance_weighting import importance_weighted_bits_per_dim as importance_weighted_bits_per_dim
    from .importance_weighting import log_path_weights as log_path_weights
    from .information import Information as Information
    from .information import information_of as information_of
    from .latent_ode import LatentOdeBitsPerDim as LatentOdeBitsPerDim
    from .latent_ode import latent_ode_bits_per_dim as latent_ode_bits_per_dim
    from .latents import LatentBitsPerDim as LatentBitsPerDim
    from .latents import latent_bits_per_dim as latent_bits_per_dim
    from .latents import latent_importance_weighted_bits_per_dim as latent_importance_weighted_bits_per_dim
    from .latents import latent_log_weights as latent_log_weights
    from .measurement import measure_denoising_errors as measure_denoising_errors
    from .ode import OdeBitsPerDim as OdeBitsPerDim
    from .ode import OdeLikelihood as OdeLikelihood
    from .ode import ode_bits_per_dim as ode_bits_per_dim
    from .ode import ode_log_likelihood as ode_log_likelihood
    from .unclip import DiffusionDecoder as DiffusionDecoder
    from .unclip import EmbeddingModel as EmbeddingModel
    from .unclip import by_bound as by_bound
    from .unclip import by_ode as by_ode
    from .unclip import by_path as by_path
    from .unclip import unclip_bits_per_dim as unclip_bits_per_dim
    from .unclip import unclip_importance_weighted_bits_per_dim as unclip_importance_weighted_bits_per_dim
    from .unclip import unclip_ode_bits_per_dim as unclip_ode_bits_per_dim
    from .variational import BitsPerDim as BitsPerDim
    from .variational import bits_per_dim as bits_per_dim
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "batches": ("Batches", "check_levels", "checked_batches"),
            "cascade": ("CascadeBitsPerDim", "StageBits", "cascade_bits_per_dim"),
            "decoder_law": ("DecoderLaw", "measured_decoder_scale"),
            "elbo": ("ElboBits", "elbo_bits_per_dim"),
            "importance_weighting": ("ImportanceWeightedBits", "importance_weighted_bits_per_dim", "log_path_weights"),
            "information": ("Information", "information_of"),
            "latent_ode": ("LatentOdeBitsPerDim", "latent_ode_bits_per_dim"),
            "latents": (
                "LatentBitsPerDim",
                "latent_bits_per_dim",
                "latent_importance_weighted_bits_per_dim",
                "latent_log_weights",
            ),
            "measurement": ("measure_denoising_errors",),
            "ode": ("OdeBitsPerDim", "OdeLikelihood", "ode_bits_per_dim", "ode_log_likelihood"),
            "distortion": ("RateDistortion", "rate_distortion"),
            "unclip": (
                "DiffusionDecoder",
                "EmbeddingModel",
                "by_bound",
                "by_ode",
                "by_path",
                "unclip_bits_per_dim",
                "unclip_importance_weighted_bits_per_dim",
                "unclip_ode_bits_per_dim",
            ),
            "variational": ("BitsPerDim", "bits_per_dim"),
            # terms of the bound, which were in this package before version 0.2
            ".diffusion.bound_terms": ("posterior_kl", "prior_kl", "vlb_terms"),
            ".diffusion.denoiser": ("Denoiser", "randn_like"),
        },
    )
