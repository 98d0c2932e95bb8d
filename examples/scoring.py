# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Saved models loaded and scored: what evaluate.py does at leisure and train.py at its end."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from arguments import ModelPathArguments
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from ddpm_hf import BitsPerDim, DDPMPaperPipeline, DDPMPaperScheduler, HubError, bits_per_dim
from ddpm_hf.likelihood import discretized_gaussian_log_likelihood


def load_pipeline(model: ModelPathArguments) -> DDPMPaperPipeline:
    """A pipeline from a folder or the Hub, in evaluation mode on the device there is.

    Raises:
        ValueError, OSError: if there is none, or it is not an unconditional diffusers pipeline.
    """
    name = model.model_name_or_path
    try:
        pipeline = DDPMPaperPipeline.from_pretrained(name, revision=model.revision, variant=model.variant)
    except HubError:
        raise
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"`model_name_or_path` {name} cannot be loaded: {error}") from error
    pipeline.unet.eval()
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def score(
    unet: nn.Module,
    scheduler: DDPMPaperScheduler,
    batches: Iterable[Tensor],
    num_evaluations: int,
    seed: int,
    device: torch.device,
) -> BitsPerDim:
    """Bits/dim over the batches, from at most `num_evaluations` model calls per image; 0 for all visited times."""

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        return unet(x_t, timesteps, return_dict=False)[0]

    return bits_per_dim(
        denoise,
        scheduler,
        (batch.to(device) for batch in batches),
        num_evaluations=num_evaluations if 0 < num_evaluations < len(scheduler.timesteps) else None,
        generator=torch.Generator().manual_seed(seed),
    )


@torch.no_grad()
def fit_decoder_variance(
    unet: nn.Module, scheduler: DDPMPaperScheduler, batches: Iterable[Tensor], seed: int, device: torch.device
) -> float:
    """The variance of p_θ(x_0 | x_1) under which training images cost the fewest bits, for `first_variance`."""
    generator = torch.Generator().manual_seed(seed)
    originals, means = [], []
    for batch in batches:
        x_0 = batch.to(device)
        noise = torch.randn(batch.shape, generator=generator).to(device)
        x_1 = scheduler.add_noise(x_0, noise, 0)
        output = unet(x_1, torch.zeros(len(x_0), dtype=torch.long, device=device), return_dict=False)[0]
        originals.append(x_0.cpu())
        means.append(scheduler.p_mean_variance(output, x_1, 0).mean.cpu())
    x_0, mean = torch.cat(originals), torch.cat(means)

    def cost(log_variance: float) -> float:
        log_variances = torch.full_like(mean, log_variance)
        return -discretized_gaussian_log_likelihood(x_0, mean, log_variances, scheduler.num_levels).mean().item()

    # From far below a bin to the width of all the data; in between the cost falls to one least value and rises.
    log_bin_variance = 2 * math.log(2 / (scheduler.num_levels - 1))
    return math.exp(minimize_scalar(cost, bounds=(log_bin_variance - 12, 2.0), method="bounded").x)
