# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The features that the user chooses for comparing samples with real images."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..results import FRECHET_DISTANCES
from . import efficientnet, inception
from .arguments import QualityArguments
from .features import PIXELS, Features


def check_quality_features(quality: QualityArguments) -> None:
    """Raise ValueError, naming the argument, for features that are unknown or cannot be computed."""
    names = quality.quality_features
    if not names or not FRECHET_DISTANCES.keys() >= set(names) or len(set(names)) < len(names):
        known = ", ".join(FRECHET_DISTANCES)
        raise ValueError(f"`quality_features` must be one or several of {known}, each once, but is {names}.")
    if names != [PIXELS.name] and not quality.num_quality_samples:
        raise ValueError(
            f"`quality_features` {' '.join(names)} needs samples: `num_quality_samples` must be at least 2, but is 0."
        )
    if quality.inception_weights is not None and inception.NAME not in names:
        raise ValueError("`inception_weights` is for `quality_features` inception, which is not among them.")
    if efficientnet.NAME in names:
        efficientnet.weights_of_package()
    if inception.NAME in names:
        inception.weights_given(quality.inception_weights)


def load_quality_features(quality: QualityArguments, device: torch.device) -> list[Features]:
    """The chosen features, whose networks compute on `device`.

    Raises:
        ValueError: for a package or a file that is missing or damaged.
    """
    load: dict[str, Callable[[], Features]] = {
        PIXELS.name: lambda: PIXELS,
        efficientnet.NAME: lambda: efficientnet.efficientnet_features(device),
        inception.NAME: lambda: inception.inception_features(quality.inception_weights, device),
    }
    return [load[name]() for name in quality.quality_features]
