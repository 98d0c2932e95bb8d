# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Modules under their names before version 0.2: each looks its names up in their new modules.

The modules are in `sys.modules` from the start, since stock pipelines look only there for the module that a saved
model_index.json names. They import nothing until a name is used.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ._renamed import RENAMED, warn_of_old_name


MOVED: dict[str, tuple[str, ...]] = {
    "decoders": ("diffusion.discretized_likelihood",),
    "denoising_errors": ("diffusion.denoising_errors",),
    "gaussian_process": ("diffusion.gaussian_process",),
    "importance_weighting": ("likelihood.importance_weighting",),
    "langevin": ("diffusion.langevin",),
    "measurement": ("likelihood.measurement",),
    "model_card": (
        "hub.model_card",
        "hub.card_sections",
        "hub.pipeline_card",
        "hub.in_stock",
        "hub.saved_files",
        "results",
    ),
    "noise_schedule": ("diffusion.noise_schedule",),
    "numerics": ("diffusion.numerics",),
    "objectives": ("diffusion.losses", "diffusion.timestep_sampling"),
    "pipeline_ddpm_paper": ("pipelines.pipeline_ddpm_paper", "pipelines.images"),
    "probability_flow": ("diffusion.probability_flow", "likelihood.ode", "diffusion.ode_solver"),
    "reverse_process": (
        "diffusion.reverse_process",
        "diffusion.reverse_coefficients",
        "diffusion.reverse_variances",
        "diffusion.constraints",
    ),
    "scheduler_config": ("schedulers.configuration",),
    "scheduling_ddpm_paper": (
        "schedulers.scheduling_ddpm_paper",
        "schedulers.configured_chain",
        "schedulers.configuration",
        "schedulers.construction",
    ),
    "timesteps": ("diffusion.timestep_spacing",),
}
NAMED_IN_SAVED_FILES = {"scheduling_ddpm_paper"}  # by model_index.json of stock pipelines: these stay, and do not warn


class _MovedModule(ModuleType):
    """A module without content. Its names come from other modules, with a warning."""

    def __init__(self, old: str, new: tuple[str, ...]):
        super().__init__(f"ddpm_hf.{old}", f"Now {' and '.join(f'ddpm_hf.{each}' for each in new)}.")
        self.__spec__ = importlib.machinery.ModuleSpec(self.__name__, None)
        self.__package__, self.__file__ = "ddpm_hf", str(Path(__file__).parent / f"{new[0].replace('.', '/')}.py")
        self._new, self._warns = new, old not in NAMED_IN_SAVED_FILES

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):  # tools ask every module for such names, which should import nothing
            todays = RENAMED.get(name, name)
            for each in self._new:
                found = importlib.import_module(f"ddpm_hf.{each}")
                if hasattr(found, todays):
                    if self._warns:
                        warn_of_old_name(f"{self.__name__}.{name}", f"ddpm_hf.{each}.{todays}")
                    return getattr(found, todays)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def register_moved_modules() -> None:
    """Make `import ddpm_hf.<old name>` work."""
    for old, new in MOVED.items():
        sys.modules.setdefault(f"ddpm_hf.{old}", _MovedModule(old, new))
