# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Names before version 0.2, which still work with a warning and will be removed in version 0.3."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any


RENAMED = {
    "FlowBitsPerDim": "OdeBitsPerDim",
    "FlowLikelihood": "OdeLikelihood",
    "FlowResult": "OdeResult",
    "flow_bits_per_dim": "ode_bits_per_dim",
    "flow_encode": "ode_encode",
    "flow_log_likelihood": "ode_log_likelihood",
    "flow_sample": "ode_sample",
    "promote": "upcast",
    "demote": "cast_back",
}


def old_names(module: str) -> Callable[[str], Any]:
    """`__getattr__` of the module with this full name, which looks up renamed names."""

    def get(name: str) -> Any:
        values = vars(sys.modules[module])
        if RENAMED.get(name) not in values:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_of_old_name(f"{module}.{name}", RENAMED[name])
        return values[RENAMED[name]]

    return get


def warn_of_old_name(old: str, new: str) -> None:
    """Warn the caller's caller that a name has changed."""
    sentence = f"`{old}` is now `{new}`; the old name goes in version 0.3."
    warnings.warn(sentence, DeprecationWarning, stacklevel=3)
