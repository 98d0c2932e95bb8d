# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The Fréchet distance between the pixels of samples and of real images, which needs no pretrained network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..data.level_images import LevelImages
from ..results import EqualNumbers, InvalidResult, QualityFigures


LARGEST_SIDE = 16  # larger images are downsampled: the covariance of D values needs more than D images
IMAGES_OF_A_DATA_SET = 10_000  # more would hardly change a mean or a covariance


def pixel_frechet_distance(images: Tensor, others: Tensor) -> float:
    """Fréchet distance between two sets of images `[N, C, H, W]` in [−1, 1], as Gaussians over their pixel values."""
    return frechet_distance(compared_pixels(images), compared_pixels(others))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of the rows of `[N, D]` and `[M, D]` (Heusel et al. 2017, Eq. 6).

    The trace of the root is the sum of the singular values of Σ_a^½ Σ_b^½.
    """
    a, b = a.double(), b.double()
    sigma_a, sigma_b = torch.cov(a.T), torch.cov(b.T)
    cross = torch.linalg.matrix_norm(_root(sigma_a) @ _root(sigma_b), ord="nuc")
    return float((a.mean(0) - b.mean(0)).square().sum() + sigma_a.trace() + sigma_b.trace() - 2 * cross)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def compared_size(height: int, width: int) -> tuple[int, int]:
    """The (height, width) at which images are compared."""
    return min(height, LARGEST_SIDE), min(width, LARGEST_SIDE)


def pixels_of(images: LevelImages, limit: int | None = None) -> Tensor:
    """The compared pixels of up to `limit` images of a data set, `[N, D]`."""
    return torch.cat([compared_pixels(batch) for batch in images.batches(256, limit)])


def compared_pixels(images: Tensor) -> Tensor:
    """The compared pixels `[N, D]` of images `[N, C, H, W]`; large images are downsampled by averaging."""
    return adaptive_avg_pool2d(images.float(), compared_size(*images.shape[-2:])).flatten(1)


def quality_of(samples: Tensor, steps: int, train: Tensor, test: Tensor) -> QualityFigures:
    """Fréchet distances of samples `[N, C, H, W]` in [0, 1], and of test images, from training images in [−1, 1].

    Raises:
        InvalidResult: for samples that are not finite.
    """
    if not bool(samples.isfinite().all()):
        raise InvalidResult("The samples are not finite, so their Fréchet distance is not defined.")
    size, compared = tuple(samples.shape[-2:]), compared_size(*samples.shape[-2:])
    return {
        "frechet_distance_pixels": pixel_frechet_distance(samples * 2 - 1, train),
        "frechet_distance_pixels_of_test_images": pixel_frechet_distance(test, train) if len(test) > 1 else None,
        "quality_resolution": None if compared == size else f"{compared[0]}×{compared[1]}",
        "quality_samples": len(samples),
        "quality_inference_steps": steps,
        **at_equal_numbers(samples * 2 - 1, train, test),
    }


def at_equal_numbers(samples: Tensor, train: Tensor, test: Tensor) -> QualityFigures:
    """The distances of as many samples, training images and test images from the other training images.

    Args:
        samples, train, test: images `[N, C, H, W]` in [−1, 1]; of test images there may be fewer than 2.

    Returns:
        Nothing if there are too few images: a quarter of the training images is held back at most.
    """
    kinds = {"samples": samples, "training_images": train, "test_images": test}
    count = min(len(samples), len(train) // 4, len(test) if len(test) > 1 else len(samples))
    if count < 2:
        return {}
    held_back = torch.zeros(len(train), dtype=torch.bool)
    held_back[_spread(len(train), count)] = True
    reference = train[~held_back]
    distances = {
        kind: pixel_frechet_distance(images[_spread(len(images), count)], reference) if len(images) > 1 else None
        for kind, images in kinds.items()
    }
    equal: EqualNumbers = {"images": count, "reference_images": len(reference), **distances}
    return {"frechet_distance_pixels_at_equal_numbers": equal}


def _spread(total: int, count: int) -> Tensor:
    """The indices of `count` of `total` images, evenly spread."""
    return torch.arange(count) * total // count
