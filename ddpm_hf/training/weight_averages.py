# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""An exponential moving average of a model's weights, which gives better samples and scores than the last weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .flat_weights import FlatWeights


class WeightAverage:
    """An average in float32, updated by one fused call per step.

    The decay is min(max_decay, 1 − (1 + step/inv_gamma)^(−power)). Steps count from 0, so the first average is the
    weights themselves, as in diffusers' `EMAModel`.

    Args:
        model: the model; its parameters and floating-point buffers are averaged on their devices, sharded or not.
        flat: the model's parameters in one tensor, which are then averaged in one pass.
        inv_gamma, power, max_decay: constants of the decay.
    """

    def __init__(
        self, model: nn.Module, inv_gamma: float, power: float, max_decay: float, flat: FlatWeights | None = None
    ):
        self.inv_gamma, self.power, self.max_decay = inv_gamma, power, max_decay
        self.step = 0
        tensors = floating_tensors(model)  # listed once, since that takes as long as an update
        self.names = list(tensors)
        whole = {} if flat is None else {flat.parameter: flat.parameter.detach().float().clone()}
        views = {} if flat is None else flat.views(whole[flat.parameter])
        apart = {tensor: tensor.detach().float().clone() for name, tensor in tensors.items() if name not in views}
        self._sources, self._averages = list(whole | apart), list((whole | apart).values())
        self.averages = [views[name] if name in views else apart[tensor] for name, tensor in tensors.items()]

    @property
    def decay(self) -> float:
        """The decay of the next update."""
        return min(self.max_decay, 1 - (1 + self.step / self.inv_gamma) ** -self.power)

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages after an optimisation step."""
        decay = self.decay
        self.step += 1
        current = [tensor.detach().float() for tensor in self._sources]
        torch._foreach_lerp_(self._averages, current, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name, gathered from all processes; processes that share a model call this together."""
        return {name: _whole(tensor) for name, tensor in zip(self.names, self.averages, strict=True)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor], step: int) -> None:
        """Restore the averages that `state_dict` gave after `step` steps.

        Raises:
            ValueError: if they belong to another model.
        """
        mine = dict(zip(self.names, self.averages, strict=True))
        if {name: tensor.shape for name, tensor in mine.items()} != {name: t.shape for name, t in state.items()}:
            raise ValueError("The averaged weights are those of another model.")
        for name, tensor in mine.items():
            tensor.copy_(_divided_as(tensor, state[name]))
        self.step = step


@contextlib.contextmanager
def averaged(average: WeightAverage | None, model: nn.Module) -> Iterator[None]:
    """A context in which the model has the averaged weights, if there are any."""
    if average is None:
        yield
        return
    _divide(model)
    tensors = list(floating_tensors(model).values())
    kept = [tensor.detach().clone() for tensor in tensors]
    _copy(average.averages, tensors)
    try:
        yield
    finally:
        _divide(model)
        _copy(kept, tensors)


@torch.no_grad()
def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def floating_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that are averaged."""
    buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    return dict(model.named_parameters()) | buffers


def _divide(model: nn.Module) -> None:
    """Make FSDP free the gathered weights that it keeps after a forward pass."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor


def _divided_as(like: Tensor, whole: Tensor) -> Tensor:
    if not hasattr(like, "full_tensor"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
