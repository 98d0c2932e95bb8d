# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Batches of examples to score, and checks that their values are levels of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser
from ..diffusion.numerics import check_num_levels, require_samples, to_float64


Batches = Iterable[Tensor | Sequence[Tensor] | tuple[Tensor, Mapping[str, Any]]]
"""Tensors `[B, *anything]`, alone or as the only item of a list, or pairs of such a tensor and its conditioning."""

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""A function that wraps the iteration over batches, such as `tqdm.tqdm`."""


DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def require_no_dropout(denoise: Denoiser) -> None:
    """Raise ValueError if a module has active dropout, whose noise would enter the likelihood."""
    for name, module in denoise.named_modules() if isinstance(denoise, nn.Module) else ():
        if isinstance(module, DROPOUT) and module.training and module.p > 0:
            raise ValueError(
                f"`denoise` must be in evaluation mode, but its dropout is active ({name or 'itself'}, p ="
                f" {module.p:g}); call its `.eval()`."
            )


def checked_batches(
    batches: Batches, num_levels: int | None, progress: Progress | None = None
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


PICTURES = "; convert pictures to tensors, scaled to [-1, 1]"


def _described(batch: Any) -> str:
    """A short description of a batch for an error message."""
    kind = type(batch).__name__
    if isinstance(batch, Mapping):
        return f"a {kind} of {', '.join(map(str, batch))}"
    if isinstance(batch, (tuple, list)):
        kinds = ", ".join(type(part).__name__ for part in batch[:3]) + (", ..." if len(batch) > 3 else "")
        return f"a {kind} of {kinds}{PICTURES if any(hasattr(part, 'mode') for part in batch) else ''}"
    return f"a picture ({kind}){PICTURES}" if hasattr(batch, "mode") else kind


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
        return "they lie in [0, 1]: scale them with 2 * x - 1"
    if low >= 0 and high <= 255:
        return "they lie in [0, 255]: scale them with x / 127.5 - 1"
    return "set `num_levels` to the number of levels of the data, or to None for continuous data"
