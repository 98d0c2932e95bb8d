# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Text, for a `PriorTransformer`, which reads a sequence: the caption, the time, the noisy embedding, an empty place.

The caption is the mean of its tokens' embeddings, which stands for the whole sentence (Reimers & Gurevych 2019), and
after it the tokens. Both have the width of the text encoder, and stock's `proj_embedding` takes such a sequence;
`encoder_hidden_states` would have the width of the images' embeddings. Padding is masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from .text import MASK, STATES


PROJECTED, PRIOR_MASK = "proj_embedding", "attention_mask"  # arguments of PriorTransformer
FURTHER_PLACES = 3  # in the sequence after the caption: the time, the noisy embedding, and where the result is read


def sentence_embedding(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of the embeddings of a caption's tokens, `[B, W]`.

    Args:
        states: `[B, L, W]`.
        mask: booleans `[B, L]`, False for padding, with at least one token each.
    """
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def caption_sequence(states: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The arguments of a `PriorTransformer` for captions; arguments as `sentence_embedding`."""
    whole = sentence_embedding(states, mask)[:, None]
    return {
        PROJECTED: torch.cat([whole, states], dim=1),
        PRIOR_MASK: torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1),
    }


def reading_captions(denoise: Denoiser) -> Denoiser:
    """A denoiser that takes the arguments of `TextConditioner`, from a `PriorTransformer` as a denoiser."""

    def denoise_by_captions(
        z_t: Tensor, timesteps: Any, *, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> Tensor:
        return denoise(z_t, timesteps, **caption_sequence(encoder_hidden_states, encoder_attention_mask))

    return denoise_by_captions


def of_captions(conditioning: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments of a batch that a denoiser of `reading_captions` takes."""
    return {name: conditioning[name] for name in (STATES, MASK)}
