# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Processes of their own that speak to the Hub on loopback, with nothing of this machine's cache or tokens."""

from __future__ import annotations

import os
from pathlib import Path

from loopback_hub import LoopbackHub


def environment(hub: LoopbackHub, home: Path, token: str | None = None) -> dict[str, str]:
    """What a client's process needs: the Hub's address, a cache of its own, and a token if it has one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return {**kept, **own, **({} if token is None else {"HF_TOKEN": token})}
