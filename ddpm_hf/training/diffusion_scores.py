# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What is measured, drawn and scored of a diffusion model at the end of its training, and while it is trained."""

from __future__ import annotations

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..conditioning.columns import chosen, joined
from ..data.level_images import LevelImages
from ..evaluation.features import IMAGES_OF_A_DATA_SET
from ..evaluation.frechet_distance import quality_of
from ..evaluation.measuring import measured_errors, with_errors
from ..evaluation.quality_features import load_quality_features
from ..evaluation.sampling import draw_images
from ..evaluation.scoring import paths_report, score_by_paths
from ..likelihood.latents import LatentBitsPerDim
from ..likelihood.variational import BitsPerDim
from ..results import BoundFigures, LatentFigures, Metrics, QualityFigures
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .state import TrainState
from .training_images import training_images
from .worth import is_worth_scored, retrieval_figures, scored, worth_figures


PATHS, IMAGES_ON_PATHS = 4, 512  # by default, of each of up to so many test images
STEPS_OF_A_PATH = 50  # at most: more paths tighten the bound more than longer ones


def drawn(state: TrainState, count: int) -> Tensor:
    """Samples in [0, 1], from the same noise every time."""
    pipeline = state.pipeline()
    pipeline.set_progress_bar_config(disable=True)  # the run's progress includes sampling
    how = (state.training.scoring_batch_size, state.inference_steps, state.training.seed, state.accelerator)
    return draw_images(pipeline, count, *how, state.conditioners.variety())


def _score_by_paths(state: TrainState) -> Metrics:
    """The importance-weighted bound of a short chain, at optimal timesteps if the denoising errors are known."""
    count = number_of_paths(state)
    if not count:
        return {}
    scheduler = DDPMPaperScheduler.from_config(state.scheduler.config)
    if not scheduler.process.learns_of_neighbours:
        spacing = None if scheduler.denoising_errors is None else "optimal"
        scheduler.set_timesteps(steps_of_a_path(state), timestep_spacing=spacing)
    chosen = (state.accelerator, state.training.scoring_batch_size, count, state.training.seed)
    bits = state.pipeline().importance_weighted_bits_per_dim
    result = score_by_paths(state.denoiser, scheduler, state.data.test, *chosen, count=bits)
    return {"importance_weighted": paths_report(result)}


def number_of_paths(state: TrainState) -> int:
    """The number of weighted paths per test image for the final score; 0 for no such score."""
    if state.training.num_paths is not None:
        return state.training.num_paths
    visits_all = state.scheduler.process.learns_of_neighbours  # paths through all timesteps would take long
    return 0 if visits_all or len(state.data.test) > IMAGES_ON_PATHS else PATHS


def steps_of_a_path(state: TrainState) -> int:
    """The number of model calls per path, at most."""
    visits_all = state.scheduler.process.learns_of_neighbours
    return len(state.scheduler) if visits_all else min(STEPS_OF_A_PATH, state.inference_steps)


def all_scores(state: TrainState, samples: Tensor) -> Metrics:
    """All figures of the run; only the main process computes those of the samples."""
    figures, weighted, quality = {}, {}, {}
    if len(state.data.test):
        result = scored(state, state.denoiser, state.data.test, state.training.num_evaluations)
        figures = _score_report(result)
        weighted = _score_by_paths(state)
        if is_worth_scored(state):
            weighted |= worth_figures(state, result)
            if state.training.num_retrieval_images:
                weighted |= retrieval_figures(state, _some_training_images(state))
    if state.accelerator.is_main_process:
        quality = _quality(state, samples)
    return {**figures, **weighted, **quality}


def _some_training_images(state: TrainState) -> LevelImages:
    """As many training images as retrieval takes, in memory, with their columns."""
    train, count = state.task.training_images(state.data), state.training.num_retrieval_images
    if isinstance(train, LevelImages):
        return train.spread(count)
    batches = list(training_images(state, count, train))
    x_0 = torch.cat([images for images, _ in batches])[:count].cpu()
    levels = ((x_0 + 1) / 2 * (train.num_levels - 1)).round().to(torch.int32)
    columns = joined([columns for _, columns in batches])
    return LevelImages.in_memory(levels, train.num_levels, chosen(columns, slice(len(levels))))


def with_what_is_measured(state: TrainState) -> DDPMPaperScheduler:
    """The scheduler with denoising errors measured on training images, and the variance that follows from them.

    All processes use the measurement of the main process.
    """
    scheduler, seed = state.scheduler, state.training.seed
    most = state.training.max_measured_images
    images, device = training_images(state, most), state.accelerator.device
    count = min(state.images_per_epoch or most, most)
    is_fixed = state.diffusion.variance_type.startswith("fixed")
    per_element = False if is_fixed else state.diffusion.per_element
    errors = measured_errors(
        state.denoiser, scheduler, images, count, state.data.train.shape, seed, device, per_element=per_element
    )
    return with_errors(scheduler, broadcast_object_list([errors])[0], keeps_variance=is_fixed)


def _quality(state: TrainState, samples: Tensor) -> QualityFigures:
    if not state.training.num_quality_samples:
        return {}
    pictures = state.task.training_images(state.data)
    train = torch.cat([images for images, _ in training_images(state, IMAGES_OF_A_DATA_SET, pictures)])
    if len(train) < 2:
        return {}  # one image has no covariance
    test, _ = state.data.test.spread(IMAGES_OF_A_DATA_SET).batch(0, IMAGES_OF_A_DATA_SET)
    features = load_quality_features(state.training, state.accelerator.device)
    return quality_of(samples, state.inference_steps, train, test, features)


def _score_report(result: BitsPerDim | LatentBitsPerDim) -> BoundFigures | LatentFigures:
    of_latents: LatentFigures = {}
    if isinstance(result, LatentBitsPerDim):
        of_latents = {
            "bits_per_dim_reconstruction": result.reconstruction,
            "bits_per_dim_posterior_entropy": result.posterior_entropy,
            "bits_per_dim_latent": result.latent,
        }
    return {
        "bits_per_dim": result.total,
        "bits_per_dim_standard_error": result.standard_error,
        "bits_per_dim_estimation_error": result.estimation_error,
        **of_latents,
        "bits_per_dim_prior": result.prior,
        "bits_per_dim_rate": result.rate,
        "bits_per_dim_decoder": result.decoder,
        "test_images": result.num_examples,
        "model_evaluations_per_test_image": result.num_model_evaluations // result.num_examples,
    }
