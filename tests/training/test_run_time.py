# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The work that is planned is the work that is done, and the time of a run is told by phase."""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import hooks
import image_folders
import pytest
import torch
from diffusers import UNet2DModel
from training_runs import EVERYTHING, LATEST, SCORED, TINY, train

from ddpm_hf.cli import train as command
from ddpm_hf.runtime.progress import duration
from ddpm_hf.training import plan
from ddpm_hf.training.run_clock import PHASES, SAVING, TRAINING, Phase, RunClock
from ddpm_hf.training.state import TrainState


class Counted:
    """The calls of the model and their images in a run, by phase, and what was planned when it began."""

    def __init__(self) -> None:
        self.calls, self.images, self.planned = Counter(), Counter(), {}
        self.state: TrainState | None = None

    def took(self) -> dict[str, tuple[int, int]]:
        return {name: (self.calls[name], self.images[name]) for name in self.planned}


@contextlib.contextmanager
def counted(found: Counted) -> Iterator[None]:
    """Inside, a run's model calls are counted once it has begun."""
    forward, announce = UNet2DModel.forward, command.announce

    @functools.wraps(forward)
    def counting(self: UNet2DModel, sample: torch.Tensor, *rest: Any, **options: Any) -> Any:
        if found.state is not None:
            phase = found.state.clock._open[-1]
            found.calls[phase] += 1
            found.images[phase] += len(sample)
        return forward(self, sample, *rest, **options)

    def announcing(state: TrainState) -> None:
        announce(state)
        found.planned = {name: tuple(work) for name, work in plan.work_to_come(state).items()}
        found.state = state

    with mock.patch.object(UNet2DModel, "forward", counting), mock.patch.object(command, "announce", announcing):
        yield


RUNS = {
    "all there is": EVERYTHING,
    "paths": [*SCORED, "--ddpm_num_steps", 200, "--ddpm_num_inference_steps", 5],
    "classes and several averages": [
        *TINY,
        "--num_class_embeds",
        10,
        "--max_train_steps",
        3,
        "--ema_max_decay",
        0.9,
        0,
    ],
    "a measured variance": [*TINY, "--objective", "simple", "--max_train_steps", 2, "--max_measured_images", 40],
    "an epoch in less than a step": [
        *TINY,
        "--max_train_steps",
        4,
        "--train_batch_size",
        200,
        "--save_images_epochs",
        1,
    ],
    "no test images while it trains": [*TINY, "--max_train_steps", 5, "--validation_steps", 0, "--num_evaluations", 0],
}


@pytest.mark.parametrize("arguments", RUNS.values(), ids=RUNS.keys())
def test_the_model_calls_that_are_planned_are_made(tmp_path: Path, arguments: list[object]) -> None:
    found = Counted()
    train(tmp_path / "run", *arguments, during=(counted(found),))
    assert found.took() == found.planned
    assert found.planned[TRAINING][0] > 0 and min(work for work, _ in found.planned.values()) > 0


def test_a_run_that_goes_on_plans_what_is_left(tmp_path: Path) -> None:
    train(tmp_path / "run", *EVERYTHING, code=130, during=(hooks.signal_at(22, "SIGINT"),))
    found = Counted()
    train(tmp_path / "run", *EVERYTHING, *LATEST, during=(counted(found),))
    assert found.took() == found.planned
    assert found.planned[TRAINING] == (2 * 9, 10 * 9)  # 11 of 20 steps are made


@pytest.mark.parametrize("streaming", [False, True])
def test_the_images_of_a_folder_are_planned_for(tmp_path: Path, streaming: bool) -> None:
    folder, found = image_folders.save(tmp_path / "data", [f"{i}.png" for i in range(40)]), Counted()
    arguments = [*TINY, "--train_data_dir", folder, "--max_train_steps", 3, "--max_measured_images", 20]
    arguments += ["--streaming"] * streaming
    train(tmp_path / "run", *arguments, during=(counted(found),))
    assert found.took() == found.planned


def test_times_of_all_phases_are_told_and_kept(tmp_path: Path) -> None:
    output = train(tmp_path / "run", *EVERYTHING)
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    seconds = report["seconds_by_phase"]
    assert tuple(seconds) == PHASES and min(seconds.values()) > 0
    assert seconds[TRAINING] == report["train_seconds"]
    *_, told, place = output.strip().splitlines()
    assert place == f"the model is in {tmp_path / 'run'}, with README.md, samples.png and metrics.json"
    assert told.startswith(f"trained 20 steps in {report['train_seconds']:.0f} s; measuring ")
    assert told.endswith(f": {sum(seconds.values()):.0f} s in all")


def test_a_run_that_goes_on_keeps_the_time_of_what_was_before(tmp_path: Path) -> None:
    train(tmp_path / "run", *EVERYTHING, code=130, during=(hooks.signal_at(22, "SIGINT"),))
    record = json.loads((tmp_path / "run" / "checkpoint-11" / "training.json").read_text())
    before = record["seconds_by_phase"]
    train(tmp_path / "run", *EVERYTHING, *LATEST)
    after = json.loads((tmp_path / "run" / "metrics.json").read_text())["seconds_by_phase"]
    assert before[TRAINING] > 0 and all(after[name] >= before[name] for name in PHASES)


def test_timing_the_model_changes_no_result(tmp_path: Path) -> None:
    arguments = [*EVERYTHING, "--num_class_embeds", 10]
    train(tmp_path / "timed", *arguments)
    with mock.patch.object(plan, "forward_speed", lambda state: plan.Speed(1.0, 1.0)):
        train(tmp_path / "untimed", *arguments)
    one, two = (
        (tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
        for name in ("timed", "untimed")
    )
    assert one == two
    one, two = ((tmp_path / name / "samples.png").read_bytes() for name in ("timed", "untimed"))
    assert one == two


# --- the clock ------------------------------------------------------------------------------------------------------


class Watch:
    """In place of the time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr("ddpm_hf.training.run_clock.time", watch)
    return watch


def test_time_counts_for_the_innermost_phase(watch: Watch) -> None:
    clock = RunClock()
    with clock.phase("training"):
        watch.now = 2.0
        with clock.phase("sampling"):
            watch.now = 5.0
        watch.now = 6.0
    watch.now = 100.0
    assert clock.spent("training") == 3.0 and clock.spent("sampling") == 3.0 and clock.total == 6.0


def test_what_is_left_follows_the_speed_that_is_measured(watch: Watch) -> None:
    clock = RunClock()
    clock.expect({"training": Phase(100.0, 100.0), "sampling": Phase(50.0, 50.0)})
    assert clock.left == 150.0
    with clock.phase("training"):
        for _ in range(11):  # of which the first counts for nothing
            watch.now += 3.0
            clock.advance(1.0)
        assert clock.left == pytest.approx(3 * 89 + 3 * 50)  # all that is to come is as slow
        for _ in range(89):
            watch.now += 3.0
            clock.advance(1.0)
    with clock.phase("sampling", is_last=True):
        for _ in range(6):
            watch.now += 1.0
            clock.advance(5.0)
        assert clock.left == pytest.approx(0.2 * 20)  # by its own speed
    assert clock.left == 0.0  # though less work was done than planned


def test_what_is_left_is_told_late_where_the_model_cannot_be_timed(watch: Watch) -> None:
    clock = RunClock()
    clock.expect({"training": Phase(10.0, None), "scoring": Phase(20.0, None), SAVING: Phase(1.0, 4.0)})
    assert clock.left is None
    with clock.phase("training"):
        for _ in range(3):
            watch.now += 2.0
            clock.advance(1.0)
        assert clock.left == pytest.approx(2 * 7 + 2 * 20 + 4)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        *((0.2, "0 s"), (7.4, "7 s"), (96, "96 s"), (99.6, "1 min 40 s"), (120, "2 min"), (320, "5 min 20 s")),
        *((3599, "59 min 59 s"), (3600, "1 h"), (12000, "3 h 20 min"), (86400, "1 d"), (187200, "2 d 4 h")),
    ],
)
def test_durations_are_told_in_two_units(seconds: float, told: str) -> None:
    assert duration(seconds) == told
