# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What a run tells before its first step, and how far it is while it runs."""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hooks import few_digits
from in_process import a_process
from PIL import Image
from training_runs import EVERYTHING, TINY, train

from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.training import plan, start
from ddpm_hf.training.run_clock import PHASES
from ddpm_hf.training.state import TrainState


NAMES = ("data", "model", "learns", "on", "to come")


def rows(output: str) -> dict[str, list[str]]:
    """The lines of the summary by their name."""
    found, name = {}, None
    for line in output.splitlines():
        label, text = line[: start.WIDTH].strip(), line[start.WIDTH :]
        name = label if label in NAMES else name if name and not label else None
        if name:
            found.setdefault(name, []).append(text)
    return found


def summary_of(state: TrainState) -> dict[str, list[str]]:
    return rows("\n".join(start.summary(state)))


def icons(folder: Path) -> Path:
    """Discs of four sizes on nothing, under which the file is black."""
    folder.mkdir()
    for number in range(12):
        side = (16, 24, 32, 48)[number % 4]
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        pixels = np.zeros((side, side, 4), np.uint8)
        pixels[x**2 + y**2 < (side / 3) ** 2] = (200, 20 * number, 50, 255)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_the_digits_are_told(tmp_path: Path) -> None:
    found = rows(train(tmp_path / "run", *TINY, "--max_train_steps", 2))
    assert found["data"] == [
        "Images of scikit-learn digits: 150 to train on, 24 to validate with, 24 to test with.",
        "8x8 pixels, 1 channel (grey), 17 levels, not mirrored",
    ]
    assert found["model"] == ["UNet2DModel of 19 778 parameters (no preset)"]
    assert found["learns"] == [
        "v_prediction, variance learned_range, by objective rate; 6 timesteps, schedule log_snr"
    ]
    assert re.fullmatch(r"cpu with \d+ threads?, float32; 16 images a step", found["on"][0])
    phases = [line.split()[0] for line in found["to come"]]
    assert phases == ["training", "measuring", "sampling", "scoring", "saving", "About"]
    assert "2 steps" in found["to come"][0] and "4 images in 6 steps" in found["to come"][2]
    assert "24 test images" in found["to come"][3] and str(tmp_path / "run") in found["to come"][4]


def test_transparent_icons_of_mixed_sizes_are_told_and_composited(tmp_path: Path) -> None:
    folder = icons(tmp_path / "icons")
    arguments = [*TINY, "--train_data_dir", folder, "--resolution", 32, "--center_crop", "--random_flip"]
    output = train(tmp_path / "run", *arguments, "--max_train_steps", 2)
    data = rows(output)["data"]
    assert data[:2] == [
        "Images of icons: 10 to train on, 2 to test with.",
        "32x32 pixels, 3 channels (RGB), 256 levels, mirrored at random",
    ]
    assert "10 of 10 training images have transparency" in data[2] and "background of white" in data[2]
    assert output.count("to train on") == output.count("have transparency") == 1
    kept = rows(train(tmp_path / "kept", *arguments, "--channels", 4, "--max_train_steps", 1))["data"]
    assert kept[1:] == [
        "32x32 pixels, 4 channels (RGB and transparency, which is kept), 256 levels, mirrored at random"
    ]


def test_classes_are_told(tmp_path: Path) -> None:
    arguments = [*TINY, "--num_class_embeds", 10, "--max_train_steps", 1, "--gradient_accumulation_steps", 2]
    found = rows(train(tmp_path / "run", *arguments))
    assert found["model"][0].endswith("(no preset), given 10 classes")
    assert found["on"][0].endswith("; 32 images a step, 2 batches accumulated")


def test_the_preset_is_told(tmp_path: Path) -> None:
    argv = ["--output_dir", str(tmp_path / "run"), "--train_data_dir", str(icons(tmp_path / "icons"))]
    with a_process(), mock.patch.object(plan, "forward_speed", lambda state: plan.Speed(0.0, 0.01)):
        state = prepare_run(parse("train.py", *run_arguments(), argv=[*argv, "--resolution", "16"]))
        state.clock.expect(plan.expected_phases(state))
        told = summary_of(state)
    model, to_come = (told[name] for name in ("model", "to come"))
    assert model == ["UNet2DModel of 4.2 million parameters (preset 16)"]
    assert to_come[0].split("  ")[-1].strip() == "2 h 40 min"  # 5000 steps of 64 images, 3 forward passes of .01 s


def test_the_time_of_a_compiled_model_follows(tmp_path: Path) -> None:
    argv = ["--output_dir", str(tmp_path / "run"), *map(str, TINY), "--max_train_steps", "2"]
    with a_process(), few_digits():
        state = prepare_run(parse("train.py", *run_arguments(), argv=argv))
        with mock.patch.object(type(state), "is_compiled", True):
            state.clock.expect(plan.expected_phases(state))
        to_come = summary_of(state)["to come"]
    assert to_come[-1] == "The time expected follows after the first steps."
    assert to_come[0].endswith("2 steps")


# --- progress -------------------------------------------------------------------------------------------------------


def test_a_terminal_gets_a_bar_of_the_run_and_one_of_its_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddpm_hf.runtime.progress.shows_bars", lambda: True)
    monkeypatch.setattr("ddpm_hf.runtime.progress.REFRESH", 0)
    drawn = re.split(r"[\r\n]|\x1b\[A", train(tmp_path / "run", *EVERYTHING))
    bars = {name: [line for line in drawn if re.match(rf"{name}: +\d+%\|", line)] for name in ("run", *PHASES)}
    assert all(bars.values())
    assert all(line.rstrip().endswith("left") for line in bars["run"])
    assert any("20/20 steps, loss " in line and line.startswith("training: 100%") for line in bars["training"])
    shares = [int(re.search(r"(\d+)%", line)[1]) for line in bars["run"]]
    assert shares[0] == 0 and shares[-1] > 90


def test_a_log_file_gets_lines_of_every_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddpm_hf.runtime.progress.SECONDS", 0)
    output = train(tmp_path / "run", *EVERYTHING)
    lines = [line for line in output.splitlines() if line.endswith(" left")]
    assert "\r" not in output and lines[0].startswith("training: 0/20 steps; run 0 % done, ")
    pattern = r"(\w+): (\d+/20 steps|\d+ %)(, loss \S+, \S+ images/s)?; run \d+ % done, .* left"
    found = [re.fullmatch(pattern, line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    assert {match[1] for match in found} == set(PHASES)
    assert any(line.startswith("training: 20/20 steps, loss ") for line in lines)
    shares = [int(re.search(r"run (\d+) % done", line)[1]) for line in lines]
    assert shares[-1] > 90
