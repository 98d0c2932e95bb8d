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


def labels_of_each(class_labels: Any, count: int, num_images_per_prompt: int) -> Any:
    """Classes of which several images each are drawn, as one for each of `count` images; others as they are."""
    number = number_of_labels(class_labels)
    if number is None or number == count or number * num_images_per_prompt != count:
        return class_labels
    labels = class_labels.tolist() if hasattr(class_labels, "tolist") else class_labels
    return [label for label in labels for _ in range(num_images_per_prompt)]
