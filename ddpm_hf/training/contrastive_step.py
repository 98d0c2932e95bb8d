# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The pseudocode of Radford et al. (2021, figure 3): one optimisation step of an image encoder.

examples/image_encoder.py has a copy of these functions for users to change; a test checks that the two are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..data.batches import Batch
from ..tasks.image_encoder_model import Matched
from .contrastive_state import ContrastiveState


class ContrastiveResult(NamedTuple):
    """The result of a training step on B images: those of all processes and accumulation windows.

    Attributes:
        losses: of each image and its caption, `[B]`.
        accuracies: whether each image's own caption is the most similar of its window, 0 or 1, `[B]`.
        gradient_norm: the norm of the gradient before clipping; None if it is not known.
    """

    losses: Tensor
    accuracies: Tensor
    gradient_norm: Tensor | float | None


def training_step(state: ContrastiveState, batches: Iterator[Batch]) -> ContrastiveResult:
    """One gradient descent step. The captions of all processes are alternatives, those of other windows are not."""
    accelerator, shard = state.accelerator, state.shard
    losses, accuracies, norm = [], [], None
    for window in range(shard.accumulation):
        batch = next(batches)
        state.seed_dropout(window)
        with accelerator.accumulate(state.prepared):
            matched = of_all_processes(state, state.prepared(batch.x_0, state.sentences(batch.columns)))
            logits = matched.logit_scale * matched.image_embeds @ matched.text_embeds.T
            loss = contrastive_losses(logits)
            accelerator.backward(loss.mean() * shard.processes)  # the processes' gradients are averaged
            if accelerator.sync_gradients:
                norm = state.clip_gradients()
            state.optimizer.step()
            state.optimizer.zero_grad()
        losses.append(loss.detach())
        accuracies.append((logits.argmax(dim=1) == torch.arange(len(logits), device=logits.device)).float())
    state.lr_scheduler.step()
    return ContrastiveResult(torch.cat(losses), torch.cat(accuracies), norm)


def contrastive_losses(logits: Tensor) -> Tensor:
    """The mean of both cross entropies, of its caption given an image and of its image given a caption, `[B]`.

    Args:
        logits: similarities of images, in rows, and captions `[B, B]`; those on the diagonal belong together.
    """
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, own, reduction="none") + cross_entropy(logits.T, own, reduction="none")) / 2


def of_all_processes(state: ContrastiveState, matched: Matched) -> Matched:
    """The embeddings of all processes, those of this one with their gradient, which is then that of the whole loss."""
    count = state.shard.processes
    if count == 1:
        return matched
    first = state.accelerator.process_index * state.shard.batch_size

    def joined(own: Tensor) -> Tensor:
        everyone = state.accelerator.gather(own.detach())
        return torch.cat([everyone[:first], own, everyone[first + len(own) :]])

    scale = matched.logit_scale
    shared_scale = scale / count + scale.detach() * (1 - 1 / count)  # every process has the whole loss's gradient
    return Matched(joined(matched.image_embeds), joined(matched.text_embeds), shared_scale)
