# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Likelihoods over data: bits per dimension by the variational bound, by weighted paths and by the ODE."""

from .._lazy import lazy_names


__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "batches": ("Batches", "check_levels", "checked_batches"),
        "importance_weighting": ("ImportanceWeightedBits", "importance_weighted_bits_per_dim", "log_path_weights"),
        "measurement": ("measure_denoising_errors",),
        "ode": ("OdeBitsPerDim", "OdeLikelihood", "ode_bits_per_dim", "ode_log_likelihood"),
        "variational": ("BitsPerDim", "bits_per_dim"),
        # terms of the bound, which were in this package before version 0.2
        ".diffusion.bound_terms": ("posterior_kl", "prior_kl", "vlb_terms"),
        ".diffusion.denoiser": ("Denoiser", "randn_like"),
    },
)
