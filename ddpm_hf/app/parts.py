# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What the tabs of the page share: how work is queued, how errors are told, and controls of several tabs."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from .model import PageModel, Told


NO_CLASS = -2  # in the place of a class
PIXELS = "ddpm-pixels"  # the CSS class of pictures whose pixels are shown as squares
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}  # of all events that use the model
LEAST_SIDE = 256  # pixels of a picture on the page


def worker(function: Callable[..., Any]) -> Callable[..., Any]:
    """A handler of the page: mistakes are told in a sentence, and on a Space with ZeroGPU it has the GPU."""

    @functools.wraps(function)
    def told(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except (ValueError, OSError) as error:
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from error

    return _on_gpu(told)


def _on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    if importlib.util.find_spec("spaces") is None:
        return function
    import spaces

    return spaces.GPU(function)


def class_choice(model: PageModel, first: tuple[str, int] | None = None) -> Any:
    """A choice of a class; hidden for a model without classes."""
    choices = [first] if first else []
    if model.can_be_guided or not model.class_names:
        choices.append(("no class", NO_CLASS))
    choices += [(name, number) for number, name in enumerate(model.class_names)]
    return gr.Dropdown(choices, value=choices[0][1], label="Class", visible=bool(model.class_names))


def prompt_box(model: PageModel) -> Any:
    """A box for a prompt; hidden for a model that is not told of text."""
    return gr.Textbox(label="Prompt", placeholder="what the picture shows", visible=model.is_told_of_text)


def upload_box(label: str) -> Any:
    """A box that takes a picture; the handler is given a path, not the visitor's name for it."""
    return gr.Image(
        label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], elem_classes=PIXELS, height=240
    )


def picture_box(label: str, **options: Any) -> Any:
    """A box that shows a picture, whose label and buttons do not lie on it; hidden until there is one."""
    return gr.Image(
        label=label,
        show_label=False,
        interactive=False,
        visible=False,
        alt_text=label,
        **{"format": "png", "buttons": [], **options},
    )


def gallery(label: str, **options: Any) -> Any:
    """Pictures side by side; hidden until there are some."""
    return gr.Gallery(
        label=label,
        show_label=False,
        visible=False,
        format="png",
        height="auto",
        object_fit="contain",
        fit_columns=False,
        buttons=[],
        elem_classes=PIXELS,
        **options,
    )


def shown(value: Any, **options: Any) -> Any:
    """The update that shows a value in one of these."""
    return gr.update(value=value, visible=True, **options)


def examples_box(paths: Sequence[Path], upload: Any) -> None:
    """Pictures to click instead of uploading one; nothing without any."""
    if paths:
        with gr.Column(elem_classes=PIXELS):
            gr.Examples([[str(path)] for path in paths], upload, label="Pictures that training leaves out")


def told_of(label: int | None, prompt: str | None) -> Told:
    """What these two controls say: a class, a prompt, or nothing."""
    if prompt and prompt.strip():
        return prompt
    return None if label is None or label == NO_CLASS else label


def visible(picture: Image.Image) -> Image.Image:
    """A small picture with every pixel repeated, so that it can be seen."""
    factor = max(1, LEAST_SIDE // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def require_upload(path: str | None) -> str:
    """The path; ValueError without one."""
    if path is None:
        raise ValueError("Upload a picture first.")
    return path
