# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The documents: the names in them exist, everything public is documented, and the examples run."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import ddpm_hf


ROOT = Path(__file__).resolve().parents[1]
MATHEMATICS = ROOT / "docs" / "mathematics.md"
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
CORE = (
    "diffusion.noise_schedule",
    "diffusion.gaussian_process",
    "diffusion.denoiser",
    "diffusion.reverse_process",
    "diffusion.constraints",
    "diffusion.guidance",
    "diffusion.discretized_likelihood",
    "diffusion.bound_terms",
    "diffusion.guidance",
    "diffusion.losses",
    "diffusion.timestep_sampling",
    "diffusion.timestep_spacing",
    "diffusion.probability_flow",
    "diffusion.multistep",
    "diffusion.langevin",
    "diffusion.gaussian_diffusion",
    "likelihood.batches",
    "likelihood.variational",
    "likelihood.ode",
)
MATHEMATICS_ROOMS = ("diffusion", "likelihood", "schedulers")

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
DOTTED_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(.*\))?")


def python_blocks(document: Path) -> list[str]:
    """The ```python blocks of a document, on the lines that they have there, so that a traceback points into it."""
    text = document.read_text(encoding="utf-8")
    matches = [match for match in FENCE.finditer(text) if match[1] == "python"]
    return ["\n" * text[: match.start(2)].count("\n") + match[2] for match in matches]


def prose(document: Path) -> str:
    """The document without its fenced blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def dotted_names(document: Path) -> set[str]:
    """The `module.name`s in code font, without arguments."""
    matches = (DOTTED_NAME.fullmatch(span) for span in CODE_SPAN.findall(prose(document)))
    return {match[1] for match in matches if match}


MODULES = {  # of the mathematics, by their own names: the document names no rooms
    module.name: f"ddpm_hf.{room}.{module.name}"
    for room in MATHEMATICS_ROOMS
    for module in pkgutil.iter_modules([str(ROOT / "ddpm_hf" / room)])
}


def resolve(name: str) -> Any:
    """What a dotted name means: in a module of the mathematics, in ddpm_hf, or in a package by itself."""
    root, *path = name.split(".")
    if root in MODULES:
        value = importlib.import_module(MODULES[root])
    else:
        value = getattr(ddpm_hf, root) if hasattr(ddpm_hf, root) else importlib.import_module(root)
    for part in path:
        value = field_of(value, part) if inspect.isclass(value) and not hasattr(value, part) else getattr(value, part)
    return value


def field_of(cls: type, name: str) -> Any:
    """A field that only instances have."""
    if dataclasses.is_dataclass(cls):
        return {field.name: field for field in dataclasses.fields(cls)}[name]
    return getattr(cls(), name)


def public_names(module: ModuleType) -> Iterator[str]:
    """Functions, and methods and properties of classes, that the module defines: "module.function"."""
    prefix = module.__name__.rpartition(".")[2]
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield f"{prefix}.{name}"
        elif inspect.isclass(value) and not getattr(value, "_is_protocol", False):
            kinds = (property, cached_property, classmethod, staticmethod)
            for member, attribute in vars(value).items():
                if not member.startswith("_") and (inspect.isfunction(attribute) or isinstance(attribute, kinds)):
                    yield f"{prefix}.{name}.{member}"


def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", sorted(dotted_names(MATHEMATICS)))
def test_every_name_exists(name: str) -> None:
    resolve(name)


@pytest.mark.parametrize("module", CORE)
def test_everything_public_is_mentioned(module: str) -> None:
    names = set(public_names(importlib.import_module(f"ddpm_hf.{module}")))
    assert names
    assert names - dotted_names(MATHEMATICS) == set()


def test_the_mathematics_runs() -> None:
    namespace: dict[str, Any] = {}
    blocks = python_blocks(MATHEMATICS)
    assert len(blocks) > 5
    with torch.random.fork_rng(devices=[]):
        for block in blocks:
            exec(compile(block, str(MATHEMATICS), "exec"), namespace)


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path != MATHEMATICS], ids=lambda path: path.name)
def test_other_examples_compile(document: Path) -> None:
    for block in python_blocks(document):
        compile(block, str(document), "exec")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_a_document_lead_somewhere(document: Path) -> None:
    assert set(re.findall(r"\]\(#([^)]+)\)", prose(document))) <= anchors(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_inline_formulas_end_on_their_line(document: Path) -> None:
    """GitHub does not set a formula that is broken over two lines."""
    lines = CODE_SPAN.sub("", prose(document)).splitlines()
    assert [line for line in lines if line.count("$") % 2 and line.strip() != "$$"] == []
