# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The content of metrics.json."""

from __future__ import annotations

import torch

from ..likelihood.variational import BitsPerDim
from ..results import BoundFigures, Metrics, RunFacts
from .fingerprint import settings
from .state import TrainState


def training_facts(state: TrainState) -> RunFacts:
    """The part of metrics.json that is known before the model is scored."""
    scheduler = state.scheduler
    return {
        "data": state.data.name,
        "dataset_name": state.data.hub_name,
        "attribution": state.data.attribution,
        "train_images": state.images_per_epoch,
        "bad_images_passed_over": len(state.bad_images),
        "train_steps": state.steps,
        "train_batch_size": state.shard.total,
        "cpu_threads": torch.get_num_threads(),
        "image_shape": list(state.data.train.shape),
        "num_levels": state.data.train.num_levels,
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "prediction_type": scheduler.config.prediction_type,
        "variance_type": scheduler.variance_type,
        "timesteps": len(scheduler),
        "objective": state.diffusion.objective,
        "seed": state.training.seed,
        "settings": settings(state),
    }


def metrics(state: TrainState, result: BitsPerDim | None, more: Metrics) -> Metrics:
    """All of metrics.json; `result` is None if there are no test images."""
    return {
        **({} if result is None else _score_report(result)),
        **more,
        "train_seconds": state.seconds,
        "validation": state.validation,
        **training_facts(state),
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
