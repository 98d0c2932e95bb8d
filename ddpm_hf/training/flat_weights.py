# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A model's weights as views of one tensor, so that the optimiser and the averages take one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn


ALIGNMENT = 16  # numbers: every weight begins where an allocation of its own could, as fast kernels want it


class FlatWeights:
    """One parameter that holds all of a model's. The model's own become views of it, with unchanged names and values.

    Clipping, the optimiser and the averages are elementwise or a norm, so they take `parameter` in the place of
    hundreds of small tensors. The padding between weights is 0 and stays 0.

    Args:
        model: wrapped and on its device already, with parameters of one floating dtype. Moving it undoes the views.
    """

    def __init__(self, model: nn.Module):
        self._parameters = dict(model.named_parameters())
        whole = next(iter(self._parameters.values())).new_zeros(sum(map(_room, self._parameters.values())))
        self.parameter = nn.Parameter(whole)
        self._gradient = torch.zeros_like(whole)
        self._gradients = self.views(self._gradient)
        for name, view in self.views(whole).items():
            view.copy_(self._parameters[name].detach())
            self._parameters[name].data = view

    def views(self, whole: Tensor) -> dict[str, Tensor]:
        """A tensor like `parameter`, split into one view for each of the model's parameters, by name."""
        rooms = whole.split([_room(parameter) for parameter in self._parameters.values()])
        return {
            name: room[: parameter.numel()].view(parameter.shape)
            for (name, parameter), room in zip(self._parameters.items(), rooms, strict=True)
        }

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Move the gradients of the model's parameters to that of `parameter`; a missing gradient is 0."""
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
