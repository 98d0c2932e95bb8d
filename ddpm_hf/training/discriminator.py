# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A discriminator of patches (Isola et al. 2017), which an autoencoder is trained against (Esser et al. 2021).

It learns the hinge loss, E[max(0, 1 − D(x))]/2 + E[max(0, 1 + D(x̂))]/2 (Lim & Ye 2017), and the autoencoder −E[D(x̂)].
The discriminator learns with the images and reconstructions of the autoencoder's step, before that step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import relu


SLOPE = 0.2  # of the leaky ReLU
BETAS = (0.5, 0.9)  # of Adam
GROUPS = 8
WEIGHTS, OPTIMIZER = "discriminator", "discriminator_optimizer"  # files in a checkpoint


class PatchDiscriminator(nn.Module):
    """Logits of overlapping patches, whether they are of a real image, `[B, 1, h, w]`.

    Groups are normalised in the place of batches, so that an image's logits do not depend on the rest of the batch.

    Args:
        channels: of the images.
        width: channels after the first convolution, a multiple of 8.
        depth: how many convolutions halve the resolution, at least 1.
    """

    def __init__(self, channels: int, width: int = 64, depth: int = 3):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        for k in range(1, depth + 1):
            before, after = (width * min(2**each, 8) for each in (k - 1, k))
            stride = 2 if k < depth else 1
            layers += [nn.Conv2d(before, after, 4, stride, 1, bias=False), nn.GroupNorm(GROUPS, after)]
            layers.append(nn.LeakyReLU(SLOPE))
        self.layers = nn.Sequential(*layers, nn.Conv2d(width * min(2**depth, 8), 1, 4, 1, 1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)  # as Isola et al.

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def depth_for(height: int, width: int) -> int:
    """At most the usual 3, so that images of 8 pixels still have patches; larger images have more of them.

    Raises:
        ValueError: for images below 8 pixels.
    """
    side = min(height, width)
    if side < 8:
        raise ValueError(f"`adversarial_weight` must be 0 for images below 8 pixels, but these are {height}x{width}.")
    return min(3, int(math.log2(side)) - 2)


def hinge_loss(real: Tensor, found: Tensor) -> Tensor:
    """The discriminator's loss, from its logits of images and of reconstructions."""
    return 0.5 * (relu(1 - real).mean() + relu(1 + found).mean())


class Adversary:
    """The discriminator in a training, with its optimiser.

    All processes hold the same weights: gradients are averaged among them.

    Args:
        discriminator: on the device of the training.
        learning_rate: constant.
    """

    def __init__(self, discriminator: PatchDiscriminator, learning_rate: float, accelerator: Accelerator):
        self.discriminator, self._accelerator = discriminator, accelerator
        self._parameters = list(discriminator.parameters())
        self.optimizer = torch.optim.Adam(self._parameters, lr=learning_rate, betas=BETAS)

    def loss_of(self, found: Tensor) -> Tensor:
        """The autoencoder's loss −E[D(x̂)], with a gradient for the reconstructions alone."""
        self.discriminator.requires_grad_(False)
        return -self.discriminator(found.float()).mean()

    def add_gradient(self, x: Tensor, found: Tensor, share: float) -> Tensor:
        """Add the gradient of the hinge loss for a part of the step's images; returns the loss.

        Args:
            share: the part of the step's images in this process.
        """
        self.discriminator.requires_grad_(True)
        loss = hinge_loss(*self.discriminator(torch.cat([x.float(), found.detach().float()])).chunk(2))
        (share * loss).backward()
        return loss.detach()

    def step(self) -> None:
        """Take a step with the gradients that were added, if there are any."""
        if self._parameters[0].grad is None:
            return
        gradient = torch.cat([parameter.grad.flatten() for parameter in self._parameters])
        parts = self.averaged(gradient).split([parameter.numel() for parameter in self._parameters])
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def averaged(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return self._accelerator.reduce(tensor, "mean")

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint keeps: weights, and the moments of the optimiser by the number of their parameter."""
        kept = {
            f"{number}.{name}": value.contiguous()
            for number, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        weights = {name: value.contiguous() for name, value in self.discriminator.state_dict().items()}
        return {WEIGHTS: weights, OPTIMIZER: kept}

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take back what `tensors` gave."""
        self.discriminator.load_state_dict(tensors[WEIGHTS])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors[OPTIMIZER].items():
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
