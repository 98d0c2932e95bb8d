# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Work divided among processes: numbered pieces whose results do not depend on the process, gathered once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object


Piece = TypeVar("Piece")


def processes_started() -> int:
    """The number of processes that the launcher started, even if they are not connected yet."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Whether the launcher calls this process the first."""
    return int(os.environ.get("RANK", 0)) == 0


def require_one_process() -> None:
    """Raise ValueError if a launcher started several processes, since each would do all of the work."""
    processes = processes_started()
    if processes > 1:
        raise ValueError(f"{processes} processes were started for work that needs one; start it with `python`.")


def shared(
    accelerator: Accelerator,
    count: int,
    do: Callable[[int], Piece],
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> list[Piece]:
    """The results do(0), …, do(count − 1) on every process; each is computed by one process.

    All processes make the same number of calls, since a sharded model works only if all processes call it: some
    compute the last result in addition.
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
    """Call `part` on every process, and raise on all of them if it fails on one, so that none waits for it.

    Args:
        part: the work of one process.
        failure: the exception that is caught and raised on all processes; others propagate.
        told: a function from the exception to its message.
    """
    sentence = None
    try:
        part()
    except failure as error:
        sentence = told(error)
    for each in gather_object([sentence]):
        if each is not None:
            raise failure(each)
