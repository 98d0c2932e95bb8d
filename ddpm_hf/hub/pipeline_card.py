# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The part of the model card that is of a pipeline with one diffusion: of pixels or latents, told of words or not."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..conditioning.classes import embeds_classes, number_of_classes
from ..conditioning.low_resolution import JOINED, LowResolutionSettings
from ..conditioning.text import TextSettings, is_told_of_text
from ..results import FRECHET_DISTANCES, Metrics
from ..schedulers.configuration import OWN_CONFIG_KEY
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .card_parts import ENLARGING, TEXT_TO_IMAGE, UNCONDITIONAL, CardParts, example_prompt
from .in_stock import in_stock, latent_in_stock, text_in_stock
from .saved_files import count_parameters, read_json, variants_of


TEMPLATE = Path(__file__).with_name("model_card.md")
TAGS = ("ddpm_hf", "ddpm", "diffusion")
NOTES = {  # on the features of each network
    "efficientnet_lite0": (
        "The features are the 1280 by which EfficientNet-Lite0 classifies photographs. This is not the FID of the"
        "\nliterature, which compares features of another network."
    ),
    "inception": (
        "The features are the 2048 of Inception, as for the FID of the literature. That is usually the FID of 50,000"
        "\nsamples; with fewer it is larger."
    ),
}


def pipeline_parts(folder: Path, metrics: Metrics, beside: Collection[str]) -> CardParts:
    """The part of the card of any pipeline that is of no other kind."""
    facts = _facts(folder, beside)
    facts |= {"network_distances": _network_distances(metrics), "prompt": example_prompt(metrics)}
    task = ENLARGING if facts["low"] else TEXT_TO_IMAGE if facts["text"] else UNCONDITIONAL
    return CardParts(TEMPLATE, task, TAGS, facts)


def _facts(folder: Path, beside: Collection[str]) -> dict[str, Any]:
    """The template's values that come from the saved pipeline."""
    model = "transformer" if (folder / "transformer").is_dir() else "unet"
    unet, stored = read_json(folder / model / "config.json"), read_json(folder / "scheduler/scheduler_config.json")
    scheduler = DDPMPaperScheduler.from_config(stored)
    size = unet["sample_size"]
    weights = sorted((folder / model).glob("*.safetensors"))
    variants = variants_of(path.name for path in weights)
    loadable = variants | variants_of(path for path in beside if re.fullmatch(rf"{model}/.*\.safetensors", path))
    text, latent = _text_facts(folder, unet), _latent_facts(folder, unet)
    size = [size, size] if isinstance(size, int) else size
    low = LowResolutionSettings.of(unet) if JOINED in (unet.get(OWN_CONFIG_KEY) or {}) else None
    return {
        "low": low,
        "latent": latent,
        "channels": unet["in_channels"] // (1 if low is None else 2) if latent is None else latent["channels"],
        "size": size if latent is None or size is None else [latent["factor"] * side for side in size],
        "parameters": sum(map(count_parameters, weights)) // max(1, len(variants)),
        "variant": min(loadable, default=""),  # "" sorts first: these weights load without naming a variant
        "scheduler": scheduler,
        "schedule": _describe_schedule(scheduler),
        "kind": unet.get("_class_name", "UNet2DModel"),
        "num_classes": None if low else number_of_classes(unet),
        "embeds_classes": low is None and embeds_classes(unet),
        "text": text,
        "in_stock": in_stock(scheduler)
        + ([] if text is None else text_in_stock(text["settings"]))
        + ([] if latent is None else latent["in_stock"]),
    }


def _text_facts(folder: Path, unet: dict[str, Any]) -> dict[str, Any] | None:
    """How a model is told of text; None if it is not."""
    if unet.get("_class_name") != "UNet2DConditionModel" or not is_told_of_text(unet):
        return None
    config = folder / "text_encoder" / "config.json"
    kinds = read_json(config).get("architectures") if config.is_file() else None
    return {"settings": TextSettings.of(unet), "encoder": kinds[0] if kinds else None}


def _latent_facts(folder: Path, unet: dict[str, Any]) -> dict[str, Any] | None:
    """The autoencoder of a latent diffusion; None if there is none."""
    config = next((path for name in ("vae", "vqvae") if (path := folder / name / "config.json").is_file()), None)
    if config is None:
        return None
    autoencoder = read_json(config)
    family = read_json(folder / "model_index.json").get("_class_name")
    return {
        "kind": autoencoder.get("_class_name", "AutoencoderKL"),
        "family": family,
        "channels": autoencoder["in_channels"],
        "factor": 2 ** (len(autoencoder["block_out_channels"]) - 1),
        "latent_channels": unet["in_channels"],
        "in_stock": latent_in_stock(family, autoencoder, unet),
    }


def _describe_schedule(scheduler: DDPMPaperScheduler) -> str:
    config = scheduler.config
    if config.trained_betas is None:
        return f"`{config.beta_schedule}`"
    log_abar = scheduler.schedule.log_alphas_cumprod[[1, -1]].tolist()
    first, last = (value - math.log(-math.expm1(value)) if value > -math.inf else value for value in log_abar)
    return f"given by its betas, with a log signal-to-noise ratio from {first:.2f} to {last:.2f}"


def _network_distances(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The Fréchet distances of features of networks, with what the card says of each."""
    distances = []
    for name, note in NOTES.items():
        key = f"frechet_distance_{name}"
        if key in metrics:
            words, equal = FRECHET_DISTANCES[name], metrics.get(f"{key}_at_equal_numbers", {})
            distances.append({"words": words, "note": note, "value": metrics[key], "equal": equal})
    return distances
