# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Sentences for the model card on how stock diffusers treats a saved model differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..conditioning.classes import CLASSES_OF_DIT
from ..conditioning.text import TextSettings
from ..schedulers.configuration import OWN_CONFIG_KEY
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler


STOCK_NULL_CLASS = 1000  # of DiTPipeline, whatever model it has


def in_stock(scheduler: DDPMPaperScheduler) -> list[str]:
    """Sentences on how stock diffusers treats a model with this scheduler differently."""
    sentences = []
    if scheduler.config.prediction_type == "mean":
        sentences.append("It cannot sample from this model, which predicts the posterior mean; ddpm_hf can.")
    if scheduler.variance_type == "learned":
        sentences.append(
            "Its `learned` variance does not work: it samples with `learned_range`, a variance interpolated from β̃ and"
            " β, instead of the one that this model has learned."
        )
    if scheduler.variance_type == "fixed_large_log":
        sentences.append("It uses the name `fixed_large` for the same variance.")
    if scheduler.variance_type == "optimal":
        sentences.append("It does not have the `optimal` variance, and samples with `fixed_small`.")
    if scheduler.config.trained_betas is not None:
        sentences.append(
            "It has no name for the noise schedule, which is saved as its betas; it stores them in float32."
        )
    return sentences


def text_in_stock(settings: TextSettings) -> list[str]:
    """Sentences on how stock diffusers treats a model that is told of text in this way differently."""
    sentences = []
    if settings.encoder is not None:
        sentences.append(
            f"It does not load the text encoder, which is `{settings.encoder}` on the Hub: pass `text_encoder` and"
            " `tokenizer` to `from_pretrained`."
        )
    if settings.attention_mask:
        sentences.append(
            "It passes no attention mask to the model, which was trained with one, and pads prompts to 77"
            f" tokens in place of {settings.max_length}: it draws other images, which heed the prompt less."
        )
    return sentences


def latent_in_stock(family: str | None, autoencoder: Mapping[str, Any], unet: Mapping[str, Any]) -> list[str]:
    """Sentences on how stock diffusers treats a diffusion of latents differently.

    Args:
        family: the stock pipeline that loads it.
        autoencoder, unet: the configurations of the two models.
    """
    learns_variance = unet.get("out_channels") == 2 * unet["in_channels"]
    sentences = []
    if family == "DiTPipeline" and learns_variance:
        sentences.append("It drops the variance that the model has learned, and samples with `fixed_small`.")
    classes = unet.get(CLASSES_OF_DIT)
    if family == "DiTPipeline" and classes != STOCK_NULL_CLASS:
        sentences.append(
            f"Its guidance takes {STOCK_NULL_CLASS} for the null class, which is {classes} here, and fails: pass"
            " `guidance_scale=1`."
        )
    if family == "StableDiffusionPipeline" and learns_variance:
        sentences.append("With guidance it extrapolates the learned variance too, and draws other images.")
    if family == "StableDiffusionPipeline" and OWN_CONFIG_KEY in unet:
        sentences.append(
            "It does not tell the text encoder which tokens are padding, and pads prompts to as many tokens as the"
            " tokenizer takes: it draws other images."
        )
    if family in ("LDMPipeline", "DiTPipeline"):
        sentences.append("It draws the noise of the steps from torch's global generator, whatever `generator` is.")
    if autoencoder.get("latents_std") is not None or autoencoder.get("shift_factor"):
        sentences.append(
            "It uses the autoencoder's `scaling_factor` alone, and decodes latents with a wrong shift and scale."
        )
    return sentences
