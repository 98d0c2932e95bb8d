# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments of models of super-resolution, under the names of `UNet2DConditionModel` and of diffusers' scripts."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.arguments import help_text
from .presets import SUPER_RESOLUTION_PRESETS
from .text_arguments import TextModelArguments


@dataclass
class SuperResolutionModelArguments(TextModelArguments):
    """The UNet2DConditionModel, by its own argument names, what it is given, and the frozen text encoder."""

    preset: str = field(
        default="auto",
        metadata=help_text(
            f"{', '.join(SUPER_RESOLUTION_PRESETS)}: a network and settings for images of this side, in the arguments"
            " of model and training; those given win over it. auto: by the size of the images, unless a network is"
            " given below."
        ),
    )
    factor: int = field(default=2, metadata=help_text("How many times as wide and high the images become."))
    max_noise_level: int = field(
        default=200,
        metadata=help_text(
            "Training adds noise to the low-resolution images, of levels drawn from 0 (none) to this, at most 999."
        ),
    )
    with_text: bool = field(
        default=True,
        metadata=help_text("Tell the model of captions too; unless given, only of those of the default data."),
    )
