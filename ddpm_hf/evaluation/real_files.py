# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Progressive files of images, cut to several lengths, beside files of the same images in the usual formats."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..compression.codec import Codec
from ..compression.images import Images
from ..compression.names import names_by_place
from ..pipelines.compressing import codec_of
from ..pipelines.picture_files import MODES, pictures_of
from ..pipelines.sampling_pipeline import SamplingPipeline
from .file_formats import FilePoint, file_formats, points_of, squared_error


CODEC = "ddpm-hf"
SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)  # of the payload
Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class RealFiles:
    """Files of some images, each by itself.

    Attributes:
        points: by the name of the format, the shortest files first; those of `CODEC` are prefixes of one file each.
        images: how many.
    """

    points: Mapping[str, Sequence[FilePoint]]
    images: int

    def psnr_of(self, name: str, bits_per_dim: float) -> float | None:
        """The PSNR of a format's lossy files of this mean length, linear between its points; None outside of them."""
        lossy = [point for point in self.points[name] if point.mean_squared_error]
        for below, above in itertools.pairwise(lossy):
            if below.bits_per_dim <= bits_per_dim <= above.bits_per_dim:
                width = above.bits_per_dim - below.bits_per_dim
                share = (bits_per_dim - below.bits_per_dim) / width if width else 0.0
                return below.psnr + share * (above.psnr - below.psnr)
        return None


def codec_of_singles(pipeline: SamplingPipeline) -> Codec:
    """The codec of a model that can code single pictures.

    Raises:
        ValueError: if it cannot.
    """
    codec = codec_of(pipeline, None, None, 1)
    codec.single  # noqa: B018  # raises
    if codec.shape[0] not in MODES:
        raise ValueError(f"Pictures have 1, 3 or 4 channels, but the model's images have {codec.shape[0]}.")
    return codec


def code_images(
    codec: Codec,
    levels: Tensor,
    labels: Tensor | None = None,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    progress: Progress | None = None,
) -> RealFiles:
    """Code every image by the model and in all formats that can be written here.

    Args:
        codec: of `codec_of_singles`.
        levels: the images, integers `[N, C, H, W]`.
        labels: the class of each, for a class-conditional model; None for the null class.
        shares: of the payload, rising: where the progressive files are cut; a last 1 is the lossless file.
        seed: of the noise that encoder and decoder share.
        progress: a function that wraps the iteration over the images.

    Raises:
        ValueError: for images that are not the model's.
    """
    images = [
        Images(levels[i : i + 1], names_by_place(1), None if labels is None else labels[i : i + 1])
        for i in range(len(levels))
    ]
    coded = [_coded(codec, images[i], shares, seed) for i in (progress or iter)(range(len(images)))]
    points = {CODEC: [_point(share, place, coded, codec.dimensions) for place, share in enumerate(shares)]}
    pictures = [picture for each in images for picture in pictures_of(each, codec.num_levels)]
    for format in file_formats():
        if found := points_of(format, pictures):
            points[format.name] = found
    return RealFiles(points, len(levels))


def _coded(codec: Codec, image: Images, shares: Sequence[float], seed: int) -> list[tuple[int, float]]:
    """The length of the file of an image and its error, for each share of its payload."""
    result = codec.compress(image, "progressive", seed=seed)
    least = len(result.content) - result.payload_bytes
    sizes = [least + round(share * result.payload_bytes) for share in shares]
    (original,) = pictures_of(image, codec.num_levels)
    decoded = [pictures_of(each, codec.num_levels)[0] for each in codec.prefixes(result.content, sizes)]
    return [(size, squared_error(original, each)) for size, each in zip(sizes, decoded, strict=True)]


def _point(share: float, place: int, coded: Sequence[Sequence[tuple[int, float]]], dimensions: int) -> FilePoint:
    sizes, errors = zip(*(each[place] for each in coded), strict=True)
    return FilePoint("lossless" if share == 1 else f"{share:.1%} of the payload", sizes, errors, dimensions)
