# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Settings of all tests: one thread, no Hub, none of this machine's caches, and the same examples on every run."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path


# Before anything reads them; processes that speak to a Hub on loopback are given settings of their own.
_home = tempfile.mkdtemp(prefix="hf-home-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.update(HF_HOME=_home, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", MPLBACKEND="Agg")
os.environ.pop("HF_DATASETS_CACHE", None)

import hypothesis  # noqa: E402
import processes  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from in_process import a_process  # noqa: E402
from script_server import ScriptServer  # noqa: E402
from training_runs import EVERYTHING, SCORED, train  # noqa: E402


hypothesis.settings.register_profile("same_every_run", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("same_every_run")


torch.set_num_threads(1)  # small tensors run faster on one thread, and sums come out the same on every machine


LONGEST = "test_survival.py"  # of the slow tests: begun last, it would run on alone


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file comes first; the others stay in their order."""
    items.sort(key=lambda item: item.path.name != LONGEST)


@pytest.fixture(scope="module", autouse=True)
def few_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """The fast tests of a file start as many processes as its marker `processes` says, and none without it."""
    before = processes.started
    yield
    is_fast = not any(item.path == request.path and item.get_closest_marker("slow") for item in request.session.items)
    marker = request.node.get_closest_marker("processes")
    allowed, started = marker.args[0] if marker else 0, processes.started - before
    assert not is_fast or started <= allowed, f"{request.path.name} started {started} processes, not {allowed}"


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """What a test did to signals, threads and Accelerate's shared state is put back for the next one."""
    for worker in multiprocessing.active_children():  # of an earlier test, which a traceback kept alive
        worker.kill()
        worker.join()
    with a_process():
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def scripts() -> Iterator[ScriptServer]:
    """Runs the scripts in examples/ without waiting for their imports; started by the first test that asks for it."""
    with ScriptServer() as server:
        yield server


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder, *EVERYTHING)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on all the digits for a moment, and scored; what was printed lies beside it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    output = train(folder, *SCORED, digits=nullcontext())
    folder.with_name("output.txt").write_text(output)
    return folder


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "run"))
