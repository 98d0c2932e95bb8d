# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Class labels, for a `UNet2DModel` with `num_class_embeds` or a `DiTTransformer2DModel`.

A `UNet2DModel` that also works without a class has K + 1 embeddings for K classes. The last one is the null class,
which means no class. The model's configuration records it under a key that stock diffusers preserves:

    _ddpm_hf: {"null_class": K}

A `DiTTransformer2DModel` always has K + 1 embeddings for its `num_embeds_ada_norm` K classes, and a null class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..schedulers.configuration import OWN_CONFIG_KEY
from .columns import Columns
from .conditioner import Conditioner, Conditioners


LABELS = "class_labels"  # the column, the argument of a pipeline, and that of UNet2DModel
CLASSES_OF_DIT = "num_embeds_ada_norm"  # in the configuration of a DiTTransformer2DModel
OF_OTHER_FAMILIES = {"text", "low_resolution"}  # what their models record under this key

ClassLabels = int | Sequence[int] | Tensor | None


# --- what a configuration says ---------------------------------------------------------------------------------------


def embeds_classes(unet_config: Mapping[str, Any]) -> bool:
    """Whether a model with this configuration is class-conditional, and needs `class_labels` in every call."""
    kind = unet_config.get("class_embed_type")
    return kind in ("timestep", "identity") or number_of_classes(unet_config) is not None


def number_of_classes(unet_config: Mapping[str, Any]) -> int | None:
    """The number of classes K that a model with this configuration embeds by number, without the null class.

    None if it does not embed classes by number.
    """
    if CLASSES_OF_DIT in unet_config:
        return unet_config[CLASSES_OF_DIT]
    if unet_config.get("class_embed_type") is not None:
        return None
    null, embeddings = null_class(unet_config), unet_config.get("num_class_embeds")
    return embeddings if null is None else null


def null_class(unet_config: Mapping[str, Any]) -> int | None:
    """The label of the null class, which is the last one; None if the model needs a class.

    Raises:
        ValueError: if the configuration names another label.
    """
    if CLASSES_OF_DIT in unet_config:
        return unet_config[CLASSES_OF_DIT]
    stored = unet_config.get(OWN_CONFIG_KEY)
    if stored is None or (isinstance(stored, Mapping) and not OF_OTHER_FAMILIES.isdisjoint(stored)):
        return None
    embeddings = unet_config.get("num_class_embeds")
    if not isinstance(embeddings, int) or embeddings < 2 or stored != {"null_class": embeddings - 1}:
        raise ValueError(
            f"`{OWN_CONFIG_KEY}` of a model with `num_class_embeds` {embeddings} must name the last class as null"
            f" class, after at least one other, but is {stored!r}; it may come from a later version of ddpm_hf."
        )
    return embeddings - 1


def with_null_class(num_classes: int) -> dict[str, Any]:
    """The configuration of a `UNet2DModel` for `num_classes` classes and a null class."""
    return {"num_class_embeds": num_classes + 1, OWN_CONFIG_KEY: {"null_class": num_classes}}


def conditioners_of(unet_config: Mapping[str, Any]) -> Conditioners:
    """The conditioners of a model with this configuration: one for classes by number, or none."""
    classes = number_of_classes(unet_config)
    return Conditioners(() if classes is None else (ClassConditioner(classes, null_class(unet_config)),))


# --- the conditioner -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassConditioner(Conditioner):
    """Class labels, int64 `[B]`.

    Attributes:
        num_classes: K; labels are 0 … K − 1.
        null_class: the label K of the null class; None if the model needs a class.
    """

    num_classes: int
    null_class: int | None = None
    columns: ClassVar[tuple[str, ...]] = (LABELS,)
    arguments: ClassVar[tuple[str, ...]] = (LABELS,)

    @property
    def summary(self) -> str:
        return f"{self.num_classes} classes"

    @property
    def has_null(self) -> bool:
        return self.null_class is not None

    def fault(self, column: str, value: Any) -> str | None:
        if is_class(value) and value < self.num_classes:
            return None
        return f"is of class {value}; the model knows 0 ... {self.num_classes - 1}"

    def check(self, columns: Columns) -> None:
        self._checked_labels(columns)

    def _checked_labels(self, columns: Columns) -> Tensor:
        known, labels = self.num_classes, classes_of(columns)
        if labels is None:
            raise ValueError(f"The model knows {known} classes, but the data have none; name a `label_column`.")
        if labels.device.type == "cpu" and labels.numel() and int(labels.max()) >= known:
            raise ValueError(
                f"The data have a class {int(labels.max())}, but the model knows {known}, counted from 0."
            )
        return labels

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        return {LABELS: self._checked_labels(columns).to(device)}

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        if self.null_class is None:
            raise ValueError("The model has no null class; train it with --conditioning_dropout_prob above 0.")
        return {LABELS: torch.full((count,), self.null_class, device=device)}

    def variety(self) -> Columns:
        return of_classes(range(self.num_classes))


def is_class(label: Any) -> bool:
    """Whether a label is the number of a class; data sets use −1 for an unknown class."""
    return isinstance(label, int) and not isinstance(label, bool) and label >= 0


def classes_of(columns: Columns) -> Tensor | None:
    """The class of every example, int64 `[N]`; None if the classes are unknown."""
    labels = columns.get(LABELS)
    return labels if isinstance(labels, Tensor) else None


def of_classes(labels: Iterable[int]) -> Columns:
    """Columns for examples with these classes."""
    return {LABELS: torch.tensor(list(labels), device="cpu")}


# --- what a user asks for --------------------------------------------------------------------------------------------


def requested_classes(unet_config: Mapping[str, Any], class_labels: ClassLabels, batch_size: int) -> Columns | None:
    """A pipeline's `class_labels` as a column with one class per image; None for images without a class.

    Raises:
        ValueError: if `class_labels` do not fit the model or the batch.
    """
    if not embeds_classes(unet_config):
        if class_labels is not None:
            raise ValueError("`class_labels` must be None: the model is not class-conditional.")
        return {}
    num_classes = number_of_classes(unet_config)
    if num_classes is None:
        raise ValueError(
            "`class_labels` are for a model that embeds its classes by their numbers, but this one has"
            f" `class_embed_type` {unet_config['class_embed_type']!r}; call `unet` yourself."
        )
    if class_labels is not None:
        return of_classes(_checked(class_labels, batch_size, num_classes))
    if null_class(unet_config) is None:
        raise ValueError(
            f"`class_labels` must be given: the model is conditional on one of {num_classes} classes; pass one for"
            " all images or one per image."
        )
    return None


def _checked(class_labels: ClassLabels, batch_size: int, num_classes: int) -> list[int]:
    given: Any = class_labels.tolist() if isinstance(class_labels, (Tensor, np.ndarray)) else class_labels
    labels = given if isinstance(given, Sequence) else [given] * batch_size
    if isinstance(given, str) or any(isinstance(k, bool) or not isinstance(k, Integral) for k in labels):
        raise ValueError(f"`class_labels` must be an int or a list of ints, but is {class_labels!r}.")
    if len(labels) != batch_size:
        raise ValueError(
            f"`class_labels` must be one for all images or one per image: {batch_size}, but there are {len(labels)}."
        )
    if not 0 <= min(labels) <= max(labels) < num_classes:
        raise ValueError(f"`class_labels` must lie in 0 ... {num_classes - 1}, but is {class_labels!r}.")
    return [int(k) for k in labels]
