# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""benchmarks/choose_hyperparameters.py uses only training images, and each setting has its row in the table."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sklearn.datasets
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from training_runs import TINY_MODEL

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.tasks.arguments import DiffusionArguments, ModelArguments


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = [*TINY_MODEL, "--ddpm_num_steps", 6, "--train_batch_size", 16]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(os.cpu_count()))  # one thread, from the beginning
    module = importlib.import_module("choose_hyperparameters")
    monkeypatch.setitem(module.OTHERS, "dropout", (0.0, 0.3))
    monkeypatch.setitem(module.OTHERS, "adam_weight_decay", (1.0,))
    monkeypatch.setitem(module.OTHERS, "vlb_weight", (0.0,))
    return module


@pytest.fixture
def training_digits() -> Tensor:
    return torch.from_numpy(load_digits().images[:1500]).to(torch.uint8).unsqueeze(1)


@pytest.fixture
def no_test_images(training_digits: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on whoever asks for a line of a test image fails."""
    unguarded = gzip.open

    @contextlib.contextmanager
    def guarded(*arguments: Any) -> Iterator[Iterator[str]]:
        with unguarded(*arguments) as lines:
            yield (next(lines) if i < 1500 else pytest.fail("a test image was read") for i in range(1797))

    monkeypatch.setattr(gzip, "open", guarded)
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: pytest.fail("all digits were loaded"))


def run(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, output: Path, *flags: object) -> dict[str, Any]:
    argv = ["choose_hyperparameters.py", "--quick", "--output", output, *flags, "--flags", *TINY]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    benchmark.main()
    return json.loads(output.read_text())


def test_the_images_are_the_training_images_and_no_others(
    benchmark: Any, monkeypatch: Any, training_digits: Tensor, no_test_images: None
) -> None:
    data = benchmark.TrainingDigits(ModelArguments(), DataArguments(), DiffusionArguments()).load_data()
    assert torch.equal(data.train.pixels, training_digits[:1300])
    assert torch.equal(data.validation.pixels, training_digits[1300:])
    assert len(data.test) == 0
    monkeypatch.setattr(benchmark, "TRAINING_IMAGES", 1501)
    with pytest.raises(pytest.fail.Exception, match="a test image was read"):
        benchmark.training_digits()


def test_each_setting_has_its_row(benchmark: Any, monkeypatch: Any, no_test_images: None, tmp_path: Path) -> None:
    output = tmp_path / "chosen.json"
    report = run(benchmark, monkeypatch, output)
    assert (report["trained on"], report["scored on"]) == ("training images 0 to 31", "training images 32 to 47")
    rows, lines = report["results"], output.with_suffix(".md").read_text().splitlines()[2:]
    settings = [line.split("|")[1].strip() for line in lines]
    assert settings == [
        *("dropout 0", "dropout 0.15", "dropout 0.3", "adam_weight_decay 0.3", "adam_weight_decay 1"),
        *("vlb_weight 0", "vlb_weight 0.1", "num_epochs 1", "num_epochs 2", "num_epochs 3"),
        *(f"ema_max_decay {decay}" for decay in (0.95, 0.98, 0.99, 0.995, 0.999)),
        *("seed 0", "seed 1"),
    ]
    defaults = ["dropout 0.15", "adam_weight_decay 0.3", "vlb_weight 0.1", "num_epochs 2", "ema_max_decay 0.99"]
    assert [name for name, line in zip(settings, lines, strict=True) if "default" in line] == [*defaults, "seed 0"]
    assert sum("best" in line for line in lines) == 5  # of each argument but the seed
    best = min(("num_epochs 1", "recipe", "num_epochs 3"), key=lambda name: rows[name]["bits_per_dim"])
    marked = [name for name, line in zip(settings, lines, strict=True) if "best" in line and "num_epochs" in name]
    assert marked == [best if best != "recipe" else "num_epochs 2"]
    assert [rows[name]["steps"] for name in ("num_epochs 1", "recipe", "num_epochs 3")] == [2, 4, 6]
    for row in rows.values():
        per_example = torch.tensor(row["bits_per_dim_per_example"], dtype=torch.float64)
        assert len(per_example) == 16 and row["bits_per_dim"] == pytest.approx(per_example.mean().item())
    difference = rows["seed 1"]["bits_per_dim"] - rows["recipe"]["bits_per_dim"]
    assert rows["seed 1"]["over the recipe"] == pytest.approx(difference) != 0


def test_what_is_known_is_not_trained_again(benchmark: Any, monkeypatch: Any, tmp_path: Path) -> None:
    output, settings = tmp_path / "chosen.json", ["--dropout", "--vlb_weight", "--num_epochs", "--adam_weight_decay"]
    report = run(benchmark, monkeypatch, output, *settings)
    monkeypatch.setattr(benchmark, "prepare_ours", lambda *_, **__: pytest.fail("there was nothing to train"))
    assert run(benchmark, monkeypatch, output, *settings, "--resume") == report
    with pytest.raises(pytest.fail.Exception, match="nothing to train"):
        run(benchmark, monkeypatch, output, *settings, "--resume", "--epochs", 3)
