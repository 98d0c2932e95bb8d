# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""An exponential moving average of a model's weights, which samples and scores better than the last weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class WeightAverage:
    """Averages in float32, one fused call per step; the decay warms up as 1 − (1 + step/inv_gamma)^(−power).

    Args:
        model: its parameters and floating buffers are averaged.
        inv_gamma, power, max_decay: of the decay at each step.
    """

    def __init__(self, model: nn.Module, inv_gamma: float, power: float, max_decay: float):
        self.inv_gamma, self.power, self.max_decay = inv_gamma, power, max_decay
        self.step = 0
        self.averages = [tensor.detach().float().clone() for tensor in _floating_tensors(model)]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of one more optimisation step."""
        self.step += 1
        decay = min(self.max_decay, 1 - (1 + self.step / self.inv_gamma) ** -self.power)
        current = [tensor.detach().float() for tensor in _floating_tensors(model)]
        torch._foreach_lerp_(self.averages, current, 1 - decay)


@contextlib.contextmanager
def averaged(average: WeightAverage | None, model: nn.Module) -> Iterator[None]:
    """Inside, the model has the averaged weights, if there are any."""
    if average is None:
        yield
        return
    tensors = _floating_tensors(model)
    kept = [tensor.detach().clone() for tensor in tensors]
    _copy(average.averages, tensors)
    try:
        yield
    finally:
        _copy(kept, tensors)


@torch.no_grad()
def _copy(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def _floating_tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]
