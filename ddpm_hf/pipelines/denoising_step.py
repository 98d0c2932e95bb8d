# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""One step of a chain: how a pipeline takes it, and what it yields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler


Step = Callable[[Tensor, int, Tensor], tuple[Tensor, Tensor]]
"""step(model_output, timestep, x_t) -> x_s and x̂_0, for one timestep of a chain after another."""


@dataclass(frozen=True)
class DenoisingStep:
    """One reverse step of a batch, as `DDPMPaperPipeline.iterate` yields it.

    Attributes:
        timestep: the diffusers timestep t − 1 at which the step starts.
        sample: x_t, `[B, C, H, W]`; pure noise at the first step.
        prev_sample: x_s, the result of the step; the image in [−1, 1] at the last step.
        pred_original_sample: x̂_0, the image that the model predicts from x_t.
    """

    timestep: int
    sample: Tensor
    prev_sample: Tensor
    pred_original_sample: Tensor


def stepper(
    scheduler: DDPMPaperScheduler,
    eta: float | None,
    solver_order: int,
    generator: torch.Generator | list[torch.Generator] | None,
) -> Step:
    """The steps of one chain: ancestral, or by DDIM's η, or without noise and of second order.

    Args:
        eta, solver_order: as `check_solver_order` allows them.
        generator: for the noise.
    """
    if solver_order == 2:
        return _SecondOrder(scheduler)
    step = scheduler.step if eta is None else partial(scheduler.ddim_step, eta=eta)
    return partial(step, generator=generator, return_dict=False)


class _SecondOrder:
    """Remembers the predicted x_0 of the step before."""

    def __init__(self, scheduler: DDPMPaperScheduler):
        self._scheduler = scheduler
        self._earlier: Tensor | None = None

    def __call__(self, model_output: Tensor, timestep: int, x_t: Tensor) -> tuple[Tensor, Tensor]:
        step = self._scheduler.second_order_step(model_output, timestep, x_t, self._earlier, return_dict=False)
        self._earlier = step[1]
        return step
