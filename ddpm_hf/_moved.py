# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Modules under the names that they had before version 0.2: each is found where it is now, with a warning.

Saved configurations name such modules, and so does code that was written against version 0.1. They go in version 0.3.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any


MOVED: dict[str, tuple[str, ...]] = {
    "decoders": ("diffusion.discretized_likelihood",),
    "denoising_errors": ("diffusion.denoising_errors",),
    "gaussian_process": ("diffusion.gaussian_process",),
    "importance_weighting": ("likelihood.importance_weighting",),
    "langevin": ("diffusion.langevin",),
    "measurement": ("likelihood.measurement",),
    "model_card": ("hub.model_card",),
    "noise_schedule": ("diffusion.noise_schedule",),
    "numerics": ("diffusion.numerics",),
    "objectives": ("diffusion.losses", "diffusion.timestep_sampling"),
    "pipeline_ddpm_paper": ("pipelines.pipeline_ddpm_paper",),
    "probability_flow": ("diffusion.probability_flow", "likelihood.ode"),
    "reverse_process": (
        "diffusion.reverse_process",
        "diffusion.reverse_coefficients",
        "diffusion.reverse_variances",
        "diffusion.constraints",
    ),
    "scheduler_config": ("schedulers.configuration",),
    "scheduling_ddpm_paper": ("schedulers.scheduling_ddpm_paper",),
    "timesteps": ("diffusion.timestep_spacing",),
}


class _Finder:  # of no abstract class: `importlib.abc` takes longer to load than the rest of this package
    """Finds `ddpm_hf.<old name>`: an empty module that looks its names up in the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return importlib.machinery.ModuleSpec(fullname, self) if package == "ddpm_hf" and name in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__.rpartition(".")[2]]
        warnings.warn(
            f"`{module.__name__}` is now `ddpm_hf.{'` and `ddpm_hf.'.join(new)}`; the old name goes in version 0.3.",
            DeprecationWarning,
            stacklevel=2,
        )

        def look_up(name: str) -> Any:
            for each in new:
                found = importlib.import_module(f"ddpm_hf.{each}")
                if hasattr(found, name):
                    return getattr(found, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = look_up


def find_moved_modules() -> None:
    """From now on `import ddpm_hf.<old name>` works."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
