# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Text, for a `UNet2DConditionModel`: embeddings of a caption's tokens by a frozen encoder, and their attention mask.

The null value is the embedding of the empty caption, as in stock pipelines. The model's configuration records what a
pipeline needs to know under a key that stock diffusers preserves:

    _ddpm_hf: {"text": {"max_length": 16, "attention_mask": true, "null": true}}

A model without the key is one of stock diffusers: 77 tokens, and no mask, which `IFPipeline` does not pass.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..runtime.hashing import add_weights
from ..runtime.randomness import BatchAddress, Use, generator_of
from ..schedulers.configuration import OWN_CONFIG_KEY
from .captions import ADVICE, PROMPT, caption_fault, truncation_of
from .columns import Columns
from .conditioner import Conditioner


NULL_CAPTION = ""
STATES, MASK = "encoder_hidden_states", "encoder_attention_mask"  # arguments of UNet2DConditionModel
TOKENS_OF_STOCK = 77  # the fixed length of IFPipeline
TEXT = "text"  # in the own part of a model's configuration


# --- what a configuration says ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextSettings:
    """How a model is told of text.

    Attributes:
        max_length: number of tokens that a caption is padded or truncated to.
        attention_mask: whether padding is masked, so that what it holds makes no difference.
        null: whether the model was also trained without text.
        encoder: the name on the Hub of the text encoder, which then is not saved with the model; None if it is.
        encoder_revision: its branch, tag or commit; None for the main branch.
    """

    max_length: int = TOKENS_OF_STOCK
    attention_mask: bool = False
    null: bool = True
    encoder: str | None = None
    encoder_revision: str | None = None

    @classmethod
    def of(cls, unet_config: Mapping[str, Any]) -> TextSettings:
        """The settings of a model with this configuration.

        Raises:
            ValueError: for settings that this version does not know.
        """
        stored = unet_config.get(OWN_CONFIG_KEY) or {}
        stored = stored.get(TEXT, {}) if isinstance(stored, Mapping) else stored
        try:
            return cls(**stored)
        except TypeError:
            raise ValueError(
                f"`{OWN_CONFIG_KEY}` of the model has the settings {stored!r} for text, which this version does not"
                " know; they may come from a later version of ddpm_hf."
            ) from None

    def to_config(self) -> dict[str, Any]:
        """The part of a `UNet2DConditionModel`'s configuration that records the settings."""
        return {OWN_CONFIG_KEY: {TEXT: {name: value for name, value in asdict(self).items() if value is not None}}}


def is_told_of_text(unet_config: Mapping[str, Any]) -> bool:
    """Whether a `UNet2DConditionModel` with this configuration is told of text, as all of stock diffusers are."""
    own = unet_config.get(OWN_CONFIG_KEY) or {}
    return TEXT in own or not own


def width_of_text(unet_config: Mapping[str, Any]) -> int | None:
    """The width of the embeddings that a `UNet2DConditionModel`, or a `PriorTransformer`, takes; None for several."""
    if "embedding_proj_dim" in unet_config:
        return unet_config["embedding_proj_dim"] or unet_config["embedding_dim"]
    if unet_config.get("encoder_hid_dim_type") is not None:
        return unet_config.get("encoder_hid_dim")
    width = unet_config.get("cross_attention_dim")
    return width if isinstance(width, int) else None


def has_fixed_length(unet_config: Mapping[str, Any]) -> bool:
    """Whether a model must be given `max_length` tokens, even if padding is masked.

    A pooled embedding of the text is over all positions: it takes no mask, and the number of zeros that stand for
    padding makes a difference. A `PriorTransformer` has a place for each token.
    """
    return unet_config.get("addition_embed_type") == "text" or "embedding_proj_dim" in unet_config


# What does not change embeddings: settings of a tokenizer's last call, and how a configuration was saved.
OF_THE_LAST_CALL = ("truncation", "padding")
OF_THE_FILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
POOLER = "pooler."  # weights that are not used, and may be random


# --- encoders --------------------------------------------------------------------------------------------------------


class Embedded(NamedTuple):
    """The tokens of B captions.

    Attributes:
        states: `[B, L, width]`.
        mask: booleans `[B, L]`, False for padding.
    """

    states: Tensor
    mask: Tensor


def truncation_note(encoder: TextEncoder, captions: Sequence[str], noun: str = "caption") -> tuple[str, ...]:
    """A sentence on captions that are truncated, for who trains the model; none if there are none."""
    too_long = sum(length > encoder.max_length for length in encoder.lengths(captions))
    return (f"{truncation_of(too_long, encoder.max_length, noun)}{ADVICE}.",) if too_long else ()


def of_length(states: Tensor, mask: Tensor, length: int) -> Embedded:
    """The tokens that count, in their order, and zeros as padding up to `length` positions.

    Args:
        states: `[B, L, width]`.
        mask: booleans `[B, L]`, at most `length` of them True for each caption.
    """
    order = mask.int().argsort(dim=1, descending=True, stable=True)[:, :length]
    mask = mask.gather(1, order)
    states = torch.where(mask[..., None], states.gather(1, order[..., None].expand(-1, -1, states.shape[2])), 0)
    missing = length - mask.shape[1]
    return Embedded(pad(states, (0, 0, 0, missing)), pad(mask, (0, missing)))


class Encoder(Protocol):
    """Turns captions into embeddings of L tokens each."""

    def encode(self, captions: Sequence[str], device: torch.device) -> Embedded:
        """The embeddings of the captions, on the device."""

    def prepare(self, captions: Sequence[str]) -> tuple[str, ...]:
        """Compute ahead what `encode` will need for these captions; sentences on what a user should know of them."""

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """The number of tokens of each caption, before truncation."""


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer and a frozen text encoder of transformers, such as T5, CLIP or BERT.

    Attributes:
        tokenizer: a tokenizer of transformers.
        model: an encoder that takes `input_ids` and `attention_mask`, and returns the hidden states `[B, L, width]`
            first.
        max_length: L, the number of tokens that captions are padded or truncated to.
        masks_padding: whether the encoder is told which tokens are padding; Stable Diffusion's is not.
    """

    tokenizer: Any
    model: Any
    max_length: int = TOKENS_OF_STOCK
    masks_padding: bool = True

    @property
    def width(self) -> int:
        """The width of the embeddings."""
        return self.model.config.hidden_size

    @torch.no_grad()
    def encode(self, captions: Sequence[str], device: torch.device) -> Embedded:
        """The embeddings of the captions in the encoder's dtype, on the device."""
        different = list(dict.fromkeys(captions))
        how = {"padding": "max_length", "max_length": self.max_length, "truncation": True, "return_tensors": "pt"}
        tokens = self._tokens(different, **how)
        ids, mask = (tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        states = self.model(ids, attention_mask=mask if self.masks_padding else None)[0]
        if len(different) < len(captions):
            number = {caption: k for k, caption in enumerate(different)}
            index = torch.tensor([number[caption] for caption in captions], device=states.device)
            states, mask = states[index], mask[index]
        return Embedded(states.to(device), mask.bool().to(device))

    def prepare(self, captions: Sequence[str]) -> tuple[str, ...]:
        """A sentence on captions that are truncated, if there are any."""
        return truncation_note(self, captions)

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """The number of tokens of each caption, before truncation."""
        return [len(ids) for ids in self._tokens(list(captions), verbose=False)["input_ids"]] if captions else []

    def _tokens(self, captions: list[str], **options: Any) -> Mapping[str, Any]:
        if self.tokenizer is None or self.model is None:
            raise ValueError("The text cannot be embedded: the pipeline has no text encoder; load it with one.")
        return self.tokenizer(captions, **options)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that the embeddings depend on: tokens, weights, and the architecture."""
        digest = hashlib.sha256()
        tokenizer, config = self.tokenizer, self.model.config.to_diff_dict()
        backend = getattr(tokenizer, "backend_tokenizer", None)
        tokens = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
        kinds = (type(tokenizer).__name__, type(self.model).__name__, self.max_length, self.masks_padding)
        for part in (kinds, _without(tokens, OF_THE_LAST_CALL), _without(config, OF_THE_FILE)):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        weights = self.model.state_dict().items()
        add_weights(digest, {name: weight for name, weight in weights if not name.startswith(POOLER)})
        return digest.hexdigest()


def _without(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


# --- the conditioner -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextConditioner(Conditioner):
    """Captions, as embeddings `[B, L, width]` and, if padding is masked, their mask `[B, L]`.

    Attributes:
        encoder: turns captions into embeddings.
        settings: how the model is told of text.
        prompts: what a grid of samples shows by turns if the user names none.
    """

    encoder: Encoder
    settings: TextSettings
    prompts: tuple[str, ...] = ()
    _null: dict[torch.device, dict[str, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    columns: ClassVar[tuple[str, ...]] = (PROMPT,)

    @property
    def arguments(self) -> tuple[str, ...]:  # type: ignore[override]
        return (STATES, MASK) if self.settings.attention_mask else (STATES,)

    @property
    def worth_name(self) -> str:
        return "caption"

    @property
    def summary(self) -> str:
        return f"captions of up to {self.settings.max_length} tokens"

    @property
    def has_null(self) -> bool:
        return self.settings.null

    def fault(self, column: str, value: Any) -> str | None:
        return caption_fault(value)

    def check(self, columns: Columns) -> None:
        captions = columns.get(PROMPT)
        if captions is None:
            raise ValueError("The model is told of captions, but the data have none; name a `caption_column`.")
        fault = next(filter(None, map(caption_fault, captions)), None)
        if fault is not None:
            raise ValueError(f"The model is told of captions, but an image {fault}.")

    def prepare(self, columns: Columns) -> tuple[str, ...]:
        several = [[value] if isinstance(value, str) else value for value in columns[PROMPT]]
        captions = list(dict.fromkeys(itertools.chain.from_iterable(several)))
        return self.encoder.prepare([*captions, NULL_CAPTION] if self.settings.null else captions)

    def truncated(self, columns: Columns) -> list[Any]:
        captions = list(columns.get(PROMPT, ()))
        lengths = self.encoder.lengths(captions)
        return [each for each, length in zip(captions, lengths, strict=True) if length > self.settings.max_length]

    def truncation(self, count: int) -> str:
        return truncation_of(count, self.settings.max_length)

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        self.check(columns)
        return self.embed(list(columns[PROMPT]), device)

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        if not self.settings.null:
            raise ValueError("The model was not trained without text; pass --conditioning_dropout_prob above 0.")
        if device not in self._null:
            self._null[device] = self.embed([NULL_CAPTION], device)
        return {name: value.expand(count, *value.shape[1:]) for name, value in self._null[device].items()}

    def embed(self, captions: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """The denoiser's arguments for any captions, also empty ones."""
        return self.arguments_of(*self.encoder.encode(captions, device), device)

    def arguments_of(self, states: Tensor, mask: Tensor | None, device: torch.device) -> dict[str, Tensor]:
        """The denoiser's arguments for embeddings `[B, L, width]` and their mask `[B, L]`, if the model takes one."""
        states = states.to(device)
        if mask is None or not self.settings.attention_mask:
            return {STATES: states}
        mask = mask.bool().to(device)
        return {STATES: torch.where(mask[..., None], states, 0), MASK: mask}  # a pooled embedding takes no mask

    @property
    def titles(self) -> tuple[str, ...]:
        return self.prompts

    def variety(self) -> Columns:
        return {PROMPT: list(self.prompts)} if self.prompts else {}


SILENT = "is_silent"  # a column: booleans, True for examples that lose their caption alone


@dataclass(frozen=True)
class DroppedText(TextConditioner):
    """Captions that training drops by themselves, beside what it drops of all conditioning together.

    Attributes:
        probability: of a caption to be dropped in training, in [0, 1).
    """

    probability: float = 0.0
    columns: ClassVar[tuple[str, ...]] = (PROMPT, SILENT)

    def derive_for_training(self, x_0: Tensor, address: BatchAddress) -> Columns:
        draws = generator_of(Use.CONDITIONING, address.seed, address.step, 1)  # others than those of all conditioning
        is_silent = torch.rand(address.total, generator=draws, device="cpu") < self.probability
        return {SILENT: is_silent[address.first : address.first + len(x_0)].to(x_0.device)}

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        made, is_silent = super().make(columns, device), columns.get(SILENT)
        return self.drop(made, is_silent.to(device)) if isinstance(is_silent, Tensor) else made
