# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Sets of images by bits-back coding.

A set begins with a few images that are coded directly, by the progressive code, until the stack holds the bits that
bits-back coding draws latents from. Groups then grow with what the stack holds, up to `batch_size` images side by
side: after n images, ⌊n · growth / 256⌋. So no group needs more initial bits than one image does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..diffusion.numerics import LOG_2
from .bits_back import BitsBack
from .classes import Classes
from .distributions import Digits
from .entropy_coders import BitStack
from .file_format import Contents, Header
from .images import Images
from .singles import SingleCode


Progress = Callable[[Iterable[Any]], Iterable[Any]]


class CodedSet(NamedTuple):
    """A set as it is coded.

    Attributes:
        header: with the number of images that were coded directly.
        payload: the bytes.
        direct_bits: of the images that were coded directly.
        initial_bits: random bits within the payload.
    """

    header: Header
    payload: bytes
    direct_bits: int
    initial_bits: int


@dataclass(frozen=True, eq=False)
class SetCode:
    """Codes sets of images.

    Args:
        bits_back: codes the groups.
        single: codes the first images directly; None to draw the initial bits at random.
        classes: of the images.
    """

    bits_back: BitsBack
    single: SingleCode | None
    classes: Classes

    @property
    def growth(self) -> int:
        """256 times the images that the bits of one image suffice for, a little less."""
        bits = float(self.bits_back.chain.diffusion.expected_terms.sum()) / LOG_2
        return max(1, min(255, math.floor(0.9 * 256 * bits / self.bits_back.drawn_bits))) if bits > 0 else 1

    def encode(self, header: Header, images: Images, progress: Progress) -> CodedSet:
        """Code the images."""
        direct = self._written_directly(images, header.seed)
        stack = BitStack(is_drawn_from=len(direct) < header.images)
        for digits in direct:
            _push_all(stack, digits)
        direct_bits = stack.bits - stack.initial_bits
        header = dataclasses.replace(header, direct=len(direct))
        for start, end in progress(list(groups(header))):
            labels, given = self.classes.of(images.labels, start, end)
            self.bits_back.push(stack, images.levels[start:end].long(), given)
            if labels is not None:
                stack.push(self.classes.law(end - start), labels)
        return CodedSet(header, stack.to_bytes(), direct_bits, stack.initial_bits)

    def decode(self, file: Contents, progress: Progress) -> Images:
        """The images of a file."""
        header, stack = file.header, BitStack(file.payload)
        if header.direct and self.single is None:
            raise ValueError("The file is damaged: its header contradicts itself.")
        parts: list[Images] = []
        for start, end in progress(list(groups(header))[::-1]):
            labels, given = self.classes.read(stack.pop, header.is_labelled, end - start)
            levels = self.bits_back.pop(stack, (end - start, *header.shape), given)
            parts.append(Images(levels.to(torch.uint8), header.names[start:end], labels, header.is_bilevel))
        if self.single:
            parts += [self.single.read(stack.pop, header, i) for i in reversed(range(header.direct))]
        return Images.joined(parts[::-1])

    def _written_directly(self, images: Images, seed: int) -> list[list[Digits]]:
        """The symbols of the first images by the progressive code, until they are enough to draw latents from."""
        found: list[list[Digits]] = []
        stack, needed = BitStack(), self.bits_back.drawn_bits * math.prod(images.levels.shape[1:])
        while self.single and len(found) < len(images.levels) and stack.bits < needed:
            found.append(self.single.written(images, len(found), seed).written)
            _push_all(stack, found[-1])
        return found


def groups(header: Header) -> Iterator[tuple[int, int]]:
    """The first image of each group that is coded side by side, and the first one after it."""
    start = header.direct
    while start < header.images:
        size = max(1, min(header.batch_size, start * header.growth >> 8, header.images - start))
        yield start, start + size
        start += size


def _push_all(stack: BitStack, written: list[Digits]) -> None:
    """Push symbols so that they are popped in the order in which they were written."""
    for digits in reversed(written):
        stack.push_digits(digits)
