# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A run's way to the Hub: at its end, and every so many steps beside the training, which a failed push never stops."""

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
    """Pushes a run to its repository: snapshots one at a time in a thread, the finished run in the caller's own.

    Args:
        folder: the run's output folder.
        hub: where to.

    Raises:
        HubError: if the Hub refuses; that it cannot be reached now is told, and the run may start all the same.
    """

    def __init__(self, folder: Path, hub: HubArguments):
        limit_silence()
        disable_progress_bars()  # those of uploads, in the middle of the training's
        self.folder, self.token, self.private = folder, hub.hub_token, hub.hub_private_repo or None
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
        """Whether a snapshot is under way."""
        return self._thread is not None and self._thread.is_alive()

    def push_snapshot(self, step: int, write: Callable[[Path], Any]) -> None:
        """Let `write` fill a folder and push it, while the caller goes on; call it when nothing is under way."""
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
        """Push the finished run; whether it is there now."""
        if self._thread is not None:
            self._thread.join()
        shutil.rmtree(self.folder / SNAPSHOT, ignore_errors=True)  # the run itself stands in for it
        return self._push(self.folder, "Upload model", "The run is whole in its folder.")

    def _push(self, folder: Path, message: str, consolation: str) -> bool:
        try:
            commit = push_folder(folder, self.repo_id, private=self.private, token=self.token, commit_message=message)
        except Exception as error:  # whatever it is, of the client or of what it uploads with: the run goes on
            told = str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}."
            tell(f"{told} {consolation} To push it again:\n{self.command(folder)}")
            return False
        tell(f"{folder} is on the Hub: {commit.commit_url}")
        return True

    def command(self, folder: Path) -> str:
        """What pushes a folder again, without the token: commands end in histories and logs."""
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
        return shlex.join(arguments + ["--hub_private_repo"] * bool(self.private))


def limit_silence() -> None:
    """Let the Hub's client give up on a connection that says nothing for long."""
    hooks = get_session().event_hooks
    set_client_factory(
        lambda: httpx.Client(event_hooks=hooks, follow_redirects=True, timeout=httpx.Timeout(LONGEST_SILENCE))
    )
