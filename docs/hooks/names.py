# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Names of functions in the mathematics, such as `gaussian_process.q_sample`, as links into the API reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.pages import Page


PACKAGE = Path(__file__).resolve().parents[2] / "ddpm_hf"
MODULES = {
    module.stem: f"ddpm_hf.{room}.{module.stem}"
    for room in ("diffusion", "likelihood", "schedulers")
    for module in (PACKAGE / room).glob("[a-z]*.py")
}
NAME = re.compile(r"<code>(\w+)((?:\.\w+)+)</code>")
MARKED_UP = re.compile(r"<code>`[^<]*</code>")  # types as diffusers writes them in docstrings, (`int`, *optional*)
SCHEDULER = f"{MODULES['scheduling_ddpm_paper']}.DDPMPaperScheduler"


def on_page_content(content: str, *, page: Page, **_: Any) -> str:
    """The page with references, which stay plain text where the API reference has no such name."""
    if page.file.src_uri == "mathematics.md":
        return NAME.sub(linked, content)
    if page.file.src_uri.startswith("api/"):
        return MARKED_UP.sub(lambda code: re.sub("[`*]", "", code[0]), content)
    return content


def linked(name: re.Match[str]) -> str:
    start = SCHEDULER if name[1] == "DDPMPaperScheduler" else MODULES.get(name[1])
    if start is None:
        return name[0]
    return f'<autoref identifier="{start}{name[2]}" optional>{name[0]}</autoref>'
