# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Class labels of a pipeline's call, and the conditioning that they become."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor

from ..conditioning.classes import ClassLabels, requested_classes
from .guidance import ConditionersOf, Guidance


def class_arguments(
    unet: ModelMixin,
    conditioners_of: ConditionersOf,
    class_labels: ClassLabels,
    count: int,
    guidance: Guidance,
    device: torch.device,
) -> dict[str, Tensor]:
    """The model's further arguments for `count` images of these classes, or of no class.

    Raises:
        ValueError: if labels or guidance do not fit the model.
    """
    guidance.check(unet, conditioners_of)
    columns = requested_classes(unet.config, class_labels, count)
    if columns is None and guidance.is_classifier_free:
        raise ValueError(
            f"`guidance_scale` must be 1 for images of no class, but is {guidance.guidance_scale}; pass"
            " `class_labels`."
        )
    conditioners = conditioners_of(unet)
    if not conditioners.members:
        return {}
    return conditioners.null(count, device) if columns is None else conditioners.make(columns, device)


def number_of_labels(class_labels: Any) -> int | None:
    """The number of images that a list of classes asks for; None for one class, or none."""
    is_several = isinstance(class_labels, (list, tuple)) or getattr(class_labels, "ndim", 0) > 0
    return len(class_labels) if is_several else None
