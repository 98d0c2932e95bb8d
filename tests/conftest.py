# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What all tests share: one thread, and examples drawn by hypothesis that are the same on every run."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from script_server import ScriptServer
from training_runs import EVERYTHING, ended, start


hypothesis.settings.register_profile("same_every_run", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("same_every_run")


torch.set_num_threads(1)  # small tensors run faster on one thread, and sums come out the same on every machine


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Scripts that a test runs in this process take all cores and catch signals: the next test finds neither."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    torch.set_num_threads(1)
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def scripts() -> Iterator[ScriptServer]:
    """Runs the scripts in examples/ without waiting for their imports; started by the first test that asks for it."""
    with ScriptServer() as server:
        yield server


@pytest.fixture(scope="session")
def whole(scripts: ScriptServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended(start(scripts, folder, *EVERYTHING))
    return folder


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "run"))
