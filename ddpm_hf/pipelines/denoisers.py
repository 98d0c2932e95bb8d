# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""diffusers models as denoisers."""

from __future__ import annotations

from diffusers import ModelMixin
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser


def denoiser_of(model: nn.Module) -> Denoiser:
    """A model as the mathematics takes it: its input in the model's precision, its output in float32.

    Args:
        model: a diffusers model, or one that is wrapped for training.
    """
    # diffusers finds the precision by a walk over all modules: once is enough.
    precision = model.dtype if isinstance(model, ModelMixin) else next(model.parameters()).dtype

    def denoise(x_t: Tensor, timesteps: Tensor, **conditioning: Tensor) -> Tensor:
        return model(x_t.to(precision), timesteps, return_dict=False, **conditioning)[0].float()

    return denoise
