# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images for a file, and what a file of them is."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Images for a file.

    Attributes:
        levels: integers 0 … K − 1, `[N, C, H, W]`.
        names: of the files, relative paths; none comes twice.
        labels: the class of each, `[N]`, or None.
        is_bilevel: whether the files are black and white (mode "1" of Pillow).
        is_exact: whether they are the images that were coded, or approximations from a prefix.
    """

    levels: Tensor
    names: tuple[str, ...]
    labels: Tensor | None = None
    is_bilevel: bool = False
    is_exact: bool = True

    @classmethod
    def joined(cls, parts: Sequence[Images]) -> Images:
        """The images of several parts, all with classes or all without."""
        labels = [part.labels for part in parts if part.labels is not None]
        return cls(
            levels=torch.cat([part.levels for part in parts]),
            names=tuple(name for part in parts for name in part.names),
            labels=torch.cat(labels) if labels else None,
            is_bilevel=parts[0].is_bilevel,
            is_exact=all(part.is_exact for part in parts),
        )

    @property
    def checksum(self) -> int:
        """CRC-32 of the pixels, the classes and the names."""
        content = self.levels.to(torch.uint8).contiguous().numpy().tobytes()
        labels = b"" if self.labels is None else self.labels.numpy().astype("<i8").tobytes()
        return zlib.crc32("\0".join(self.names).encode("utf-8", "surrogateescape"), zlib.crc32(content + labels))


@dataclass(frozen=True)
class Compressed:
    """A file, and what its bits are.

    Attributes:
        content: the bytes of the file.
        images: how many.
        bits_per_dim: all bits of the file, per element of the images.
        net_bits_per_dim: of the images coded by bits-back, without initial bits; of the payload in progressive mode.
        header_bytes, names_bytes, payload_bytes: the three parts of the file.
        initial_bits: random bits within the payload that bits-back coding needed at first.
        direct_images, direct_bits: images of a set that were coded directly, and their bits.
        is_exact: whether the file is lossless.
    """

    content: bytes
    images: int
    bits_per_dim: float
    net_bits_per_dim: float
    header_bytes: int
    names_bytes: int
    payload_bytes: int
    initial_bits: int
    direct_images: int
    direct_bits: int
    is_exact: bool
