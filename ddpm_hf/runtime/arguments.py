# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Fields of the dataclasses for command-line arguments."""

from __future__ import annotations


def help_text(text: str) -> dict[str, str]:
    return {"help": text}
