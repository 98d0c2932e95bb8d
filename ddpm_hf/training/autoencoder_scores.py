# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The bound, the reconstructions and the latents of an autoencoder that is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.level_images import LevelImages
from ..diffusion.denoiser import randn_like
from ..diffusion.diagonal_gaussian import DiagonalGaussian
from ..likelihood.elbo import ElboBits
from ..runtime.distributed import shared
from ..runtime.randomness import Use, generator_of
from ..tasks.autoencoder_model import LatentMoments
from .autoencoder_state import AutoencoderState
from .training_images import training_images


@torch.no_grad()
def elbo_of(state: AutoencoderState, images: LevelImages) -> ElboBits:
    """The bound of images, by all processes together; the result does not depend on their number."""
    size, seed, device = state.training.scoring_batch_size, state.training.seed, state.accelerator.device

    def of_batch(k: int) -> ElboBits:
        x = images.batch(k * size, (k + 1) * size)[0].to(device)
        noise = randn_like(state.empty_latents(x), generator_of(Use.SCORING, seed, k))
        coded = state.model(x, noise)
        nats = -state.law(coded).log_likelihood(x, coded.reconstruction)
        kl = DiagonalGaussian(coded.mean, coded.log_variance).kl_by_channel()
        return ElboBits.of(nats, kl, state.dimensions)

    return ElboBits.merged(shared(state.accelerator, -(-len(images) // size), of_batch))


@torch.no_grad()
def reconstructed(state: AutoencoderState, images: LevelImages, columns: int) -> Tensor:
    """Images in [0, 1] in rows, each row followed by one with their reconstructions, on the CPU."""
    x = images.batch(0, len(images), skip_bad=True)[0].to(state.accelerator.device)
    found = state.model(x, torch.zeros_like(state.empty_latents(x))).reconstruction
    rows = zip(x.split(columns), found.split(columns), strict=True)
    return torch.cat([part for row in rows for part in row]).float().cpu().clamp(-1, 1) / 2 + 0.5


@torch.no_grad()
def moments_of(state: AutoencoderState) -> LatentMoments:
    """Mean and standard deviation of z ~ q(z | x) over training images; all processes compute the same."""
    count, first, second = 0, 0.0, 0.0
    for x, _ in training_images(state, state.training.max_measured_images):
        x = x.to(state.accelerator.device)
        mean, log_variance, *_ = state.model(x, torch.zeros_like(state.empty_latents(x)))
        mean, variance = mean.double(), log_variance.double().exp()
        count += mean[:, 0].numel()
        first += mean.sum(dim=(0, 2, 3))
        second += (mean**2 + variance).sum(dim=(0, 2, 3))
    mean = first / count
    return LatentMoments(mean.tolist(), (second / count - mean**2).clamp(min=0).sqrt().tolist())
