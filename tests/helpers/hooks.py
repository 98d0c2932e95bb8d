# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Events during a training: a signal, a NaN loss, a full disk; and records of the training.

Each hook is a context manager. A test enters it around a run in its own process. A script in a separate process, made
by `training_runs.after`, enters it at its start and never leaves it: `hooks.install(hooks.signal_at(3, "SIGTERM"))`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from ddpm_hf.data.batches import Batch, EndlessImages, Places, TrainingBatches
from ddpm_hf.data.digits import DIGITS
from ddpm_hf.data.level_images import ImageData
from ddpm_hf.data.workers import WatchedLoader
from ddpm_hf.runtime import signals
from ddpm_hf.tasks.images import ImageTask
from ddpm_hf.training import setup
from ddpm_hf.training.tracking import Progress


_INSTALLED: list[AbstractContextManager] = []


def install(*hooks: AbstractContextManager) -> None:
    """Enter hooks for as long as the process lives."""
    for hook in hooks:
        hook.__enter__()
    _INSTALLED.extend(hooks)  # a generator that nobody keeps is closed, and leaves its hook


class Killed(BaseException):
    """The run ends here, as if it had been killed: nothing of it goes on, as long as it is not writing."""


def is_rank(ranks: Iterable[int]) -> bool:
    return int(os.environ.get("RANK", 0)) in ranks


def to_itself(name: str) -> None:
    """Send this process a signal, which is handled before this returns."""
    signal.raise_signal(getattr(signal, name))


def twice(name: str) -> None:
    to_itself(name)
    to_itself(name)


def kill_worker() -> None:
    """Kill a process that reads images, and wait for its end."""
    worker = multiprocessing.active_children()[0]
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def nothing_freed() -> Iterator[None]:
    """Inside, shared memory that workers have filled with batches is not freed: what is full stays full."""
    read, kept = WatchedLoader.__iter__, []

    def keep(loader: WatchedLoader) -> Iterator[Any]:
        with contextlib.closing(read(loader)) as batches:
            for batch in batches:
                kept.append(batch)
                yield batch

    with mock.patch.object(WatchedLoader, "__iter__", keep):
        yield


def fill_shared_memory() -> None:
    """Leave no room in /dev/shm, which should be a small one of this process's own."""
    with contextlib.suppress(OSError), open("/dev/shm/full", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def to_all_of_it(name: str) -> None:
    """Send a signal to this process and to its workers, as a cluster or a terminal does; not from a test's own."""
    os.killpg(0, getattr(signal, name))


def at_batch(change: Callable[[int, Batch], Batch]) -> AbstractContextManager:
    """`change(k, batch)` stands for the k-th training batch that a run reads, from 1."""
    read = TrainingBatches.__iter__

    def changed(self: TrainingBatches) -> Iterator[Batch]:
        for k, batch in enumerate(read(self), 1):
            yield change(k, batch)

    return mock.patch.object(TrainingBatches, "__iter__", changed)


def few_digits(train: int = 150, test: int = 24) -> AbstractContextManager:
    """Without data of its own a run gets so few of the digits, evenly spread over them."""
    load = ImageTask.load_data

    def loaded(task: ImageTask) -> ImageData:
        images = load(task)
        if images.name != DIGITS:
            return images
        counts = {"train": train, "test": test, "validation": test}
        return dataclasses.replace(images, **{part: getattr(images, part).spread(n) for part, n in counts.items()})

    return mock.patch.object(ImageTask, "load_data", loaded)


def at(batch: int, action: Callable[[], None], ranks: Iterable[int] = (0, 1)) -> AbstractContextManager:
    """The process does this when it has read so many training batches."""

    def change(k: int, read: Batch) -> Batch:
        if k == batch and is_rank(ranks):
            action()
        return read

    return at_batch(change)


def signal_at(
    batch: int, name: str, ranks: Iterable[int] = (0, 1), send: Callable[[str], None] = to_itself
) -> AbstractContextManager:
    """The process gets the signal when it has read so many training batches."""
    return at(batch, functools.partial(send, name), ranks)


def killed_at(batch: int) -> AbstractContextManager:
    """The run is no more when it has read so many training batches, and raises `Killed`."""

    def change(k: int, read: Batch) -> Batch:
        if k == batch:
            raise Killed
        return read

    return at_batch(change)


def nan_at(batch: int, rank: int = 0) -> AbstractContextManager:
    """The images of this batch, on one process, are no numbers."""

    def change(k: int, read: Batch) -> Batch:
        return read._replace(x_0=read.x_0 * float("nan")) if k == batch and is_rank([rank]) else read

    return at_batch(change)


@contextlib.contextmanager
def stuck_after(batch: int, seconds: float = 0.5) -> Iterator[None]:
    """Whoever reads the images never gives the batch after this one; the run gets SIGTERM when it waits for it."""
    read, places = EndlessImages.__getitems__, Places.__iter__

    def read_or_not(self: EndlessImages, given: range) -> Any:
        while not given:
            time.sleep(60)
        return read(self, given)

    def emptied(self: Places) -> Iterator[range]:
        yield from (range(0) if k == batch else given for k, given in enumerate(places(self)))

    def stop_soon() -> None:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(EndlessImages, "__getitems__", read_or_not))
        stack.enter_context(mock.patch.object(Places, "__iter__", emptied))
        stack.enter_context(mock.patch.object(signals, "PATIENCE", 0.2))
        stack.enter_context(at(batch, stop_soon))
        yield


@contextlib.contextmanager
def done_in(
    function: str, action: Callable[[], Any], call: int = 1, ranks: Iterable[int] = (0, 1)
) -> Iterator[list[int]]:
    """The process does this first when it calls `module.function`, as that module knows it, for this time.

    Yields a list of the calls that were made.
    """
    module, _, name = function.rpartition(".")
    made, calls = itertools.count(1), []
    own = getattr(__import__(module, fromlist=[name]), name)

    @functools.wraps(own)
    def doing(*arguments: Any, **options: Any) -> Any:
        calls.append(next(made))
        if calls[-1] == call and is_rank(ranks):
            action()
        return own(*arguments, **options)

    with mock.patch(function, doing):
        yield calls


def signal_in(function: str, name: str, call: int = 1, ranks: Iterable[int] = (0, 1)) -> AbstractContextManager:
    """The process gets the signal when it calls `module.function` for this time."""
    return done_in(function, functools.partial(to_itself, name), call, ranks)


def limit_files(size: int) -> None:
    """No file of the process may grow beyond this size any more; not in a test's own process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def raise_error(error: Exception) -> None:
    raise error


@contextlib.contextmanager
def losses_of() -> Iterator[list[float]]:
    """Yields a list that gets the loss of every step, of all processes."""
    losses, add = [], Progress.add

    def recorded(self: Progress, *step: Any) -> None:
        add(self, *step)
        losses.append(float(self.losses[-1]))

    with mock.patch.object(Progress, "add", recorded):
        yield losses


@contextlib.contextmanager
def losses_to(file: Path | str) -> Iterator[None]:
    """The main process writes the loss of every step into a file."""
    add = Progress.add

    def recorded(self: Progress, *step: Any) -> None:
        add(self, *step)
        if is_rank([0]):
            with open(file, "a") as lines:
                print(float(self.losses[-1]), file=lines)

    with mock.patch.object(Progress, "add", recorded):
        yield


def early_importance(steps: int = 5) -> AbstractContextManager:
    """Times are drawn by importance after so few steps, in place of fifty."""
    return mock.patch.object(setup, "ImportanceTimesteps", functools.partial(setup.ImportanceTimesteps, warmup=steps))


@contextlib.contextmanager
def overflowing(finite: Iterable[int]) -> Iterator[None]:
    """Gradients overflow as on a GPU in fp16, which leaves such steps out, but for those of these numbers, from 0."""
    made, add, steps = setup.Accelerator, Progress.add, itertools.count()

    def scaled(*arguments: Any, **options: Any) -> Any:
        accelerator = made(*arguments, **options)
        accelerator.scaler = torch.amp.GradScaler("cpu", enabled=False)
        return accelerator

    def infinite(self: Progress, t: Any, losses: Any, weights: Any, norm: Any) -> None:
        add(self, t, losses, weights, norm if next(steps) in finite else float("inf"))

    with mock.patch.object(setup, "Accelerator", scaled), mock.patch.object(Progress, "add", infinite):
        yield
