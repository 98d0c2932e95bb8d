# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of 8x8 pixels of two classes, and tiny autoencoders of them, to train diffusions of latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from ddpm_hf.likelihood.decoder_law import DecoderLaw
from ddpm_hf.pipelines.autoencoders import decoder_law_config


def save_pictures(folder: Path) -> Path:
    """Pictures in folders of two classes, dark and light."""
    draws = np.random.default_rng(0)
    for k in range(32):
        name = ("dark", "light")[k % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        picture = draws.integers(128 * (k % 2), 128 + 128 * (k % 2), (8, 8, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / name / f"{k}.png")
    return folder


def autoencoder(law: DecoderLaw | None, seed: int = 0, **options: Any) -> AutoencoderKL:
    """A tiny one with the latents of no training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(4, 4),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=2,
            latent_channels=2,
            sample_size=8,
            scaling_factor=1.3,
            **options,
        )
    if law is not None:
        vae.register_to_config(**decoder_law_config(law))
    return vae
