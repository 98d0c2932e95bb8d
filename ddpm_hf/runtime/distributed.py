# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Work divided among processes: numbered pieces, the same whoever does them, and gathered once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object


Piece = TypeVar("Piece")


def processes_started() -> int:
    """How many processes the launcher says that it started, whether or not they have found each other."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Whether the launcher calls this process the first."""
    return int(os.environ.get("RANK", 0)) == 0


def require_one_process() -> None:
    """Raise ValueError if a launcher started several processes, each of which would do all of the work."""
    processes = processes_started()
    if processes > 1:
        raise ValueError(f"{processes} processes were started for work that is not divided; start one, with `python`.")


def shared(
    accelerator: Accelerator,
    count: int,
    do: Callable[[int], Piece],
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> list[Piece]:
    """do(0), …, do(count − 1), on every process, each done by one of them.

    All do as many, for a model that is divided among them answers only if all call it: some do the last one too.
    """
    numbers: Any = numbers_of(accelerator, count)
    done = [(number, do(number)) for number in (numbers if progress is None else progress(numbers))]
    pieces = dict(gather_object(done))
    return [pieces[number] for number in range(count)]


def numbers_of(accelerator: Accelerator, count: int) -> list[int]:
    """The pieces of `count` that this process does, where they are shared."""
    processes = accelerator.num_processes
    rounds = -(-count // processes)
    return [min(accelerator.process_index + k * processes, count - 1) for k in range(rounds)]


def on_all(part: Callable[[], None], failure: type[Exception], told: Callable[[Exception], str] = str) -> None:
    """Do a part on every process, and raise on all of them what fails on one, which the others would wait for.

    Args:
        failure: what is caught and raised; anything else goes its own way.
        told: the sentence on it.
    """
    sentence = None
    try:
        part()
    except failure as error:
        sentence = told(error)
    for each in gather_object([sentence]):
        if each is not None:
            raise failure(each)
