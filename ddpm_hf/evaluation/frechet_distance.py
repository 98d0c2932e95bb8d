# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The Fréchet distance between the features of samples and of real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..results import EqualNumbers, InvalidResult, QualityFigures
from .features import PIXELS, Features, compared_size


class Gaussian(NamedTuple):
    """The normal distribution with the mean and the covariance of a set of features.

    Attributes:
        mean: float64 `[D]`.
        root: float64 `[min(N, D), D]`, whose product rootᵀ root is the covariance.
    """

    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        """That of features `[N, D]`, N ≥ 2; with fewer than D + 1 of them the covariance is singular."""
        rows = features.double()
        mean = rows.mean(0)
        root = (rows - mean) / (len(rows) - 1) ** 0.5
        return cls(mean, torch.linalg.qr(root, mode="r").R if root.shape[0] > root.shape[1] else root)

    def distance(self, other: Gaussian) -> float:
        """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) (Heusel et al. 2017, Eq. 6).

        With Σ_a = AᵀA and Σ_b = BᵀB, the trace of the root is the sum of the singular values of A Bᵀ. Nothing is
        inverted, and no covariance is formed, so singular ones are as accurate as others.
        """
        cross = torch.linalg.svdvals(self.root @ other.root.T).sum()
        traces = self.root.square().sum() + other.root.square().sum()
        return float((self.mean - other.mean).square().sum() + traces - 2 * cross)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance between features `[N, D]` and `[M, D]`, as Gaussians; N and M are at least 2."""
    return Gaussian.of(a).distance(Gaussian.of(b))


def quality_of(
    samples: Tensor, steps: int, train: Tensor, test: Tensor, features: Sequence[Features] = (PIXELS,)
) -> QualityFigures:
    """Fréchet distances of samples `[N, C, H, W]` in [0, 1], and of test images, from training images in [−1, 1].

    Raises:
        InvalidResult: for samples that are not finite.
    """
    if not bool(samples.isfinite().all()):
        raise InvalidResult("The samples are not finite, so their Fréchet distance is not defined.")
    figures: dict[str, Any] = {
        "quality_samples": len(samples),
        "quality_training_images": len(train),
        "quality_inference_steps": steps,
    }
    if PIXELS in features:
        size, compared = tuple(samples.shape[-2:]), compared_size(*samples.shape[-2:])
        figures["quality_resolution"] = None if compared == size else f"{compared[0]}×{compared[1]}"
    for each in features:
        of_samples, of_train = each.of(samples * 2 - 1), each.of(train)
        of_test = each.of(test) if len(test) > 1 else of_train[:0]
        figures |= _distances(each.key, of_samples, of_train, of_test)
    return cast("QualityFigures", figures)


def _distances(key: str, samples: Tensor, train: Tensor, test: Tensor) -> dict[str, Any]:
    """The distances of features `[N, D]` from those of training images: of all of them, and at equal numbers."""
    reference = Gaussian.of(train)
    equal = at_equal_numbers(samples, train, test)
    return {
        key: Gaussian.of(samples).distance(reference),
        f"{key}_of_test_images": Gaussian.of(test).distance(reference) if len(test) > 1 else None,
        **({} if equal is None else {f"{key}_at_equal_numbers": equal}),
    }


def at_equal_numbers(samples: Tensor, train: Tensor, test: Tensor) -> EqualNumbers | None:
    """The distances of as many samples, training images and test images from the other training images.

    Args:
        samples, train, test: features `[N, D]`; of test images there may be fewer than 2.

    Returns:
        None if there are too few images: a quarter of the training images is held back at most.
    """
    kinds = {"samples": samples, "training_images": train, "test_images": test}
    count = min(len(samples), len(train) // 4, len(test) if len(test) > 1 else len(samples))
    if count < 2:
        return None
    held_back = torch.zeros(len(train), dtype=torch.bool)
    held_back[_spread(len(train), count)] = True
    others = train[~held_back]
    reference = Gaussian.of(others)
    distances = {
        kind: Gaussian.of(rows[_spread(len(rows), count)]).distance(reference) if len(rows) > 1 else None
        for kind, rows in kinds.items()
    }
    return cast("EqualNumbers", {"images": count, "reference_images": len(others), **distances})


def _spread(total: int, count: int) -> Tensor:
    """The indices of `count` of `total` images, evenly spread."""
    return torch.arange(count) * total // count
