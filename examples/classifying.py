# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images classified: by the bounds of a class-conditional model (Bayes' rule), and by a support vector classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from accelerate import Accelerator
from image_data import LevelImages
from randomness import Use, generator_of
from scoring import denoiser
from sharing import shared
from sklearn.svm import SVC
from torch import Tensor, nn

from ddpm_hf import DDPMPaperScheduler, bits_per_dim
from ddpm_hf.numerics import LOG_2


SVC_GAMMA = 1e-3  # for levels 0 … 16, as scikit-learn's own example has it for the digits


def bits_by_class(
    unet: nn.Module,
    scheduler: DDPMPaperScheduler,
    images: LevelImages,
    classes: int,
    accelerator: Accelerator,
    batch_size: int,
    num_evaluations: int,
    seed: int,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> Tensor:
    """−log₂ p(x | class) of every image, at most, bits/dim, float64 `[N, classes]`; all processes share the work.

    An image meets the same noise at the same times with every class, so that most of what they do to the bound is not
    in the differences between classes.
    """
    count = num_evaluations if 0 < num_evaluations < len(scheduler.timesteps) else None

    def of_batch(k: int) -> Tensor:
        x_0 = images.batch(k * batch_size, (k + 1) * batch_size)[0].to(accelerator.device)
        bounds = []
        for label in range(classes):
            labels = torch.full((len(x_0),), label, device=accelerator.device)
            result = bits_per_dim(
                denoiser(unet),
                scheduler,
                [(x_0, {"class_labels": labels})],
                num_evaluations=count,
                generator=generator_of(Use.SCORING, seed, k),
            )
            bounds.append(torch.tensor(result.per_example, dtype=torch.float64))
        return torch.stack(bounds, dim=1)

    return torch.cat(shared(accelerator, -(-len(images) // batch_size), of_batch, progress))


def bayes(bits: Tensor, dimensions: int, shares: Tensor) -> tuple[Tensor, Tensor]:
    """What bits/dim given each class, `[N, classes]`, say of the class, and of the images without it.

    Args:
        dimensions: of an image.
        shares: p(class), `[classes]`.

    Returns:
        log₂ p(class | x), `[N, classes]`, and −log₂ Σ p(class) p(x | class) in bits/dim, `[N]`.
    """
    joint = torch.log2(shares.double()) - dimensions * bits
    evidence = torch.logsumexp(joint * LOG_2, dim=1) / LOG_2
    return joint - evidence[:, None], -evidence / dimensions


def support_vector_classifier(levels: Tensor, labels: Tensor, num_levels: int) -> Callable[[Tensor], Tensor]:
    """A classifier of images in levels `[N, …]`, trained on these: what pixels alone tell.

    Returns:
        classify(levels) -> classes `[N]`.
    """
    scale = 16 / (num_levels - 1)

    def features(levels: Tensor) -> np.ndarray:
        return (levels.float() * scale).flatten(1).cpu().numpy()

    machine = SVC(gamma=SVC_GAMMA).fit(features(levels), labels.numpy())
    return lambda levels: torch.from_numpy(machine.predict(features(levels)))


def levels_of(images: LevelImages, limit: int | None = None) -> Tensor:
    """Up to so many images as levels 0 … K − 1, `[N, C, H, W]`."""
    scaled = torch.cat(list(images.batches(256, limit)))
    return ((scaled + 1) / 2 * (images.num_levels - 1)).round()
