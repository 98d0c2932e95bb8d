# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Reloads the settings that the Hub's client read when it was imported."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


READ_AGAIN = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_", "HF_TOKEN")


def read_hub_settings() -> None:
    """Set the client's settings, and the copies in other modules, to those of the current environment."""
    import huggingface_hub
    from huggingface_hub import constants, hf_api

    before = dict(vars(constants))
    importlib.reload(constants)
    changed = {name: value for name, value in vars(constants).items() if name.isupper() and value != before[name]}
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and module is not constants:
            for name in changed.keys() & vars(module).keys():
                if vars(module)[name] == before[name]:
                    setattr(module, name, changed[name])
    hf_api.api.endpoint = constants.ENDPOINT
    if "transformers.utils.hub" in sys.modules:
        sys.modules["transformers.utils.hub"]._hf_api = None  # made at its first use, for the Hub of that time
    huggingface_hub.close_session()
