# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Runs a command, and reports errors in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ..runtime.errors import end, run_errors
from .parsing import parse


def program() -> str:
    """The name by which the command was called: "train.py", or "ddpm-hf train"."""
    return Path(sys.argv[0]).name


def run_script(work: Callable[..., None], *classes: type) -> None:
    """Fill `classes` from the command line, and call `work(program, *arguments)`."""
    script = program()
    arguments = parse(script, *classes)
    with run_errors(script):
        work(script, *arguments)
        end()
