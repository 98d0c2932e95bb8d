# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Files of images: sets by bits-back coding, single images by progressive coding."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.numerics import require_count
from .bits_back import BitsBack
from .classes import Classes
from .entropy_coders import SymbolReader, require_constriction
from .exact_chain import ExactChain
from .file_format import FINGERPRINT_BYTES, Contents, Header, check_names, packed, unpacked
from .images import Compressed, Images
from .progressive import Progressive, chunk_bits_of, progressive_diffusion
from .sets import Progress, SetCode
from .singles import SingleCode


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
        chunk_bits: expected bits of a chunk of a progressive code; None for as many as are searched quickly.

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
        chunk_bits: int | None = None,
    ):
        require_constriction()
        require_count(most_at_once=most_at_once)
        chain = ExactChain(denoise, diffusion, torch.device(device), most_at_once)
        self.shape, self.spacing, self.num_levels = tuple(shape), spacing, chain.num_levels
        classes = Classes(condition, num_classes)
        self._single: SingleCode | None = None
        self._fault = ""
        try:
            chunk_bits = chunk_bits_of(self.dimensions) if chunk_bits is None else chunk_bits
            progressive = progressive_diffusion(diffusion, self.dimensions, chunk_bits)
            single = Progressive(dataclasses.replace(chain, diffusion=progressive), chunk_bits)
            self._single = SingleCode(single, classes)
        except ValueError as error:
            self._fault = str(error)
        self.sets = SetCode(BitsBack(chain), self._single, classes)
        self.fingerprint = self._with_chains(fingerprint)

    @property
    def dimensions(self) -> int:
        return math.prod(self.shape)

    @property
    def single(self) -> SingleCode:
        """The progressive code.

        Raises:
            ValueError: if the model has no measured errors, or its variance holds for neighbouring times only.
        """
        if self._single is None:
            raise ValueError(self._fault)
        return self._single

    def _with_chains(self, fingerprint: bytes) -> bytes:
        chains: list[Any] = [list(self.sets.bits_back.chain.diffusion.times)]
        if self._single is not None:
            single = self._single.progressive
            chains += [list(single.chain.diffusion.times), single.chunk_bits]
        text = repr((fingerprint, chains, self.shape, self.num_levels)).encode()
        return hashlib.sha256(text).digest()[:FINGERPRINT_BYTES]

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
            steps=len(self.sets.bits_back.chain.diffusion.times),
            resolution=self.sets.bits_back.resolution,
            batch_size=batch_size,
            growth=self.sets.growth,
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
        payload = self.single.written(images, 0, header.seed).to_bytes()
        content = packed(header, payload)
        if max_bytes is None or len(content) <= max_bytes:
            return self._verified(content, images, 0, 0)
        payload = payload[: max_bytes - len(content)]
        header = dataclasses.replace(header, is_lossy=True)
        decoded = self.single.read(SymbolReader(payload, is_whole=False).read, header, 0)
        header = dataclasses.replace(header, pixels=decoded.checksum)
        return self._verified(packed(header, payload), decoded, 0, 0)

    def _compress_set(self, header: Header, images: Images, progress: Progress) -> Compressed:
        coded = self.sets.encode(header, images, progress)
        content = packed(coded.header, coded.payload)
        return self._verified(content, images, coded.direct_bits, coded.initial_bits, progress)

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
        if not torch.equal(decoded.levels, images.levels.to(torch.uint8)):
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
        self._check_file(file)
        if file.header.mode == "progressive":
            return self.prefixes(content, [len(content) if max_bytes is None else max_bytes])[0]
        if max_bytes is not None:
            raise ValueError("`max_bytes` is for files of the mode 'progressive'; a set is decoded as a whole.")
        images = self.sets.decode(file, progress or iter)
        _check_pixels(file, images)
        return images

    def prefixes(self, content: bytes, sizes: Sequence[int]) -> list[Images]:
        """The image of a progressive file from prefixes of it, all in the time that the file itself takes.

        Args:
            content: its bytes.
            sizes: of the prefixes, in bytes.

        Raises:
            ValueError: as `decompress`, or if the file is a set.
        """
        file = unpacked(content)
        self._check_file(file)
        if file.header.mode == "set":
            raise ValueError("Only files of the mode 'progressive' have prefixes; a set is decoded as a whole.")
        least = file.header_bytes + file.names_bytes
        for size in sizes:
            require_count(max_bytes=size)
            _check_budget(size, least)
        is_lossless = file.is_whole and not file.header.is_lossy
        lengths = [len(file.payload), *(size - least for size in sizes)]
        whole, *found = self.single.read_prefixes(file.payload, lengths, is_lossless, file.header)
        if is_lossless and not whole.is_exact:
            raise ValueError("The file is damaged: its payload does not decode.")
        _check_pixels(file, whole)
        return found

    def _check_file(self, file: Contents) -> None:
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


def _check_pixels(file: Contents, images: Images) -> None:
    if file.is_whole and images.checksum != file.header.pixels:
        raise ValueError("The file decodes to other pixels than were coded: it is damaged, or this machine differs.")


def _check_budget(max_bytes: int | None, least: int) -> None:
    if max_bytes is not None and max_bytes < least:
        raise ValueError(f"`max_bytes` must be at least {least}, the length of the header, but is {max_bytes}.")
