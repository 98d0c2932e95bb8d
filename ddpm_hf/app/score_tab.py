# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The tab that says how many bits a picture has, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from .figures import bits_figure
from .model import PageModel
from .parts import (
    ONE_AT_A_TIME,
    PIXELS,
    class_choice,
    examples_box,
    picture_box,
    prompt_box,
    require_upload,
    shown,
    told_of,
    upload_box,
    visible,
    worker,
)
from .pixels import bits_by_pixel, has_pixels
from .scoring import MOST_DRAWS, score_picture
from .uploads import read_upload
from .words import told_score


def score_tab(model: PageModel, examples: Sequence[Path]) -> None:
    """Lay out the tab.

    Args:
        examples: files of pictures to click.
    """
    if model.fault_of_scores is not None:
        gr.Markdown(f"Pictures cannot be scored here. {model.fault_of_scores}")
        return
    with gr.Row():
        with gr.Column():
            upload = upload_box("A picture")
            examples_box(examples, upload)
            prompt, label = prompt_box(model), class_choice(model)
            calls = gr.Slider(
                2,
                model.num_timesteps,
                value=min(50, model.num_timesteps),
                step=1,
                label="Model calls",
                info="An unbiased estimate from so many of the timesteps; more are more certain.",
            )
            draws = gr.Slider(1, MOST_DRAWS, value=8, step=1, label="Draws of the noise")
            button = gr.Button("Score", variant="primary", elem_id="score-button")
        with gr.Column():
            told = gr.Markdown("The figures will be here.", elem_id="score")
            scored = picture_box("What was scored", height=240, elem_id="scored", elem_classes=PIXELS)
            figure = picture_box("Where the bits are", elem_id="bits")

    def score(
        path: str | None,
        prompt: str,
        label: int,
        calls: int,
        draws: int,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[str, Any, Any]:
        picture = read_upload(require_upload(path), model)

        def tell(share: float) -> None:
            progress(share, desc="scoring")

        found = score_picture(model, picture, told_of(label, prompt), int(calls), int(draws), progress=tell)
        lines = [told_score(found), *filter(None, [picture.changes])]
        changed = shown(visible(picture.picture)) if picture.changes else gr.update(visible=False)
        pixels = None
        if has_pixels(model):
            progress(1.0, desc="by pixel")
            pixels = bits_by_pixel(model, picture, told_of(label, prompt), int(calls), int(draws))
        return "\n\n".join(lines), changed, shown(bits_figure(found, pixels))

    button.click(
        worker(score), [upload, prompt, label, calls, draws], [told, scored, figure], **ONE_AT_A_TIME, api_name="score"
    )
