# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The tab that says how many bits a picture has, and where they are."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from .figures import bits_figure
from .model import PageModel
from .parts import (
    ONE_AT_A_TIME,
    PIXELS,
    class_choice,
    prompt_box,
    require_upload,
    told_of,
    upload_box,
    visible,
    worker,
)
from .scoring import MOST_DRAWS, score_picture
from .uploads import read_upload
from .words import told_score


def score_tab(model: PageModel) -> None:
    """Lay out the tab."""
    if model.fault_of_scores is not None:
        gr.Markdown(f"Pictures cannot be scored here. {model.fault_of_scores}")
        return
    with gr.Row():
        with gr.Column():
            upload = upload_box("A picture")
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
            told = gr.Markdown(elem_id="score")
            scored = gr.Image(
                label="What was scored",
                format="png",
                interactive=False,
                height=240,
                visible=False,
                elem_classes=PIXELS,
            )
            figure = gr.Image(
                label="Where the bits are", format="png", interactive=False, elem_id="bits", visible=False
            )

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
        return "\n\n".join(lines), _shown(visible(picture.picture)), _shown(bits_figure(found))

    button.click(
        worker(score), [upload, prompt, label, calls, draws], [told, scored, figure], **ONE_AT_A_TIME, api_name="score"
    )


def _shown(picture: Image.Image) -> Any:
    return gr.update(value=picture, visible=True)
