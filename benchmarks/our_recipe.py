# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Our side of the comparison, examples/train.py itself, and what both sides share: turns, time and quiet."""

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
    """The run of examples/train.py with these flags; what is done along the way is left out but for checkpoints."""
    argv = [] if config is None else [str(config)]
    argv += ["--output_dir", str(folder), "--validation_steps", "0", "--save_images_epochs", "0"]
    argv += ["--num_paths", "0", *flags]
    return prepare_run(parse("training.py", *run_arguments(task), argv=argv), task)


def train_ours(state: TrainState, batches: Any) -> None:
    """examples/train.py's own loop, with something in the place of the run's batches that gives the same ones."""
    given, state.batches = state.batches, batches
    ours.train(state, SimpleNamespace(caught=None, awaited=iter))  # Ctrl-C ends the benchmark, and is not waited for
    state.batches = given


class InPlaceOfBatches:
    """What stands in the place of a run's batches, and is asked for all that these are."""

    def __init__(self, batches: TrainingBatches):
        self.batches = batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)


def stock_of(state: TrainState, settings: StockSettings, folder: Path) -> Stock:
    """Stock's recipe for the run's images, so many of them that every step has a whole batch, and its UNet."""
    images = state.data.train
    pixels = images.pixels[: len(images) // settings.batch_size * settings.batch_size]
    return prepare_stock(pixels, images.num_levels, state.model.config, settings, folder)


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, bars and tables are drawn as ever, into nothing."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
