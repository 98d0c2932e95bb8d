# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images that go into pipelines and come out of them."""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor

from ..diffusion.gaussian_process import unknown
from ..diffusion.numerics import require_samples


OUTPUT_TYPES = ("pil", "np", "pt")
PIL_CHANNELS = (1, 3, 4)  # modes "L", "RGB" and "RGBA"


def check_output_type(output_type: Any, channels: int) -> None:
    """Raise ValueError for an `output_type` that is not known, or cannot show images of so many channels."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(unknown("output_type", output_type, OUTPUT_TYPES))
    if output_type == "pil" and channels not in PIL_CHANNELS:
        raise ValueError(f"`output_type` 'pil' has no image mode for {channels} channels; use 'np' or 'pt'.")


def check_images(name: str, images: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the argument is floating and of this shape."""
    require_samples(**{name: images})
    if tuple(images.shape) != shape:
        raise ValueError(f"`{name}` must be of shape {list(shape)}, but is {list(images.shape)}.")


def to_output(sample: Tensor, output_type: str) -> Tensor | Any:
    """Samples `[B, C, H, W]` in [−1, 1] as images: a tensor, an array `[B, H, W, C]`, or a list of PIL images."""
    images = (sample / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return images
    images = images.float().permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return images
    levels = (images * 255).round().astype("uint8")
    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in levels]
