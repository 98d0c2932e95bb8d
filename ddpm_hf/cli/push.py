# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf push`: push a finished run to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from ..hub.arguments import PushArguments
from ..hub.model_card import check_license
from ..hub.push import push_folder
from ..runtime.distributed import require_one_process
from ..runtime.errors import user_errors
from ..training.pushing import limit_silence
from .parsing import parse
from .running import program


def main() -> None:
    script = program()
    (push,) = parse(script, PushArguments)
    limit_silence()
    with user_errors(script):
        require_one_process()
        check_license(push.hub_license, "hub_license")
        commit = push_folder(
            push.output_dir,
            push.hub_model_id or Path(push.output_dir).resolve().name,
            private=push.hub_private_repo or None,
            token=push.hub_token,
            commit_message=push.commit_message,
            create_pr=push.create_pr,
            license=push.hub_license,
        )
    print(f"{push.output_dir} is on the Hub: {commit.pr_url or commit.repo_url}")
