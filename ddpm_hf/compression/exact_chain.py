# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A chain whose reverse steps come out the same for every batch, number of threads and machine.

A network's float64 output differs by about 1e-14 between them. Rounded to 2⁻¹⁰, about one value in 10¹¹ differs. What
follows is elementwise, in float64, and rounded once more before it decides anything: see `distributions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..diffusion.discretized_likelihood import level_log_probabilities
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.reverse_process import ReverseStep
from .distributions import Table


OUTPUT_BITS = 10  # the model's output is rounded to multiples of 2⁻¹⁰
MOST_LEVELS = 256


@dataclass(frozen=True, eq=False)
class ExactChain:
    """A model along a diffusion's chain, for coding.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)` in float64, without dropout.
        diffusion: the chain; its data have levels.
        device: the device of the model.
        most_at_once: images per call of the model, at most.

    Raises:
        ValueError: for a diffusion without a decoder of levels, or one whose output does not determine x_0.
    """

    denoise: Denoiser
    diffusion: GaussianDiffusion
    device: torch.device
    most_at_once: int = 64

    def __post_init__(self) -> None:
        self.diffusion.require_determined()
        if self.num_levels > MOST_LEVELS:
            raise ValueError(f"`num_levels` must be at most {MOST_LEVELS} to compress, but is {self.num_levels}.")

    @property
    def num_levels(self) -> int:
        if self.diffusion.num_levels is None:
            raise ValueError("The model has no decoder of levels (`num_levels` is None), so it cannot compress.")
        return self.diffusion.num_levels

    def scaled(self, levels: Tensor) -> Tensor:
        """Levels 0 … K − 1 as float64 in [−1, 1]."""
        return levels.double() * (2 / (self.num_levels - 1)) - 1

    @torch.no_grad()
    def step(self, x: Tensor, index: int, conditioning: Mapping[str, Any]) -> ReverseStep:
        """p_θ(x_s | x_t) of the pair `index`, float64 on the CPU.

        Args:
            x: x_t, `[B, C, …]`, float64 on the CPU.
            conditioning: further arguments of the model, `[B, …]` on its device.

        Raises:
            ValueError: if the model's output is not finite, or not in float64.
        """
        t = self.diffusion.times[index]
        outputs = []
        for start in range(0, len(x), self.most_at_once):
            part = slice(start, start + self.most_at_once)
            some = {name: value[part] for name, value in conditioning.items()}
            output = self.diffusion.model_output(self.denoise, x[part].to(self.device), t, some)
            outputs.append(output.cpu())
        output = torch.cat(outputs)
        if output.dtype != torch.float64:
            raise ValueError(f"The model must compute in float64 to compress, but its output is {output.dtype}.")
        if not bool(output.isfinite().all()):
            raise ValueError(f"The model's output is not finite at timestep {t - 1}.")
        rounded = torch.round(output * 2**OUTPUT_BITS) / 2**OUTPUT_BITS
        return self.diffusion.p_mean_variance(rounded, x, index)

    def law(self, p: ReverseStep) -> Table:
        """The decoder's law of the levels of all elements, from the reverse step to the data."""
        probabilities = level_log_probabilities(p, self.num_levels, self.diffusion.measures_decoder).exp()
        return Table.of_probabilities(probabilities.reshape(self.num_levels, -1).T.contiguous().numpy())
