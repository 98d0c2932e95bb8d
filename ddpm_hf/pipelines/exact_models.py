# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Models in float64 throughout, for codes that break if an output differs between machines; and their fingerprint."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.embeddings import GaussianFourierProjection, Timesteps
from torch import Tensor, nn

from ..compression.file_format import FINGERPRINT_BYTES
from ..diffusion.denoising_errors import DenoisingErrors
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler


PERIOD = 10000  # of the slowest sinusoid, as in diffusers
OF_UNET = (  # what the weights do not tell; fixed, so that later versions' new settings change no fingerprint
    *("act_fn", "attention_head_dim", "center_input_sample", "class_embed_type", "down_block_types"),
    *("downsample_padding", "downsample_type", "flip_sin_to_cos", "freq_shift", "mid_block_scale_factor"),
    *("mid_block_type", "norm_eps", "norm_num_groups", "resnet_time_scale_shift", "time_embedding_type"),
    *("up_block_types", "upsample_type"),
)
OF_SCHEDULER = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "variance_type"),
    *("clip_sample", "prediction_type", "thresholding", "dynamic_thresholding_ratio", "clip_sample_range"),
    *("sample_max_value", "rescale_betas_zero_snr", "first_variance", "num_levels"),
)


class SinusoidsInFloat64(nn.Module):
    """diffusers' `Timesteps`, which computes in float32 whatever the model's dtype, in float64."""

    rates: Tensor

    def __init__(self, of: Timesteps):
        super().__init__()
        half = of.num_channels // 2
        rates = [math.exp(-math.log(PERIOD) * i / (half - of.downscale_freq_shift)) for i in range(half)]
        self.register_buffer("rates", of.scale * torch.tensor(rates, dtype=torch.float64), persistent=False)
        self.has_cosines_first, self.is_odd = of.flip_sin_to_cos, of.num_channels % 2 == 1

    def forward(self, timesteps: Tensor) -> Tensor:
        angles = timesteps.double()[:, None] * self.rates
        parts = [angles.sin(), angles.cos()]
        found = torch.cat(parts[::-1] if self.has_cosines_first else parts, dim=1)
        return nn.functional.pad(found, (0, 1)) if self.is_odd else found


class InFloat64(nn.Module):
    """A projection of timesteps, given them in float64."""

    def __init__(self, of: nn.Module):
        super().__init__()
        self.of = of

    def forward(self, timesteps: Tensor) -> Tensor:
        return self.of(timesteps.double())


def in_float64(unet: Any) -> UNet2DModel:
    """A copy of the model, without dropout, that computes in float64 from the timestep on.

    Raises:
        ValueError: if it is no `UNet2DModel`.
    """
    if not isinstance(unet, UNet2DModel):
        raise ValueError(f"Only a UNet2DModel can compress, but the model is a {type(unet).__name__}.")
    exact = copy.deepcopy(unet).double().eval().requires_grad_(False)
    if isinstance(exact.time_proj, Timesteps):
        exact.time_proj = SinusoidsInFloat64(exact.time_proj)
        exact.time_proj.to(exact.device)
    elif isinstance(exact.time_proj, GaussianFourierProjection):
        exact.time_proj = InFloat64(exact.time_proj)
    return exact


def fingerprint_of(unet: UNet2DModel, scheduler: DDPMPaperScheduler) -> bytes:
    """Eight bytes that tell a model from others: of its weights, its architecture and its diffusion.

    The dtype that the weights are stored in makes no difference if it represents them.
    """
    digest = hashlib.sha256()
    for name, value in sorted(unet.state_dict().items()):
        digest.update(f"{name}{list(value.shape)}".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    errors = scheduler.denoising_errors
    facts = {
        "unet": {name: unet.config.get(name) for name in OF_UNET},
        "scheduler": {name: scheduler.config.get(name) for name in OF_SCHEDULER},
        "errors": errors.to_dict() if isinstance(errors, DenoisingErrors) else errors,
    }
    digest.update(json.dumps(facts, sort_keys=True, default=_as_list).encode())
    return digest.digest()[:FINGERPRINT_BYTES]


def _as_list(value: Any) -> list[Any]:
    return torch.as_tensor(value).tolist()
