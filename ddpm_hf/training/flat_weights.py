# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A model's weights as views of one tensor, so that the optimiser and the averages pass over memory once."""

from __future__ import annotations

import torch
from torch import Tensor, nn


ALIGNMENT = 16  # elements: fast kernels need weights that begin at aligned addresses, as separate tensors do


class FlatWeights:
    """One parameter that holds all parameters of a model. The model's parameters become views of it.

    Their names and values do not change. Clipping takes a norm, and the optimiser and the averages work elementwise,
    so they can use `parameter` instead of hundreds of small tensors. The padding between weights is 0 and stays 0.

    Args:
        model: a model that is already wrapped and on its device, whose parameters have one floating-point type. Moving
            the model later would separate its parameters from `parameter`.
    """

    def __init__(self, model: nn.Module):
        self._parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        whole = next(iter(self._parameters.values())).new_zeros(sum(map(_room, self._parameters.values())))
        self.parameter = nn.Parameter(whole)
        self._gradient = torch.zeros_like(whole)
        self._gradients = self.views(self._gradient)
        for name, view in self.views(whole).items():
            view.copy_(self._parameters[name].detach())
            self._parameters[name].data = view

    def views(self, whole: Tensor) -> dict[str, Tensor]:
        """Views of a tensor of `parameter`'s shape: one for each of the model's parameters, by name."""
        rooms = whole.split([_room(parameter) for parameter in self._parameters.values()])
        return {
            name: room[: parameter.numel()].view(parameter.shape)
            for (name, parameter), room in zip(self._parameters.items(), rooms, strict=True)
        }

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Move the gradients of the model's parameters into the gradient of `parameter`; a missing one counts as 0."""
        parameters = self._parameters.values()
        pairs = [(p.grad, view) for p, view in zip(parameters, self._gradients.values(), strict=True)]
        if any(gradient is None for gradient, _ in pairs):
            self._gradient.zero_()
        given = [(gradient, view) for gradient, view in pairs if gradient is not None]
        torch._foreach_copy_([view for _, view in given], [gradient for gradient, _ in given])
        for parameter in parameters:
            parameter.grad = None
        self.parameter.grad = self._gradient


def _room(parameter: Tensor) -> int:
    return -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
