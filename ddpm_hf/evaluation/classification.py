# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Classifying images by the bounds of a class-conditional model (Bayes' rule), or by a support vector classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from sklearn.svm import SVC
from torch import Tensor

from ..conditioning.classes import classes_of, of_classes
from ..data.level_images import LevelImages
from ..diffusion.numerics import LOG_2


UNLIKELY = 1e-3  # classes with a smaller probability are left out of the second scoring
SVC_GAMMA = 4.096  # divided by the number of pixels, for values in [−1, 1]: scikit-learn's .001 for levels 0 … 16


def bits_by_class(
    bits_of: Callable[[LevelImages], Sequence[float]],
    images: LevelImages,
    classes: int,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Tensor:
    """Upper bounds on −log₂ p(x | class) of every image, bits/dim, float64 `[N, classes]`.

    Args:
        bits_of: a function from images with classes to the bits/dim of each image. It should draw the same noise and
            times for every class, so that they cancel in the differences between classes.
        images: the images, N of them.
        progress: a function that wraps the iteration over classes.
    """
    bounds = [bits_of(images.with_columns(of_classes([k] * len(images)))) for k in progress(range(classes))]
    return torch.tensor(bounds, dtype=torch.float64).T


def bayes(bits: Tensor, dimensions: int, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Bayes' rule: the posterior of the classes, and the bits/dim without the class (Li et al. 2023).

    Args:
        bits: bits/dim given each class, `[N, classes]`.
        dimensions: number of dimensions of an image.
        shares: p(class), `[classes]`.

    Returns:
        log₂ p(class | x), `[N, classes]`, and −log₂ Σ p(class) p(x | class) in bits/dim, `[N]`. The second is an upper
        bound in expectation if the mean of 2^(−D · bits) is at most p(x | class), as for weighted paths. It is not a
        bound if instead the bits are unbiased: see `bits_without_the_class`.
    """
    joint = torch.log2(shares.double()) - dimensions * bits
    evidence = torch.logsumexp(joint * LOG_2, dim=1) / LOG_2
    return joint - evidence[:, None], -evidence / dimensions


def bits_without_the_class(
    bits_of: Callable[[LevelImages], Sequence[float]], images: LevelImages, bits: Tensor, shares: Tensor
) -> Tensor:
    """An upper bound on −log₂ Σ p(class) p(x | class), in expectation, from unbiased bounds given the class.

        −log₂ p(x) ≤ Σ_c w_c bits_c + Σ_c w_c log₂(w_c / p(class c))      for all weights w that sum to one

    The posterior minimises the right side. The weights come from one scoring and the bits from another: the bound is
    then linear in the bits, so noise does not bias it. −log₂ Σ_c p(class c) 2^(−bits_c), in contrast, is concave in
    the bits, so noise lowers its mean.

    The second scoring estimates the difference between this bound and the bound given the image's own class, under the
    same noise. The difference is added to the bound given the own class from the first scoring, so that the two
    figures share most of their noise.

    Args:
        bits_of: as for `bits_by_class`, but with other noise; it scores no class less likely than `UNLIKELY`.
        images: the images, N of them, with their classes.
        bits: bits/dim given each class from the first scoring, `[N, classes]`.
        shares: p(class), `[classes]`.

    Returns:
        bits/dim, float64 `[N]`.
    """
    dimensions, own = torch.Size(images.shape).numel(), classes_of(images.columns)
    posterior = bayes(bits, dimensions, shares)[0].exp2()
    likely = torch.where(posterior >= UNLIKELY, posterior, 0.0)
    weights = likely / likely.sum(1, keepdim=True)
    relative = torch.special.xlogy(weights, weights / shares.double()).sum(1) / LOG_2  # KL(w ‖ shares), bits
    excess = relative / dimensions  # of each image over the bound given its own class
    for k, weight in enumerate(weights.T):
        factor = weight - (own == k).double()
        index = factor.nonzero()[:, 0]
        if len(index):
            some = images.chosen(index).with_columns(of_classes([k] * len(index)))
            excess[index] += factor[index] * torch.tensor(bits_of(some), dtype=torch.float64)
    return bits.gather(1, own[:, None])[:, 0] + excess


def support_vector_classifier(pixels: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """A support vector classifier trained on `pixels` in [−1, 1], `[N, D]`, with `labels` `[N]`.

    Returns:
        The function classify(pixels) -> classes `[N]`.
    """
    if len(labels.unique()) == 1:
        return lambda pixels: labels[:1].expand(len(pixels))
    machine = SVC(gamma=SVC_GAMMA / pixels.shape[1]).fit(pixels.numpy(), labels.numpy())
    return lambda pixels: torch.from_numpy(machine.predict(pixels.numpy()))
