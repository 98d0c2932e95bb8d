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
from ddpm_hf.training import diffusion, setup
from ddpm_hf.training.tracking import Progress


_INSTALLED: list[AbstractContextManager] = []


def install(*hooks: AbstractContextManager) -> None:
    """Enter hooks, and leave them only when the process ends."""
    for hook in hooks:
        hook.__enter__()
    _INSTALLED.extend(hooks)  # a generator that nobody keeps is closed, and leaves its hook


class Killed(BaseException):
    """Ends a run as a kill would: nothing of it continues. Do not raise it while the run is writing."""


def is_rank(ranks: Iterable[int]) -> bool:
    return int(os.environ.get("RANK", 0)) in ranks


def to_itself(name: str) -> None:
    """Send this process a signal; it is handled before this returns."""
    signal.raise_signal(getattr(signal, name))


def twice(name: str) -> None:
    to_itself(name)
    to_itself(name)


def kill_worker() -> None:
    """Kill a worker that reads images, and wait until it has ended."""
    worker = multiprocessing.active_children()[0]
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def nothing_freed() -> Iterator[None]:
    """A context in which the shared memory of batches is not freed, so that full memory stays full."""
    read, kept = WatchedLoader.__iter__, []

    def keep(loader: WatchedLoader) -> Iterator[Any]:
        with contextlib.closing(read(loader)) as batches:
            for batch in batches:
                kept.append(batch)
                yield batch

    with mock.patch.object(WatchedLoader, "__iter__", keep):
        yield


def fill_shared_memory() -> None:
    """Fill /dev/shm completely; mount a small one for this process first."""
    with contextlib.suppress(OSError), open("/dev/shm/full", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def to_all_of_it(name: str) -> None:
    """Send a signal to this process and its workers, as a terminal does; not in a process of the tests."""
    os.killpg(0, getattr(signal, name))


def at_batch(change: Callable[[int, Batch], Batch]) -> AbstractContextManager:
    """Replace the k-th training batch that a run reads, counted from 1, by `change(k, batch)`."""
    read = TrainingBatches.__iter__

    def changed(self: TrainingBatches) -> Iterator[Batch]:
        for k, batch in enumerate(read(self), 1):
            yield change(k, batch)

    return mock.patch.object(TrainingBatches, "__iter__", changed)


def few_digits(train: int = 150, test: int = 24) -> AbstractContextManager:
    """A run without data of its own gets this number of digits, spread evenly over all of them."""
    load = ImageTask.load_data

    def loaded(task: ImageTask) -> ImageData:
        images = load(task)
        if images.name != DIGITS:
            return images
        counts = {"train": train, "test": test, "validation": test}
        return dataclasses.replace(images, **{part: getattr(images, part).spread(n) for part, n in counts.items()})

    return mock.patch.object(ImageTask, "load_data", loaded)


def at(batch: int, action: Callable[[], None], ranks: Iterable[int] = (0, 1)) -> AbstractContextManager:
    """Call `action` when the process has read this number of training batches."""

    def change(k: int, read: Batch) -> Batch:
        if k == batch and is_rank(ranks):
            action()
        return read

    return at_batch(change)


def signal_at(
    batch: int, name: str, ranks: Iterable[int] = (0, 1), send: Callable[[str], None] = to_itself
) -> AbstractContextManager:
    """Send the signal to the process when it has read this number of training batches."""
    return at(batch, functools.partial(send, name), ranks)


def killed_at(batch: int) -> AbstractContextManager:
    """Raise `Killed` when the run has read this number of training batches."""

    def change(k: int, read: Batch) -> Batch:
        if k == batch:
            raise Killed
        return read

    return at_batch(change)


def nan_at(batch: int, rank: int = 0) -> AbstractContextManager:
    """Make all pixels of this batch NaN, on one process."""

    def change(k: int, read: Batch) -> Batch:
        return read._replace(x_0=read.x_0 * float("nan")) if k == batch and is_rank([rank]) else read

    return at_batch(change)


@contextlib.contextmanager
def stuck_after(batch: int, seconds: float = 0.5) -> Iterator[None]:
    """Block the batch after this one for ever, and send SIGTERM to the run while it waits for the batch."""
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
    """Call `action` before the `call`-th call of `module.function`, under the name that it has in the module.

    Yields the list of calls so far.
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
    """Send the signal to the process before the `call`-th call of `module.function`."""
    return done_in(function, functools.partial(to_itself, name), call, ranks)


def limit_files(size: int) -> None:
    """Limit the size of the files that the process writes; not in a process of the tests."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def raise_error(error: Exception) -> None:
    raise error


@contextlib.contextmanager
def losses_of() -> Iterator[list[float]]:
    """Yield a list, to which every step appends its loss over all processes."""
    losses, add = [], Progress.add

    def recorded(self: Progress, *step: Any) -> None:
        add(self, *step)
        losses.append(float(self.losses[-1]))

    with mock.patch.object(Progress, "add", recorded):
        yield losses


@contextlib.contextmanager
def losses_to(file: Path | str) -> Iterator[None]:
    """Make the main process write the loss of every step into a file."""
    add = Progress.add

    def recorded(self: Progress, *step: Any) -> None:
        add(self, *step)
        if is_rank([0]):
            with open(file, "a") as lines:
                print(float(self.losses[-1]), file=lines)

    with mock.patch.object(Progress, "add", recorded):
        yield


def early_importance(steps: int = 5) -> AbstractContextManager:
    """Draw timesteps by importance after this number of steps instead of fifty."""
    early = functools.partial(diffusion.ImportanceTimesteps, warmup=steps)
    return mock.patch.object(diffusion, "ImportanceTimesteps", early)


@contextlib.contextmanager
def overflowing(finite: Iterable[int]) -> Iterator[None]:
    """Make gradients overflow as in fp16 on a GPU, which skips such steps, except in these steps, counted from 0."""
    made, add, steps = setup.Accelerator, Progress.add, itertools.count()

    def scaled(*arguments: Any, **options: Any) -> Any:
        accelerator = made(*arguments, **options)
        accelerator.scaler = torch.amp.GradScaler("cpu", enabled=False)
        return accelerator

    def infinite(self: Progress, t: Any, losses: Any, weights: Any, norm: Any) -> None:
        add(self, t, losses, weights, norm if next(steps) in finite else float("inf"))

    with mock.patch.object(setup, "Accelerator", scaled), mock.patch.object(Progress, "add", infinite):
        yield
