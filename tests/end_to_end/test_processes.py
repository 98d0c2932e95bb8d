# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Several processes make one training, one score and one grid; when one ends early, the others end too."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from script_server import Script, ScriptServer
from training_runs import GOES_ON, LATEST, TINY, assert_same, ended, last_line, names_in, start, start_together


pytestmark = pytest.mark.processes(5)


# Of several processes signals are seen when anything is due, here a checkpoint or a validation, or for ten steps.
TOGETHER = [
    *TINY,
    *shlex.split(
        "--max_train_steps 14 --train_batch_size 4 --gradient_accumulation_steps 2 --dropout 0.1 --random_flip"
        " --ema_max_decay 0.99 0.9 --checkpointing_steps 4 --validation_steps 7 --max_validation_images 16"
        " --num_validation_evaluations 2"
    ),
]
ALONE = "train.py: Another process has ended, and this one cannot go on without it."


def all_ended(runs: list[Script], *codes: int) -> list[str]:
    """What runs printed, when they have ended with these codes."""
    for run in runs:
        run.wait(60)
    return [ended(run, code) for run, code in zip(runs, codes, strict=True)]


@pytest.fixture(scope="module")
def unstopped(scripts: ScriptServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that was never stopped."""
    folder = tmp_path_factory.mktemp("unstopped") / "run"
    all_ended(start_together(scripts, 2, folder, *TOGETHER), 0, 0)
    assert json.loads((folder / "checkpoint-14" / "training.json").read_text())["processes"] == 2
    assert json.loads((folder / "metrics.json").read_text())["train_batch_size"] == 16  # 4 images, twice, by each
    return folder


# --- training --------------------------------------------------------------------------------------------------------


def recorded(file: Path) -> str:
    """Hooks: times are drawn by importance early; the losses of the steps go into a file."""
    return f"hooks.early_importance(), hooks.losses_to({str(file)!r})"


def losses_in(file: Path) -> list[float]:
    return [float(line) for line in file.read_text().splitlines()]


def test_two_processes_train_as_one_with_the_whole_batch(scripts: ScriptServer, tmp_path: Path) -> None:
    arguments = [*TINY, *shlex.split("--max_train_steps 40 --dropout 0 --random_flip --checkpointing_steps 40")]
    arguments += ["--ddpm_num_steps", 20, "--train_batch_size", 64]  # the loss falls in these few steps
    one, two = tmp_path / "one", tmp_path / "two"
    alone = start(scripts, tmp_path / "alone", *arguments, hooks=recorded(one))
    half = ["--train_batch_size", 32]
    both = start_together(scripts, 2, tmp_path / "both", *arguments, *half, hooks=recorded(two))
    all_ended([alone, *both], 0, 0, 0)
    one, two = losses_in(one), losses_in(two)
    assert len(one) == 40 and one[-1] < 0.8 * one[0]
    assert two == pytest.approx(one, rel=1e-4)
    states = [load_file(tmp_path / name / "checkpoint-40" / "importance.safetensors") for name in ("alone", "both")]
    assert states[0]["second_moments"].unique().numel() > 5  # of many losses: times were drawn by them
    torch.testing.assert_close(states[1], states[0], rtol=1e-3, atol=0)


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes(scripts: ScriptServer, tmp_path: Path) -> None:
    arguments = [*TINY, *shlex.split("--max_train_steps 20 --dropout 0 --random_flip")]
    alone = start(scripts, tmp_path / "alone", *arguments, hooks=recorded(tmp_path / "one"))
    two = recorded(tmp_path / "two")
    ended(start(scripts, tmp_path / "run", *arguments, hooks=f'{two}, hooks.signal_at(7, "SIGTERM")'), 143)
    half = ["--train_batch_size", 8, *LATEST]
    both = start_together(scripts, 2, tmp_path / "run", *arguments, *half, hooks=two)
    all_ended([alone, *both], 0, 0, 0)
    assert losses_in(tmp_path / "two") == pytest.approx(losses_in(tmp_path / "one"), rel=1e-4)
    assert {path.name for path in (tmp_path / "run" / "checkpoint-20").glob("random*")} == {
        "random_states_0.pkl",
        "random_states_1.pkl",
    }


@pytest.mark.slow
def test_a_signal_to_one_or_both_stops_both_and_they_go_on_exactly(
    scripts: ScriptServer, unstopped: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    # In the first window of step 6, and in the second of step 9.
    for ranks, name, code, batch, step in [((0, 1), "SIGTERM", 143, 11, 7), ((1,), "SIGINT", 130, 4, 12)]:
        hooks = f"hooks.signal_at({batch}, {name!r}, {ranks})"
        runs = start_together(scripts, 2, folder, *TOGETHER, *LATEST, hooks=hooks)
        told = f"{folder / f'checkpoint-{step}'} is whole. {GOES_ON}"
        for output in all_ended(runs, code, code):
            assert last_line(output) == f"train.py: {name} stopped it. {told}"
    all_ended(start_together(scripts, 2, folder, *TOGETHER, *LATEST), 0, 0)
    assert_same(folder, unstopped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hooks", "killed", "step"),
    [
        ('hooks.signal_at(13, "SIGKILL", [0])', 0, 4),  # in the middle of a step
        ('hooks.signal_at(13, "SIGKILL", [1])', 1, 4),
        # while the last checkpoint is written
        ('hooks.signal_in("ddpm_hf.training.due.write_state", "SIGKILL", 3, [1])', 1, 8),
    ],
    ids=["main", "other", "writing"],
)
def test_when_one_process_is_killed_the_other_ends_and_both_go_on(
    scripts: ScriptServer, unstopped: Path, tmp_path: Path, hooks: str, killed: int, step: int
) -> None:
    folder = tmp_path / "run"
    runs = start_together(scripts, 2, folder, *TOGETHER, hooks=hooks)
    assert runs[killed].wait() == -signal.SIGKILL
    since = time.monotonic()
    sentence = last_line(ended(runs[1 - killed], 1))
    assert time.monotonic() - since < 20
    assert sentence == f"{ALONE} {folder / f'checkpoint-{step}'} is whole. {GOES_ON}"
    all_ended(start_together(scripts, 2, folder, *TOGETHER, *LATEST), 0, 0)
    assert_same(folder, unstopped)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "size"), [(0, 100_000), (1, 10_000)])
def test_when_one_process_cannot_write_both_end_with_the_last_checkpoint(
    scripts: ScriptServer, unstopped: Path, tmp_path: Path, rank: int, size: int
) -> None:
    folder = tmp_path / "run"
    hooks = f"hooks.done_in('ddpm_hf.training.due.write_state', lambda: hooks.limit_files({size}), 2, [{rank}])"
    for output in all_ended(start_together(scripts, 2, folder, *TOGETHER, hooks=hooks), 1, 1):
        assert last_line(output).startswith("train.py: The checkpoint of step 8 could not be written: ")
        assert last_line(output).endswith(f" {folder / 'checkpoint-4'} is whole. {GOES_ON}")
    assert names_in(folder) == ["checkpoint-4"]


@pytest.mark.slow
def test_when_the_end_cannot_be_written_both_end(scripts: ScriptServer, unstopped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    hooks = "hooks.done_in('ddpm_hf.training.finish.save_grid', lambda: hooks.limit_files(50_000), 1, [0])"
    outputs = all_ended(start_together(scripts, 2, folder, *TOGETHER, hooks=hooks), 1, 0)
    assert last_line(outputs[0]).startswith("train.py: error: ")
    assert last_line(outputs[0]).endswith(f" {folder / 'checkpoint-14'} is whole. {GOES_ON}")
    assert not list(folder.rglob("*.partial*")) and not (folder / "README.md").exists()  # the card comes last
    assert_same(folder / "checkpoint-14", unstopped / "checkpoint-14")


@pytest.mark.slow
def test_when_one_process_cannot_read_the_checkpoint_both_say_so(
    scripts: ScriptServer, unstopped: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(unstopped, tmp_path / "run"))
    gone = "lambda: hooks.raise_error(OSError('the disk has gone'))"
    hooks = f"hooks.done_in('ddpm_hf.training.checkpoint_contents.load_file', {gone}, 1, [1])"
    for output in all_ended(start_together(scripts, 2, folder, *TOGETHER, *LATEST, hooks=hooks), 2, 2):
        told = f"{folder / 'checkpoint-14'} cannot be gone on from: the disk has gone"
        assert last_line(output) == f"train.py: error: {told}"


def test_a_loss_that_is_no_number_on_one_process_stops_both(scripts: ScriptServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for output in all_ended(start_together(scripts, 2, folder, *TOGETHER, hooks="hooks.nan_at(11, rank=1)"), 1, 1):
        assert last_line(output).startswith("train.py: The loss of step 6 is nan, the norm of its gradient nan. ")
    assert names_in(folder) == ["checkpoint-4"]


# --- scoring and sampling --------------------------------------------------------------------------------------------


SCORED = shlex.split(
    "--batch_size 4 --max_images 18 --num_evaluations 5 --num_paths 2 --few_steps 3 --num_quality_samples 6"
    " --num_flow_images 5"
)
DRAWN = shlex.split("--batch_size 3 --num_images 10")


@pytest.fixture(scope="module")
def made_by_one(scripts: ScriptServer, unstopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A score, and a grid, that one process made."""
    folder = tmp_path_factory.mktemp("one")
    score, _ = scored_and_drawn(scripts, 1, unstopped, folder)
    assert "bits/dim on 18 images" in score
    return folder


def scored_and_drawn(scripts: ScriptServer, processes: int, model: Path, folder: Path) -> list[str]:
    """What so many processes printed."""
    common = ["--model_name_or_path", model]
    score = ["evaluate.py", *common, *SCORED, "--output_dir", folder / "score"]
    draw = ["sample.py", *common, *DRAWN, "--output", folder / "grid.png", "--gif", folder / "way.gif"]
    if processes == 1:
        return all_ended([scripts.start(*score), scripts.start(*draw)], 0, 0)
    runs = [run for each in (score, draw) for run in scripts.start_together(processes, *each)]
    return all_ended(runs, *[0] * len(runs))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_a_score_and_a_grid_are_the_same_whoever_makes_them(
    scripts: ScriptServer, unstopped: Path, made_by_one: Path, tmp_path: Path, processes: int
) -> None:
    # Five and four batches: some processes have nothing left to do in the last round.
    outputs = scored_and_drawn(scripts, processes, unstopped, tmp_path)
    for name in ("score/evaluation.json", "score/evaluation.png", "score/few_steps.png", "grid.png", "way.gif"):
        assert (tmp_path / name).read_bytes() == (made_by_one / name).read_bytes()
    table = json.loads((tmp_path / "score" / "evaluation.json").read_text())
    assert table["num_examples"] == 18
    assert sum(output.count("bits/dim on 18 images") for output in outputs) == 1  # one of them tells
    assert len(np.unique(np.asarray(Image.open(tmp_path / "grid.png")))) > 20


@pytest.mark.slow
def test_a_mistake_ends_all_processes_with_a_sentence(scripts: ScriptServer, unstopped: Path) -> None:
    arguments = ["--model_name_or_path", unstopped, "--output_dir", unstopped]
    for output in all_ended(scripts.start_together(2, "evaluate.py", *arguments), 2, 2):
        assert "already holds another run" in last_line(output)
