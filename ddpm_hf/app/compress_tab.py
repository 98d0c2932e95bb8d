# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The tab that compresses pictures, shows prefixes of their files, and decodes files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from .compressing import ENDING, PackedPicture, compress_picture, decode_file, decode_prefix
from .model import PageModel
from .parts import (
    ONE_AT_A_TIME,
    PIXELS,
    class_choice,
    examples_box,
    gallery,
    picture_box,
    require_upload,
    shown,
    told_of,
    upload_box,
    visible,
    worker,
)
from .scratch import Scratch
from .uploads import read_upload
from .words import told_file, told_prefix, told_sizes


def compress_tab(model: PageModel, scratch: Scratch, examples: Sequence[Path]) -> None:
    """Lay out the tab.

    Args:
        scratch: where files to download are written.
        examples: files of pictures to click.
    """
    if model.fault_of_files is not None:
        gr.Markdown(f"Pictures cannot be compressed here. {model.fault_of_files}")
        return
    packed = gr.State()
    with gr.Row():
        with gr.Column():
            upload = upload_box("A picture")
            examples_box(examples, upload)
            label = class_choice(model)
            button = gr.Button("Compress", variant="primary", elem_id="compress-button")
            sizes = gr.Markdown(elem_id="sizes")
        with gr.Column(visible=False) as results:
            picture = picture_box("Decoded", height=280, elem_id="decoded", elem_classes=PIXELS)
            slider = gr.Slider(1, 2, value=2, step=1, label="Bytes of the file", elem_id="bytes", buttons=[])
            note = gr.Markdown(elem_id="prefix")
            download = gr.DownloadButton("Download the file", elem_id="download")
    gr.Markdown("### Decode a file")
    with gr.Row():
        with gr.Column():
            file = gr.File(
                label=f"A {ENDING} file of this model",
                file_types=[ENDING],
                elem_id="file",
                height=140,
                type="filepath",
            )
        with gr.Column():
            back = gallery("Its pictures", columns=4, elem_id="back")
            told = gr.Markdown(elem_id="told")

    def pack(path: str | None, label: int) -> tuple[Any, ...]:
        given = read_upload(require_upload(path), model)
        found = compress_picture(model, given, told_of(label, None))  # type: ignore[arg-type]
        size, whole = len(found.content), decode_prefix(model, found, len(found.content))
        lines = [told_sizes(found), *filter(None, [given.changes])]
        return (
            found,
            "\n\n".join(lines),
            gr.update(visible=True),
            shown(visible(whole.picture)),
            gr.update(minimum=found.least, maximum=size, value=size),
            told_prefix(whole, size, found),
            str(scratch.write(f"picture{ENDING}", found.content)),
        )

    def cut(found: PackedPicture | None, count: int) -> tuple[Image.Image, str]:
        if found is None:
            raise ValueError("The file is no longer there; compress the picture again.")
        prefix = decode_prefix(model, found, int(count))
        return visible(prefix.picture), told_prefix(prefix, int(count), found)

    def unpack(path: str | None) -> tuple[Any, str]:
        if path is None:
            return gr.update(value=[], visible=False), ""
        found = decode_file(model, Path(path).read_bytes())
        return shown([visible(each) for each in found.pictures.values()]), told_file(found)

    button.click(
        worker(pack),
        [upload, label],
        [packed, sizes, results, picture, slider, note, download],
        **ONE_AT_A_TIME,
        api_name=False,
    )
    slider.input(
        worker(cut),
        [packed, slider],
        [picture, note],
        **ONE_AT_A_TIME,
        trigger_mode="always_last",
        show_progress="hidden",
        api_name=False,
    )
    file.change(worker(unpack), file, [back, told], **ONE_AT_A_TIME, api_name=False)
