# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The content of metrics.json."""

from __future__ import annotations

import torch

from ..results import Metrics, RunFacts
from .fingerprint import settings
from .run_state import RunState


def training_facts(state: RunState) -> RunFacts:
    """The part of metrics.json that is known before the model is scored."""
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
        **state.method.facts(state),
        "seed": state.training.seed,
        "settings": settings(state),
    }


def metrics(state: RunState, figures: Metrics) -> Metrics:
    """All of metrics.json, with the figures that the run's method has computed."""
    return {
        **figures,
        "train_seconds": state.seconds,
        "validation": state.validation,
        **training_facts(state),
    }
