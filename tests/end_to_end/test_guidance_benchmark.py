# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""benchmarks/guidance.py on an untrained model: the content of its output, and the consistency of its figures."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler
from ddpm_hf.conditioning.classes import with_null_class


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("guidance")
    monkeypatch.setattr(module, "use_all_cores", lambda device: None)
    return module


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        layers_per_block=1,
        num_class_embeds=11,
    )
    unet.register_to_config(**with_null_class(10))
    scheduler = DDPMPaperScheduler(20, num_levels=17, clip_sample=False)
    DDPMPaperPipeline(unet, scheduler).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, output: Path, *flags: object) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["guidance.py", "--output", str(output), *map(str, flags)])
    benchmark.main()
    return json.loads(output.read_text())


def test_the_report_the_table_and_the_plot(benchmark: Any, monkeypatch: Any, model: Path, tmp_path: Path) -> None:
    flags = ["--model_name_or_path", model, "--samples", 20, "--sets", 2, "--steps", 3, "--evaluations", 4]
    report = run(benchmark, monkeypatch, tmp_path / "guidance.json", *flags, "--scales", 2, 1, 0)
    assert list(report["results"]) == ["0", "1", "2"]
    for row in report["results"].values():
        per_example = torch.tensor(row["bits_per_dim_per_example"], dtype=torch.float64)
        assert len(per_example) == 297 and row["bits_per_dim"] == pytest.approx(per_example.mean().item())
        assert 0 <= row["own_class"] <= 1 < row["frechet_distance_pixels"]
    without, given = (report["results"][scale]["bits_per_dim"] for scale in "01")
    worth = report["what the class is worth"]
    assert worth["bits_per_image"] == pytest.approx(64 * (without - given), rel=1e-6)
    lines = (tmp_path / "guidance.md").read_text().splitlines()
    assert len(lines) == 6 and lines[3].startswith("| 1 |") and lines[-1].startswith("| test images |")
    for line, bits in ((lines[2], without), (lines[3], given), (lines[4], without)):  # 0, 1, 2
        assert line.split("|")[3].strip() == f"{bits:.4f}"
    assert (tmp_path / "guidance.png").stat().st_size > 10_000
    again = run(benchmark, monkeypatch, tmp_path / "guidance.json", *flags, "--scales", 1, 0, "--resume")
    assert again["results"]["1"] == report["results"]["1"]  # the seconds too: it was not measured again


def test_the_classifier_knows_the_classes_that_were_asked_for(benchmark: Any, model: Path) -> None:
    data = benchmark.load_labelled_images(benchmark.DataArguments())
    judge = benchmark.Judge.of(data.train)
    pixels, classes = benchmark.PIXELS.of_data_set(data.train), benchmark.classes_of(data.train.columns)
    assert judge.figures(pixels, classes)["own_class"] > 0.99
    assert judge.figures(pixels, (classes + 1) % 10)["own_class"] < 0.01
    assert judge.figures(pixels, classes)["frechet_distance_pixels"] == pytest.approx(0, abs=1e-6)
    pipeline = DDPMPaperPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    trial = benchmark.Trial(pipeline, data, 4, 3, 0)
    first, asked = trial.samples(2.0, 12, 0)
    assert first.shape == (12, 64) and asked.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert not torch.equal(first, trial.samples(2.0, 12, 1)[0])


def test_both_bounds_are_needed(benchmark: Any, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        run(benchmark, monkeypatch, tmp_path / "guidance.json", "--scales", 1, 2)
    assert "--scales must have 0 and 1" in capsys.readouterr().err
