# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Batches of examples to score, and checks that their values are levels of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..diffusion.numerics import check_num_levels, require_samples, to_float64


Batches = Iterable[Tensor | tuple[Tensor, Mapping[str, Any]]]
"""Tensors `[B, *anything]`, or pairs of such a tensor and its conditioning."""


def checked_batches(
    batches: Batches, num_levels: int | None, progress: Callable[[Batches], Batches] | None = None
) -> Iterator[tuple[Tensor, Mapping[str, Any]]]:
    """The examples and the conditioning of each batch; examples are checked by `check_levels`, empty batches skipped.

    Raises:
        ValueError: if `batches` is not an iterable, or, when it is reached, if a batch has another form.
    """
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        hint = "; for one batch x pass [x]" if isinstance(batches, Tensor) else ""
        raise ValueError(f"`batches` must be an iterable of batches, but is {type(batches).__name__}{hint}.")
    for batch in batches if progress is None else progress(batches):
        x_0, conditioning = _examples_and_conditioning(batch)
        if x_0.ndim == 0 or len(x_0) > 0:
            check_levels(x_0, num_levels)
            yield x_0, conditioning


def _examples_and_conditioning(batch: Any) -> tuple[Tensor, Mapping[str, Any]]:
    """The examples and the conditioning of a batch `x`, `[x]` or `(x, conditioning)`."""
    if isinstance(batch, Tensor):
        return batch, {}
    parts = batch if isinstance(batch, (tuple, list)) else ()
    if len(parts) == 1 and isinstance(parts[0], Tensor):
        return parts[0], {}
    if len(parts) == 2 and isinstance(parts[0], Tensor) and isinstance(parts[1], Mapping):
        return parts[0], parts[1]
    raise ValueError(
        f"`batches` must give tensors [B, ...], or pairs of one and a dictionary of conditioning such as"
        f" {{'class_labels': labels}}, but gave {_described(batch)}."
    )


def _described(batch: Any) -> str:
    """A short description of a batch for an error message."""
    kind = type(batch).__name__
    if isinstance(batch, Mapping):
        return f"a {kind} of {', '.join(map(str, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"a {kind} of {', '.join(type(part).__name__ for part in batch[:3])}{', ...' if len(batch) > 3 else ''}"
    if hasattr(batch, "mode"):
        return f"a picture ({kind}); convert pictures to tensors, scaled to [-1, 1]"
    return kind


def check_levels(x_0: Tensor, num_levels: int | None) -> None:
    """Raise ValueError unless every value of x_0 is finite and within 0.1 of one of `num_levels` levels in [−1, 1].

    The distance is in units of the level spacing. With `num_levels` None any finite value is allowed.
    """
    require_samples(batches=x_0)
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
            f" {distance.item():.3g} levels off; {_advice(x_0)}."
        )


def _advice(x_0: Tensor) -> str:
    """Advice for values that are not levels."""
    low, high = x_0.min().item(), x_0.max().item()
    if low >= 0 and high <= 1:
        return "they lie in [0, 1]: scale them by 2x - 1"
    if low >= 0 and high <= 255:
        return "they lie in [0, 255]: scale them by x / 127.5 - 1"
    return "set `num_levels` to the number of levels of the data, or to None for continuous data"
