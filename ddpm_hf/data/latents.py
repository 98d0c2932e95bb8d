# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Latents of a data set's images, computed once and kept on disk as the mean and the variance of q(z | x).

So z is drawn anew every time an image is trained on. The name of a file follows from the autoencoder and the images:
those of another autoencoder, or of one that has changed, are never read. A file that is damaged is written anew.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..conditioning.columns import Columns, chosen, with_first
from ..diffusion.diagonal_gaussian import DiagonalGaussian
from ..runtime.progress import progress_bar
from ..runtime.randomness import BatchAddress, Use, noise_like
from .level_images import LevelImages
from .stored_tensors import folder_in_cache, stored


FOLDER = "ddpm_hf_latents"  # in the cache of `datasets`
POSTERIORS = "posteriors"  # the tensor in a file


class Encoder(Protocol):
    """What computes q(z | x), such as `ddpm_hf.pipelines.autoencoders.Autoencoder`."""

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z | x) of images `[B, C, H, W]` in [−1, 1]."""


class LatentImages(LevelImages):
    """Training examples z ~ q(z | x), continuous, drawn anew whenever they are read for training.

    Args:
        posteriors: mean and log-variance of every image's latents, in this order along the channels, and then the same
            of its mirror image if images are mirrored at random: `[N, 2c, h, w]` or `[N, 4c, h, w]`, float32; of
            embeddings `[N, 2c]` or `[N, 4c]`.
        channels: c.
        images: the images.
    """

    def __init__(self, posteriors: Tensor, channels: int, images: LevelImages):
        shape = (channels, *posteriors.shape[2:])
        in_epochs = (images.row, None, images.groups)
        super().__init__(len(posteriors), None, None, shape, images.columns, posteriors, *in_epochs)
        self.images = images

    def examples(self, levels: Tensor, address: BatchAddress) -> Tensor:
        return self._drawn(levels, address.first, address.seed, address.step)

    def mirrored(self, levels: Tensor) -> Tensor:
        own, mirrored = levels.chunk(2, dim=1)
        return torch.cat([mirrored, own], dim=1)

    def _drawn(self, posteriors: Tensor, first: int, seed: int, step: int) -> Tensor:
        mean, log_variance = posteriors[:, : 2 * self.shape[0]].chunk(2, dim=1)
        return mean + torch.exp(0.5 * log_variance) * noise_like(mean, first, seed, step, Use.LATENTS)

    def __getitem__(self, i: int) -> Tensor:
        return self.batch(i, i + 1)[0][0]

    def batch(self, first: int, last: int, skip_bad: bool = False) -> tuple[Tensor, Columns]:
        """Latents first … last − 1, the same every time, and their columns; see `LevelImages.batch`."""
        columns = with_first(chosen(self.columns, slice(first, last)))
        return self._drawn(self.pixels[first:last], first, seed=0, step=0), columns

    def with_columns(self, columns: Columns) -> LatentImages:
        return LatentImages(self.pixels, self.shape[0], self.images.with_columns(columns))

    def chosen(self, index: Tensor) -> LatentImages:
        return LatentImages(self.pixels[index], self.shape[0], self.images.chosen(index))

    @property
    def narrowest(self) -> float:
        """The mean log-variance of q(z | x) in the channel where it is least."""
        return self.pixels[:, self.shape[0] : 2 * self.shape[0]].transpose(0, 1).flatten(1).mean(dim=1).min().item()


def cache_folder(cache_dir: str | None) -> Path:
    """The folder of the latents: in `cache_dir`, or in the cache of Hugging Face."""
    return folder_in_cache(cache_dir, FOLDER)


def latents_of(
    images: LevelImages,
    encoder: Encoder,
    fingerprint: str,
    folder: Path,
    device: torch.device,
    batch_size: int = 64,
    with_mirrored: bool = False,
) -> LatentImages:
    """The latents of images, from the cache folder if they are there.

    Args:
        images: at least one.
        encoder: computes q(z | x), on the device.
        fingerprint: of the encoder.
        folder: of the cache; it is created.
        batch_size: images in a call of the encoder.
        with_mirrored: whether the latents of mirror images are computed too. They are not the mirrored latents.

    Raises:
        ValueError: if latents are not finite.
        BadImage: for an image that cannot be read.
    """
    key = {"encoder": fingerprint, "images": digest_of(images), "mirrored": str(with_mirrored)}
    how = (images, encoder, device, batch_size, with_mirrored)
    posteriors = stored(folder, key, lambda: {POSTERIORS: _computed(*how)})[POSTERIORS]
    return LatentImages(posteriors, posteriors.shape[1] // (4 if with_mirrored else 2), images)


def digest_of(images: LevelImages) -> str:
    """A hash of the images: of their pixels if they are in memory, else of how they are read."""
    digest = hashlib.sha256(repr((images.size, images.num_levels, images.shape)).encode())
    if images.pixels is None:
        digest.update(images.read.fingerprint.encode())
    else:
        digest.update(images.pixels.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def _computed(
    images: LevelImages, encoder: Encoder, device: torch.device, batch_size: int, with_mirrored: bool
) -> Tensor:
    parts = []
    starts = range(0, len(images), batch_size)
    for start in progress_bar(starts, desc="encoding images", unit="batch", disable=len(starts) < 20):
        x, _ = images.batch(start, min(start + batch_size, len(images)))
        versions = (x, x.flip(-1)) if with_mirrored else (x,)
        found = [encoder.posterior(version.to(device)) for version in versions]
        parts.append(torch.cat([each for q in found for each in (q.mean, q.log_variance)], dim=1).float().cpu())
    posteriors = torch.cat(parts)
    if not bool(posteriors.isfinite().all()):
        raise ValueError("The latents are not finite for some images; run the autoencoder in float32.")
    return posteriors.contiguous()
