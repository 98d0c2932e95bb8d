# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Small models with random weights for the page, and pictures to upload."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tiny_models import tiny_unet

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, DenoisingErrors, NoiseSchedule
from ddpm_hf.conditioning.classes import with_null_class


T = 60


def digits_pipeline(has_errors: bool = True, classes: int = 10, seed: int = 0) -> DDPMPaperPipeline:
    """A class-conditional model of 8x8 pixels and 17 levels, whose output depends on the class."""
    log_snr = torch.linspace(6.5, -9, 10).tolist()
    scheduler = DDPMPaperScheduler.from_schedule(
        NoiseSchedule.linear_log_snr(T, 6.5, -9.0),
        prediction_type="v_prediction",
        variance_type="learned_range",
        num_levels=17,
        denoising_errors=DenoisingErrors(log_snr, [1 / (1 + math.exp(x)) for x in log_snr]) if has_errors else None,
    )
    told = with_null_class(classes) if classes else {}
    unet = tiny_unet(1, 2, 8, num_class_embeds=told.get("num_class_embeds"))
    unet.register_to_config(**told)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "class_embedding" in name or "conv_out.weight" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    pipeline = DDPMPaperPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_digit(path: Path, number: int = 1500) -> np.ndarray:
    """A PNG file of one of the digits, and its values `[8, 8]`."""
    values = np.floor(load_digits().images[number] * 255 / 16 + 0.5).astype(np.uint8)
    Image.fromarray(values).save(path, format="PNG")
    return values
