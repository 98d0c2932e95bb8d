# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The part of the model card that is of unCLIP: of a prior alone, or of a prior with its decoder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..conditioning.image_encoders import EmbeddingSettings
from ..conditioning.text import TextSettings
from ..results import Metrics
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .card_parts import ENCODING, TEXT_TO_IMAGE, CardParts, example_prompt, parameters_in
from .in_stock import in_stock
from .saved_files import read_json, readable_json


UNCLIP_TEMPLATE = Path(__file__).with_name("unclip_card.md")
UNCLIP_TAGS = ("ddpm_hf", "ddpm", "diffusion", "unclip", "dall-e-2")
UNCLIP, PRIOR = "UnCLIPPipeline", "KandinskyV22PriorPipeline"  # the stock pipelines that the indices name
FOLDERS = {UNCLIP: ("decoder", "decoder_scheduler"), PRIOR: ("prior", "scheduler")}  # of the model that was trained


def unclip_family(folder: Path) -> str | None:
    """The stock pipeline that the index in a folder names, if it is of unCLIP; else None."""
    named = readable_json(folder / "model_index.json").get("_class_name")
    return named if named in FOLDERS else None


def unclip_parts(folder: Path, metrics: Metrics, beside: Collection[str]) -> CardParts | None:
    """The part of the card of a pipeline of unCLIP; None for another folder."""
    family = unclip_family(folder)
    if family is None:
        return None
    model, process = FOLDERS[family]
    names = {"prior", "image_encoder", model}
    scheduler = DDPMPaperScheduler.from_config(read_json(folder / process / "scheduler_config.json"))
    facts = _facts(family, {name: read_json(folder / name / "config.json") for name in names})
    facts |= {
        "scheduler": scheduler,
        "parameters": parameters_in(folder / model),
        "in_stock": in_stock(scheduler),
        "prompt": example_prompt(metrics),
    }
    return CardParts(UNCLIP_TEMPLATE, TEXT_TO_IMAGE if facts["is_whole"] else ENCODING, UNCLIP_TAGS, facts)


def _facts(family: str, configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
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
