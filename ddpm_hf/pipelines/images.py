# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images that pipelines take and return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import Tensor

from ..diffusion.finiteness import NO_TIMESTEP_0, require_finite
from ..diffusion.gaussian_process import unknown
from ..diffusion.numerics import require_samples


OUTPUT_TYPES = ("pil", "np", "pt")
PIL_CHANNELS = (1, 3, 4)  # modes "L", "RGB" and "RGBA"


def check_output_type(output_type: Any, channels: int) -> None:
    """Raise ValueError for an unknown `output_type`, or one that cannot represent this number of channels."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(unknown("output_type", output_type, OUTPUT_TYPES))
    if output_type == "pil" and channels not in PIL_CHANNELS:
        raise ValueError(f"`output_type` 'pil' has no image mode for {channels} channels; use 'np' or 'pt'.")


def check_images(name: str, images: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the argument is floating, finite and of this shape."""
    require_samples(**{name: images})
    require_finite(**{name: images})
    if tuple(images.shape) != shape:
        raise ValueError(f"`{name}` must be of shape {list(shape)}, but is {list(images.shape)}.")


def to_output(sample: Tensor, output_type: str) -> Tensor | Any:
    """Samples `[B, C, H, W]` in [−1, 1] as images: a tensor, an array `[B, H, W, C]`, or a list of PIL images."""
    images = (sample / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return images
    arrays = images.float().permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return arrays
    levels = (arrays * 255).round().astype("uint8")
    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in levels]


def require_finite_images(sample: Tensor, before: Tensor, timestep: int, config: Mapping[str, Any]) -> None:
    """Raise ValueError unless the images are finite. This synchronises, so it is called once for the whole chain.

    Args:
        sample: the result of the chain.
        before: x_t of its last step.
        timestep: the timestep of its last step.
        config: the model's configuration.
    """
    if bool(sample.isfinite().all()):
        return
    is_last = bool(before.isfinite().all())
    where = f"at timestep {timestep}" if is_last else f"at a timestep before {timestep}; `iterate` yields all steps"
    hint = hint_of(config, timestep)
    raise ValueError(f"The images are not finite: the model's output is not, or it is too large, {where}.{hint}")


def require_finite_latents(latents: Tensor, timestep: int, config: Mapping[str, Any]) -> None:
    """Raise ValueError unless encoded images are finite; arguments as in `require_finite_images`."""
    if not bool(latents.isfinite().all()):
        hint = hint_of(config, timestep)
        raise ValueError(f"The latents are not finite: the model's output is not, or it is too large.{hint}")


def hint_of(config: Mapping[str, Any], timestep: int) -> str:
    """Advice for a model whose output is not finite, from its configuration; may be empty."""
    return NO_TIMESTEP_0 if config.get("time_embedding_type") == "fourier" and timestep == 0 else ""
