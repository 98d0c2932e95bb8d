# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The scripts in examples/ run in the test's own process: no interpreter starts and nothing is imported again.

Everything that a run changes in the process is restored: arguments, environment, signal handlers, torch's threads and
the state that Accelerate shares between its objects.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import torch
from accelerate.state import AcceleratorState, GradientState
from script_server import EXAMPLES


LIBRARIES = ("accelerate", "datasets", "ddpm_hf", "diffusers", "huggingface_hub", "torch", "transformers")
SILENT = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # by default, in Python


class Done(NamedTuple):
    """A run that has ended."""

    code: int
    output: str  # what it printed to stdout and stderr, warnings among it


def run(script: str, *arguments: object, env: dict[str, str] | None = None) -> Done:
    """Run a script of examples/ to its end, as `python script.py arguments ...` does."""
    path = str(EXAMPLES / script)
    return _done(lambda: runpy.run_path(path, run_name="__main__"), path, *arguments, env=env)


def run_verb(*arguments: object) -> Done:
    """Run a verb to its end, as `ddpm-hf arguments ...` does."""
    from ddpm_hf.cli import main

    return _done(main, "ddpm-hf", *arguments)


def _done(work: Callable[[], object], *argv: object, env: dict[str, str] | None = None) -> Done:
    """Call a program with this command line, to its end."""
    # One thread is the fastest for models as small as those of tests; alone, a script takes all cores.
    settings = {"LOCAL_WORLD_SIZE": str(os.cpu_count()), **(env or {})}
    output, code = io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, settings),
        mock.patch.object(sys, "argv", list(map(str, argv))),
        a_process(),
        printed(output),
    ):
        try:
            work()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Done(code, output.getvalue())


@contextlib.contextmanager
def a_process() -> Iterator[None]:
    """A context that begins with Accelerate's initial state, and restores signal handlers and torch's one thread."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    forget_processes()
    try:
        yield
    finally:
        forget_processes()
        torch.set_num_threads(1)
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def forget_processes() -> None:
    """Reset Accelerate, so that the next Accelerator detects its devices and processes again."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@contextlib.contextmanager
def printed(output: io.StringIO) -> Iterator[None]:
    """A context in which everything that is printed or logged, and every warning, goes to `output`."""
    handler = logging.StreamHandler(output)
    handler.setLevel(logging.WARNING)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    with contextlib.ExitStack() as stack:
        for logger in loggers:
            logger.addHandler(handler)
            stack.callback(logger.removeHandler, handler)
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(output))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default")
        for category in SILENT:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = functools.partial(_show, output)
        yield


def _show(output: io.StringIO, message: Warning, category: type, filename: str, lineno: int, *_: object) -> None:
    output.write(warnings.formatwarning(message, category, filename, lineno))
