# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Single images with their classes, by progressive coding: files of one image, and the first images of a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .classes import Classes, ReadSymbols
from .entropy_coders import Exhausted, SymbolReader, SymbolWriter
from .file_format import Header
from .images import Images
from .progressive import Decoded, Progressive
from .shared_noise import SharedNoise


@dataclass(frozen=True, eq=False)
class SingleCode:
    """Codes images one at a time.

    Args:
        progressive: codes the pixels.
        classes: of the images.
    """

    progressive: Progressive
    classes: Classes

    def written(self, images: Images, i: int, seed: int) -> SymbolWriter:
        """Image i of a file whose shared noise has this seed, as symbols."""
        writer = SymbolWriter()
        labels, given = self.classes.of(images.labels, i, i + 1)
        if labels is not None:
            writer.write(self.classes.law(1), labels)
        self.progressive.write(writer.write, images.levels[i : i + 1].long(), given, SharedNoise(seed, i))
        return writer

    def read(self, read: ReadSymbols, header: Header, i: int) -> Images:
        """Image i of a file with this header, or what is known of it where `read` raises `Exhausted`.

        Raises:
            ValueError: if the symbols end before those of the image begin.
        """
        try:
            labels, given = self.classes.read(read, header.is_labelled, 1)
        except Exhausted:
            raise ValueError("The file ends before the class of its image; read more of it.") from None
        decoded = self.progressive.read(read, (1, *header.shape), given, SharedNoise(header.seed, i))
        return self._images(decoded, header, i, labels)

    def read_prefixes(self, payload: bytes, sizes: Sequence[int], is_whole: bool, header: Header) -> list[Images]:
        """The image of a file from prefixes of its payload, in the time that the longest takes.

        Args:
            payload: the payload.
            sizes: of the prefixes in bytes, the longest first.
            is_whole: whether nothing of the payload is missing.
            header: of the file.

        Raises:
            ValueError: as `read`.
        """
        readers = [SymbolReader(payload[:size], is_whole and size >= len(payload)) for size in sizes]
        try:
            known = [self.classes.read(each.read, header.is_labelled, 1) for each in readers]
        except Exhausted:
            raise ValueError("The file ends before the class of its image; read more of it.") from None
        labels, given = known[0]
        noise = SharedNoise(header.seed, 0)
        decoded = self.progressive.read_prefixes([each.read for each in readers], (1, *header.shape), given, noise)
        return [self._images(each, header, 0, labels) for each in decoded]

    def _images(self, decoded: Decoded, header: Header, i: int, labels: Tensor | None) -> Images:
        levels = decoded.levels.to(torch.uint8)
        return Images(levels, header.names[i : i + 1], labels, header.is_bilevel, decoded.is_exact)
