# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What metrics.json tells of a run."""

from __future__ import annotations

import torch

from ..likelihood.variational import BitsPerDim
from ..results import BoundFigures, Metrics, RunFacts
from .state import Job


def training_facts(job: Job) -> RunFacts:
    """What there is to tell of a run before it is scored."""
    scheduler = job.scheduler
    return {
        "data": job.data.name,
        "dataset_name": job.data.hub_name,
        "train_images": job.images_per_epoch,
        "bad_images_passed_over": len(job.bad_images),
        "train_steps": job.steps,
        "train_batch_size": job.share.total,
        "cpu_threads": torch.get_num_threads(),
        "image_shape": list(job.data.train.shape),
        "num_levels": job.data.train.num_levels,
        "parameters": sum(parameter.numel() for parameter in job.unet.parameters()),
        "prediction_type": scheduler.config.prediction_type,
        "variance_type": scheduler.variance_type,
        "timesteps": len(scheduler),
        "objective": job.diffusion.objective,
        "seed": job.training.seed,
        "settings": job.settings,
    }


def metrics(job: Job, result: BitsPerDim | None, more: Metrics) -> Metrics:
    """The figures of a run, for metrics.json; without a result if there are no test images."""
    return {
        **({} if result is None else _score_report(result)),
        **more,
        "train_seconds": job.seconds,
        "validation": job.validation,
        **training_facts(job),
    }


def _score_report(result: BitsPerDim) -> BoundFigures:
    return {
        "bits_per_dim": result.total,
        "bits_per_dim_standard_error": result.standard_error,
        "bits_per_dim_estimation_error": result.estimation_error,
        "bits_per_dim_prior": result.prior,
        "bits_per_dim_rate": result.rate,
        "bits_per_dim_decoder": result.decoder,
        "test_images": result.num_examples,
        "model_evaluations_per_test_image": result.num_model_evaluations // result.num_examples,
    }
