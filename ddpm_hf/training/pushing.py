# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Pushes a run to the Hub: at its end, and in the background during training. A failed push never stops the run."""

from __future__ import annotations

import shlex
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import get_session, set_client_factory
from huggingface_hub.utils import disable_progress_bars, httpx

from ..hub.arguments import HubArguments
from ..hub.push import claim_repository, push_folder
from ..hub_errors import HubError
from ..runtime.output_folder import replace_folder
from .tracking import tell


SNAPSHOT = "snapshot"  # the folder, in the run's folder, with the last snapshot that was pushed
LONGEST_SILENCE = 120.0  # seconds; without a limit the client would wait for an answer for ever


class Pusher:
    """Pushes a run to its repository: snapshots one at a time in a background thread, the finished run directly.

    Args:
        folder: the run's output folder.
        hub: the arguments that name the repository.

    Raises:
        HubError: if the Hub refuses. If it cannot be reached now, a warning is printed and training starts anyway.
    """

    def __init__(self, folder: Path, hub: HubArguments):
        limit_silence()
        disable_progress_bars()  # bars of uploads would break into the bar of the training
        self.folder, self.token, self.private = folder, hub.hub_token, hub.hub_private_repo or None
        self.license = hub.hub_license
        self.repo_id = hub.hub_model_id or folder.resolve().name
        self._thread: threading.Thread | None = None
        try:
            self.repo_id = claim_repository(self.repo_id, self.private, self.token)
        except HubError as error:
            if not error.is_transient:
                raise
            tell(f"{error} The training starts all the same.")

    @property
    def is_busy(self) -> bool:
        """Whether a snapshot is being pushed at present."""
        return self._thread is not None and self._thread.is_alive()

    def push_snapshot(self, step: int, write: Callable[[Path], Any]) -> None:
        """Fill a folder by `write` and push it, both in the background; call this only if `is_busy` is False."""
        self._thread = threading.Thread(target=self._push_snapshot, args=(step, write), daemon=True)
        self._thread.start()

    def _push_snapshot(self, step: int, write: Callable[[Path], Any]) -> None:
        folder = self.folder / SNAPSHOT
        try:
            replace_folder(folder, write)
        except OSError as error:
            tell(f"The snapshot of step {step} could not be written: {error}. The training goes on.")
            return
        self._push(folder, f"Step {step} of a training that goes on", "The training goes on.")

    def push_run(self) -> bool:
        """Push the finished run; returns whether that succeeded."""
        if self._thread is not None:
            self._thread.join()
        shutil.rmtree(self.folder / SNAPSHOT, ignore_errors=True)  # the finished run replaces it
        return self._push(self.folder, "Upload model", "The run is whole in its folder.")

    def _push(self, folder: Path, message: str, consolation: str) -> bool:
        try:
            commit = push_folder(
                folder,
                self.repo_id,
                private=self.private,
                token=self.token,
                commit_message=message,
                license=self.license,
            )
        except Exception as error:  # whatever the client raises: the run continues
            told = str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}."
            tell(f"{told} {consolation} To push it again:\n{self.command(folder)}")
            return False
        tell(f"{folder} is on the Hub: {commit.repo_url}")
        return True

    def command(self, folder: Path) -> str:
        """The command that pushes a folder again; without the token, since histories and logs keep commands."""
        arguments = [
            sys.executable,
            "-m",
            "ddpm_hf",
            "push",
            "--output_dir",
            str(folder),
            "--hub_model_id",
            self.repo_id,
        ]
        arguments += ["--hub_private_repo"] * bool(self.private)
        return shlex.join(arguments + ([] if self.license is None else ["--hub_license", self.license]))


def limit_silence() -> None:
    """Make the Hub's client give up if a connection is silent for `LONGEST_SILENCE`."""
    hooks = get_session().event_hooks
    set_client_factory(
        lambda: httpx.Client(event_hooks=hooks, follow_redirects=True, timeout=httpx.Timeout(LONGEST_SILENCE))
    )
