# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Inpainting with an unconditional model: RePaint (Lugmayr et al. 2022, Algorithm 1).

After every reverse step to x_s the known part of x_s is replaced by a draw from q(x_s | x_0), x_0 the given image. The
two parts of x_s then come from different images, so the chain jumps back, x_t ~ q(x_t | x_s), and takes the same
reverse steps again: what is drawn comes to fit what is known. At the end the known part is x_0 itself.

A jump over several steps is one draw from q(x_t | x_s), whose law is that of single steps one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.gaussian_process import q_transition_mean_variance
from ..diffusion.numerics import require_count
from ..schedulers.noise import noise_like
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler


Generators = torch.Generator | list[torch.Generator] | None

After = Callable[[Tensor], tuple[Tensor, Tensor]]
"""after(x_s) -> x_s with its known part, and the sample that the next step starts from."""


@dataclass(frozen=True)
class Jumps:
    """When and how often a chain jumps back, as diffusers' `RePaintScheduler` has it.

    Attributes:
        jump_length: the number of steps of a jump, and between the places where the chain jumps.
        jump_n_sample: how often the steps after such a place are taken; 1 for a chain without jumps.
    """

    jump_length: int = 10
    jump_n_sample: int = 10

    def check(self) -> None:
        """Raise ValueError for numbers below 1."""
        require_count(jump_length=self.jump_length)
        require_count(jump_n_sample=self.jump_n_sample)

    def order(self, num_steps: int) -> list[int]:
        """The steps of a chain in the order in which they are taken: 0 is the first step, from the noise."""
        left = dict.fromkeys(range(0, num_steps - self.jump_length, self.jump_length), self.jump_n_sample - 1)
        taken, still = [], num_steps  # `still` counts the steps to the image
        while still:
            taken.append(num_steps - still)
            still -= 1
            if left.get(still, 0):
                left[still] -= 1
                still += self.jump_length
        return taken


@dataclass(frozen=True)
class Inpainting:
    """What is known of x_0, and how the rest comes to fit it.

    Attributes:
        x_0: `[B, C, H, W]`.
        is_drawn: booleans `[B or 1, 1, H, W]`, True where x_0 is drawn anew.
        jumps: of the chain.
        generator: for the noise of the known part and of jumps.
    """

    x_0: Tensor
    is_drawn: Tensor
    jumps: Jumps
    generator: Generators

    def walk(self, scheduler: DDPMPaperScheduler) -> list[tuple[int, After]]:
        """The timesteps in the order of their steps, and what follows each step."""
        timesteps = scheduler.timesteps.tolist()
        times = [*(timestep + 1 for timestep in timesteps), 0]
        order = self.jumps.order(len(timesteps))
        return [
            (timesteps[k], self._after(scheduler, times[k + 1], None if following is None else times[following]))
            for k, following in zip(order, [*order[1:], None], strict=True)
        ]

    def _after(self, scheduler: DDPMPaperScheduler, s: int, following: int | None) -> After:
        """What follows a step to the time s, before a step that starts at the time `following`."""

        def after(x_s: Tensor) -> tuple[Tensor, Tensor]:
            known = self.x_0.to(x_s)
            if s:
                known = scheduler.add_noise(known, noise_like(x_s, x_s.dtype, self.generator), s - 1)
            x_s = torch.where(self.is_drawn, x_s, known)
            if following is None or following == s:
                return x_s, x_s
            mean, variance, _ = q_transition_mean_variance(scheduler.schedule, x_s, s, following)
            x_t = mean + variance.sqrt().to(mean) * noise_like(x_s, mean.dtype, self.generator)
            return x_s, x_t.to(x_s.dtype)

        return after
