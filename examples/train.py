# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train a DDPM (Ho et al. 2020, Algorithm 1), draw samples, and score it in bits/dim.

    accelerate launch examples/train.py                                    the digits, in minutes on two cores
    accelerate launch examples/train.py examples/configs/cifar10.yaml      the paper's model and settings
    accelerate launch examples/train.py --train_data_dir my_images --resolution 64

The script writes a saved pipeline, samples.png, metrics.json and a model card (README.md) to --output_dir, and also to
the Hub with --push_to_hub.

The algorithm is below: to train on another loss, change only this file. The library does the rest: data, checkpoints,
averages, distribution, sampling and scoring. `ddpm-hf train` runs the same functions.
"""

from ddpm_hf.runtime import threads  # noqa: F401  # isort: skip - sets torch's threads before torch is imported

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_hf.cli.train import main
from ddpm_hf.data.batches import Batch
from ddpm_hf.diffusion.losses import hybrid_loss, rate_loss, simple_loss, variance_loss, vlb_loss
from ddpm_hf.diffusion.timestep_sampling import stratified_timesteps, uniform_timesteps
from ddpm_hf.runtime.randomness import Use, generator_of, noise_like
from ddpm_hf.training.state import TrainState
from ddpm_hf.training.step import StepResult


# Copied from ddpm_hf.training.step; tests/training/test_training_step.py holds the copy to the original.


def training_step(state: TrainState, batches: Iterator[Batch]) -> StepResult:
    """Algorithm 1: one gradient descent step, on the batches of all processes and accumulation windows together."""
    accelerator, shard = state.accelerator, state.shard
    t, sampling_weights, objective_weights = draw_timesteps(state)
    weights = sampling_weights * objective_weights
    dropped = state.draw_dropped()
    losses, norm = [], None
    for window in range(shard.accumulation):
        batch, first = next(batches), shard.first(window)
        mine = slice(first, first + shard.batch_size)  # this process's part of the step's examples
        state.seed_dropout(window)
        with accelerator.accumulate(state.prepared):
            loss = losses_of(state, batch, t[mine], first, None if dropped is None else dropped[mine])
            accelerator.backward((weights[mine] * loss).mean())
            if accelerator.sync_gradients:
                norm = state.clip_gradients()
            state.optimizer.step()
            state.optimizer.zero_grad()
        losses.append(accelerator.gather(loss.detach()))
    state.lr_scheduler.step()
    return StepResult(t, torch.cat(losses), sampling_weights, objective_weights, norm)


def draw_timesteps(state: TrainState) -> tuple[Tensor, Tensor, Tensor | float]:
    """Line 3: a timestep for every example of the step, and its weights, as in `StepResult`."""
    size, device = state.shard.total, state.accelerator.device
    generator = generator_of(Use.TIMES, state.training.seed, state.step, device=device)
    if state.importance is not None:
        t, weights = state.importance.sample(size, generator)
    else:
        draw = uniform_timesteps if state.diffusion.timestep_sampling == "uniform" else stratified_timesteps
        t = draw(size, len(state.scheduler), generator=generator)
        weights = torch.ones(size, device=device)
    if state.diffusion.snr_gamma is None:
        return t, weights, 1.0
    return t, weights, state.scheduler.min_snr_weights(t, state.diffusion.snr_gamma).float()


def losses_of(state: TrainState, batch: Batch, t: Tensor, first: int, dropped: Tensor | None) -> Tensor:
    """Lines 2, 4 and 5: the loss of each example, `[B]`.

    Args:
        t: timesteps `[B]`.
        first: the index of the first example in the step's batch, which determines the noise.
        dropped: booleans `[B]`, True for examples that lose their conditioning; None for none.
    """
    x_0 = batch.x_0
    noise = noise_like(x_0, first, state.training.seed, state.step)
    x_t = state.scheduler.add_noise(x_0, noise, t)
    conditioning = state.conditioners.drop(state.conditioners.make(batch.columns, x_0.device), dropped)
    output = state.denoise(x_t, t, **conditioning)
    return objective(state, output, x_0, noise, x_t, t)


def objective(state: TrainState, output: Tensor, x_0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The training objective of each example, `[B]`, from the model's output."""
    scheduler, process, diffusion = state.scheduler, state.training_process, state.diffusion
    if diffusion.objective == "simple":
        return simple_loss(output, scheduler.training_target(x_0, noise, t))
    rest = (x_0, x_t, t, scheduler.num_levels)  # all timesteps are visited, so t counts the visited ones too
    if diffusion.objective == "vlb":
        return vlb_loss(process, output, *rest).float()
    if diffusion.objective == "hybrid":
        target = scheduler.training_target(x_0, noise, t)
        return hybrid_loss(process, output, target, *rest, diffusion.vlb_weight)
    loss = rate_loss(process, output, x_0, x_t, t)
    if process.learns_variance:
        of_variance = variance_loss(process, output, *rest, diffusion.variance_stride)
        loss = loss + diffusion.vlb_weight * of_variance.float()
    return loss


if __name__ == "__main__":
    main(training_step)
