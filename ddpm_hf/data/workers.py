# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Worker processes that read images: what they read arrives, or the run learns that it will not.

torch's `DataLoader` waits for ever for a batch that its worker could not send, for example since /dev/shm, through
which batches go, is full. It tells of a killed worker by an exception in the midst of a training step or a checkpoint.
Here a worker that cannot send a batch says so or ends, and its end is told where a batch is waited for. A worker that
lives is waited for as long as it takes: the disk or the network may be slow.
"""

from __future__ import annotations

import errno
import gc
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from types import FrameType
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from ..runtime.errors import FEWER_WORKERS, SHARED_MEMORY, DataUnreadable, told
from ..runtime.signals import Interrupted
from .stream_reader import Failure


SECONDS_TO_HEAR = 1.0  # from a broken connection to the signal that a worker has ended
SECONDS_TO_END = 5.0


# --- in a worker -----------------------------------------------------------------------------------------------------


def begin_worker(number: int) -> None:
    """Let a worker survive the first signal to its process group, and no batch that it cannot send."""
    gc.freeze()  # a collection would copy every page that it looks at, of all that the worker shares with its parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))  # at most once
    signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(1))
    Queue._on_queue_feeder_error = staticmethod(_cannot_send)  # in place of a traceback, and a batch that is lost


def _cannot_send(error: Exception, batch: Any) -> None:
    print(f"A worker that reads images could not send them: {error}", file=sys.stderr, flush=True)
    # Not at once: the main thread may hold a lock that all processes share.
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)


def shared(batch: Any) -> Any:
    """What was read, moved to shared memory if this is a worker; a Failure if there is no room."""
    if get_worker_info() is None or batch is None or isinstance(batch, Failure):
        return batch
    try:
        for values in (batch.levels, *batch.columns.values()):
            if isinstance(values, Tensor):
                values.share_memory_()
    except RuntimeError as error:
        return Failure(told(error) or f"Images do not get into {SHARED_MEMORY}: {error}. {FEWER_WORKERS}")
    return batch


# --- in the process that trains --------------------------------------------------------------------------------------


class WatchedLoader:
    """What a loader reads; if one of its workers ends, that is told while a batch is waited for.

    Args:
        loader: a `DataLoader` that has not started its workers, if it has any.
    """

    def __init__(self, loader: DataLoader):
        self.loader: DataLoader | None = loader
        self._others, self._workers = set(multiprocessing.active_children()), set()
        self._handler_of_torch: Callable[[int, FrameType | None], Any] | None = None
        self._end: str | None = None  # the first of a worker, in torch's words
        self._is_waiting = False

    def __iter__(self) -> Iterator[Any]:
        """The batches.

        Raises:
            DataUnreadable: if a worker has ended or cannot be started.
        """
        if not self.loader.num_workers:
            yield from self.loader
            return
        try:
            batches = self._awaited(lambda: iter(self.loader))
            self._workers = self._workers or set(multiprocessing.active_children()) - self._others
            self._replace_handler()
            while (batch := self._awaited(lambda: next(batches, self))) is not self:  # which stands for the end
                yield batch
        except Interrupted:
            self._kill()
            raise
        finally:
            batches = None  # as in `close`
            self._restore_handler()

    def close(self) -> None:
        """End the workers now, though the traceback of an exception may keep this object."""
        self.loader = None

    def _awaited(self, wait: Callable[[], Any]) -> Any:
        self._is_waiting = True
        try:
            if self._end is None:
                return wait()
        except (RuntimeError, OSError, EOFError) as error:
            self._is_waiting = False
            sentence = self._what_happened(error)
            if sentence is None:
                raise
            error.__traceback__ = None  # it would keep torch's iterator, and so its workers, alive
        else:
            sentence = self._what_happened()
        finally:
            self._is_waiting = False
        raise DataUnreadable(sentence)

    def _what_happened(self, error: Exception | None = None) -> str | None:
        """The sentence on a worker that has ended, or on full memory; None if it is something else."""
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return f"Workers find no room in {SHARED_MEMORY}. {FEWER_WORKERS}"
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
            self._end = self._end or _first_sentence(error)
        elif isinstance(error, (OSError, EOFError)):
            self._find_ended_worker()
        if self._end is not None:
            return f"{self._end}, as happens when memory or {SHARED_MEMORY} is full. {FEWER_WORKERS}"
        return told(error) if isinstance(error, RuntimeError) else None

    def _find_ended_worker(self) -> None:
        """Find a worker whose end has broken a connection, and is not heard of yet."""
        time.sleep(SECONDS_TO_HEAR)
        for worker in self._workers:
            if not worker.is_alive():
                self._end = self._end or f"DataLoader worker (pid {worker.pid}) exited with code {worker.exitcode}"

    def _replace_handler(self) -> None:
        """Hear of the ends of workers in torch's place, where signals can be handled."""
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGCHLD)):
            self._handler_of_torch = signal.signal(signal.SIGCHLD, self._on_child_signal)

    def _restore_handler(self) -> None:
        if self._handler_of_torch is not None:
            signal.signal(signal.SIGCHLD, self._handler_of_torch)
            self._handler_of_torch = None

    def _on_child_signal(self, number: int, frame: FrameType | None) -> None:
        try:
            self._handler_of_torch(number, frame)
        except RuntimeError as error:
            self._end = _first_sentence(error)
            if self._is_waiting:
                raise

    def _kill(self) -> None:
        """End workers that kept the run waiting, and would keep it from ending too. The others are idle by now."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join(SECONDS_TO_END)


def _first_sentence(error: RuntimeError) -> str:
    return str(error).split(". ")[0].removesuffix(".").strip()
