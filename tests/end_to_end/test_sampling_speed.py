# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of sampling compares models of one size, each with the time that it takes itself."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from diffusers import DDIMScheduler, DiffusionPipeline
from tiny_models import tiny_unet
from tiny_pipelines import SIZE, latent_unconditional

from ddpm_hf import DDPMPaperLatentPipeline, DDPMPaperPipeline, DDPMPaperScheduler


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("sampling_speed")


def pixels(side: int) -> DDPMPaperPipeline:
    return DDPMPaperPipeline(tiny_unet(3, sample_size=side), DDPMPaperScheduler(20))


def measured(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, **pipelines: DiffusionPipeline
) -> dict[str, Any]:
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(folder / name)
    models = [str(folder / name) for name in pipelines]
    flags = ["--steps", "4", "--batch-size", "2", "--repetitions", "3", "--output", str(folder / "speed.json")]
    monkeypatch.setattr("sys.argv", ["sampling_speed.py", *models, *flags])
    benchmark.main()
    return json.loads((folder / "speed.json").read_text())


def test_the_time_of_each_model_is_over_that_of_the_first(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    latents = DDPMPaperLatentPipeline.from_stock(latent_unconditional(DDIMScheduler(20, clip_sample=False)))
    report = measured(benchmark, monkeypatch, tmp_path, one=latents, two=pixels(SIZE))
    assert (report["steps"], report["batch_size"], report["threads"]) == (4, 2, 1)
    assert report["results"]["one"]["time over one"]["median"] == 1
    assert report["results"]["two"]["seconds per sample"]["median"] > 0


def test_every_model_has_its_own_time(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waits = [0.0], {"short": 1.0, "long": 5.0}
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])

    def drawing(seconds: float) -> Callable[..., None]:
        def draw(*_: Any, **__: Any) -> None:
            clock[0] += seconds

        return draw

    pipelines = [drawing(seconds) for seconds in waits.values()]
    found = benchmark.summaries(list(waits), benchmark.seconds_of_batches(pipelines, 4, 2, 3), 2)
    assert set(found["long"]["time over short"].values()) == {5.0}
    assert set(found["long"]["seconds per sample"].values()) == {2.5}


def test_models_of_different_sizes_are_not_compared(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="one size"):
        measured(benchmark, monkeypatch, tmp_path, one=pixels(8), two=pixels(4))
