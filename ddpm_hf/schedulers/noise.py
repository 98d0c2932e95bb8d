# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Noise drawn as stock schedulers draw it."""

from __future__ import annotations

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..diffusion.denoiser import check_generator


def noise_like(
    sample: Tensor, dtype: torch.dtype, generator: torch.Generator | list[torch.Generator] | None
) -> Tensor:
    """Standard normal noise, like `sample` but in `dtype`: the numbers that stock draws for the same generator.

    Raises:
        ValueError: for a list with another number of generators than examples, or anything else than generators.
    """
    if generator is None or (isinstance(generator, torch.Generator) and generator.device == sample.device):
        return torch.empty_like(sample, dtype=dtype, memory_format=torch.contiguous_format).normal_(
            generator=generator
        )
    for each in generator if isinstance(generator, list) else [generator]:
        check_generator(each)
    if isinstance(generator, list) and len(generator) not in (1, len(sample)):
        raise ValueError(f"`generator` must hold one per example: {len(sample)}, but there are {len(generator)}.")
    return randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=dtype)
