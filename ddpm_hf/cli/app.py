# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf app`: a page on which to sample from a model, to score pictures and to compress them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..app.serving import serve
from ..evaluation.arguments import ModelPathArguments
from ..runtime.arguments import help_text
from ..runtime.distributed import require_one_process
from ..runtime.errors import user_errors
from .running import run_script


@dataclass
class PageModelArguments(ModelPathArguments):
    """The saved model; `--model` is short for its name."""

    model_name_or_path: str = field(
        default="runs/digits", metadata={**help_text("A folder, or a name on the Hub."), "aliases": ["--model"]}
    )


@dataclass
class AppArguments:
    """Where the page is."""

    _argument_group_name = "page"

    server_name: str | None = field(
        default=None, metadata=help_text("Address to listen at: 0.0.0.0 for other machines too; this one if unset.")
    )
    server_port: int | None = field(default=None, metadata=help_text("The first free port from 7860 on, if unset."))
    share: bool = field(
        default=False, metadata=help_text("Also a public address at Gradio's servers, which pass everything on.")
    )


def main() -> None:
    run_script(app, PageModelArguments, AppArguments)


def app(script: str, model: PageModelArguments, page: AppArguments) -> None:
    """Serve the page until it is interrupted."""
    with user_errors(script):
        require_one_process()
        serve(model, page.server_name, page.server_port, page.share)
