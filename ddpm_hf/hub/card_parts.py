# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What the card of one kind of saved model has of its own."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..results import Metrics
from .saved_files import count_parameters


# The Hub's names of the tasks.
UNCONDITIONAL = ("unconditional-image-generation", "Unconditional Image Generation")
TEXT_TO_IMAGE = ("text-to-image", "Text-to-Image")
ENLARGING = ("image-to-image", "Image-to-Image")
ENCODING = ("image-feature-extraction", "Image Feature Extraction")


@dataclass(frozen=True)
class CardParts:
    """What the card of one kind of saved model has of its own.

    Attributes:
        template: the file of its sections. One without a section on the training gets that of `model_card.md`.
        task: the Hub's name of the task, and its title.
        tags: the card's tags.
        facts: the template's values that come from the saved model.
    """

    template: Path
    task: tuple[str, str]
    tags: tuple[str, ...]
    facts: dict[str, Any]


class Kind(Protocol):
    """A kind of saved model: its part of the card of a folder, or None for a folder that holds another kind.

    `beside` are files of the same repository that are not in the folder, as in `fill_card`.
    """

    def __call__(self, folder: Path, metrics: Metrics, beside: Collection[str]) -> CardParts | None:
        """The parts of the card, or None."""


def example_prompt(metrics: Metrics) -> str:
    """A prompt for an example, in quotes: the first that the training itself drew samples of."""
    asked = metrics.get("settings", {}).get("validation_prompts")
    return json.dumps(asked[0] if asked else "red heart", ensure_ascii=False)


def parameters_in(folder: Path, weights: str = "*.safetensors") -> int:
    """The number of parameters in the weights of a folder."""
    return sum(map(count_parameters, folder.glob(weights)))
