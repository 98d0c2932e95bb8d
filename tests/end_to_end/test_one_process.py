# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""One real process: the cores that it uses when it is launched, and its exit after a user's mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import launched
from script_server import EXAMPLES, NOT_INHERITED, ScriptServer
from training_runs import TINY, ended, start


pytestmark = pytest.mark.processes(2)


STEPS = ["--max_train_steps", 1, "--validation_steps", 0, "--checkpointing_steps", 0, "--num_quality_samples", 0]


def cores() -> int:
    return len(os.sched_getaffinity(0))


def threads_of(run: Path) -> int:
    return json.loads((run / "metrics.json").read_text())["cpu_threads"]


@pytest.mark.skipif(cores() == 1, reason="one thread is all there is")
def test_a_launched_script_takes_all_the_cores_it_may(scripts: ScriptServer, tmp_path: Path) -> None:
    """`accelerate launch` leaves a script one thread on the CPU; the server of scripts was started with as many."""
    environment = launched("one_gpu", "--cpu")[1]
    assert environment["OMP_NUM_THREADS"] == "1"
    # OMP_NUM_THREADS is read on import, so the server has it already; the tests hold its runs to one thread otherwise.
    settings = {key: value for key, value in environment.items() if key.startswith("ACCELERATE_")}
    run = start(scripts, tmp_path / "run", *TINY, *STEPS, env=settings | {"LOCAL_WORLD_SIZE": "1"})
    ended(run)
    assert threads_of(tmp_path / "run") == cores()


@pytest.mark.slow  # the launcher and the script import everything anew
@pytest.mark.skipif(cores() == 1, reason="one thread is all there is")
def test_a_script_that_accelerate_launches_takes_them(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    command += [EXAMPLES / "train.py", *TINY, *STEPS, "--output_dir", tmp_path / "run"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, env=kept)
    assert done.returncode == 0, done.stderr
    assert threads_of(tmp_path / "run") == cores()


def assert_one_sentence(told: str, folder: Path) -> None:
    assert told.startswith("train.py: error: `variance_type` must be one of ") and told.count("\n") == 1, told
    assert not folder.exists()


def test_a_mistake_ends_a_process_with_a_sentence(scripts: ScriptServer, tmp_path: Path) -> None:
    run = scripts.run("train.py", "--variance_type", "fixed", "--output_dir", tmp_path / "run")
    assert run.code == 2, run.output
    assert_one_sentence(run.output, tmp_path / "run")


@pytest.mark.slow  # the script imports everything anew
def test_a_mistake_ends_an_interpreter_of_its_own_with_a_sentence(tmp_path: Path) -> None:
    """As a user starts it; what is printed to stdout is another stream."""
    command = [sys.executable, EXAMPLES / "train.py", "--variance_type", "fixed", "--output_dir", tmp_path / "run"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert_one_sentence(done.stderr, tmp_path / "run")
