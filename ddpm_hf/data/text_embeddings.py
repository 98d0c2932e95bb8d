# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Embeddings of a data set's captions, computed once and kept on disk.

A file has the embeddings of one set of captions by one encoder. Its name follows from both, so that another encoder,
or an encoder that has changed, never reads it. A file that is damaged is written anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..conditioning.text import Embedded, TextEncoder
from ..runtime.progress import progress_bar
from .stored_tensors import folder_in_cache, hash_of, stored


AT_ONCE = 64  # captions in a call of the encoder
FOLDER = "ddpm_hf_text_embeddings"  # in the cache of `datasets`


def cache_folder(cache_dir: str | None) -> Path:
    """The folder of the embeddings: in `cache_dir`, or in the cache of Hugging Face."""
    return folder_in_cache(cache_dir, FOLDER)


class Place(NamedTuple):
    """Where the tokens of a caption are: the file's number, the first token, and their number."""

    file: int
    start: int
    length: int


class StoredEmbeddings:
    """An encoder that computes the embeddings of a data set once, and reads them from disk.

    Args:
        encoder: computes them, also those of captions that `prepare` was not told of.
        keeps_padding: whether the embeddings of padding are kept, for a model without an attention mask; otherwise
            they are zeros.
        folder: the folder of the files; it is created.
        device: where the encoder computes; it is on the CPU at other times.
    """

    def __init__(self, encoder: TextEncoder, keeps_padding: bool, folder: Path, device: torch.device):
        self.encoder, self.keeps_padding, self.folder, self.device = encoder, keeps_padding, folder, device
        self._states: list[Tensor] = []  # [tokens, width] of each file
        self._places: dict[str, Place] = {}

    @cached_property
    def fingerprint(self) -> str:
        """The encoder's, and how padding is kept."""
        return f"{self.encoder.fingerprint}{'-padded' if self.keeps_padding else ''}"

    def prepare(self, captions: Sequence[str]) -> tuple[str, ...]:
        """Compute the embeddings, or find them on disk; sentences on what a user should know of them."""
        new = sorted(set(captions) - self._places.keys())
        if new:
            self._add(new)
        return self.encoder.prepare(captions)

    def encode(self, captions: Sequence[str], device: torch.device) -> Embedded:
        """The embeddings of the captions, on the device; those of other captions than the known ones are computed."""
        if not all(caption in self._places for caption in captions):
            return self.encoder.encode(captions, device)
        length, some = self.encoder.max_length, self._states[0]
        states = torch.zeros(len(captions), length, some.shape[1], dtype=some.dtype)
        mask = torch.zeros(len(captions), length, dtype=torch.bool)
        for k, caption in enumerate(captions):
            place = self._places[caption]
            stored = self._states[place.file][place.start : place.start + self._stored(place.length)]
            states[k, : len(stored)] = stored
            mask[k, : place.length] = True
        return Embedded(states.to(device, non_blocking=True), mask.to(device, non_blocking=True))

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """The number of tokens of each caption, before truncation."""
        return self.encoder.lengths(captions)

    def _stored(self, length: int) -> int:
        """The number of a caption's tokens in the file."""
        return self.encoder.max_length if self.keeps_padding else length

    def _add(self, captions: list[str]) -> None:
        """Take captions, sorted, from their file, which is written if it is not there."""
        key = {"encoder": self.fingerprint, "captions": hash_of(captions)}
        found = stored(self.folder, key, lambda: self._computed(captions))
        starts = [0, *torch.tensor([self._stored(n) for n in found["lengths"].tolist()]).cumsum(0).tolist()]
        file = len(self._states)
        self._states.append(found["states"])
        for caption, start, length in zip(captions, starts, found["lengths"].tolist(), strict=False):
            self._places[caption] = Place(file, start, length)

    def _computed(self, captions: list[str]) -> dict[str, Tensor]:
        self.encoder.model.to(self.device)
        states, lengths = [], []
        batches = range(0, len(captions), AT_ONCE)
        for start in progress_bar(batches, desc="embedding captions", unit="batch", disable=len(batches) < 20):
            embedded = self.encoder.encode(captions[start : start + AT_ONCE], torch.device("cpu"))
            mask = torch.ones_like(embedded.mask) if self.keeps_padding else embedded.mask
            _require_padding_at_the_end(embedded.mask)
            states.append(embedded.states[mask])
            lengths.append(embedded.mask.sum(1))
        self.encoder.model.to("cpu")
        found = torch.cat(states)
        if not bool(found.isfinite().all()):
            raise ValueError("The embeddings of the captions are not finite; run the text encoder in float32.")
        return {"states": found.contiguous(), "lengths": torch.cat(lengths)}


def _require_padding_at_the_end(mask: Tensor) -> None:
    if not bool((mask[:, :-1] >= mask[:, 1:]).all()):
        raise ValueError("`padding_side` of the tokenizer must be 'right'.")
