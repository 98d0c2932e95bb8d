# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Two runs in one folder: the second is refused until the first has ended in any way."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_runs import TINY, refused, train

from ddpm_hf.runtime.output_folder import claim_folder


WAITS = """
import sys
from ddpm_hf.runtime.output_folder import claim_folder
claim_folder(sys.argv[1], overwrite=False)
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process, which has claimed the folder `run` and has written nothing yet."""
    command = [sys.executable, "-c", WAITS, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_a_folder_that_another_process_writes_into_is_refused_until_it_is_killed(
    other: subprocess.Popen, tmp_path: Path
) -> None:
    folder, quick = tmp_path / "run", [*TINY, "--max_train_steps", 1]
    for flags in ([], ["--overwrite_output_dir"], ["--resume_from_checkpoint", "latest"]):
        sentence = refused(folder, *quick, *flags)
        assert f"`output_dir` {folder} is being written by another run; wait for its end" in sentence
    with pytest.raises(ValueError, match="is being written by another run"):
        claim_folder(str(folder), overwrite=True)
    other.send_signal(signal.SIGKILL)
    other.wait()
    train(folder, *quick)
    assert (folder / "metrics.json").exists()
