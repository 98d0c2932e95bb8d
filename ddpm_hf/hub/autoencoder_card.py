# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The part of the model card that is of an autoencoder, and where an autoencoder's files are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..likelihood.decoder_law import GAUSSIAN, LOGISTIC, DecoderLaw
from ..results import Metrics
from ..schedulers.configuration import OWN_CONFIG_KEY
from .card_parts import ENCODING, CardParts, parameters_in
from .saved_files import read_json, readable_json


AUTOENCODER_INDEX = "config.json"  # in the folder of a model that is saved alone
AUTOENCODER_TEMPLATE = Path(__file__).with_name("autoencoder_card.md")
LAW_NAMES = {GAUSSIAN: "Gaussian", LOGISTIC: "logistic distribution"}
AUTOENCODER_TAGS = ("ddpm_hf", "autoencoder", "vae")


def is_autoencoder(folder: Path) -> bool:
    """Whether the folder holds an `AutoencoderKL` that is saved alone, and no pipeline."""
    return readable_json(folder / AUTOENCODER_INDEX).get("_class_name") == "AutoencoderKL"


def autoencoder_files(folder: Path) -> list[Path]:
    """The configuration and the weights of an autoencoder that is saved alone."""
    weights = sorted(
        path for path in folder.glob("diffusion_pytorch_model*") if path.suffix in (".safetensors", ".json")
    )
    return [folder / AUTOENCODER_INDEX, *weights]


def autoencoder_parts(folder: Path, metrics: Metrics, beside: Collection[str]) -> CardParts | None:
    """The part of the card of an autoencoder; None for another folder."""
    if not is_autoencoder(folder):
        return None
    facts = _facts(read_json(folder / AUTOENCODER_INDEX)) | {"parameters": parameters_in(folder)}
    return CardParts(AUTOENCODER_TEMPLATE, ENCODING, AUTOENCODER_TAGS, facts)


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The template's values that come from the configuration."""
    size, factor = config["sample_size"], 2 ** (len(config["block_out_channels"]) - 1)
    sides = [size, size] if isinstance(size, int) else list(size)
    own = (config.get(OWN_CONFIG_KEY) or {}).get("autoencoder") or {}
    law = DecoderLaw(**own) if own else None
    return {
        "channels": config["in_channels"],
        "size": sides,
        "latent_size": [side // factor for side in sides],
        "latent_channels": config["latent_channels"],
        "factor": factor,
        "scaling_factor": config["scaling_factor"],
        "law": law,
        "law_name": law and LAW_NAMES[law.family],
    }
