# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Denoisers, which are functions of x_t, the timesteps and the conditioning; and the noise that they remove."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .numerics import upcast


Denoiser = Callable[..., Tensor]
"""denoise(x_t, timesteps, **conditioning) -> model output; timesteps are diffusers' indices, int64 `[B]`.

A module such as a `UNet2DModel` is a denoiser too: see `denoiser_of`."""


def denoiser_of(model: Denoiser | nn.Module) -> Denoiser:
    """A function from any model: it casts the inputs to the model's dtype, and the output to at least float32.

    Args:
        model: a function, or a module such as a diffusers model, wrapped for training or not. It returns a tensor, a
            tuple whose first entry is one, or a diffusers output with the field `sample`.

    Raises:
        ValueError: if `model` is not callable, or is a pipeline. The function raises it if a diffusers model fails on
            images whose number of channels or dimensions is not the model's.
    """
    if isinstance(model, nn.Module):
        parameter = next(model.parameters(), None)
        return partial(_call_module, model, parameter)
    if not callable(model) or hasattr(model, "components"):
        kind = type(model).__name__
        hint = f"; of a {kind} pass its `unet`" if hasattr(model, "components") else ""
        raise ValueError(f"`denoise` must be a model or a function of x_t and the timesteps, but is {kind}{hint}.")
    return partial(_call, model)


def _call_module(
    model: nn.Module, parameter: Tensor | None, x_t: Tensor, timesteps: float | Tensor, **conditioning: Any
) -> Tensor:
    if parameter is None:
        return _call(model, x_t, timesteps, **conditioning)
    is_offloaded = hasattr(model, "_hf_hook")  # accelerate then moves the inputs to the model's device
    if parameter.device != x_t.device and not is_offloaded:
        raise ValueError(
            f"The model is on {parameter.device}, but the examples are on {x_t.device}; move one to the other."
        )
    if parameter.is_floating_point():
        x_t = x_t.to(parameter.dtype)
        conditioning = {name: _cast(value, parameter.dtype) for name, value in conditioning.items()}
    try:
        return upcast(_call(model, x_t, timesteps, **conditioning))
    except RuntimeError as error:
        misfit = None if isinstance(error, torch.cuda.OutOfMemoryError) else _misfit(model, x_t)
        if misfit is None:
            raise
        raise ValueError(misfit) from error


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """A floating tensor, such as embeddings of text, in the model's dtype; anything else unchanged."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _misfit(model: nn.Module, x_t: Tensor) -> str | None:
    """What is wrong with the shape of x_t for a model of images, as far as its configuration tells; None if nothing.

    It is asked only after a failure: a model may take another layout than `[B, C, H, W]`.
    """
    channels, shape = _in_channels(model), list(x_t.shape)
    is_other_layout = x_t.ndim > 4 or (x_t.ndim == 3 and channels in shape[1:])  # a clip, a sequence
    if channels is None or is_other_layout or (x_t.ndim == 4 and shape[1] == channels):
        return None
    hint = ""
    if x_t.ndim == 3:
        hint = "; one image x needs a batch dimension, x[None]"
    elif x_t.ndim == 4 and shape[3] == channels:
        hint = "; move the channels by x.permute(0, 3, 1, 2)"
    return f"The model takes images of shape [B, {channels}, H, W], but these have the shape {shape}{hint}."


def _in_channels(model: nn.Module) -> int | None:
    """The channels that a diffusers model takes, wrapped for training or not; None if it does not say."""
    config = getattr(model, "config", None) or getattr(getattr(model, "module", None), "config", None)
    channels = getattr(config, "in_channels", None)
    return channels if isinstance(channels, int) else None


RESULTS = ("sample", "predicted_image_embedding")  # of the outputs of diffusers' models


def _call(model: Callable[..., Any], x_t: Tensor, timesteps: float | Tensor, **conditioning: Any) -> Tensor:
    output = model(x_t, timesteps, **conditioning)
    named = next((getattr(output, name) for name in RESULTS if hasattr(output, name)), output)
    first = output[0] if isinstance(output, tuple) and output else named
    if not isinstance(first, Tensor):
        raise ValueError(f"`denoise` must return a tensor, or an output with a `sample`, but gave {type(output)!r}.")
    return first


def check_generator(generator: object) -> None:
    """Raise ValueError unless it is a `torch.Generator` or None."""
    if generator is None or isinstance(generator, torch.Generator):
        return
    hint = ""
    if isinstance(generator, int) and not isinstance(generator, bool):
        hint = f"; for a seed pass torch.Generator().manual_seed({generator})"
    raise ValueError(f"`generator` must be a torch.Generator or None, but is {type(generator).__name__}{hint}.")


def randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise like x in shape, dtype and device, drawn on the generator's device in float32 or more."""
    check_generator(generator)
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=upcast(x).dtype).to(x)
