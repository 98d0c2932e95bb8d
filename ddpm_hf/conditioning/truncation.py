# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Values that a model takes only the beginning of, such as captions of many tokens: how many there are."""

from __future__ import annotations

from collections.abc import Sequence

from .columns import Columns
from .conditioner import Conditioners


def truncation_notes(conditioners: Conditioners, columns: Columns) -> tuple[str, ...]:
    """Sentences on the values in the columns that a model truncates, of which equal ones count once."""
    found = [(each, len(set(each.truncated(columns)))) for each in conditioners.members]
    return tuple(f"{each.truncation(count)}." for each, count in found if count)


class TruncationCount:
    """Counts the examples that are read batch by batch, and for each conditioner those with a truncated value.

    Attributes:
        counts: the number of examples, and after it those of truncated values.
    """

    def __init__(self, conditioners: Conditioners):
        self.conditioners, self.counts = conditioners, [0] * (1 + len(conditioners.members))

    @property
    def is_any(self) -> bool:
        """Whether any value was truncated."""
        return any(self.counts[1:])

    def add(self, count: int, columns: Columns) -> None:
        """Count a batch of `count` examples with these columns."""
        found = [len(each.truncated(columns)) for each in self.conditioners.members]
        self.counts = [total + more for total, more in zip(self.counts, [count, *found], strict=True)]

    def told(self, counts: Sequence[int]) -> list[str]:
        """What the user is told of such counts, for each conditioner with truncated values, without a full stop."""
        found = zip(self.conditioners.members, counts[1:], strict=True)
        return [each.truncation(count) for each, count in found if count]
