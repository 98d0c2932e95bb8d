# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Processes of their own that speak to the Hub on loopback, with nothing of this machine's cache or tokens."""

from __future__ import annotations

import os
from pathlib import Path

from loopback_hub import LoopbackHub


def environment(hub: LoopbackHub, home: Path, token: str | None) -> dict[str, str]:
    """The Hub's address, a cache of its own and a token if it has one; none of this machine's own settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    kept |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | ({"HF_TOKEN": token} if token else {})
