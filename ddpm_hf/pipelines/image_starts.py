# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images that a chain starts from: image to image (SDEdit, Meng et al. 2022), and inpainting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..diffusion.numerics import is_number
from .images import batch_of_images, one_for_each
from .inpainting import Jumps


STRENGTH = 0.8  # of image to image, as in StableDiffusionImg2ImgPipeline


@dataclass(frozen=True)
class ImageStart:
    """Images that a chain starts from, in the place of noise, or that it keeps a part of.

    Attributes:
        images: `[N, C, H, W]` in [−1, 1], one for all, one for each prompt or one for each image.
        mask: booleans `[N, 1, H, W]`, likewise, True where the image is drawn anew; None for image to image.
        strength: the share of the chain's timesteps that is visited.
        jumps: of inpainting.
    """

    images: Tensor
    mask: Tensor | None
    strength: float
    jumps: Jumps

    @classmethod
    def of(cls, image: Any, mask_image: Any, strength: float | None, jumps: Jumps, channels: int) -> ImageStart | None:
        """What the arguments of a call ask for; None without an image.

        Raises:
            ValueError: for a mask without an image or of another size, or a `strength` outside (0, 1].
        """
        if image is None:
            if mask_image is not None:
                raise ValueError("`mask_image` needs an `image`, whose white part is drawn anew.")
            if strength is not None:
                raise ValueError("`strength` needs an `image`.")
            return None
        images = batch_of_images("image", image, channels)
        mask = None if mask_image is None else mask_of(mask_image)
        if mask is not None and mask.shape[2:] != images.shape[2:]:
            sizes = ["x".join(map(str, each.shape[2:])) for each in (images, mask)]
            raise ValueError(f"`mask_image` must have the size of `image`, {sizes[0]}, but has {sizes[1]}.")
        if strength is None:
            strength = STRENGTH if mask is None else 1.0
        if not is_number(strength) or not 0 < strength <= 1:
            raise ValueError(f"`strength` must lie in (0, 1], but is {strength!r}.")
        jumps.check()
        return cls(images, mask, strength, jumps)

    def of_each(self, count: int, num_images_per_prompt: int) -> ImageStart:
        """The same with `count` images and masks, if there are not one for all.

        Raises:
            ValueError: for another number of images or masks than 1, that of the prompts or `count`.
        """

        def spread(name: str, given: Tensor) -> Tensor:
            return given if len(given) == 1 else one_for_each(name, given, count, num_images_per_prompt)

        mask = None if self.mask is None else spread("mask_image", self.mask)
        return replace(self, images=spread("image", self.images), mask=mask)

    def rest_of(self, timesteps: list[int]) -> list[int]:
        """The timesteps that are visited."""
        return timesteps[len(timesteps) - max(1, int(self.strength * len(timesteps))) :]

    def with_known(self, found: Tensor) -> Tensor:
        """Images `[B, C, H, W]` with the pixels that are known."""
        if self.mask is None:
            return found
        images, mask = (each.repeat_interleave(len(found) // len(each), dim=0) for each in (self.images, self.mask))
        return torch.where(mask.to(found.device), found, images.to(found))


def mask_of_latents(mask: Tensor, factor: int) -> Tensor:
    """The mask of latents `[B, 1, h, w]`: those that any pixel to be drawn anew belongs to."""
    return max_pool2d(mask.float(), factor) > 0


def mask_of(given: Any) -> Tensor:
    """A mask as booleans `[B, 1, H, W]`, True where it is white or at least 0.5.

    Args:
        given: a PIL image, or a list of them, of any mode; an array or a tensor `[H, W]`, `[B, H, W]` or
            `[B, 1, H, W]` in [0, 1].

    Raises:
        ValueError: for anything else, and for masks of different sizes.
    """
    parts = [_one_mask(each) for each in (given if isinstance(given, (list, tuple)) else [given])]
    sizes = sorted({tuple(part.shape[2:]) for part in parts})
    if len(sizes) != 1:
        raise ValueError(f"`mask_image` must be at least one mask, all of one size, but the sizes are {sizes}.")
    return torch.cat(parts)


def _one_mask(given: Any) -> Tensor:
    if isinstance(given, Image.Image):
        given = np.asarray(given.convert("L"), dtype=np.float32) / 255
    mask = torch.from_numpy(np.array(given)) if isinstance(given, np.ndarray) else given
    if isinstance(mask, Tensor) and mask.ndim in (2, 3):
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(
            "`mask_image` must be PIL images, or tensors or arrays [H, W], [B, H, W] or [B, 1, H, W] in [0, 1], but is"
            f" {list(mask.shape) if isinstance(mask, Tensor) else type(given).__name__}."
        )
    return mask.float() >= 0.5
