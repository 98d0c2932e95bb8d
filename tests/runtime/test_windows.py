# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Files and folders are written on Windows too, which is imitated where it differs: it opens no folder, and flushes no
file that is open for reading alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ddpm_hf.runtime import output_folder


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    open_, fsync = os.open, os.fsync

    def open_no_folder(path: Any, flags: int, *arguments: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_(path, flags, *arguments)

    def flush_what_can_be_written(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        fsync(descriptor)

    monkeypatch.setattr(output_folder, "WINDOWS", True)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # rmtree opens no folders there
    monkeypatch.setattr(output_folder.os, "open", open_no_folder)
    monkeypatch.setattr(output_folder.os, "fsync", flush_what_can_be_written)


@pytest.mark.usefixtures("windows")
def test_files_and_folders_are_written(tmp_path: Path) -> None:
    for value in (1, 2):
        output_folder.write_json(tmp_path / "metrics.json", {"value": value})
        output_folder.replace_folder(tmp_path / "checkpoint-1", partial(_fill, value))
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"value": 2}
    assert (tmp_path / "checkpoint-1" / "inner" / "file").read_text() == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "metrics.json"]


def _fill(value: int, folder: Path) -> None:
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text(str(value))
