# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Algorithm 1 of Kingma & Welling (2014): one optimisation step of an autoencoder on the evidence lower bound.

examples/autoencoder.py has a copy of these functions for users to change; a test checks that the two are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.batches import Batch
from ..diffusion.diagonal_gaussian import DiagonalGaussian
from ..diffusion.numerics import nats_to_bits
from ..tasks.autoencoder_model import Coded
from .autoencoder_state import AutoencoderState


class ElboResult(NamedTuple):
    """The result of a training step on B images: those of all processes and accumulation windows.

    Attributes:
        terms: of each image, in bits/dim, `[B, 2]`: −log p(x | z) and KL(q(z | x) ‖ N(0, 1)).
        loss: the mean of the objective.
        gradient_norm: the norm of the gradient before clipping; None if it is not known.
        visual: the means of `VisualFigures`, `[3]`.
    """

    terms: Tensor
    loss: Tensor
    gradient_norm: Tensor | float | None
    visual: Tensor


def training_step(state: AutoencoderState, batches: Iterator[Batch]) -> ElboResult:
    """One gradient descent step, on the batches of all processes and accumulation windows together."""
    accelerator, shard = state.accelerator, state.shard
    terms, means, norm = [], [], None
    for window in range(shard.accumulation):
        x = next(batches).x_0
        with accelerator.accumulate(state.prepared):
            coded = state.prepared(x, state.noise(x, shard.first(window)))
            reconstruction, kl = negative_elbo(state, x, coded)
            visual, figures = state.visual_terms(x, coded, reconstruction)  # 0 unless perceptual or adversarial
            loss = (reconstruction + state.kl_weight * kl).mean() + visual
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = state.clip_gradients()
            state.optimizer.step()
            state.optimizer.zero_grad()
        terms.append(accelerator.gather(torch.stack([reconstruction, kl], dim=1).detach()))
        means.append(accelerator.reduce(torch.stack([loss.detach(), *figures]), "mean"))
    state.visual.learn()
    state.lr_scheduler.step()
    loss, *figures = torch.stack(means).mean(dim=0)
    return ElboResult(torch.cat(terms), loss, norm, torch.stack(figures))


def negative_elbo(state: AutoencoderState, x: Tensor, coded: Coded) -> tuple[Tensor, Tensor]:
    """−log p(x | z) for z ~ q(z | x), and KL(q(z | x) ‖ N(0, 1)): bits/dim of each image, `[B]`.

    Args:
        x: images `[B, C, H, W]` in [−1, 1].
        coded: the result of the autoencoder.
    """
    nats = -state.law(coded).log_likelihood(x, coded.reconstruction)
    kl = DiagonalGaussian(coded.mean, coded.log_variance).kl_by_channel().sum(dim=1)
    return nats_to_bits(nats) / state.dimensions, nats_to_bits(kl) / state.dimensions
