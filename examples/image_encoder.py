# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train an encoder of images against a frozen encoder of text (CLIP, Radford et al. 2021), for examples/prior.py.

    accelerate launch examples/image_encoder.py                            OpenMoji, 16x16, in minutes on two cores
    accelerate launch examples/image_encoder.py --train_data_dir my_images --resolution 64

The script writes a saved CLIPVisionModelWithProjection, samples.png with the test image that is most similar to each
caption, metrics.json and a model card (README.md) to --output_dir, and also to the Hub with --push_to_hub.

The algorithm is below: to train on another loss, change only this file. The library does the rest: data, checkpoints,
averages, distribution and scoring. `ddpm-hf image_encoder` runs the same functions.
"""

from ddpm_hf.runtime import threads  # noqa: F401  # isort: skip - sets torch's threads before torch is imported

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ddpm_hf.cli.image_encoder import main
from ddpm_hf.data.batches import Batch
from ddpm_hf.tasks.image_encoder_model import Matched
from ddpm_hf.training.contrastive_state import ContrastiveState
from ddpm_hf.training.contrastive_step import ContrastiveResult


# Copied from ddpm_hf.training.contrastive_step; tests/training/test_unclip.py holds the copy to the original.


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


if __name__ == "__main__":
    main(training_step)
