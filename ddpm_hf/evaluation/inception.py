# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Features of Inception, whose Fréchet distance is the FID (Heusel et al. 2017), by torchmetrics and torch-fidelity.

The weights are not downloaded: the user names their file.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from ..runtime.hashing import sha256_of
from .features import Features, by_batches


NAME = "inception"
DIMENSIONS = 2048
WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
# SHA-256 of the weights; it begins with the last part of the file's name. torch-fidelity publishes the same file.
CHECKSUM = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
PACKAGES = {"torchmetrics": "torchmetrics", "torch_fidelity": "torch-fidelity"}


def inception_features(weights: str | None, device: torch.device) -> Features:
    """Inception's features `[N, 2048]`, as `torchmetrics.image.fid.FrechetInceptionDistance` computes them.

    Images are rounded to 8 bits, and resized by the network.

    Raises:
        ValueError: for a file that is not that of the weights, or without the packages.
    """
    path = weights_given(weights)
    from torchmetrics.image.fid import FrechetInceptionDistance

    with torch.random.fork_rng(devices=[]):  # weights that are replaced at once change the state of random numbers
        metric = FrechetInceptionDistance(DIMENSIONS, feature_extractor_weights_path=str(path))
    network = metric.inception.requires_grad_(False).to(device)

    def features(images: Tensor) -> Tensor:
        return network((images * 255).round().to(torch.uint8).to(device))

    return Features(NAME, by_batches(features))


def weights_given(weights: str | None) -> Path:
    """The file of the weights.

    Raises:
        ValueError: for a file that is not that of the weights, or without the packages.
    """
    if weights is None:
        raise ValueError(f"`quality_features` {NAME} needs its weights: pass --inception_weights with {WEIGHTS}.")
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ValueError(f"`quality_features` {NAME} needs {missing[0]}: pip install {' '.join(missing)}.")
    path = Path(weights)
    if not path.is_file():
        raise ValueError(f"`inception_weights` {weights} is not a file; it must be {WEIGHTS}.")
    if sha256_of(path) != CHECKSUM:
        raise ValueError(f"`inception_weights` {weights} is damaged or another file; it must be {WEIGHTS}.")
    return path
