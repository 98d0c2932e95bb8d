# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The state of a training run of an autoencoder."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..likelihood.decoder_law import DecoderLaw
from ..runtime.randomness import noise_like
from ..tasks.autoencoder import AutoencoderTask
from ..tasks.autoencoder_arguments import ElboArguments
from ..tasks.autoencoder_model import Coded, LatentMoments, LikelihoodAutoencoder
from .run_state import RunState
from .visual_terms import VisualFigures, VisualTerms


@dataclasses.dataclass(kw_only=True)
class AutoencoderState(RunState):
    """Everything that a run of an autoencoder needs, built and checked before it starts.

    Attributes:
        objective: the arguments of what the autoencoder learns.
        visual: further terms of the objective, and the discriminator.
        moments: of the latents of training images; None until they are measured at the end of the run.
    """

    task: AutoencoderTask
    model: LikelihoodAutoencoder
    objective: ElboArguments
    visual: VisualTerms
    moments: LatentMoments | None = None

    @property
    def dimensions(self) -> int:
        """The number of dimensions of an image."""
        channels, height, width = self.data.train.shape
        return channels * height * width

    @property
    def kl_weight(self) -> float:
        """The weight of the KL divergence in the current step: `kl_scale`, to which it rises in the warm-up."""
        given = self.objective.kl_warmup_steps
        steps = 2 * self.steps // 3 if given is None else given
        return self.objective.kl_scale * (min(1.0, (self.step + 1) / steps) if steps else 1.0)

    def law(self, coded: Coded) -> DecoderLaw:
        """p(x | z) of a pass through the autoencoder."""
        return coded.law(self.data.train.num_levels, self.model.config["decoder_law"])

    def visual_terms(self, x: Tensor, coded: Coded, reconstruction: Tensor) -> tuple[Tensor | float, VisualFigures]:
        """What perceptual and adversarial terms add to the objective of images, and their figures; see `VisualTerms`.

        Args:
            x: `[B, C, H, W]` in [−1, 1].
            coded: the result of the autoencoder.
            reconstruction: −log p(x | z) of each image, bits/dim, `[B]`.
        """
        last = self.model.vae.decoder.conv_out.weight
        return self.visual(x, coded.reconstruction, reconstruction.mean(), last, self.step, self.shard.accumulation)

    def empty_latents(self, x: Tensor) -> Tensor:
        """An uninitialised tensor like the latents of images `[B, C, H, W]`."""
        return x.new_empty(len(x), *self.model.latent_shape(tuple(x.shape[1:])), dtype=torch.float32)

    def noise(self, x: Tensor, first: int) -> Tensor:
        """The noise of the latents of the images at the places first … first + B − 1 of the step's batch."""
        return noise_like(self.empty_latents(x), first, self.training.seed, self.step)
