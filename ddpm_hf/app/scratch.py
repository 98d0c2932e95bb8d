# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Temporary files of a page, which are removed when they are old and when the process ends."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path


AGE = 3600.0  # seconds; the page has its own copy long before


class Scratch:
    """Gives out new folders with names of its own, never those of a visitor's files."""

    def __init__(self, age: float = AGE):
        self._whole = tempfile.TemporaryDirectory(prefix="ddpm-hf-page-", ignore_cleanup_errors=True)
        self._age, self._kept = age, set[Path]()

    @property
    def root(self) -> Path:
        return Path(self._whole.name)

    def folder(self, is_kept: bool = False) -> Path:
        """A new folder; old ones are removed, but for those that are kept."""
        for old in set(self.root.iterdir()) - self._kept:
            if time.time() - old.stat().st_mtime > self._age:
                shutil.rmtree(old, ignore_errors=True)
        new = Path(tempfile.mkdtemp(dir=self.root))
        if is_kept:
            self._kept.add(new)
        return new

    def write(self, name: str, content: bytes) -> Path:
        """A file of this name in a new folder."""
        path = self.folder() / name
        path.write_bytes(content)
        return path
