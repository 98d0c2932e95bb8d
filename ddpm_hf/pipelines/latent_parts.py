# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The parts of a pipeline of latents: which stock pipelines have them, and whether they fit each other."""

from __future__ import annotations

from typing import Any, Protocol

from diffusers import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from ..conditioning.classes import CLASSES_OF_DIT
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .autoencoders import Autoencoder
from .stock import own_scheduler
from .text import check_width


# The stock pipelines of latents, by class: what they call our parts.
STOCK: dict[str, dict[str, str]] = {
    "StableDiffusionPipeline": {
        "vae": "vae",
        "unet": "unet",
        "scheduler": "scheduler",
        "tokenizer": "tokenizer",
        "text_encoder": "text_encoder",
    },
    "LDMPipeline": {"vae": "vqvae", "unet": "unet", "scheduler": "scheduler"},
    "DiTPipeline": {"vae": "vae", "unet": "transformer", "scheduler": "scheduler"},
}
NOT_USED = ("safety_checker", "feature_extractor", "image_encoder")  # parts of Stable Diffusion that are not loaded
TEXT_PARTS = ("tokenizer", "text_encoder")


class LatentPipeline(Protocol):
    """What the size of latents depends on."""

    unet: ModelMixin

    @property
    def autoencoder(self) -> Autoencoder: ...

    @property
    def image_shape(self) -> tuple[int, ...]: ...


def is_told_of_text(unet: ModelMixin) -> bool:
    """Whether the model is a `UNet2DConditionModel`."""
    return "cross_attention_dim" in unet.config


def check_fit(autoencoder: Autoencoder, unet: ModelMixin, text_encoder: Any) -> None:
    """Raise ValueError unless the model denoises the autoencoder's latents, and takes the encoder's embeddings."""
    latents, channels = autoencoder.latent_channels, unet.config.in_channels
    if channels != latents:
        raise ValueError(
            f"`unet` must take the {latents} channels of the latents of `vae`, but takes {channels}; they belong to"
            " different models."
        )
    if text_encoder is None:
        return
    if not is_told_of_text(unet):
        raise ValueError("`text_encoder` must be None: the model is not told of text.")
    check_width(text_encoder, unet)


def scheduler_of_latents(scheduler: SchedulerMixin, unet: ModelMixin) -> DDPMPaperScheduler:
    """The scheduler of continuous data, whose variance is learned if the model has channels for it."""
    scheduler = own_scheduler(scheduler)
    changes: dict[str, Any] = {}
    if scheduler.diffusion.num_levels is not None:
        changes["num_levels"] = None
    if unet.config.out_channels == 2 * unet.config.in_channels and not scheduler.process.learns_variance:
        changes["variance_type"] = "learned_range"
    if is_told_of_text(unet):
        wanted = {"clip_sample": False, "steps_offset": 1}  # as StableDiffusionPipeline has them
        changes |= {name: value for name, value in wanted.items() if scheduler.config[name] != value}
    return DDPMPaperScheduler.from_config(scheduler.config, **changes) if changes else scheduler


def latent_size(pipeline: LatentPipeline, height: int | None, width: int | None) -> tuple[int, int] | None:
    """Height and width of the latents of images of this size; None for the model's own.

    Raises:
        ValueError: for sizes that the model or the autoencoder does not take.
    """
    if height is None and width is None:
        return None
    factor, usual = pipeline.autoencoder.factor, pipeline.image_shape[1:]
    is_fixed = CLASSES_OF_DIT in pipeline.unet.config
    step = factor if is_fixed else factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    sides = [own if side is None else side for side, own in zip((height, width), usual, strict=True)]
    for name, side, own in zip(("height", "width"), sides, usual, strict=True):
        if isinstance(side, bool) or not isinstance(side, int) or side < 1 or side % step:
            raise ValueError(
                f"`{name}` must be a multiple of {step}, by which the autoencoder and the model reduce it, but is"
                f" {side!r}."
            )
        if is_fixed and side != own:
            raise ValueError(f"`{name}` must be {own}, the only one that a DiT takes, but is {side}.")
    return sides[0] // factor, sides[1] // factor
