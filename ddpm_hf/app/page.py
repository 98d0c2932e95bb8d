# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The page: its head and its tabs."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .compress_tab import compress_tab
from .examples import write_examples
from .model import PageModel
from .parts import PIXELS
from .sample_tab import sample_tab
from .score_tab import score_tab
from .scratch import Scratch


KEPT = 3600  # seconds that Gradio keeps the files of a visit
CSS = f"""
.{PIXELS} img {{ image-rendering: pixelated; object-fit: contain; }}
.{PIXELS} .grid-wrap {{ min-height: 0; max-height: none; height: auto; }}
.gradio-container {{ width: 100% !important; min-width: 0 !important; max-width: 1100px !important; margin: 0 auto; }}
"""


def build_page(model: PageModel) -> gr.Blocks:
    """The page of a model; what the model cannot do is explained in the tab's place."""
    scratch = Scratch()
    examples = write_examples(model, scratch)
    with gr.Blocks(title=f"{model.title} · ddpm_hf", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown(f"# {model.title}\n\n{model.summary}")
        with gr.Tab("Sample"):
            sample_tab(model, scratch)
        with gr.Tab("Score"):
            score_tab(model, examples)
        with gr.Tab("Compress"):
            compress_tab(model, scratch, examples)
    return page


def styles() -> dict[str, Any]:
    """How it looks; fonts are those of the visitor's machine, so that nothing is loaded from elsewhere."""
    fonts, fixed = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    return {"theme": gr.themes.Default(font=fonts, font_mono=fixed), "css": CSS}
