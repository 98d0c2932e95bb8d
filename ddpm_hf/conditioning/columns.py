# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Columns: values of N examples by name, such as class labels, captions or images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..runtime.randomness import BatchAddress


Values = Tensor | list[Any]
"""A tensor `[N, …]`, or a list of N."""

Columns = Mapping[str, Values]

Derive = Callable[[Tensor, BatchAddress], Columns]
"""derive(x_0, address) -> columns of the examples of a training batch, from the examples `[B, …]` themselves."""


class Alternatives(tuple[Any, ...]):
    """Several values of one example, at least one, such as several captions of an image.

    Training draws one of them every time it uses the example, and scores take the first.
    """

    __slots__ = ()


def count_of(columns: Columns) -> int:
    """The number of examples in the columns; 0 for no columns."""
    return len(next(iter(columns.values()), ()))


def stacked(values: Sequence[Any]) -> Values:
    """The values of one column, one per example: numbers and tensors of one shape become a tensor, others a list.

    Args:
        values: at least one value.
    """
    if all(isinstance(value, Tensor) for value in values):
        return torch.stack(list(values))
    is_number = all(isinstance(value, (int, float)) for value in values)
    return torch.tensor(values) if is_number else list(values)


def chosen(columns: Columns, index: slice | list[int] | Tensor) -> dict[str, Values]:
    """The columns of some of the examples, in the order of `index`."""
    return {name: _chosen(values, index) for name, values in columns.items()}


def in_turn(columns: Columns, numbers: Iterable[int]) -> dict[str, Values]:
    """The columns of what comes at each number, if the examples take turns; {} for no columns."""
    count = count_of(columns)
    return chosen(columns, [number % count for number in numbers]) if count else {}


def _chosen(values: Values, index: slice | list[int] | Tensor) -> Values:
    if isinstance(values, Tensor):
        return values[index]
    if isinstance(index, slice):
        return values[index]
    return [values[i] for i in (index.tolist() if isinstance(index, Tensor) else index)]


def joined(parts: Sequence[Columns]) -> dict[str, Values]:
    """The columns of several batches, one after the other."""
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: list[Values]) -> Values:
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return torch.cat(tensors) if len(tensors) == len(parts) else [value for part in parts for value in part]


def with_one_each(columns: Columns, draws: Sequence[float]) -> dict[str, Values]:
    """The columns with one of its alternatives for every example.

    Args:
        draws: a number in [0, 1) for each of the N examples, which chooses among its alternatives in all columns.
    """
    return {
        name: values if isinstance(values, Tensor) else list(map(one_of, values, draws))
        for name, values in columns.items()
    }


def with_first(columns: Columns) -> dict[str, Values]:
    """The columns with the first of its alternatives for every example."""
    return with_one_each(columns, [0.0] * count_of(columns))


def one_of(value: Any, draw: float) -> Any:
    """One of the alternatives, which a number in [0, 1) chooses; a value without alternatives is returned as it is."""
    return value[int(draw * len(value))] if isinstance(value, Alternatives) else value


def on_device(columns: Columns, device: torch.device) -> dict[str, Values]:
    """The columns with their tensors on the device."""
    return {
        name: values.to(device, non_blocking=True) if isinstance(values, Tensor) else values
        for name, values in columns.items()
    }
