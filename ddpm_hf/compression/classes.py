# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Classes of images: what the model is given of them, and how a file holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .distributions import Distribution, Ints, Table


ReadSymbols = Callable[[Distribution], Ints]
Conditioning = Mapping[str, Any]


@dataclass(frozen=True)
class Classes:
    """The classes that a model knows.

    Attributes:
        condition: the arguments of the model for labels `[B]` or None, and B.
        count: of the classes; 0 for a model without.
    """

    condition: Callable[[Tensor | None, int], Conditioning]
    count: int

    def law(self, images: int) -> Table:
        """The law of the labels of so many images: all classes are equally likely.

        Raises:
            ValueError: if the model knows no classes.
        """
        if not self.count:
            raise ValueError("The file holds classes, and the model knows none.")
        return Table.uniform(images, self.count)

    def of(self, labels: Tensor | None, start: int, end: int) -> tuple[Ints | None, Conditioning]:
        """The labels `start` … `end` − 1 as symbols, and the arguments of the model for them."""
        some = None if labels is None else labels[start:end]
        return None if some is None else some.numpy().astype(np.int64), self.condition(some, end - start)

    def read(self, read: ReadSymbols, is_labelled: bool, images: int) -> tuple[Tensor | None, Conditioning]:
        """The labels of the next images out of a coder, and the arguments of the model for them."""
        labels = torch.from_numpy(read(self.law(images))) if is_labelled else None
        return labels, self.condition(labels, images)
