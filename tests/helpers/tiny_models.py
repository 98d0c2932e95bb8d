# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A UNet2DModel small enough for a thousand steps in a test."""

from __future__ import annotations

import torch
from diffusers import UNet2DModel


def tiny_unet(
    channels: int = 1, out_channels: int | None = None, sample_size: object = 4, **settings: object
) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=sample_size,
        in_channels=channels,
        out_channels=out_channels or channels,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        layers_per_block=1,
        mid_block_type=None,
        **settings,
    ).eval()
