# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Two runs in one folder: the second is refused until the first has ended in any way."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from filelock import FileLock
from training_runs import TINY, refused, train

from ddpm_hf.runtime.output_folder import claim_folder


pytestmark = pytest.mark.processes(1)

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


@pytest.mark.parametrize(
    "error",
    [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks"), OSError(errno.EOPNOTSUPP, "None")],
)
def test_a_file_system_without_locks_is_told_and_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture, error: Exception
) -> None:
    with mock.patch.object(FileLock, "acquire", side_effect=error):
        claim_folder(str(tmp_path / "run"), overwrite=False)
    told = f"`output_dir` {tmp_path / 'run'} is on a file system without locks; take care that no other run writes"
    assert capsys.readouterr().err == f"{told} into it.\n"


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    error = OSError(errno.EROFS, "Read-only file system")
    with mock.patch.object(FileLock, "acquire", side_effect=error), pytest.raises(OSError, match="Read-only"):
        claim_folder(str(tmp_path / "run"), overwrite=False)
