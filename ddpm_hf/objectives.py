# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
r"""Training losses, one value per example, and the times they are evaluated at.

L_simple = E ‖ε − ε_θ(x_t, t)‖²                          (Ho et al. 2020, Eq. 14; here the mean over dimensions)
L_vlb    = E [K · L_{t−1}],  t uniform over K times      (Eq. 5, as an unbiased estimate from one time per example)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .likelihood import vlb_terms
from .numerics import mean_flat, promote, require_samples
from .reverse_process import ReverseProcess


def simple_loss(model_output: Tensor, target: Tensor) -> Tensor:
    """L_simple (Ho et al. 2020, Eq. 14) for any prediction type: the squared error per example, mean over dimensions.

    Args:
        model_output: `[B, C, …]`; of `[B, 2C, …]`, a learned variance, the first half is used.
        target: `[B, C, …]`, what the model should predict: the noise for "epsilon".

    Returns:
        `[B]`, at least float32.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if model_output.ndim == target.ndim > 1 and model_output.shape[1] == 2 * target.shape[1]:
        model_output = model_output[:, : target.shape[1]]
    require_samples(target=target, model_output=model_output)
    return mean_flat((promote(model_output) - promote(target)) ** 2)


def vlb_loss(
    process: ReverseProcess, model_output: Tensor, x_0: Tensor, x_t: Tensor, index: Tensor, num_levels: int | None
) -> Tensor:
    """L_vlb in bits/dim, `[B]`: K times the term of each example, so that the mean over uniform `index` is the bound.

    L_T, which nothing can be learned from, is left out. Arguments as in `vlb_terms`.
    """
    return len(process.times) * vlb_terms(process, model_output, x_0, x_t, index, num_levels)


def uniform_timesteps(
    batch_size: int,
    num_timesteps: int,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Independent uniform indices 0 … num_timesteps − 1, int64 `[batch_size]`: t ~ Uniform of Algorithm 1."""
    device = device if generator is None else generator.device
    return torch.randint(num_timesteps, (batch_size,), generator=generator, device=device)


def stratified_timesteps(
    batch_size: int,
    num_timesteps: int,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniform indices 0 … num_timesteps − 1 spread evenly over the batch, int64 `[batch_size]`.

    Each is uniform by itself; together they share one random offset on the circle, which lowers the variance of the
    batch's loss (Kingma et al. 2021, appendix I.1).
    """
    device = device if generator is None else generator.device
    offset = torch.rand((), generator=generator, device=device) * num_timesteps
    places = torch.arange(batch_size, device=device) * (num_timesteps / batch_size) + offset
    return places.long() % num_timesteps
