# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Prompts of a pipeline's call: how many images they ask for, and the conditioning that they become."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor

from ..conditioning.text import STATES, TextConditioner, of_length, width_of_text
from ..conditioning.text_encoders import tokenizer_fault
from ..diffusion.finiteness import require_finite
from ..diffusion.numerics import require_count


Prompts = str | Sequence[str] | None

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextInput:
    """What a call says in words, or in embeddings of them.

    Attributes:
        prompt: one string, or a list of them; None for images without a prompt.
        negative_prompt: what guidance leads away from: one string for all images, or one for each prompt; None for
            the empty prompt.
        num_images_per_prompt: images of each prompt, one after the other.
        prompt_embeds, negative_prompt_embeds: `[B, L, width]`, in place of a prompt.
        prompt_attention_mask, negative_prompt_attention_mask: booleans `[B, L]`, with embeddings for a model whose
            padding is masked.
    """

    prompt: Prompts = None
    negative_prompt: Prompts = None
    num_images_per_prompt: int = 1
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    prompt_attention_mask: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None

    @classmethod
    def of_images(cls, prompt: Prompts, count: int) -> TextInput:
        """The prompts of images that are given: one for all, or one for each.

        Raises:
            ValueError: for prompts that are not text, or another number of them.
        """
        text = cls([prompt] * count if isinstance(prompt, str) else prompt)
        if not text.is_empty and (prompts := text.count(None)) != count:
            raise ValueError(f"`prompt` must be one for all images, or one for each of {count}, but are {prompts}.")
        return text

    @property
    def is_empty(self) -> bool:
        """Whether it asks for images without a prompt."""
        return self.prompt is None and self.prompt_embeds is None

    def count(self, batch_size: int | None, given: int = 1) -> int:
        """The number of images: as many as the prompts ask for, or without a prompt `batch_size`.

        Args:
            batch_size: as the user passes it; `num_images_per_prompt` times `given` if it is None.
            given: the number of images, classes or embeddings that are given in the place of prompts.

        Raises:
            ValueError: for prompts that are not text, or that contradict each other or the batch size.
        """
        _check_words("prompt", self.prompt, self.prompt_embeds)
        _check_words("negative_prompt", self.negative_prompt, self.negative_prompt_embeds)
        require_count(num_images_per_prompt=self.num_images_per_prompt)
        if self.is_empty:
            return given * self.num_images_per_prompt if batch_size is None else batch_size
        prompts = len(_listed(self.prompt) if self.prompt_embeds is None else self.prompt_embeds)
        count = prompts * self.num_images_per_prompt
        if batch_size not in (None, count):
            raise ValueError(f"`batch_size` must be left out, or {count}, the prompts' images, but is {batch_size!r}.")
        return count


def _check_words(name: str, words: Any, embeddings: Any) -> None:
    if words is not None and embeddings is not None:
        raise ValueError(f"`{name}` and `{name}_embeds` must not both be given.")
    if words is not None and not (len(_listed(words)) and all(isinstance(each, str) for each in _listed(words))):
        raise ValueError(f"`{name}` must be a string or a list of strings, but is {words!r}.")
    if embeddings is not None and not (isinstance(embeddings, Tensor) and embeddings.ndim == 3 and len(embeddings)):
        raise ValueError(f"`{name}_embeds` must be a tensor [B, L, width].")


def _listed(words: Any) -> Sequence[Any]:
    return words if isinstance(words, (list, tuple)) else [words]


def check_width(text_encoder: Any, unet: ModelMixin) -> None:
    """Raise ValueError unless the encoder's embeddings have the width that the model takes."""
    width, wanted = text_encoder.config.hidden_size, width_of_text(unet.config)
    if wanted is not None and width != wanted:
        raise ValueError(
            f"`text_encoder` gives embeddings of width {width}, but the model takes {wanted}; use the encoder that the"
            " model was trained with."
        )


def check_tokenizer(tokenizer: Any, text_encoder: Any) -> None:
    """Raise ValueError unless the tokenizer, if there are one and an encoder, can be used with it."""
    if tokenizer is None or text_encoder is None:
        return
    if (fault := tokenizer_fault(tokenizer, text_encoder)) is not None:
        raise ValueError(f"`tokenizer` {fault}.")


def check_embeddings(given: TextInput, unet: ModelMixin, takes_mask: bool) -> None:
    """Raise ValueError unless embeddings are finite numbers of the model's width, with a mask if it takes one."""
    for name in ("prompt", "negative_prompt"):
        states, mask = getattr(given, f"{name}_embeds"), getattr(given, f"{name}_attention_mask")
        if mask is not None and (states is None or not takes_mask):
            why = "the model takes none" if not takes_mask else f"there are no `{name}_embeds`"
            raise ValueError(f"`{name}_attention_mask` must be left out: {why}.")
        if mask is not None and not isinstance(mask, Tensor):
            raise ValueError(f"`{name}_attention_mask` must be a tensor [B, L], but is {type(mask).__name__}.")
        if states is None:
            continue
        width = width_of_text(unet.config)
        if not states.is_floating_point() or width not in (None, states.shape[2]):
            raise ValueError(
                f"`{name}_embeds` must be floating-point numbers of width {width}, but are {states.dtype} of width"
                f" {states.shape[2]}."
            )
        require_finite(**{f"{name}_embeds": states})
        if takes_mask and (mask is None or mask.shape != states.shape[:2]):
            raise ValueError(
                f"`{name}_attention_mask` of shape {list(states.shape[:2])} must be given with `{name}_embeds`: the"
                " model takes a mask."
            )


def with_length(given: TextInput, length: int) -> TextInput:
    """The same with embeddings of `length` positions, for a model that must be given so many.

    Raises:
        ValueError: for embeddings of more tokens that are not masked.
    """
    changes: dict[str, Any] = {}
    for name in ("prompt", "negative_prompt"):
        states, mask = getattr(given, f"{name}_embeds"), getattr(given, f"{name}_attention_mask")
        if states is None or states.shape[1] == length:
            continue
        mask = mask.bool().to(states.device)
        if (most := int(mask.sum(1).max())) > length:
            raise ValueError(
                f"`{name}_embeds` must have at most {length} tokens that are not masked, as in the model's training,"
                f" but have {most}."
            )
        changes[f"{name}_embeds"], changes[f"{name}_attention_mask"] = of_length(states, mask, length)
    return replace(given, **changes)


def text_arguments(
    conditioner: TextConditioner, given: TextInput, count: int, device: torch.device, is_negative: bool = False
) -> Mapping[str, Tensor]:
    """The model's arguments for `count` images, from their prompts or, if asked for, from the negative prompts.

    Raises:
        ValueError: if the number of negative prompts does not fit.
    """
    name = "negative_prompt" if is_negative else "prompt"
    words, states = getattr(given, name), getattr(given, f"{name}_embeds")
    if words is None and states is None:
        return conditioner.null(count, device)
    wanted = count // given.num_images_per_prompt
    if states is None:
        prompts = [words] * wanted if isinstance(words, str) else list(words)
        _tell_of_truncation(conditioner, name, prompts)
        made = conditioner.embed(prompts, device)
    else:
        made = conditioner.arguments_of(states, getattr(given, f"{name}_attention_mask"), device)
    if len(made[STATES]) != wanted:
        raise ValueError(f"`{name}` must be one for all, or one for each of {wanted}, but are {len(made[STATES])}.")
    return {key: value.repeat_interleave(given.num_images_per_prompt, dim=0) for key, value in made.items()}


def _tell_of_truncation(conditioner: TextConditioner, name: str, prompts: list[str]) -> None:
    most, different = conditioner.settings.max_length, list(dict.fromkeys(prompts))
    for prompt, length in zip(different, conditioner.encoder.lengths(different), strict=True):
        if length > most:
            logger.warning("`%s` has %d tokens, and is truncated to %d: %r", name, length, most, prompt)
