# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The documents as a site: it builds without a warning, has every public name, and needs no network to be read."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

import ddpm_hf


pytest.importorskip("mkdocs", reason="the site needs the extra docs")


pytestmark = pytest.mark.processes(1)

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("diffusion", "likelihood", "compression", "schedulers", "pipelines")
EXTENDED = (  # what users subclass or call to train something else
    "tasks.base",
    "conditioning.conditioner",
    "training.step",
    "training.state",
    "training.run_state",
    "training.method",
    "cli.train",
    "results",
    "hub.push",
    "hub.space",
    "app.serving",
    "hub_errors",
)
MODULES = [f"{room}.{each.name}" for room in ROOMS for each in pkgutil.iter_modules([str(ROOT / "ddpm_hf" / room)])]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True)
    assert built.returncode == 0, built.stderr.decode()
    return folder


@pytest.fixture(scope="module")
def documented(site: Path) -> set[str]:
    """The full names of the objects in the API reference, as its inventory lists them for other sites."""
    *_, compressed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    return {line.split(" ")[0] for line in zlib.decompress(compressed).decode().splitlines()}


def public_names(module: ModuleType) -> Iterator[str]:
    """Functions and classes that the module defines, and methods of the classes, by their full names."""
    for name, value in vars(module).items():
        is_own = name in module.__dict__ and getattr(value, "__qualname__", "") == name
        if name.startswith("_") or not is_own or inspect.getmodule(value) is not module:
            continue
        yield f"{module.__name__}.{name}"
        if inspect.isclass(value):
            methods = (member for member, each in vars(value).items() if inspect.isfunction(each) and each.__doc__)
            yield from (f"{module.__name__}.{name}.{each}" for each in methods if not each.startswith("_"))


@pytest.mark.parametrize("module", [*MODULES, *EXTENDED])
def test_the_reference_has_every_public_name(module: str, documented: set[str]) -> None:
    names = set(public_names(importlib.import_module(f"ddpm_hf.{module}")))
    assert names - documented == set()


def test_the_reference_lists_what_the_package_gives(site: Path) -> None:
    page = (site / "api" / "index.html").read_text(encoding="utf-8")
    assert {name for name in ddpm_hf.__all__ if f"<code>{name}</code></a>" not in page} == {"__version__"}


def test_no_docstring_is_taken_for_other_markup(site: Path) -> None:
    """ "> 0" at the start of a description would be a quotation."""
    assert [path.name for path in (site / "api").glob("*.html") if "<blockquote>" in path.read_text("utf-8")] == []


def pages(site: Path) -> list[Path]:
    return [path for path in site.rglob("*.html") if "source" not in path.relative_to(site).parts]


def test_every_formula_is_set(site: Path) -> None:
    mathematics = (site / "mathematics.html").read_text(encoding="utf-8")
    assert mathematics.count("<math") > 500
    assert [path.name for path in pages(site) if "arithmatex" in path.read_text(encoding="utf-8")] == []


class Sources(HTMLParser):
    """What a browser loads to show a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.found.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.found.append(given.get("href") or "")


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = {path.name: Sources(path).found for path in pages(site)}
    assert all(loaded.values())
    outside = re.compile(r"^(https?:)?//")
    assert {name: [each for each in found if outside.match(each)] for name, found in loaded.items() if found} == {
        name: [] for name in loaded
    }
