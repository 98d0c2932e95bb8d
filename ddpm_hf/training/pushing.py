# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Pushing a run to the Hub: at its end, and in the background while it trains. A failed push never stops it."""

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


SNAPSHOT = "snapshot"  # the folder, within the run's, of what was pushed last while it trains
LONGEST_SILENCE = 120.0  # seconds; the client by itself would wait for an answer for ever


class Pusher:
    """Pushes a run to its repository: snapshots one at a time in a background thread, the finished run directly.

    Args:
        folder: the run's output folder.
        hub: where to.

    Raises:
        HubError: if the Hub refuses. If it cannot be reached now, a warning is printed and training starts anyway.
    """

    def __init__(self, folder: Path, hub: HubArguments):
        limit_silence()
        disable_progress_bars()  # those of uploads, in the middle of the training's
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
        """Whether a snapshot is being pushed."""
        return self._thread is not None and self._thread.is_alive()

    def push_snapshot(self, step: int, write: Callable[[Path], Any]) -> None:
        """Let `write` fill a folder and push it in the background; call it only while nothing is being pushed."""
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
        shutil.rmtree(self.folder / SNAPSHOT, ignore_errors=True)  # the run itself stands in for it
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
        except Exception as error:  # whatever it is, of the client or of what it uploads with: the run goes on
            told = str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}."
            tell(f"{told} {consolation} To push it again:\n{self.command(folder)}")
            return False
        tell(f"{folder} is on the Hub: {commit.repo_url}")
        return True

    def command(self, folder: Path) -> str:
        """The command that pushes a folder again, without the token, since commands are kept in histories and logs."""
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
    """Let the Hub's client give up on a connection that is silent for long."""
    hooks = get_session().event_hooks
    set_client_factory(
        lambda: httpx.Client(event_hooks=hooks, follow_redirects=True, timeout=httpx.Timeout(LONGEST_SILENCE))
    )
