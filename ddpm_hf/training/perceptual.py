# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The perceptual distance of two images: that of a network's features (LPIPS, Zhang et al. 2018, Eq. 1).

    d(x, y) = Σ_l mean_hw Σ_c w_lc (f̂_lc(x) − f̂_lc(y))²,    f̂_l = f_l/|f_l|, of unit length at every place

The features f_l are those of a trained classifier, at the end of every resolution. The weights w_l ≥ 0 are LPIPS's, if
the user has them, or else 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, relu

from ..evaluation import efficientnet


Features = Callable[[Tensor], list[Tensor]]
"""Maps RGB images `[B, 3, H, W]` in [0, 1] to features `[B, c, h, w]` at each resolution, differentiably."""

LEAST_NORM = 1e-10  # added to the squared length of features

# VGG-16 (Simonyan & Zisserman 2015), by the numbers that torchvision gives its layers.
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
POOLS, LAST_OF_RESOLUTION = (4, 9, 16, 23), (2, 7, 14, 21, 28)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the network was trained
# `features.0.weight` as torchvision names it, or `net.slice1.0.weight` as LPIPS does
OF_LAYER = re.compile(r"(?:features|net\.slice\d+)\.(\d+)\.(weight|bias)")
OF_LPIPS = re.compile(r"lin(\d+)\.model\.1\.weight")


class PerceptualDistance:
    """d(x, y) of images, by a frozen network.

    Args:
        features: of the network.
        weights: w_l of each resolution, `[c]`; None for 1.
    """

    def __init__(self, features: Features, weights: Sequence[Tensor] | None = None):
        self._features, self._weights = features, weights

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of each pair, `[B]`; differentiable.

        Args:
            x, y: images `[B, C, H, W]` in [−1, 1] of 1, 3 or 4 channels; the fourth is opacity, on white.
        """
        pairs = [map(_of_unit_length, self._features(as_rgb(each))) for each in (x, y)]
        squares = [(first - second).square() for first, second in zip(*pairs, strict=True)]
        weights = [1.0] * len(squares) if self._weights is None else [w[:, None, None] for w in self._weights]
        # Small images have fewer resolutions than there are weights.
        terms = [(w * square).sum(dim=1).mean(dim=(1, 2)) for w, square in zip(weights, squares, strict=False)]
        return torch.stack(terms).sum(dim=0)


def load_perceptual(name: str, device: torch.device) -> PerceptualDistance:
    """The distance by a network that the user names.

    Args:
        name: `efficientnet_lite0`, whose weights a package brings; or a file of VGG-16's weights, as torchvision or
            LPIPS names them, in safetensors or in a file of tensors that torch saved. If it has LPIPS's weights of the
            channels too (`lin0.model.1.weight` …), they are used.

    Raises:
        ValueError: for a file or a package that is missing, or has other weights.
    """
    if name == efficientnet.NAME:
        return PerceptualDistance(efficientnet_stages(efficientnet.load_efficientnet().to(device)))
    tensors = {key: tensor.float().to(device) for key, tensor in _read(name).items()}
    layers = {(int(m[1]), m[2]): tensors[key] for key in tensors if (m := OF_LAYER.fullmatch(key))}
    missing = [number for number in CONVOLUTIONS if not {(number, "weight"), (number, "bias")} <= layers.keys()]
    if missing:
        raise ValueError(
            f"`perceptual_model` {name} must hold VGG-16's weights, features.0.weight and so on, but has none of layer"
            f" {missing[0]}."
        )
    lpips = {int(m[1]): tensors[key].flatten() for key in tensors if (m := OF_LPIPS.fullmatch(key))}
    if lpips and set(lpips) != set(range(len(LAST_OF_RESOLUTION))):
        raise ValueError(f"`perceptual_model` {name} must hold LPIPS's weights of all five resolutions, or none.")
    return PerceptualDistance(vgg_stages(layers), [lpips[k] for k in sorted(lpips)] if lpips else None)


def vgg_stages(layers: Mapping[tuple[int, str], Tensor]) -> Features:
    """The last features at each resolution of VGG-16, of weights and biases by the number of their layer."""
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))

    def features(images: Tensor) -> list[Tensor]:
        x, found = (images - mean.to(images)) / deviation.to(images), []
        for number in sorted((*CONVOLUTIONS, *POOLS)):
            if number in POOLS:
                if min(x.shape[2:]) < 2:
                    break
                x = max_pool2d(x, 2)
                continue
            x = relu(conv2d(x, layers[number, "weight"], layers[number, "bias"], padding=1))
            if number in LAST_OF_RESOLUTION:
                found.append(x)
        return found

    return features


def efficientnet_stages(network: nn.Module) -> Features:
    """The last features at each resolution of EfficientNet-Lite0."""

    def features(images: Tensor) -> list[Tensor]:
        x = (images - efficientnet.MEAN) / efficientnet.DEVIATION
        x, found = network._swish(network._bn0(network._conv_stem(x))), []
        for block in network._blocks:
            after = block(x)
            if after.shape[2:] != x.shape[2:]:
                found.append(x)
            x = after
        return [*found, x]

    return features


def as_rgb(images: Tensor) -> Tensor:
    """Images `[B, C, H, W]` in [−1, 1] as RGB `[B, 3, H, W]` about in [0, 1], differentiably.

    Raises:
        ValueError: for another number of channels than 1, 3 or 4.
    """
    images, channels = images.float() / 2 + 0.5, images.shape[1]
    if channels == 1:
        return images.expand(-1, 3, -1, -1)
    if channels == 4:
        colour, opacity = images.split([3, 1], dim=1)
        return colour * opacity + (1 - opacity)
    if channels != 3:
        raise ValueError(f"`perceptual_weight` needs images of 1, 3 or 4 channels, but these have {channels}.")
    return images


def _of_unit_length(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True) + LEAST_NORM).sqrt()


def _read(name: str) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        ValueError: if there is no such file, or it holds anything but tensors.
    """
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"`perceptual_model` must be {efficientnet.NAME} or a file of weights, but is {name}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        read = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"`perceptual_model` {name} cannot be read as a file of tensors.") from error
    if not isinstance(read, dict) or not all(isinstance(value, Tensor) for value in read.values()):
        raise ValueError(f"`perceptual_model` {name} must hold tensors by name.")
    return read
