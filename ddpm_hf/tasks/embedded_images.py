# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Embeddings of images by a frozen encoder: their moments, and the embeddings in the place of the images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import torch

from ..conditioning.image_encoders import ImageEncoder
from ..data.latents import LatentImages, cache_folder, latents_of
from ..data.level_images import ImageData, LevelImages
from ..runtime.hashing import add_weights


MEASURED = 16384  # training images that mean and standard deviation of the embeddings are measured on, at most
AT_ONCE = 256


def with_moments(model: Any, images: LevelImages, posterior_std: float) -> ImageEncoder:
    """The encoder, whose embeddings are standardised by their moments over these images.

    Raises:
        ValueError: if an element of the embeddings is the same for all images.
    """
    plain = ImageEncoder(model, torch.zeros(()), torch.ones(()), posterior_std)
    parts = [plain.embeds(x.to(model.device)).double().cpu() for x in images.batches(AT_ONCE, MEASURED)]
    embeds = torch.cat(parts)
    std, mean = torch.std_mean(embeds, dim=0, correction=0)
    if not bool((std > 1e-6 * embeds.abs().max()).all()):  # NaN included
        raise ValueError("The embeddings of `image_encoder` are the same for all training images in some elements.")
    return ImageEncoder(model, mean.float(), std.float(), posterior_std)


def of_images(
    images: LevelImages, encoder: ImageEncoder, cache_dir: str | None, with_mirrored: bool = False
) -> LatentImages:
    """z ~ q(z | x) in the place of images x: embeddings `[N, D]`, drawn anew in training."""
    how = (fingerprint_of(encoder), cache_folder(cache_dir), encoder.model.device, AT_ONCE, with_mirrored)
    return latents_of(images, encoder, *how)


def embedded(data: ImageData, encoder: ImageEncoder, cache_dir: str | None, with_mirrored: bool) -> ImageData:
    """The data with z ~ q(z | x) in the place of images x; those of training perhaps mirrored."""
    parts = {id(data.train): of_images(data.train, encoder, cache_dir, with_mirrored)}
    for images in (data.test, data.validation):
        if id(images) not in parts:
            parts[id(images)] = of_images(images, encoder, cache_dir) if len(images) else images
    names = ("train", "test", "validation")
    return dataclasses.replace(data, **{name: parts[id(getattr(data, name))] for name in names})


def fingerprint_of(encoder: ImageEncoder) -> str:
    """A hash of all that q(z | x) depends on."""
    config = {name: value for name, value in encoder.model.config.to_dict().items() if not name.startswith("_")}
    moments = {"mean": encoder.mean.cpu(), "std": encoder.std.cpu()}
    digest = hashlib.sha256(json.dumps([config, encoder.posterior_std], sort_keys=True, default=str).encode())
    add_weights(digest, dict(encoder.model.state_dict()) | moments)
    return digest.hexdigest()
