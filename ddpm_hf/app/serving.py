# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Serves the page of a model."""

from __future__ import annotations

import importlib.util

import torch

from ..evaluation.arguments import ModelPathArguments
from ..evaluation.scoring import load_pipeline
from ..runtime.threads import use_all_cores
from .model import PageModel


MOST_WAITING = 32  # visitors in the queue
MOST_UPLOADED = "20mb"


def require_gradio() -> None:
    """Raise ValueError unless the package `gradio` is installed."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError('The page needs gradio, which is not installed: `pip install "ddpm_hf[app]"`.')


def serve(
    model: str | ModelPathArguments,
    server_name: str | None = None,
    server_port: int | None = None,
    share: bool = False,
) -> None:
    """Serve a page on which visitors sample from a model, score pictures and compress them, until it is interrupted.

    On a Space with ZeroGPU, import `spaces` before this module.

    Args:
        model: a folder or a name on the Hub, or these with a revision and a variant.
        server_name: the address to listen at; None for this machine alone, or what GRADIO_SERVER_NAME says.
        server_port: None for the first free port from 7860 on, or what GRADIO_SERVER_PORT says.
        share: also give out an address at Gradio's own servers, which pass on all that visitors send.

    Raises:
        ValueError: if gradio is not installed, or there is no such model.
        OSError: if the model cannot be loaded, or the port is not free.
    """
    require_gradio()
    from .page import build_page, styles

    arguments = ModelPathArguments(model) if isinstance(model, str) else model
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = load_pipeline(arguments, device)
    use_all_cores(device)
    page = build_page(PageModel(arguments.model_name_or_path, pipeline))
    page.queue(max_size=MOST_WAITING).launch(
        server_name=server_name,
        server_port=server_port,
        share=share,
        max_file_size=MOST_UPLOADED,
        ssr_mode=False,
        run_history=False,
        **styles(),
    )
