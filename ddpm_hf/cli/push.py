# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf push`: push a finished run, or a page for a model, to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from ..hub.arguments import PushArguments, check_space_arguments
from ..hub.model_card import check_license
from ..hub.push import push_folder
from ..hub.space import push_space, space_files, write_space
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
        check_space_arguments(push)
        told = push_page(push) if push.space else push_model(push)
    print(told)


def push_model(push: PushArguments) -> str:
    """Push the folder, and say where it is."""
    commit = push_folder(
        push.output_dir,
        push.hub_model_id or Path(push.output_dir).resolve().name,
        private=push.hub_private_repo or None,
        token=push.hub_token,
        commit_message=push.commit_message,
        create_pr=push.create_pr,
        license=push.hub_license,
    )
    return f"{push.output_dir} is on the Hub: {commit.pr_url or commit.repo_url}"


def push_page(push: PushArguments) -> str:
    """Push the Space, or write it into a folder, and say where it is."""
    model = push.hub_model_id or ""
    if push.space_dir is not None:
        folder = write_space(push.space_dir, space_files(model, push.space_requirement, push.hub_license))
        return f"The Space of {model} is in {folder}; nothing was pushed."
    commit = push_space(
        model,
        push.space_id or model,
        private=push.hub_private_repo or None,
        token=push.hub_token,
        requirement=push.space_requirement,
        license=push.hub_license,
        commit_message=push.commit_message,
        create_pr=push.create_pr,
    )
    return f"The page of {model} is on the Hub: {commit.pr_url or commit.repo_url}"
