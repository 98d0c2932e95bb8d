# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The model card, filled from the files of a saved model.

Each kind of saved model has a template, which consists of sections; see `card_sections`, which also merges a new card
with an existing one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..results import DIGITS, METRICS, Metrics, measured, understood
from .autoencoder_card import autoencoder_parts
from .card_parts import CardParts, Kind
from .card_sections import section_of, stamped
from .image_encoder_card import image_encoder_parts
from .pipeline_card import TEMPLATE, pipeline_parts
from .saved_files import read_json
from .unclip_card import unclip_parts


CARD, SAMPLES = "README.md", "samples.png"
KINDS: tuple[Kind, ...] = (autoencoder_parts, image_encoder_parts, unclip_parts, pipeline_parts)  # the last takes all
LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"


def fill_card(
    folder: Path,
    name: str,
    metrics: dict[str, Any] | None = None,
    beside: Collection[str] = (),
    license: str | None = None,
) -> str:
    """The card of the pipeline, or of the autoencoder, saved in `folder`.

    Args:
        folder: the saved pipeline or autoencoder.
        name: the name that users pass to `from_pretrained`: a name on the Hub, or the folder's path.
        metrics: the content of a metrics.json; if None, of the folder's. Unknown keys are ignored.
        beside: files of the same repository that are not in the folder, such as another variant's weights.
        license: the Hub's name of a licence. If None, a model of the built-in digits is under this package's licence,
            and the card of any other model names none: the data are not ours.

    Raises:
        ValueError: for weights or a metrics.json that cannot be read.
    """
    if metrics is None:
        metrics = read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
    figures = understood(metrics)
    has_samples = SAMPLES in beside or (folder / SAMPLES).is_file()
    title = folder.resolve().name if Path(name).resolve() == folder.resolve() else name
    facts = {"metrics": figures, "name": name, "title": title, "has_samples": has_samples}
    license = license or ("apache-2.0" if figures.get("data") == DIGITS else None)
    parts = next(parts for kind in KINDS if (parts := kind(folder, figures, beside)) is not None)
    metadata = _metadata(name, figures, license, parts)
    card = ModelCard.from_template(metadata, template_str=_template(parts), **facts, **parts.facts)
    card.text = stamped(card.text)
    return str(card)


def check_license(name: str | None, argument: str = "license") -> None:
    """Raise ValueError, naming the argument, for what cannot be the Hub's name of a licence; None is allowed."""
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name):
        raise ValueError(f"`{argument}` must be one of the names at {LICENSES}, such as cc-by-4.0, but is {name!r}.")


def _template(parts: CardParts) -> str:
    """The template of a kind; if it is not the common one, with the common section on the training."""
    template = parts.template.read_text("utf-8")
    if parts.template == TEMPLATE:
        return template
    return template + section_of(TEMPLATE.read_text("utf-8"), "training") + "\n"


def _metadata(name: str, metrics: Metrics, license: str | None, parts: CardParts) -> ModelCardData:
    data = metrics.get("data", "unknown")
    results = [
        EvalResult(
            task_type=parts.task[0],
            task_name=parts.task[1],
            dataset_type=metrics.get("dataset_name") or re.sub(r"\W+", "-", data).strip("-").lower(),
            dataset_name=data,
            dataset_split="test",
            metric_type=measure.metric,
            metric_name=measure.label,
            metric_value=round(value, 4),
        )
        for measure, value in measured(metrics)
    ]
    return ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag=parts.task[0],
        tags=list(parts.tags),
        datasets=[metrics["dataset_name"]] if metrics.get("dataset_name") else None,
        model_name=name.rstrip("/").split("/")[-1] if results else None,
        eval_results=results or None,
    )
