# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Algorithm 1 of Ho et al. (2020): one optimisation step.

examples/train.py has a copy of these functions for users to change; a test checks that the two are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.batches import Batch
from ..diffusion.losses import hybrid_loss, rate_loss, simple_loss, variance_loss, vlb_loss
from ..diffusion.timestep_sampling import stratified_timesteps, uniform_timesteps
from ..runtime.randomness import Use, generator_of, noise_like
from .state import TrainState


class StepResult(NamedTuple):
    """The result of a training step on B examples: those of all processes and accumulation windows.

    Attributes:
        timesteps: int64 `[B]`.
        losses: the unweighted loss of each example, `[B]`.
        sampling_weights: `[B]` or a number: 1/(T p(t)), which corrects for the distribution of the timesteps.
        objective_weights: `[B]` or a number: the weight of each example in the objective.
        gradient_norm: the norm of the gradient before clipping; None if it is not known.
    """

    timesteps: Tensor
    losses: Tensor
    sampling_weights: Tensor | float
    objective_weights: Tensor | float
    gradient_norm: Tensor | float | None


TrainingStep = Callable[[TrainState, Iterator[Batch]], StepResult]
"""A function of (state, batches) that takes a step with the next `state.shard.accumulation` batches."""


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
