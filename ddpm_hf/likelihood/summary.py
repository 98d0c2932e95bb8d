# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""How a result is shown: a few lines when it is printed, and everything as a dictionary."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..diffusion.gaussian_process import unknown


@dataclass(frozen=True, repr=False)
class Summary:
    """A dataclass with a data set's figures; `repr` shows the main ones in one line.

    Attributes:
        HEADLINES: the names of the main figures.
    """

    HEADLINES: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:  # fields or properties of each subclass

        @property
        def total(self) -> float: ...
        @property
        def standard_error(self) -> float: ...
        @property
        def per_example(self) -> list[float]: ...
        @property
        def parts(self) -> dict[str, float]: ...
        @property
        def num_examples(self) -> int: ...
        @property
        def num_model_evaluations(self) -> int: ...

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={_rounded(getattr(self, name))}" for name in self.HEADLINES)
        return f"{type(self).__name__}({figures})"

    @property
    def first_line(self) -> str:
        """The total with its standard error."""
        return f"{self.total:.4f} bits/dim ± {self.standard_error:.4f} (standard error for other examples like these)"

    @property
    def last_line(self) -> str:
        """The number of examples and of model calls."""
        calls = self.num_model_evaluations / self.num_examples
        return f"{self.num_examples} example{'' if self.num_examples == 1 else 's'}, {calls:g} model calls each"

    def table(self, by: str | None = None) -> dict[str, list[Any]]:
        """Bits/dim by column, `by` and `bits_per_dim`, as `pandas.DataFrame` takes them.

        Args:
            by: what has a row each: "example", or another that the class names, which is then the default.

        Raises:
            ValueError: for anything else.
        """
        tables = self._tables
        by = next(iter(tables)) if by is None else by
        if by not in tables:
            raise ValueError(unknown("by", by, tuple(tables)))
        rows, bits = tables[by]
        return {by: list(rows), "bits_per_dim": list(bits)}

    @property
    def _tables(self) -> dict[str, tuple[Iterable[int], Iterable[float]]]:
        """By what has a row each: the numbers of the rows, and their bits/dim; the default first."""
        return {"example": (range(self.num_examples), self.per_example)}

    def to_dict(self) -> dict[str, Any]:
        """All figures by name, as numbers, lists and dictionaries, for JSON."""
        names = dict.fromkeys((*self.HEADLINES, *(field.name for field in dataclasses.fields(self))))
        return {name: getattr(self, name) for name in names}


def in_parts(parts: Mapping[str, float]) -> str:
    """A sum written out, such as "prior 0.0001 + rate 1.5000 + decoder 0.3000"."""
    return " + ".join(f"{name} {bits:.4f}" for name, bits in parts.items())


class OfExamples(Protocol):
    """A result on some examples."""

    @property
    def num_examples(self) -> int: ...


def pooled_mean(parts: Sequence[OfExamples], values: Iterable[float]) -> float:
    """The mean over the examples of all parts, from one mean per part."""
    weighted = (part.num_examples * value for part, value in zip(parts, values, strict=True))
    return math.fsum(weighted) / sum(part.num_examples for part in parts)


def pooled_means(parts: Sequence[OfExamples], rows: Sequence[Sequence[float]]) -> list[float]:
    """`pooled_mean` of each column, from one row per part."""
    return [pooled_mean(parts, column) for column in zip(*rows, strict=True)]


def pooled_error(parts: Sequence[OfExamples], errors: Iterable[float]) -> float:
    """The standard error of the mean over the examples of all parts, from those of the independent parts."""
    squares = ((part.num_examples * error) ** 2 for part, error in zip(parts, errors, strict=True))
    return math.sqrt(math.fsum(squares)) / sum(part.num_examples for part in parts)


def _rounded(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
