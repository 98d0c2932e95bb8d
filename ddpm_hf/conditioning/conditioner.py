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

from ..runtime.randomness import BatchAddress
from .columns import Columns, chosen, count_of, with_first


class Conditioner(ABC):
    """One kind of conditioning, such as class labels, captions, low-resolution images or embeddings.

    Attributes:
        columns: names of the columns that it reads. A column has the same name as the pipeline's argument, so that
            columns of data can be passed to a pipeline unchanged.
        arguments: names of the denoiser's arguments that it makes. There may be several: text needs embeddings and an
            attention mask, super-resolution an image that the denoiser concatenates to x_t and its noise level.
        is_kept: whether it is always given: it has no null value, no training drops it, and the unconditional
            prediction of guidance has it too, such as the image of super-resolution.
        derives: whether it has columns that follow from the examples themselves; see `derive`.
    """

    columns: ClassVar[tuple[str, ...]]
    arguments: ClassVar[tuple[str, ...]]
    is_kept: ClassVar[bool] = False
    derives: ClassVar[bool] = False

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

        Columns that `derive` makes may be missing. Only values on the CPU are checked, since reading others would
        synchronise.
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

    def truncated(self, columns: Columns) -> list[Any]:
        """Those values of the columns that the model takes only the beginning of, such as captions of many tokens.

        By default there are none.
        """
        return []

    def truncation(self, count: int) -> str:
        """What the user is told of so many values of `truncated`, without a full stop."""
        return f"truncated values of {', '.join(self.columns)}: {count}"

    def derive(self, x_0: Tensor, columns: Columns, generator: torch.Generator | None = None) -> Columns:
        """Those of its columns that follow from the examples themselves, for scores. By default there are none.

        Args:
            x_0: the B examples `[B, …]`, levels in [−1, 1].
            columns: their columns that are known; a derived column that is among them is left as it is.
            generator: for columns that are drawn at random, on the CPU.
        """
        return {}

    def derive_for_training(self, x_0: Tensor, address: BatchAddress) -> Columns:
        """The same for a batch of a training step: random numbers depend on the places in the step's batch alone."""
        return self.derive(x_0, {})

    @abstractmethod
    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        """The denoiser's arguments for the B examples of the columns, each `[B, …]`, on the device.

        Raises:
            ValueError: as `check`, and if a column that follows from the examples is missing.
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

    @property
    def titles(self) -> tuple[str, ...]:
        """What is written below the samples of `variety`, in the same order; () for nothing."""
        return ()

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

    def derive(self, x_0: Tensor, columns: Columns, generator: torch.Generator | None = None) -> Columns:
        return self.of.derive(x_0, columns, generator)

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        return self.null(count_of({name: columns[name] for name in self.columns if name in columns}), device)

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
    def droppable(self) -> tuple[Conditioner, ...]:
        """The conditioners that are not always given."""
        return tuple(each for each in self.members if not each.is_kept)

    @property
    def has_null(self) -> bool:
        """Whether there is conditioning that is not always given, and the model was also trained without it."""
        return bool(self.droppable) and all(each.has_null for each in self.droppable)

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
        """Compute ahead what `make` needs for a data set's columns; sentences that the user should know of them."""
        return tuple(itertools.chain.from_iterable(each.prepare(columns) for each in self.members))

    @property
    def derives(self) -> bool:
        """Whether there are columns that follow from the examples themselves."""
        return any(each.derives for each in self.members)

    def completed(self, x_0: Tensor, columns: Columns, generator: torch.Generator | None = None) -> Columns:
        """The columns of examples together with those that follow from the examples; arguments as `derive`."""
        return _merged([columns, *(each.derive(x_0, columns, generator) for each in self.members)])

    def derive_for_training(self, x_0: Tensor, address: BatchAddress) -> Columns:
        """The columns that follow from the examples of a training step."""
        return _merged(each.derive_for_training(x_0, address) for each in self.members)

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
        """The result of `make`, with the null value in place of some examples, in all arguments but those kept.

        Args:
            dropped: booleans `[B]`, on the device of `conditioning`; None drops nothing.
        """
        if dropped is None:
            return dict(conditioning)
        return _merged([conditioning, *(each.drop(conditioning, dropped) for each in self.droppable)])

    def unconditional(self, conditioning: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The result of `make`, with the null value in place of every example, but for what is kept."""
        some = conditioning[self.arguments[0]]
        return self.drop(conditioning, torch.ones(len(some), dtype=torch.bool, device=some.device))

    @property
    def worth_name(self) -> str | None:
        """The first word of the figures on what the conditioning is worth; None if none are computed."""
        return next((each.worth_name for each in self.members if each.worth_name), None) if self.has_null else None

    def without(self) -> Conditioners:
        """Conditioners of the same columns and arguments that make the null value alone, but for what is kept."""
        return Conditioners(tuple(each if each.is_kept else Absent(each) for each in self.members))

    def titles(self, count: int) -> list[str] | None:
        """What is written below `count` samples of `variety`, which take turns; None for nothing."""
        titles = next((each.titles for each in self.members if each.titles), ())
        return [titles[k % len(titles)] for k in range(count)] if titles else None

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
