# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The part of the model card that is of an image encoder, and where an image encoder's files are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..results import Metrics
from .card_parts import ENCODING, CardParts, parameters_in
from .saved_files import read_json, readable_json


IMAGE_ENCODER_INDEX = "config.json"  # in the folder of a model that is saved alone
TEXT_PROJECTION = "text_projection.safetensors"
IMAGE_ENCODER_TEMPLATE = Path(__file__).with_name("image_encoder_card.md")
IMAGE_ENCODER_TAGS = ("ddpm_hf", "clip", "image-encoder")
ARCHITECTURE = "CLIPVisionModelWithProjection"


def is_image_encoder(folder: Path) -> bool:
    """Whether the folder holds a `CLIPVisionModelWithProjection` that is saved alone, and no pipeline."""
    return ARCHITECTURE in (readable_json(folder / IMAGE_ENCODER_INDEX).get("architectures") or [])


def image_encoder_files(folder: Path) -> list[Path]:
    """The configuration and the weights of an image encoder that is saved alone."""
    weights = sorted(path for path in folder.glob("model*") if path.suffix in (".safetensors", ".json"))
    return [folder / IMAGE_ENCODER_INDEX, *weights, *folder.glob(TEXT_PROJECTION)]


def image_encoder_parts(folder: Path, metrics: Metrics, beside: Collection[str]) -> CardParts | None:
    """The part of the card of an image encoder; None for another folder."""
    if not is_image_encoder(folder):
        return None
    facts = _facts(read_json(folder / IMAGE_ENCODER_INDEX))
    facts["parameters"] = parameters_in(folder, "model*.safetensors")
    return CardParts(IMAGE_ENCODER_TEMPLATE, ENCODING, IMAGE_ENCODER_TAGS, facts)


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The template's values that come from the configuration."""
    size = config["image_size"]
    return {
        "channels": config["num_channels"],
        "size": [size, size],
        "width": config["projection_dim"],
        "layers": config["num_hidden_layers"],
        "patch": config["patch_size"],
    }
