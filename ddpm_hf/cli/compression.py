# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What the verbs of compression share: files as first arguments, and the model."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..compression.entropy_coders import require_constriction
from .running import run_script


def run_on_files(work: Callable[..., None], name: str, arguments: type) -> None:
    """`run_script` for a verb whose first arguments are files: they become the flag of this name."""
    given = sys.argv[1:]
    count = next((i for i, each in enumerate(given) if each.startswith("-")), len(given))
    if count:
        sys.argv = [sys.argv[0], f"--{name}", *given]
    run_script(work, arguments)


def model_of(model: str | None) -> str:
    """The model that the user names.

    Raises:
        ValueError: if none is named, or constriction is not installed.
    """
    require_constriction()
    if model is None:
        raise ValueError("`model` must name a folder or a model on the Hub.")
    return model
