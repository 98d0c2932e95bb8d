# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The sections of a model card, and merging a new card with one that somebody may have edited.

A section stands between `<!-- ddpm_hf: name -->` and `<!-- /ddpm_hf: name -->`. In a filled card its opening mark has
a checksum, which shows whether somebody has edited the section or it may be replaced.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard import RepoCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from ..results import MEASURES


_SECTION = re.compile(r"<!-- ddpm_hf: (\w+)(?: (\w+))? -->\n(.*?)\n?<!-- /ddpm_hf: \1 -->", re.DOTALL)


def merge_cards(existing: str, filled: str, are_figures_gone: bool = False, license: str | None = None) -> str:
    """The existing card with its sections replaced by those of `filled`; everything written by hand is kept.

    Text outside of sections stays, edited sections stay as they are, and removed sections stay removed. Metadata are
    only added. In `model-index`, results of the same metric on the same data are replaced; `are_figures_gone` removes
    the results of our own measures. `license` replaces the existing card's licence.

    Raises:
        ValueError: if the existing card's metadata cannot be read.
    """
    old, new = parse_card(existing), parse_card(filled)
    sections = {match[1]: match[0] for match in _SECTION.finditer(new.text)}
    if _SECTION.search(old.text):
        old.text = _SECTION.sub(lambda match: _newer(match, sections), old.text)
    else:
        old.text = old.text.rstrip() + "\n\n" + "\n\n".join(sections.values()) + "\n"
    if are_figures_gone and old.data.get("model-index") is not None:
        old.data["model-index"] = _without_measures(old.data["model-index"])
    for key, value in new.data.to_dict().items():
        old.data[key] = _merged_metadata(key, old.data.get(key), value)
    if license is not None:
        old.data["license"] = license
    return str(old)


def parse_card(card: str) -> RepoCard:
    """A card with its metadata.

    Raises:
        ValueError: if the metadata cannot be read.
    """
    try:
        return RepoCard(card.replace("\r\n", "\n"))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"the metadata of the model card cannot be read: {problem}") from error


def section_of(template: str, name: str) -> str:
    """The section of this name in a template, with its marks."""
    return next(match[0] for match in _SECTION.finditer(template) if match[1] == name)


def stamped(text: str) -> str:
    """A card whose sections have the checksums of their content."""
    return _SECTION.sub(lambda section: _stamped(section[1], section[3]), text)


def _checksum(text: str) -> str:
    """The checksum of a section; it ignores changes to line ends and trailing space."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _stamped(name: str, text: str) -> str:
    return f"<!-- ddpm_hf: {name} {_checksum(text)} -->\n{text.strip()}\n<!-- /ddpm_hf: {name} -->"


def _newer(section: re.Match[str], sections: dict[str, str]) -> str:
    name, checksum, text = section.groups()
    return sections.get(name, section[0]) if checksum == _checksum(text) else section[0]


def _merged_metadata(key: str, old: Any, new: Any) -> Any:
    if old is None:
        return new
    if key in ("tags", "datasets"):
        old = old if isinstance(old, list) else [old]
        return old + [value for value in new if value not in old]
    return _merged_results(old, new) if key == "model-index" else old


def _merged_results(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two model indices merged; new results replace old ones of the same metric on the same data."""
    name, kept = _results(old)
    _, fresh = _results(new)

    def what(result: EvalResult) -> tuple:
        return result.unique_identifier, result.metric_type

    replaced = {what(result) for result in fresh}
    return eval_results_to_model_index(name, [*(result for result in kept if what(result) not in replaced), *fresh])


def _without_measures(index: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """A model index without the results of this package; None, which is not written, if nothing is left."""
    name, results = _results(index)
    ours = {measure.metric for measure in MEASURES}
    kept = [result for result in results if result.metric_type not in ours]
    return eval_results_to_model_index(name, kept) if kept else None


def _results(index: list[dict[str, Any]]) -> tuple[str, list[EvalResult]]:
    try:
        return model_index_to_eval_results(index)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"the `model-index` of the model card is invalid: {error!r}") from error
