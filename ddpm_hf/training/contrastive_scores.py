# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""How well an image encoder that is trained finds captions of images, and images of captions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..conditioning.captions import PROMPT
from ..conditioning.columns import Columns
from ..data.level_images import LevelImages
from ..diffusion.numerics import standard_error
from ..runtime.distributed import shared
from ..tasks.image_encoder_model import Matched, image_encoder_of
from .contrastive_state import ContrastiveState
from .contrastive_step import contrastive_losses
from .training_images import training_images


@dataclass(frozen=True)
class Matches:
    """How well N images and their captions are matched, all of them at once.

    Attributes:
        total: the mean loss, nats.
        standard_error: of `total`.
        accuracy: the share of images whose own caption is the most similar.
        accuracy_of_captions: the share of captions whose own image is the most similar.
    """

    total: float
    standard_error: float
    accuracy: float
    accuracy_of_captions: float

    @classmethod
    def of(cls, logits: Tensor) -> Matches:
        """From similarities of images, in rows, and captions `[N, N]`."""
        losses, own = contrastive_losses(logits).double(), torch.arange(len(logits), device=logits.device)
        accuracies = ((logits.argmax(dim=dim) == own).double().mean().item() for dim in (1, 0))
        return cls(losses.mean().item(), standard_error(losses), *accuracies)


@torch.no_grad()
def embedded(state: ContrastiveState, images: LevelImages) -> Matched:
    """The embeddings of images and of their captions, by all processes together, on the CPU."""
    size, device = state.training.scoring_batch_size, state.accelerator.device

    def of_batch(k: int) -> Matched:
        x, columns = images.batch(k * size, (k + 1) * size)
        return Matched(*(each.float().cpu() for each in state.model(x.to(device), state.sentences(columns))))

    parts = shared(state.accelerator, -(-len(images) // size), of_batch)
    image_embeds, text_embeds = (torch.cat([part[k] for part in parts]) for k in range(2))
    return Matched(image_embeds, text_embeds, parts[0].logit_scale)


def matches_of(state: ContrastiveState, images: LevelImages) -> Matches:
    """How well images and captions are matched."""
    found = embedded(state, images)
    return Matches.of(found.logit_scale * found.image_embeds @ found.text_embeds.T)


@torch.no_grad()
def retrieved(state: ContrastiveState, images: LevelImages, prompts: Columns) -> Tensor:
    """For every prompt the most similar of the images, in [0, 1], on the CPU."""
    found = embedded(state, images)
    blank = torch.zeros(len(prompts[PROMPT]), *images.shape, device=state.accelerator.device)
    texts = state.model(blank, state.sentences(prompts)).text_embeds.float().cpu()
    best = (texts @ found.image_embeds.T).argmax(dim=1)
    return images.chosen(best).batch(0, len(best))[0] / 2 + 0.5


@torch.no_grad()
def overall_std(state: ContrastiveState) -> float:
    """The standard deviation of embeddings of training images, over all elements; all processes compute the same."""
    encoder = image_encoder_of(state.model)
    parts = [
        encoder(x.to(state.accelerator.device)).image_embeds.double()
        for x, _ in training_images(state, state.training.max_measured_images)
    ]
    embeds = torch.cat(parts)
    return max((embeds - embeds.mean(dim=0)).square().mean().sqrt().item(), torch.finfo(torch.float32).tiny)
