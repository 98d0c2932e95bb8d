# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Our side of the comparison, examples/train.py itself, and helpers of both sides: turns, timing, quiet output."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from stock_recipe import Stock, StockSettings, prepare_stock

from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.data.batches import TrainingBatches
from ddpm_hf.tasks.base import Task
from ddpm_hf.tasks.images import ImageTask
from ddpm_hf.training import loop as ours
from ddpm_hf.training.state import TrainState


ROOT = Path(__file__).resolve().parents[1]
BARE, OURS, STOCK = "bare", "ours", "stock"


def prepare_ours(folder: Path, *flags: str, config: Path | None = None, task: type[Task] = ImageTask) -> TrainState:
    """The run of examples/train.py with these flags, without sample grids and validation, but with checkpoints."""
    argv = [] if config is None else [str(config)]
    argv += ["--output_dir", str(folder), "--validation_steps", "0", "--save_images_epochs", "0"]
    argv += ["--num_paths", "0", *flags]
    return prepare_run(parse("training.py", *run_arguments(task), argv=argv), task)


def train_ours(state: TrainState, batches: Any) -> None:
    """Run examples/train.py's own loop, with a replacement for the run's batches that yields the same ones."""
    given, state.batches = state.batches, batches
    ours.train(state, SimpleNamespace(caught=None, awaited=iter))  # Ctrl-C ends the benchmark at once
    state.batches = given


class InPlaceOfBatches:
    """A replacement for a run's batches, with the same attributes."""

    def __init__(self, batches: TrainingBatches):
        self.batches = batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)


def stock_of(state: TrainState, settings: StockSettings, folder: Path) -> Stock:
    """Stock's recipe with the run's UNet and images, so many of them that every step has a whole batch."""
    images = state.data.train
    pixels = images.pixels[: len(images) // settings.batch_size * settings.batch_size]
    return prepare_stock(pixels, images.num_levels, state.model.config, settings, folder)


def now() -> float:
    """The time in seconds, after the device has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context in which progress bars and tables are drawn as usual, but their output is discarded."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
