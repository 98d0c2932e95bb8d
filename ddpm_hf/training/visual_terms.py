# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Terms for sharp reconstructions of an autoencoder, beside the bound (Esser et al. 2021; Rombach et al. 2022).

    objective = −ELBO + w_p d(x, x̂) + w_a λ (−D(x̂)),    λ = |∇ of the reconstruction|/(|∇ of −D(x̂)| + 10⁻⁴)

d is a perceptual distance, and D a discriminator; both gradients in λ are those for the last convolution of the
decoder, without the weights w. With such terms the objective is no longer the evidence lower bound. What is reported
as bits/dim still is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.level_images import ImageData
from ..tasks.autoencoder_arguments import ElboArguments
from .arguments import RunArguments
from .discriminator import Adversary, PatchDiscriminator, depth_for
from .perceptual import PerceptualDistance, as_rgb, load_perceptual


LARGEST, LEAST = 1e4, 1e-4  # of λ, and added to the norm of a gradient: as in latent diffusion's code


class VisualFigures(NamedTuple):
    """The mean of each term over a process's images of a step; 0 for a term that is not there.

    Attributes:
        perceptual: d(x, x̂).
        adversarial: −D(x̂).
        discriminator: its hinge loss.
    """

    perceptual: Tensor
    adversarial: Tensor
    discriminator: Tensor


@dataclass
class VisualTerms:
    """The terms of a training, and the state of its discriminator.

    Attributes:
        objective: the weights, and when the adversarial term begins.
        perceptual: None if its weight is 0.
        adversary: None if its weight is 0.
    """

    objective: ElboArguments
    perceptual: PerceptualDistance | None = None
    adversary: Adversary | None = None

    @classmethod
    def of(
        cls, objective: ElboArguments, training: RunArguments, data: ImageData, accelerator: Accelerator
    ) -> VisualTerms:
        """The terms that the arguments ask for.

        Raises:
            ValueError: for weights that are missing, or images that do not fit.
        """
        perceptual, adversary, (channels, *sides) = None, None, data.train.shape
        if objective.perceptual_weight:
            perceptual = load_perceptual(objective.perceptual_model, accelerator.device)
            as_rgb(torch.zeros(1, channels, 1, 1))
        if objective.adversarial_weight:
            network = PatchDiscriminator(channels, objective.discriminator_channels, depth_for(*sides))
            adversary = Adversary(network.to(accelerator.device), training.learning_rate, accelerator)
        return cls(objective, perceptual, adversary)

    @property
    def names(self) -> list[str]:
        """The terms that there are."""
        there = {"perceptual": self.perceptual, "adversarial": self.adversary}
        return [name for name, term in there.items() if term is not None]

    def __call__(
        self, x: Tensor, found: Tensor, reconstruction: Tensor, last: Tensor, step: int, windows: int
    ) -> tuple[Tensor | float, VisualFigures]:
        """What is added to the objective for a process's images, and the figures; the discriminator gets a gradient.

        Args:
            x, found: images and reconstructions `[B, C, H, W]`.
            reconstruction: the mean of −log p(x | z), bits/dim.
            last: the weights of the decoder's last convolution.
            step: the number of steps before this one.
            windows: the number of batches in a step.
        """
        nothing = reconstruction.new_zeros(())
        added: Tensor | float = 0.0
        distance, against, hinge = nothing, nothing, nothing
        if self.perceptual is not None:
            distance = self.perceptual(x, found).mean()
            added = added + self.objective.perceptual_weight * distance
        if self.adversary is not None and step >= self.objective.adversarial_start_step:
            against = self.adversary.loss_of(found)
            weight = self._balance(reconstruction + added, against, last)
            added = added + self.objective.adversarial_weight * weight * against
            hinge = self.adversary.add_gradient(x, found, 1 / windows)
        return added, VisualFigures(distance.detach(), against.detach(), hinge)

    def learn(self) -> None:
        """The discriminator's step."""
        if self.adversary is not None:
            self.adversary.step()

    def _balance(self, reconstruction: Tensor, against: Tensor, last: Tensor) -> Tensor:
        """λ, the same for all processes."""
        gradients = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (reconstruction, against)]
        gradients = [self.adversary.averaged(gradient) for gradient in gradients]
        first, second = (gradient.norm() for gradient in gradients)
        return (first / (second + LEAST)).clamp(0.0, LARGEST).detach()
