# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train an autoencoder (Kingma & Welling 2014, Algorithm 1), whose latents a diffusion can model, and score it.

    accelerate launch examples/autoencoder.py                              OpenMoji, 32x32, in minutes on two cores
    accelerate launch examples/autoencoder.py examples/configs/autoencoder256.yaml
    accelerate launch examples/autoencoder.py --train_data_dir my_images --resolution 64

The script writes a saved AutoencoderKL, samples.png with reconstructions below the images, metrics.json and a model
card (README.md) to --output_dir, and also to the Hub with --push_to_hub.

The algorithm is below: to train on another loss, change only this file. The library does the rest: data, checkpoints,
averages, distribution and scoring. `ddpm-hf autoencoder` runs the same functions.
"""

from ddpm_hf.runtime import threads  # noqa: F401  # isort: skip - sets torch's threads before torch is imported

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_hf.cli.autoencoder import main
from ddpm_hf.data.batches import Batch
from ddpm_hf.diffusion.diagonal_gaussian import DiagonalGaussian
from ddpm_hf.diffusion.numerics import nats_to_bits
from ddpm_hf.tasks.autoencoder_model import Coded
from ddpm_hf.training.autoencoder_state import AutoencoderState
from ddpm_hf.training.elbo_step import ElboResult


# Copied from ddpm_hf.training.elbo_step; tests/training/test_autoencoder.py holds the copy to the original.


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


if __name__ == "__main__":
    main(training_step)
