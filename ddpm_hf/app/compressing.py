# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A picture as a file at the model's bound, of which any prefix is a picture; and such files back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..compression.codec import Images
from ..compression.file_format import unpacked
from ..evaluation.file_formats import file_formats
from ..pipelines.compressing import Decompressed, decompress
from ..pipelines.picture_files import pictures_of
from .model import PageModel
from .uploads import Upload


ENDING = ".ddpc"
NAME = "0.png"  # of the picture in its file, as `compress` names a picture without one
MOST_IMAGES = 256  # of an uploaded file
BYTES_OF_CLASS = 2  # after which a class is known


@dataclass(frozen=True, eq=False)
class PackedPicture:
    """A picture and its file.

    Attributes:
        content: the file.
        head: the bytes before the payload.
        least: the bytes of which a prefix is a picture.
        levels: the picture's levels, `[C, H, W]`.
        num_levels: how many there are.
        sizes: the bytes of lossless files of other formats, by name.
    """

    content: bytes
    head: int
    least: int
    levels: Tensor
    num_levels: int
    sizes: dict[str, int]

    @property
    def dimensions(self) -> int:
        return self.levels.numel()


class Prefix(NamedTuple):
    """What a prefix of a file decodes to.

    Attributes:
        picture: of 8 bits.
        is_exact: whether it is the picture that was compressed.
        psnr: the peak signal-to-noise ratio in dB; infinite for equal pictures.
    """

    picture: Image.Image
    is_exact: bool
    psnr: float


def compress_picture(model: PageModel, upload: Upload, label: int | None = None) -> PackedPicture:
    """The progressive file of a picture, lossless, and the sizes of its other files.

    Args:
        label: the picture's class; None for the null class.

    Raises:
        ValueError: for a model that cannot compress, or must be told a class.
    """
    if model.fault_of_files is not None:
        raise ValueError(model.fault_of_files)
    if label is None and model.class_names and not model.can_be_guided:
        raise ValueError("Choose a class: the model has no null class.")
    model.columns(label)
    labels = None if label is None else torch.tensor([label])
    result = model.codec.compress(Images(upload.levels[None], (NAME,), labels), "progressive")
    head = result.header_bytes + result.names_bytes
    least = head + (0 if label is None else BYTES_OF_CLASS)
    picture = upload.picture
    sizes = {each.name: len(each.file(picture)) for each in file_formats() if each.lossless is not None}
    return PackedPicture(result.content, head, least, upload.levels, upload.num_levels, sizes)


def decode_prefix(model: PageModel, packed: PackedPicture, count: int) -> Prefix:
    """The picture that the first `count` bytes of a file give.

    Raises:
        ValueError: for fewer bytes than the header's.
    """
    images = model.codec.decompress(packed.content[: max(count, packed.least)])
    return Prefix(
        pictures_of(images, packed.num_levels)[0], images.is_exact, _psnr(images.levels[0], packed.levels, packed)
    )


def _psnr(found: Tensor, wanted: Tensor, packed: PackedPicture) -> float:
    error = (found.double() - wanted.double()).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10((packed.num_levels - 1) ** 2 / error)


def decode_file(model: PageModel, content: bytes) -> Decompressed:
    """The pictures of an uploaded file of the model, or of a prefix of a progressive one.

    Raises:
        ValueError: for a file of another kind or another model, a damaged one, or one of too many pictures.
    """
    if model.fault_of_files is not None:
        raise ValueError(model.fault_of_files)
    header = unpacked(content, MOST_IMAGES).header
    if header.steps > model.num_timesteps:
        raise ValueError("The file was made by another model: it has more timesteps.")
    return decompress(content, model.pipeline)
