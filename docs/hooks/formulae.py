# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Formulae as MathML, converted while the site is built, so that a reader's browser loads no script for them.

The extension `pymdownx.arithmatex` finds the formulae. Any formula that cannot be converted is a warning, which
`mkdocs build --strict` turns into a failure.
"""

from __future__ import annotations

import html
import logging
import re
from typing import Any

from math_core import LatexError, LatexToMathML


log = logging.getLogger("mkdocs.hooks.formulae")

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
DISPLAYED = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
TAG = re.compile(r"\\tag\{(\w+)\}\s*$")
CONVERTER = LatexToMathML(fancy_error=False)


def on_page_content(content: str, *, page: Any, **_: Any) -> str:
    """The page with MathML in the place of TeX."""
    where = page.file.src_uri
    content = DISPLAYED.sub(lambda match: displayed(html.unescape(match[1]), where), content)
    return INLINE.sub(lambda match: converted(html.unescape(match[1]), False, where), content)


def displayed(latex: str, where: str) -> str:
    """A formula on lines of its own, with the number that its `\\tag` gives it."""
    tag = TAG.search(latex)
    number = f'<span class="number">({tag[1]})</span>' if tag else ""
    return f'<div class="formula">{converted(TAG.sub("", latex), True, where)}{number}</div>'


def converted(latex: str, is_displayed: bool, where: str) -> str:
    """MathML of a formula; the TeX in code font, and a warning, where there is none."""
    try:
        latex = latex.replace(r"\cr", r"\\")  # which Markdown would take for an escaped backslash
        return CONVERTER.convert_with_local_state(latex.strip(), displaystyle=is_displayed)
    except LatexError as error:
        log.warning("%s: the formula %s cannot be shown: %s", where, latex.strip(), error)
        return f"<code>{html.escape(latex)}</code>"
