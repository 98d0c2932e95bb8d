# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Clients of the loopback Hub, without the caches and tokens of this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from hub_settings import read_hub_settings
from huggingface_hub.utils import _http, enable_progress_bars, set_client_factory
from loopback_hub import LoopbackHub


def environment(hub: LoopbackHub, home: Path, token: str | None) -> dict[str, str]:
    """The environment of a new interpreter, without this machine's settings of the Hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return kept | {"OMP_NUM_THREADS": "1"} | settings(hub, home, token)


def settings(hub: LoopbackHub, home: Path, token: str | None) -> dict[str, str]:
    """Environment variables of a client: the Hub's address, a cache of its own, and a token if there is one."""
    address = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return address | {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": token or ""}


@contextlib.contextmanager
def as_client(hub: LoopbackHub, home: Path, token: str | None) -> Iterator[None]:
    """A context in which this process is a client of the Hub."""
    factory = _http._GLOBAL_CLIENT_FACTORY
    try:
        with mock.patch.dict(os.environ, settings(hub, home, token)):
            read_hub_settings()
            yield
    finally:
        read_hub_settings()
        set_client_factory(factory)
        enable_progress_bars()
