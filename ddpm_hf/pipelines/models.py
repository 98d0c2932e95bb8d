# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The check that a pipeline can call a model."""

from __future__ import annotations

import inspect
from typing import Any

from diffusers import ModelMixin


def check_unet(unet: Any) -> None:
    """Raise ValueError for a diffusers model that needs more arguments than a sample and its timestep."""
    if not isinstance(unet, ModelMixin):
        return  # a compiled or wrapped model
    first, *others = list(inspect.signature(type(unet).forward).parameters.values())[1:]
    needs = [each.name for each in others if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    if needs != ["timestep"]:
        raise ValueError(
            f"`unet` must be a model of a sample and a timestep, such as a UNet2DModel, but is"
            f" {type(unet).__name__}, which takes {', '.join([first.name, *needs])}."
        )
