# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Batches of examples to be scored, and the check that they are what the likelihood is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..diffusion.numerics import check_num_levels, require_samples, to_float64


Batches = Iterable[Tensor | tuple[Tensor, Mapping[str, Any]]]
"""Tensors `[B, *anything]`, or pairs of one and its conditioning."""


def checked_batches(
    batches: Batches, num_levels: int | None, progress: Callable[[Batches], Batches] | None = None
) -> Iterator[tuple[Tensor, Mapping[str, Any]]]:
    """The examples of each batch that has any, checked by `check_levels`, and their conditioning."""
    for batch in batches if progress is None else progress(batches):
        x_0, conditioning = batch if isinstance(batch, (tuple, list)) else (batch, {})
        if len(x_0) > 0:
            check_levels(x_0, num_levels)
            yield x_0, conditioning


def check_levels(x_0: Tensor, num_levels: int | None) -> None:
    """Raise ValueError unless every value of x_0 is finite, and (nearly) one of `num_levels` levels in [−1, 1]."""
    require_samples(original_samples=x_0)
    if num_levels is None:
        if not bool(x_0.isfinite().all()):
            raise ValueError("The examples must be finite numbers, but some are NaN or infinite.")
        return
    check_num_levels(num_levels)
    level = (to_float64(x_0) + 1) / 2 * (num_levels - 1)
    distance = (level - level.round().clamp(0, num_levels - 1)).abs().max()
    if not bool(distance.isfinite()):
        raise ValueError(
            f"The examples must take {num_levels} evenly spaced levels in [-1, 1], but some are NaN or infinite."
        )
    if not distance < 0.1:
        raise ValueError(
            f"The examples must take {num_levels} evenly spaced levels in [-1, 1], but a value lies"
            f" {distance.item():.3g} levels off; set `num_levels` to that of the data, or to None for continuous data."
        )
