# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The frozen autoencoder of a latent diffusion."""

from __future__ import annotations

import hashlib
import json

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ModelMixin, VQModel

from ..data.level_images import LevelImages
from ..hub_errors import HubError, hub_errors
from ..pipelines.autoencoders import Autoencoder
from ..runtime.hashing import add_weights
from ..runtime.randomness import Use, generator_of


CLASSES = {each.__name__: each for each in (AutoencoderKL, AutoencoderTiny, VQModel)}
MEASURED = 256  # images that the scale of p(x | z) is measured on, if the autoencoder has none


def load_autoencoder(name: str, revision: str | None = None) -> ModelMixin:
    """A saved autoencoder, frozen, or that of a saved pipeline.

    Args:
        name: a folder, or a name on the Hub.

    Raises:
        ValueError: if there is none of this name.
        HubError: if the Hub cannot be reached, or refuses.
    """
    try:
        with hub_errors(name, revision):
            kind, subfolder = _found(name, revision)
            model = CLASSES[kind].from_pretrained(name, subfolder=subfolder, revision=revision)
    except HubError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"`autoencoder` {name} cannot be loaded: {' '.join(str(error).split())}") from error
    return model.float().requires_grad_(False).eval()


def _found(name: str, revision: str | None) -> tuple[str, str | None]:
    """The class of an autoencoder and its folder: the one of this name, or `vae` or `vqvae` in that of a pipeline.

    Raises:
        OSError, ValueError: if there is none.
    """
    failure: OSError | None = None
    for subfolder in (None, "vae", "vqvae"):
        try:
            config = AutoencoderKL.load_config(name, subfolder=subfolder, revision=revision)
        except OSError as error:
            failure = failure or error
            continue
        kind = config.get("_class_name")
        if kind not in CLASSES:
            raise ValueError(f"it holds a {kind}, but must be one of {', '.join(CLASSES)}.")
        return kind, subfolder
    raise failure


def fingerprint_of(model: ModelMixin) -> str:
    """A hash of all that the latents depend on: weights, architecture and scale."""
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    digest = hashlib.sha256(json.dumps([type(model).__name__, config], sort_keys=True, default=str).encode())
    add_weights(digest, model.state_dict())
    return digest.hexdigest()


def with_law(model: ModelMixin, images: LevelImages, device: torch.device) -> Autoencoder:
    """The autoencoder on the device, with a law p(x | z): its own, or else one that is measured on the images.

    Raises:
        ValueError: if the autoencoder has no posterior, or does not fit the images.
    """
    autoencoder = Autoencoder(model.to(device))
    autoencoder.require_posterior()
    autoencoder.latent_shape(images.shape)
    some = (x.to(device) for x in images.batches(16, MEASURED))
    autoencoder.measure_law(some, images.num_levels, generator_of(Use.MEASURING, 0))
    if autoencoder.num_levels != images.num_levels:
        raise ValueError(
            f"`autoencoder` is for images of {autoencoder.num_levels} levels, but the data have {images.num_levels};"
            f" pass --num_levels {autoencoder.num_levels}."
        )
    return autoencoder
