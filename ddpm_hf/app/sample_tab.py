# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The tab that draws pictures."""

from __future__ import annotations

import math
import random
from typing import Any

import gradio as gr

from .model import PageModel
from .parts import ONE_AT_A_TIME, class_choice, gallery, picture_box, prompt_box, shown, told_of, worker
from .sampling import IN_TURN, MOST_PICTURES, SAMPLERS, SampleRequest, sample_pictures, spacings_of
from .scratch import Scratch


ENLARGES = (
    "This model enlarges pictures, and draws none by itself. `ddpm-hf sample --image small.png` enlarges files, and"
    " `--cascade` draws with it."
)
USUAL_STEPS = 50
MOST_SEED = 2**31 - 1


def sample_tab(model: PageModel, scratch: Scratch) -> None:
    """Lay out the tab."""
    if model.enlarges:
        gr.Markdown(ENLARGES)
        return
    with gr.Row():
        with gr.Column():
            prompt = prompt_box(model)
            label = class_choice(model, first=("each in turn", IN_TURN) if model.class_names else None)
            guidance = gr.Slider(
                0,
                8,
                value=1,
                step=0.1,
                label="Guidance scale",
                info="1 is the conditional model; more is truer to the class or prompt, and less varied.",
                visible=model.can_be_guided,
            )
            count = gr.Slider(1, MOST_PICTURES, value=4, step=1, label="Pictures")
            steps = gr.Slider(
                1, model.num_timesteps, value=min(USUAL_STEPS, model.num_timesteps), step=1, label="Steps"
            )
            spacings = spacings_of(model)
            with gr.Row():
                sampler = gr.Dropdown(list(SAMPLERS), value=next(iter(SAMPLERS)), label="Sampler", min_width=140)
                spacing = gr.Dropdown(spacings, value=spacings[0], label="Spacing", min_width=140)
            eta = gr.Slider(0, 1, value=0, step=0.05, label="η", info="0 adds no noise.", visible=False)
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MOST_SEED, min_width=140)
                is_random = gr.Checkbox(True, label="Randomise", min_width=140)
            button = gr.Button("Sample", variant="primary", elem_id="sample-button")
        with gr.Column():
            pictures = gallery("Pictures", elem_id="pictures")
            animation = picture_box("The reverse process", type="filepath", format="gif", elem_id="animation")
            hint = gr.Markdown("The pictures will be here, and how they come out of noise.")

    def draw(
        prompt: str,
        label: int,
        guidance: float,
        count: int,
        steps: int,
        sampler: str,
        spacing: str,
        eta: float,
        seed: int | None,
        is_random: bool,
        progress: Any = gr.Progress(track_tqdm=True),  # noqa: B008  # by this default Gradio follows the steps
    ) -> tuple[Any, ...]:
        request = SampleRequest(
            count=int(count),
            num_inference_steps=int(steps),
            timestep_spacing=spacing,
            sampler=sampler,
            eta=eta,
            guidance_scale=guidance if model.can_be_guided else 1.0,
            seed=random.randrange(MOST_SEED) if is_random else int(seed or 0),
            told=label if label == IN_TURN else told_of(label, prompt),
        )
        samples = sample_pictures(model, request, scratch.folder())
        columns = min(4, math.ceil(math.sqrt(request.count)))
        whole = gr.update(visible=False)
        return shown(samples.pictures, columns=columns), shown(str(samples.animation)), whole, request.seed

    sampler.change(lambda name: gr.update(visible=name == "DDIM"), sampler, eta, queue=False, show_progress="hidden")
    asked = [prompt, label, guidance, count, steps, sampler, spacing, eta, seed, is_random]
    button.click(worker(draw), asked, [pictures, animation, hint, seed], **ONE_AT_A_TIME, api_name="sample")
