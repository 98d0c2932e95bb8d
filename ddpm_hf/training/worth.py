# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What the conditioning of a trained model is worth, where its conditioners ask for that."""

from __future__ import annotations

from ..conditioning.denoiser import ConditionalDenoiser
from ..data.level_images import LevelImages
from ..evaluation.conditioning_worth import CANDIDATES, retrieval_accuracy, worth_of
from ..evaluation.scoring import score
from ..likelihood.latents import LatentBitsPerDim
from ..likelihood.variational import BitsPerDim
from ..reporting.conditioning_figures import save_worth
from ..results import Metrics
from .state import TrainState


RETRIEVAL_EVALUATIONS = 8  # model calls for each of them and each candidate


def is_worth_scored(state: TrainState) -> bool:
    """Whether the figures are computed for this run."""
    return state.conditioners.worth_name is not None and len(state.data.test) > 1


def calls_of_worth(state: TrainState) -> tuple[int, int]:
    """Model calls for each test image, and for each image whose own conditioning is looked for."""
    return (2, RETRIEVAL_EVALUATIONS * CANDIDATES) if is_worth_scored(state) else (0, 0)


def worth_figures(state: TrainState, given: BitsPerDim | LatentBitsPerDim) -> Metrics:
    """What the conditioning is worth, of a run in which it is scored; the main process draws it by noise level.

    Args:
        given: the bound of the test images.
    """
    name, test = state.conditioners.worth_name, state.data.test
    worth = worth_of(
        lambda denoiser, images: scored(state, denoiser, images, state.training.num_evaluations),
        state.denoiser,
        test,
        given,
        state.training.seed,
    )
    if state.accelerator.is_main_process:
        save_worth(worth.own, worth.shuffled, name, state.scheduler, state.folder / worth.picture)
    return worth.report()


def retrieval_figures(state: TrainState, training_images: LevelImages) -> Metrics:
    """How often an image's own conditioning is the likeliest of several candidates.

    Args:
        training_images: as many as there are to be, which are asked about beside the test images.
    """
    name = state.conditioners.worth_name
    return {
        f"{name}_retrieval_accuracy": _retrieval(state, state.data.test),
        f"{name}_retrieval_accuracy_training": _retrieval(state, training_images),
        f"{name}_retrieval_candidates": CANDIDATES,
        f"{name}_retrieval_images": state.training.num_retrieval_images,
    }


def scored(
    state: TrainState, denoiser: ConditionalDenoiser, images: LevelImages, evaluations: int
) -> BitsPerDim | LatentBitsPerDim:
    """The bound of images by this denoiser, with so many model calls per image, by all processes together."""
    chosen = (state.accelerator, state.training.scoring_batch_size, evaluations, state.training.seed)
    return score(denoiser, state.scheduler, images, *chosen, count=state.pipeline().bits_per_dim)


def _retrieval(state: TrainState, images: LevelImages) -> float | None:
    calls, seed = min(RETRIEVAL_EVALUATIONS, len(state.scheduler.timesteps)), state.training.seed
    some = images.spread(state.training.num_retrieval_images)
    return retrieval_accuracy(lambda images: scored(state, state.denoiser, images, calls).per_example, some, seed)
