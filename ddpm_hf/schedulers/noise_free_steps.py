# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Steps that draw no noise, for the whole batch: of second order on the way to the data, and back to their latents."""

from __future__ import annotations

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from ..diffusion.numerics import cast_back, require_samples
from .visited_chain import VisitedChain


class NoiseFreeSteps:
    """The part of a scheduler that follows the probability-flow ODE along its visited timesteps."""

    _chain: VisitedChain

    def second_order_step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        earlier_pred_original_sample: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """One step of DPM-Solver++(2M) x_t → x_s: without noise, of second order, with one call of the model.

        The step of first order is `ddim_step` with `eta` 0 (Lu et al. 2022, Algorithm 2). x̂_0 is constrained as in
        `step`.

        Args:
            model_output, sample, return_dict: as in `step`.
            timestep: a visited timestep for the whole batch.
            earlier_pred_original_sample: the predicted x_0 of the step before, which led to `sample`. Without it, as
                at the first step, the step is of first order.

        Returns:
            As `step`.

        Raises:
            ValueError: for an `earlier_pred_original_sample` at the first timestep, where there is none, or of another
                shape, and as `step`.
        """
        chain = self._chain
        diffusion, index = chain.diffusion, chain.index(timestep, determined=True)
        if isinstance(index, Tensor):
            raise ValueError(f"`timestep` must be one for the batch, but is {timestep}.")
        if earlier_pred_original_sample is not None:
            require_samples(sample=sample, earlier_pred_original_sample=earlier_pred_original_sample)
            if index == len(diffusion.times) - 1:
                raise ValueError(f"`earlier_pred_original_sample` must be None at the first timestep, {timestep}.")
        x_s, x_0 = diffusion.second_order_step(model_output, sample, index, earlier_pred_original_sample)
        return step_output(x_s, x_0, sample.dtype, return_dict)

    def encode_step(self, model_output: Tensor, timestep: int | Tensor, sample: Tensor) -> Tensor:
        """DDIM's step without noise, backwards: x_s at a visited timestep → x_t at the timestep visited before it.

        Repeating it from the last visited timestep to the first turns data into latents, which `ddim_step` turns back
        into the data; the error falls with the number of timesteps (Song, Meng & Ermon 2021, section 4.3).

        Args:
            model_output, sample: as for `step`, at x_s.
            timestep: the timestep of x_s, for the whole batch: any visited one except the first.

        Returns:
            x_t, in the shape and dtype of `sample`.

        Raises:
            ValueError: for the first visited timestep, which has none before it, and otherwise as `step`.
        """
        chain = self._chain
        diffusion, index = chain.diffusion, chain.index(timestep, determined=True)
        if isinstance(index, Tensor) or index == len(diffusion.times) - 1:
            raise ValueError(f"`timestep` must be one for the batch, and not the first visited, but is {timestep}.")
        return cast_back(diffusion.encode_step(model_output, sample, index), sample.dtype)


def step_output(
    x_s: Tensor, x_0: Tensor, dtype: torch.dtype, return_dict: bool
) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
    """A step as diffusers gives it, in the dtype of the samples."""
    previous, x_0 = cast_back(x_s, dtype), cast_back(x_0, dtype)
    return DDPMSchedulerOutput(previous, x_0) if return_dict else (previous, x_0)
