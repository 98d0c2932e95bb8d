# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Features of images, by whose means and covariances sets of images are compared: pixels, or a network's features."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..data.level_images import LevelImages


LARGEST_SIDE = 16  # larger images are downsampled: the covariance of D values needs more than D images
IMAGES_OF_A_DATA_SET = 10_000  # more would hardly change a mean or a covariance
BATCH = 16  # images in a call of a network; larger batches are no faster on a CPU


class Features(NamedTuple):
    """A function of images.

    Attributes:
        name: one of `FRECHET_DISTANCES` in results.py.
        of: maps images `[N, C, H, W]` in [−1, 1] to features `[N, D]`, on the CPU.
    """

    name: str
    of: Callable[[Tensor], Tensor]

    @property
    def key(self) -> str:
        """The key of the Fréchet distance of these features in results."""
        return f"frechet_distance_{self.name}"

    def of_data_set(self, images: LevelImages, limit: int | None = None) -> Tensor:
        """The features of up to `limit` images of a data set, `[N, D]`."""
        return torch.cat([self.of(batch) for batch in images.batches(256, limit)])


def compared_size(height: int, width: int) -> tuple[int, int]:
    """The (height, width) at which the pixels of images are compared."""
    return min(height, LARGEST_SIDE), min(width, LARGEST_SIDE)


def compared_pixels(images: Tensor) -> Tensor:
    """The compared pixels `[N, D]` of images `[N, C, H, W]`; large images are downsampled by averaging."""
    return adaptive_avg_pool2d(images.float(), compared_size(*images.shape[-2:])).flatten(1)


PIXELS = Features("pixels", compared_pixels)


def by_batches(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of any number of images, which calls `network` in batches without gradients.

    Args:
        network: maps images `[B, 3, H, W]` in [0, 1], on the CPU, to features `[B, D]` on any device.
    """

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        return torch.cat([network(as_rgb(batch)).float().cpu() for batch in images.split(BATCH)])

    return features


def as_rgb(images: Tensor) -> Tensor:
    """Images `[N, C, H, W]` in [−1, 1] as RGB `[N, 3, H, W]` in [0, 1].

    Grey is repeated, and transparent images (C = 4, alpha last) are laid on white.

    Raises:
        ValueError: for another number of channels.
    """
    images = (images.float().cpu() / 2 + 0.5).clamp(0, 1)
    channels = images.shape[1]
    if channels == 1:
        return images.expand(-1, 3, -1, -1)
    if channels == 4:
        colour, alpha = images.split([3, 1], dim=1)
        return colour * alpha + (1 - alpha)
    if channels != 3:
        raise ValueError(f"A network's features are those of images of 1, 3 or 4 channels, but these have {channels}.")
    return images
