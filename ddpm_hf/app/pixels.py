# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The bits of each pixel of a picture.

Given the model's output for the whole picture, a term of the bound is a sum over its elements. So the terms of the
pixels are those of examples of one pixel each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion.denoiser import randn_like
from ..evaluation.arguments import ChainArguments
from ..evaluation.scoring import follow
from ..runtime.randomness import Use, generator_of
from .model import PageModel, Told
from .uploads import Upload


def has_pixels(model: PageModel) -> bool:
    """Whether the terms are known for each pixel: not for latents, nor where the law of one needs the others."""
    scheduler = model.pipeline.scheduler
    errors = scheduler.denoising_errors
    return (
        model.fault_of_scores is None
        and model.image_shape == tuple(model.pipeline.example_shape)
        and model.num_levels == scheduler.num_levels
        and not scheduler.config.thresholding
        and (errors is None or errors.shape == ())
        and not scheduler.diffusion.learns_of_neighbours
    )


@torch.no_grad()
def bits_by_pixel(
    model: PageModel, upload: Upload, told: Told = None, steps: int = 50, draws: int = 8, seed: int = 0
) -> Tensor:
    """The bits of each pixel along a chain of some steps, float64 `[H, W]`, for a model that `has_pixels`.

    Their mean, divided by the channels, is the bound of that chain, the mean over the draws.

    Args:
        told, draws, seed: as in `score_picture`.
        steps: of the chain, at its best times.
    """
    pipeline, device = model.pipeline, model.pipeline.device
    spacing = "optimal" if model.has_measured_errors else "log_snr"
    chain = ChainArguments(min(steps, model.num_timesteps), spacing)
    diffusion = follow(pipeline.scheduler, upload.num_levels, chain).diffusion
    x_0 = upload.x_0.expand(draws, -1, -1, -1).to(device)
    denoiser, conditioning = pipeline.denoiser(), model.conditioning(x_0, told)
    generator = generator_of(Use.SCORING, seed, 1)
    bits = diffusion.prior_bits(_pixels(x_0)).double()
    for index, t in enumerate(diffusion.times):
        x_t = diffusion.q_sample(x_0, randn_like(x_0, generator), t)
        output = diffusion.model_output(denoiser, x_t, t, conditioning)
        bits += diffusion.vlb_terms(_pixels(output), _pixels(x_0), _pixels(x_t), index)
    if not bool(bits.isfinite().all()):
        raise ValueError("The bits of the pixels are not finite: the model's output is not, or it is too large.")
    channels, height, width = upload.levels.shape
    return bits.reshape(draws, height, width).mean(dim=0).cpu() * channels


def _pixels(pictures: Tensor) -> Tensor:
    """Pictures `[B, C, H, W]` as examples of one pixel each, `[B H W, C]`."""
    return pictures.permute(0, 2, 3, 1).flatten(0, 2)
