# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Samples by number: image i depends on the seed and i alone, whatever the batch around it."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_hf import DDPMPaperPipeline


def draw_images(pipeline: DDPMPaperPipeline, count: int, batch_size: int, steps: int | None, seed: int) -> Tensor:
    """Images `[count, C, H, W]` in [0, 1], in main memory; all timesteps if `steps` is None."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    batches = []
    for start in range(0, count, batch_size):
        batch = generators[start : start + batch_size]
        batches.append(pipeline(len(batch), batch, steps, output_type="pt").images.cpu())
    return torch.cat(batches)
