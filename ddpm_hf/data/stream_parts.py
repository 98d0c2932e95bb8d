# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads the parts of a stream (files or row groups) in turn, from any position."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

import datasets

from .image_files import READ_ERRORS, name_of


PARTS_AT_ONCE = 8  # parts from which a process takes images in turn
PLACES_PER_IMAGE = 16  # places that need as much memory as an encoded image


def place_of(content: bytes) -> float:
    """A number in [0, 1) that depends only on the content of an image file."""
    return zlib.crc32(content) / 2**32


# --- reading --------------------------------------------------------------------------------------------------------


class PartsByTurns:
    """Entries of several parts, one of each in turn; when a part ends, the next one replaces it.

    It iterates over pairs of the entry and the name of its image in messages.

    Args:
        data: the data set.
        parts: numbers of its parts.
        image: the column of images.
        at_once: number of parts that are read in turn.
        state: the position to resume from, a value of `state`.

    Raises:
        OSError: for a part that cannot be read; the message names it.
    """

    def __init__(
        self,
        data: datasets.IterableDataset,
        parts: list[int],
        image: str,
        at_once: int = PARTS_AT_ONCE,
        state: dict[str, Any] | None = None,
    ):
        self.data, self.image, self.at_once = data, image, at_once
        self._waiting, self._turn = list(parts), 0
        self._open: list[_Part] = []
        if state is not None:
            self._waiting, self._turn = parts[state["begun"] :], state["turn"]
            self._open = [_Part(data, *place) for place in state["open"]]
        self._begun = len(parts) - len(self._waiting)

    @property
    def state(self) -> dict[str, Any]:
        """The position of the next entry, as JSON."""
        return {"begun": self._begun, "turn": self._turn, "open": [part.place for part in self._open]}

    def __iter__(self) -> PartsByTurns:
        return self

    def __next__(self) -> tuple[dict[str, Any], str]:
        while len(self._open) < self.at_once and self._waiting:
            self._open.append(self._begin())
        while self._open:
            self._turn %= len(self._open)
            entry = self._open[self._turn].read()
            if entry is None:
                self._open[self._turn : self._turn + 1] = [self._begin()] if self._waiting else []
                continue
            name = self._open[self._turn].name_of(entry[self.image])
            self._turn += 1
            return entry, name
        raise StopIteration

    def _begin(self) -> _Part:
        self._begun += 1
        return _Part(self.data, self._waiting.pop(0))


class _Part:
    """One part of a data set, `number` of all, of which `count` entries have been read."""

    def __init__(self, data: datasets.IterableDataset, number: int, count: int = 0, state: dict | None = None):
        self.number, self.count = number, count
        self._name = f"part {number}"
        with self._errors():
            part = data.shard(data.num_shards, number)
            self._name = _file_of(part) or self._name
            # By row groups if the file has them: otherwise pyarrow reads the whole file at once.
            self._data = part.reshard()
        if state is not None:
            self._data.load_state_dict(state)
        # `iter`, since in a worker plain iteration would yield only the worker's files; we distribute the parts.
        self._entries = self._data.iter(batch_size=1)

    @property
    def place(self) -> list[Any]:
        """The position of the next entry."""
        return [self.number, self.count, self._data.state_dict()]

    def read(self) -> dict[str, Any] | None:
        """The next entry; None at the end."""
        with self._errors():
            batch = next(self._entries, None)
        if batch is None:
            return None
        self.count += 1
        return {column: values[0] for column, values in batch.items()}

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except READ_ERRORS as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise OSError(f"{self._name} cannot be read after {self.count} images: {reason}.") from error

    def name_of(self, entry: dict[str, Any] | None) -> str:
        """The name in messages of the image that was read last."""
        return name_of(entry, f"Image {self.count - 1} of {self._name}")


def _file_of(part: datasets.IterableDataset) -> str | None:
    """The file, and perhaps the row group, of a part of a data set; None if `datasets` does not reveal it."""
    source = part._ex_iterable
    while hasattr(source, "ex_iterable"):
        source = source.ex_iterable
    arguments = getattr(source, "kwargs", {})
    files = next((list(arguments[key]) for key in ("files", "tar_paths") if key in arguments), [])
    if len(files) != 1:
        return None
    # For an archive, the arguments are the folder that it is unpacked to and an iterator over its content.
    file = files[0] if isinstance(files[0], str) else next((part for part in files[0] if isinstance(part, str)), None)
    if file is None:
        return None
    groups = arguments.get("row_groups_list") or [None]
    return file if not groups[0] else f"{file}, row group {groups[0][0]}"
