# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The interface of a kind of conditioning, and several kinds used as one."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .columns import Columns, chosen, count_of, with_first


class Conditioner(ABC):
    """One kind of conditioning, such as class labels, captions, low-resolution images or embeddings.

    Attributes:
        columns: names of the columns that it reads. A column has the same name as the pipeline's argument, so that
            columns of data can be passed to a pipeline unchanged.
        arguments: names of the denoiser's arguments that it makes. There may be several: text needs embeddings and an
            attention mask, super-resolution an image that the denoiser concatenates to x_t and its noise level.
    """

    columns: ClassVar[tuple[str, ...]]
    arguments: ClassVar[tuple[str, ...]]

    @property
    def worth_name(self) -> str | None:
        """The first word of the figures on what the conditioning is worth; None if none are computed."""
        return None

    @property
    def summary(self) -> str:
        """What a model is told, in a few words."""
        return ", ".join(self.columns)

    @property
    @abstractmethod
    def has_null(self) -> bool:
        """Whether the model was also trained without this conditioning, so that `null` and `drop` can be used."""

    @abstractmethod
    def fault(self, column: str, value: Any) -> str | None:
        """What is wrong with the value of one example, as the end of a sentence; None for a good value."""

    @abstractmethod
    def check(self, columns: Columns) -> None:
        """Raise ValueError with a one-sentence message unless `make` can use the columns.

        Only values on the CPU are checked, since reading others would synchronise.
        """

    def prepare(self, columns: Columns) -> tuple[str, ...]:
        """Compute ahead what `make` needs for a data set's columns; sentences that the user should know of them.

        Args:
            columns: as `check` takes them, but with all alternatives of an example.

        Raises:
            ValueError: as `check`.
        """
        self.check(with_first(columns))
        return ()

    @abstractmethod
    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        """The denoiser's arguments for the B examples of the columns, each `[B, …]`, on the device.

        Raises:
            ValueError: as `check`.
        """

    @abstractmethod
    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """The denoiser's arguments for `count` examples without conditioning, each `[count, …]`, on the device.

        Raises:
            ValueError: if the model has no null value.
        """

    def drop(self, conditioning: Mapping[str, Tensor], dropped: Tensor) -> dict[str, Tensor]:
        """The result of `make`, with the null value in place of some examples.

        Override it if the null value has another shape, such as a caption of another length, and pad both.

        Args:
            dropped: booleans `[B]`, on the device of `conditioning`.

        Raises:
            ValueError: as `null`.
        """
        nulls = self.null(len(dropped), dropped.device)
        return {name: _replaced(conditioning[name], nulls[name], dropped) for name in self.arguments}

    @abstractmethod
    def variety(self) -> Columns:
        """Columns of the examples that a sample grid shows by turns if the user names none; {} if there are none."""


@dataclass(frozen=True)
class Absent(Conditioner):
    """A kind of conditioning that is never given: its null value for every example."""

    of: Conditioner

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.of.columns

    @property
    def arguments(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.of.arguments

    @property
    def has_null(self) -> bool:
        return self.of.has_null

    def fault(self, column: str, value: Any) -> str | None:
        return self.of.fault(column, value)

    def check(self, columns: Columns) -> None:
        self.of.check(columns)

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        return self.null(count_of({name: columns[name] for name in self.columns}), device)

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        return self.of.null(count, device)

    def variety(self) -> Columns:
        return self.of.variety()


@dataclass(frozen=True)
class Conditioners:
    """All conditioning of a model. An unconditional model has no conditioners.

    Args:
        members: conditioners with different columns and arguments.
    """

    members: tuple[Conditioner, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that they read."""
        return tuple(itertools.chain.from_iterable(each.columns for each in self.members))

    @property
    def arguments(self) -> tuple[str, ...]:
        """The denoiser's arguments that they make."""
        return tuple(itertools.chain.from_iterable(each.arguments for each in self.members))

    @property
    def has_null(self) -> bool:
        """Whether there is conditioning, and the model was also trained without it."""
        return bool(self.members) and all(each.has_null for each in self.members)

    def read(self, columns: Columns) -> Columns:
        """Those of the given columns that they read."""
        return {name: columns[name] for name in self.columns if name in columns}

    def fault(self, column: str, value: Any) -> str | None:
        """What is wrong with a value of one of `columns`, as the end of a sentence; None for a good value."""
        return next(each.fault(column, value) for each in self.members if column in each.columns)

    def check(self, columns: Columns) -> None:
        """Raise ValueError with a one-sentence message unless `make` can use the columns.

        Of several alternatives of an example the first is checked.
        """
        columns = with_first(columns)
        for each in self.members:
            each.check(columns)

    def prepare(self, columns: Columns) -> tuple[str, ...]:
        """Compute ahead what `make` needs for a data set's columns; sentences that the user should know of them.

        Raises:
            ValueError: as `check`.
        """
        return tuple(itertools.chain.from_iterable(each.prepare(columns) for each in self.members))

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        """The denoiser's arguments for the B examples of the columns, each `[B, …]`, on the device.

        Raises:
            ValueError: as `check`.
        """
        return _merged(each.make(columns, device) for each in self.members)

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """The denoiser's arguments for `count` examples without conditioning, each `[count, …]`, on the device.

        Raises:
            ValueError: if the model has no null value.
        """
        return _merged(each.null(count, device) for each in self.members)

    def drop(self, conditioning: Mapping[str, Tensor], dropped: Tensor | None) -> dict[str, Tensor]:
        """The result of `make`, with the null value in place of some examples, in all arguments at once.

        Args:
            dropped: booleans `[B]`, on the device of `conditioning`; None drops nothing.
        """
        if dropped is None:
            return dict(conditioning)
        return _merged(each.drop(conditioning, dropped) for each in self.members)

    def unconditional(self, conditioning: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The result of `make`, with the null value in place of every example."""
        some = conditioning[self.arguments[0]]
        return self.drop(conditioning, torch.ones(len(some), dtype=torch.bool, device=some.device))

    @property
    def worth_name(self) -> str | None:
        """The first word of the figures on what the conditioning is worth; None if none are computed."""
        return next((each.worth_name for each in self.members if each.worth_name), None) if self.has_null else None

    def without(self) -> Conditioners:
        """Conditioners of the same columns and arguments that make the null value alone."""
        return Conditioners(tuple(map(Absent, self.members)))

    def variety(self) -> Columns:
        """Columns of the examples that a sample grid shows by turns if the user names none; {} if there are none.

        The number of examples is that of the conditioner with the largest variety; the others repeat their values.
        """
        varieties = [each.variety() for each in self.members]
        counts = [count_of(columns) for columns in varieties]
        if 0 in counts:
            return {}
        index = torch.arange(max(counts, default=0))
        return _merged(chosen(columns, index % count) for columns, count in zip(varieties, counts, strict=True))


def _replaced(value: Tensor, null: Tensor, dropped: Tensor) -> Tensor:
    is_dropped = dropped.reshape(-1, *(1,) * (value.ndim - 1))
    return torch.where(is_dropped, null.to(value.dtype), value)


def _merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}
