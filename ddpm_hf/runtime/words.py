# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Words in what a user is told."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """A number of things: "1 step", "2 steps"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s" if noun[-1] != "x" else f"{count} {noun}es"
