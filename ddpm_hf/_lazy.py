# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Public names and modules load on first use (PEP 562), so that importing a package costs only what is used."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from ._renamed import RENAMED, warn_of_old_name


def lazy_names(
    package: str, modules: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package: its full name.
        modules: for each module, named relative to the package, the names that the package exports from it.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if RENAMED.get(name) in module_of:
            warn_of_old_name(f"{package}.{name}", f"{package}.{RENAMED[name]}")
            name = RENAMED[name]
        if name in module_of:
            return getattr(importlib.import_module(f".{module_of[name]}", package), name)
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    names = sorted(module_of)
    return get, lambda: names, names
