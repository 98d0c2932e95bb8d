# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images that pipelines take and return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..diffusion.finiteness import NO_TIMESTEP_0, require_finite
from ..diffusion.gaussian_process import unknown
from ..diffusion.numerics import require_samples


OUTPUT_TYPES = ("pil", "np", "pt")
LATENT = "latent"  # the output type of x_0 itself, of pipelines whose x_0 are latents
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
PIL_CHANNELS = tuple(MODES)


def check_output_type(output_type: Any, channels: int, known: tuple[str, ...] = OUTPUT_TYPES) -> None:
    """Raise ValueError for an unknown `output_type`, or one that cannot represent this number of channels."""
    if output_type not in known:
        raise ValueError(unknown("output_type", output_type, known))
    if output_type == "pil" and channels not in PIL_CHANNELS:
        raise ValueError(f"`output_type` 'pil' has no image mode for {channels} channels; use 'np' or 'pt'.")


def check_images(name: str, images: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the argument is floating, finite and of this shape."""
    require_samples(**{name: images})
    require_finite(**{name: images})
    if tuple(images.shape) != shape:
        raise ValueError(f"`{name}` must be of shape {list(shape)}, but is {list(images.shape)}.")


def batch_of_images(name: str, given: Any, channels: int) -> Tensor:
    """Images that a user gives as a float32 batch `[B, C, H, W]`, in [−1, 1].

    Args:
        name: the argument, for messages.
        given: a PIL image, or a list of them, of any mode; an array `[H, W, C]` or `[B, H, W, C]`, a tensor
            `[C, H, W]` or `[B, C, H, W]`, or a list of these, all in [−1, 1] as in diffusers.
        channels: the number of channels, to which PIL images are converted.

    Raises:
        ValueError: for anything else, and for images of different sizes.
    """
    each = given if isinstance(given, (list, tuple)) else [given]
    parts = [_as_batch(name, image, channels) for image in each]
    sizes = sorted({tuple(part.shape[2:]) for part in parts})
    if len(sizes) != 1:
        raise ValueError(f"`{name}` must be at least one image, all of one size, but the sizes are {sizes}.")
    batch = torch.cat(parts)
    check_images(name, batch, (max(1, len(batch)), channels, *sizes[0]))
    return batch


def _as_batch(name: str, image: Any, channels: int) -> Tensor:
    """One image, or several in a tensor or an array, as `[B, C, H, W]`."""
    if isinstance(image, Image.Image):
        if channels not in PIL_CHANNELS:
            raise ValueError(f"`{name}` must be a tensor for a model of {channels} channels.")
        image = np.asarray(image.convert(MODES[channels]), dtype=np.float32) / 127.5 - 1
        image = image.reshape(*image.shape[:2], channels)
    if isinstance(image, np.ndarray) and image.ndim in (3, 4) and image.dtype.kind == "f":
        image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, -3)))
    if not isinstance(image, Tensor) or image.ndim not in (3, 4) or not image.is_floating_point():
        raise ValueError(
            f"`{name}` must be PIL images, or floating tensors [B, C, H, W] or arrays [B, H, W, C] in [-1, 1], but is"
            f" {_described(image)}."
        )
    return (image if image.ndim == 4 else image[None]).float()


def _described(given: Any) -> str:
    """What a user gave in the place of images."""
    if not isinstance(given, (Tensor, np.ndarray)):
        return type(given).__name__
    kind = "a tensor" if isinstance(given, Tensor) else "an array"
    dtype = str(given.dtype).removeprefix("torch.")
    return f"{kind} of {dtype}" if given.ndim in (3, 4) else f"{kind} of shape {list(given.shape)}"


def one_for_each(name: str, given: Tensor, count: int, num_images_per_prompt: int = 1) -> Tensor:
    """Values `[N, …]`, one for all, one for each prompt or one for each of `count` images, as one for each image.

    Raises:
        ValueError: for another number of them.
    """
    prompts, rest = divmod(count, num_images_per_prompt)
    if len(given) not in (1, count) and (rest or len(given) != prompts):
        of_prompts = "" if rest or prompts == count else f"one for each of {prompts} prompts, "
        raise ValueError(f"`{name}` must be one, {of_prompts}or one for each of {count} images, but are {len(given)}.")
    return given.repeat_interleave(count // len(given), dim=0)


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
