# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Files of images: sets by bits-back coding, single images by progressive coding.

A set begins with a few images that are coded directly, by the progressive code, until the stack holds the bits that
bits-back coding draws latents from. Groups then grow with what the stack holds, up to `batch_size` images side by
side: after n images, ⌊n · growth / 256⌋. So no group needs more initial bits than one image does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.numerics import LOG_2, require_count
from .bits_back import RESOLUTION, BitsBack
from .distributions import Digits, Ints, Table
from .entropy_coders import BitStack, Exhausted, SymbolReader, SymbolWriter, require_constriction
from .exact_chain import ExactChain
from .file_format import FINGERPRINT_BYTES, Contents, Header, check_names, packed, unpacked
from .progressive import Decoded, Progressive, progressive_diffusion
from .shared_noise import SharedNoise


Progress = Callable[[Iterable[Any]], Iterable[Any]]
LATENT_BITS = math.log2(RESOLUTION * math.sqrt(2 * math.pi * math.e))  # of an element of a latent, on the lattice
LEAST_DRAWN = 2  # latents that are drawn before the first bits come back


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


class Codec:
    """Codes images with a model.

    Args:
        denoise: `denoise(x_t, timesteps, **conditioning)`, which computes in float64 and without dropout.
        diffusion: the chain of sets, with the number of levels; progressive coding chooses its own times.
        shape: C, H, W.
        fingerprint: eight bytes that tell this model from others; the chains are added to them.
        spacing: how the times of the chain are spaced, for the header.
        condition: the arguments of the model for labels `[B]` or None, and B.
        num_classes: of the labels.
        device: of the model.
        most_at_once: images per call of the model, at most.

    Raises:
        ValueError: if constriction is not installed, or the model cannot be used to compress.
    """

    def __init__(
        self,
        denoise: Denoiser,
        diffusion: GaussianDiffusion,
        shape: tuple[int, int, int],
        fingerprint: bytes = bytes(8),
        spacing: str = "all",
        condition: Callable[[Tensor | None, int], Mapping[str, Any]] = lambda labels, count: {},
        num_classes: int = 0,
        device: torch.device | str = "cpu",
        most_at_once: int = 64,
    ):
        require_constriction()
        require_count(most_at_once=most_at_once)
        chain = ExactChain(denoise, diffusion, torch.device(device), most_at_once)
        self.shape, self.spacing, self.num_levels = tuple(shape), spacing, chain.num_levels
        self._sets = BitsBack(chain)
        self._progressive: Progressive | None = None
        self._fault = ""
        try:
            single = progressive_diffusion(diffusion, self.dimensions)
            self._progressive = Progressive(dataclasses.replace(chain, diffusion=single))
        except ValueError as error:
            self._fault = str(error)
        self._condition, self._num_classes = condition, num_classes
        self.fingerprint = self._with_chains(fingerprint)

    @property
    def dimensions(self) -> int:
        return math.prod(self.shape)

    def _with_chains(self, fingerprint: bytes) -> bytes:
        chains = [self._sets.chain.diffusion.times, self.single.chain.diffusion.times if self._progressive else ()]
        text = repr((fingerprint, [list(times) for times in chains], self.shape, self.num_levels)).encode()
        return hashlib.sha256(text).digest()[:FINGERPRINT_BYTES]

    @property
    def single(self) -> Progressive:
        """The progressive code.

        Raises:
            ValueError: if the model has no measured errors, or its variance holds for neighbouring times only.
        """
        if self._progressive is None:
            raise ValueError(self._fault)
        return self._progressive

    # --- encoding ---

    def compress(
        self,
        images: Images,
        mode: str = "set",
        batch_size: int = 16,
        seed: int = 0,
        max_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> Compressed:
        """A file of these images, which has been decoded once and is known to be right.

        Args:
            images: the images.
            mode: "set", lossless and the smallest for several images; or "progressive", for one image, of which any
                prefix can be decoded.
            batch_size: images of a set that are coded side by side, at most.
            seed: of the noise that encoder and decoder share.
            max_bytes: the longest file of a progressive code, which is then lossy; None for a lossless one.
            progress: a function that wraps the iteration over groups of images.

        Raises:
            ValueError: before any work, for images that are not the model's, or arguments out of range; after it, if
                the file does not decode to the images.
        """
        self._check(images, mode, batch_size, seed, max_bytes)
        header = Header(
            mode=mode,
            spacing=self.spacing,
            channels=self.shape[0],
            height=self.shape[1],
            width=self.shape[2],
            levels=self.num_levels,
            images=len(images.levels),
            steps=len(self._sets.chain.diffusion.times),
            resolution=self._sets.resolution,
            batch_size=batch_size,
            growth=self._growth,
            direct=0,
            seed=seed,
            payload=0,
            fingerprint=self.fingerprint,
            pixels=images.checksum,
            names=images.names,
            is_bilevel=images.is_bilevel,
            is_labelled=images.labels is not None,
        )
        if mode == "progressive":
            return self._compress_one(header, images, max_bytes)
        return self._compress_set(header, images, progress or iter)

    def _check(self, images: Images, mode: str, batch_size: int, seed: int, max_bytes: int | None) -> None:
        levels, names = images.levels, images.names
        require_count(batch_size=batch_size)
        if mode not in ("set", "progressive"):
            raise ValueError(f"`mode` must be 'set' or 'progressive', but is {mode!r}.")
        if not len(levels) or len(names) != len(levels):
            raise ValueError(f"There must be at least one image and a name for each, but {len(levels)} were given.")
        if tuple(levels.shape[1:]) != self.shape:
            raise ValueError(
                f"The model is for images of shape {list(self.shape)}, these have {list(levels.shape[1:])}."
            )
        if levels.is_floating_point() or not 0 <= int(levels.min()) <= int(levels.max()) < self.num_levels:
            raise ValueError(f"Images must have integer levels in 0 ... {self.num_levels - 1}.")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"`seed` must be an int in 0 ... 2^32 - 1, but is {seed!r}.")
        if max_bytes is not None:
            require_count(max_bytes=max_bytes)
        if mode == "set" and max_bytes is not None:
            raise ValueError("`max_bytes` is for the mode 'progressive'; a set is lossless.")
        if mode == "progressive" and len(levels) != 1:
            raise ValueError(f"The mode 'progressive' codes one image, but {len(levels)} were given.")
        if mode == "progressive":
            self.single  # noqa: B018  # raises
        check_names(names)

    def _compress_one(self, header: Header, images: Images, max_bytes: int | None) -> Compressed:
        _check_budget(max_bytes, len(packed(header, b"")))
        writer = SymbolWriter()
        labels, given = self._some(images.labels, 0, 1)
        if labels is not None:
            writer.write(self._classes(1), labels)
        self.single.write(writer.write, images.levels.long(), given, SharedNoise(header.seed, 0))
        payload = writer.to_bytes()
        content = packed(header, payload)
        if max_bytes is None or len(content) <= max_bytes:
            return self._verified(content, images, 0, 0)
        payload = payload[: max_bytes - len(content)]
        header = dataclasses.replace(header, is_lossy=True)
        decoded = self._decode_one(Contents(header, payload, 0, 0), is_whole=False)
        header = dataclasses.replace(header, pixels=decoded.checksum)
        return self._verified(packed(header, payload), decoded, 0, 0)

    def _compress_set(self, header: Header, images: Images, progress: Progress) -> Compressed:
        direct = self._written_directly(images, header.seed)
        stack = BitStack(is_drawn_from=len(direct) < header.images)
        for digits in direct:
            _push_all(stack, digits)
        direct_bits = stack.bits - stack.initial_bits
        header = dataclasses.replace(header, direct=len(direct))
        for start, end in progress(list(_groups(header))):
            labels, given = self._some(images.labels, start, end)
            self._sets.push(stack, images.levels[start:end].long(), given)
            if labels is not None:
                stack.push(self._classes(end - start), labels)
        return self._verified(packed(header, stack.to_bytes()), images, direct_bits, stack.initial_bits, progress)

    def _written_directly(self, images: Images, seed: int) -> list[list[Digits]]:
        """The symbols of the first images by the progressive code, until they are enough to draw latents from."""
        found: list[list[Digits]] = []
        stack, needed = BitStack(), LEAST_DRAWN * LATENT_BITS * self.dimensions
        while self._progressive and len(found) < len(images.levels) and stack.bits < needed:
            i, writer = len(found), SymbolWriter()
            labels, given = self._some(images.labels, i, i + 1)
            if labels is not None:
                writer.write(self._classes(1), labels)
            self.single.write(writer.write, images.levels[i : i + 1].long(), given, SharedNoise(seed, i))
            found.append(writer.written)
            _push_all(stack, writer.written)
        return found

    def _verified(
        self,
        content: bytes,
        images: Images,
        direct_bits: int,
        initial_bits: int,
        progress: Progress | None = None,
    ) -> Compressed:
        """The report on a file, after it has been decoded."""
        file = unpacked(content)
        try:
            decoded = self.decompress(content, progress=progress)
        except ValueError as error:
            raise ValueError(f"The file did not decode to the images, and was not written: {error}") from error
        if not torch.equal(decoded.levels.long(), images.levels.long()):
            raise ValueError("The file did not decode to the images, and was not written.")
        header = file.header
        by_bits_back = (header.images - header.direct) * self.dimensions
        net = 8 * len(file.payload) - initial_bits - direct_bits
        return Compressed(
            content=content,
            images=header.images,
            bits_per_dim=8 * len(content) / (header.images * self.dimensions),
            net_bits_per_dim=net / by_bits_back if by_bits_back else math.nan,
            header_bytes=file.header_bytes,
            names_bytes=file.names_bytes,
            payload_bytes=len(file.payload),
            initial_bits=initial_bits,
            direct_images=header.direct,
            direct_bits=direct_bits,
            is_exact=not header.is_lossy,
        )

    @property
    def _growth(self) -> int:
        """256 times the images that the bits of one image suffice for, a little less."""
        bits = float(self._sets.chain.diffusion.expected_terms.sum()) / LOG_2
        return max(1, min(255, math.floor(0.9 * 256 * bits / (LEAST_DRAWN * LATENT_BITS)))) if bits > 0 else 1

    # --- decoding ---

    def decompress(self, content: bytes, max_bytes: int | None = None, progress: Progress | None = None) -> Images:
        """The images of a file.

        Args:
            content: its bytes.
            max_bytes: how many of them to read, at most, in progressive mode.
            progress: a function that wraps the iteration over groups of images.

        Raises:
            ValueError: if the file is damaged, or was made by another model; or if `max_bytes` is too small.
        """
        file = unpacked(content)
        self._check_file(file, max_bytes)
        if file.header.mode == "set":
            images = self._decode_set(file, progress or iter)
        else:
            images = self._decode_one(file, is_whole=file.is_whole and not file.header.is_lossy)
        if file.is_whole and images.checksum != file.header.pixels:
            raise ValueError(
                "The file decodes to other pixels than were coded: it is damaged, or this machine differs."
            )
        if max_bytes is None or max_bytes >= len(content):
            return images
        short = dataclasses.replace(file, payload=file.payload[: max_bytes - len(content)])
        return self._decode_one(short, is_whole=False)

    def _check_file(self, file: Contents, max_bytes: int | None) -> None:
        header = file.header
        if header.shape != self.shape or header.levels != self.num_levels:
            raise ValueError(
                f"The file is of images of shape {list(header.shape)} with {header.levels} levels; the model is for"
                f" {list(self.shape)} and {self.num_levels}."
            )
        if header.fingerprint != self.fingerprint:
            raise ValueError("The file was made by another model: the fingerprints differ.")
        if header.direct > header.images or not header.images or not header.batch_size:
            raise ValueError("The file is damaged: its header contradicts itself.")
        check_names(header.names)
        if max_bytes is not None:
            require_count(max_bytes=max_bytes)
            if header.mode == "set":
                raise ValueError("`max_bytes` is for files of the mode 'progressive'; a set is decoded as a whole.")
            _check_budget(max_bytes, file.header_bytes + file.names_bytes)

    def _decode_one(self, file: Contents, is_whole: bool) -> Images:
        header, labels = file.header, None
        reader = SymbolReader(file.payload, is_whole)
        try:
            if header.is_labelled:
                labels = torch.from_numpy(reader.read(self._classes(1)))
        except Exhausted:
            raise ValueError("The file ends before the class of its image; read more of it.") from None
        shape = (1, *self.shape)
        given = self._condition(labels, 1)
        decoded = self.single.read(reader.read, shape, given, SharedNoise(header.seed, 0))
        if is_whole and not decoded.is_exact:
            raise ValueError("The file is damaged: its payload does not decode.")
        return Images(decoded.levels, header.names, labels, header.is_bilevel, decoded.is_exact)

    def _decode_set(self, file: Contents, progress: Progress) -> Images:
        header, stack = file.header, BitStack(file.payload)
        levels: list[Tensor] = []
        labels: list[Tensor] = []
        for start, end in progress(list(_groups(header))[::-1]):
            known, given = self._popped_labels(stack, header, end - start)
            levels.insert(0, self._sets.pop(stack, (end - start, *self.shape), given).to(torch.uint8))
            labels = [*known, *labels]
        for i in reversed(range(header.direct)):
            known, given = self._popped_labels(stack, header, 1)
            decoded: Decoded = self.single.read(stack.pop, (1, *self.shape), given, SharedNoise(header.seed, i))
            levels.insert(0, decoded.levels.to(torch.uint8))
            labels = [*known, *labels]
        return Images(torch.cat(levels), header.names, torch.cat(labels) if labels else None, header.is_bilevel)

    def _popped_labels(self, stack: BitStack, header: Header, count: int) -> tuple[list[Tensor], Mapping[str, Any]]:
        """The classes of the next images, in a list, and the arguments of the model for them."""
        if not header.is_labelled:
            return [], self._condition(None, count)
        labels = torch.from_numpy(stack.pop(self._classes(count)))
        return [labels], self._condition(labels, count)

    def _some(self, labels: Tensor | None, start: int, end: int) -> tuple[Ints | None, Mapping[str, Any]]:
        """The classes of some of the images, and the arguments of the model for them."""
        some = None if labels is None else labels[start:end]
        return None if some is None else some.numpy().astype(np.int64), self._condition(some, end - start)

    def _classes(self, count: int) -> Table:
        if not self._num_classes:
            raise ValueError("The file holds classes, and the model knows none.")
        return Table.uniform(count, self._num_classes)


def _push_all(stack: BitStack, written: list[Digits]) -> None:
    """Push symbols so that they are popped in the order in which they were written."""
    for digits in reversed(written):
        stack.push_digits(digits)


def _check_budget(max_bytes: int | None, least: int) -> None:
    if max_bytes is not None and max_bytes < least:
        raise ValueError(f"`max_bytes` must be at least {least}, the length of the header, but is {max_bytes}.")


def _groups(header: Header) -> Iterator[tuple[int, int]]:
    """The first image of each group that is coded side by side, and the first one after it."""
    start = header.direct
    while start < header.images:
        size = max(1, min(header.batch_size, start * header.growth >> 8, header.images - start))
        yield start, start + size
        start += size
