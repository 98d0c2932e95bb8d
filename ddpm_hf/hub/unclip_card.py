# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The part of the model card that is of unCLIP: of a prior alone, or of a prior with its decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..conditioning.image_encoders import EmbeddingSettings
from ..conditioning.text import TextSettings


UNCLIP_TEMPLATE = Path(__file__).with_name("unclip_card.md")
UNCLIP_TAGS = ["ddpm_hf", "ddpm", "diffusion", "unclip", "dall-e-2"]
UNCLIP, PRIOR = "UnCLIPPipeline", "KandinskyV22PriorPipeline"  # the stock pipelines that the indices name
FOLDERS = {UNCLIP: ("decoder", "decoder_scheduler"), PRIOR: ("prior", "scheduler")}  # of the model that was trained


def unclip_family(folder: Path) -> str | None:
    """The stock pipeline that the index in a folder names, if it is of unCLIP; else None."""
    try:
        named = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError):
        return None
    return named if named in FOLDERS else None


def unclip_facts(family: str, configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The template's values that come from the configurations.

    Args:
        family: as `unclip_family`.
        configs: of the prior, the image encoder, and of a whole pipeline the decoder, by their folders.
    """
    prior, encoder = configs["prior"], configs["image_encoder"]
    decoder = configs.get("decoder", {})
    size = encoder["image_size"]
    return {
        "family": family,
        "is_whole": family == UNCLIP,
        "width": prior["embedding_dim"],
        "posterior_std": EmbeddingSettings.of(prior).posterior_std,
        "text": TextSettings.of(decoder or prior),
        "size": [size, size],
        "channels": encoder["num_channels"],
    }
