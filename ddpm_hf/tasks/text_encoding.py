# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What all families of captioned images have in common: the frozen text encoder, and the captions that are shown."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..conditioning.captions import PROMPT
from ..conditioning.text import NULL_CAPTION, Encoder, TextConditioner, TextEncoder, TextSettings, truncation_note
from ..conditioning.text_encoders import is_on_the_hub, load_text_encoder
from ..data.level_images import ImageData, LevelImages
from ..data.text_embeddings import StoredEmbeddings, cache_folder
from .captioned_images import load_captioned_images
from .presets import check_preset


SHOWN = 144  # captions that samples take their turns of


class TextEncoding:
    """Part of a task with the arguments of a text encoder.

    Attributes:
        model_arguments: with those of `TextEncoderArguments`.
        data_arguments: of captioned images.
        presets: the task's.
    """

    model_arguments: Any
    data_arguments: Any
    presets: Any
    _captions: list[str]  # shown in grids; `load_data` sets them by `captions_shown`

    def load_data(self) -> ImageData:
        """The images with their captions.

        Raises:
            ValueError: for an unknown preset, an empty prompt, or data without captions.
        """
        check_preset(self.model_arguments.preset, self.presets)
        self.check_prompts()
        data = load_captioned_images(self.data_arguments)
        self._captions = captions_shown(data)
        return data

    @functools.cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder."""
        model = self.model_arguments
        return load_text_encoder(model.text_encoder, model.tokenizer_max_length, model.text_encoder_revision)

    def data_lines(self, data: ImageData) -> tuple[str, ...]:
        return (*super().data_lines(data), *self._notes_on_prompts())

    def _notes_on_prompts(self) -> tuple[str, ...]:
        """A sentence on prompts of the user that are truncated, if there are any; captions are counted elsewhere."""
        prompts = self.model_arguments.validation_prompts
        return truncation_note(self.encoder, prompts, "validation prompt") if prompts else ()

    def check_prompts(self) -> None:
        """Raise ValueError for an empty one of `validation_prompts`."""
        prompts = self.model_arguments.validation_prompts
        if not all(prompt.strip() for prompt in prompts):
            raise ValueError(f"`validation_prompts` must not be empty, but are {prompts}.")

    def stored_encoder(self, keeps_padding: bool = False) -> Encoder:
        """The encoder, whose embeddings of the data's captions are kept on disk unless the user asks otherwise."""
        device = PartialState().device
        if not self.model_arguments.pre_compute_text_embeddings:
            self.encoder.model.to(device)
            return self.encoder
        return StoredEmbeddings(self.encoder, keeps_padding, cache_folder(self.data_arguments.cache_dir), device)

    def text_conditioner(self, encoder: Encoder, settings: TextSettings) -> TextConditioner:
        """What tells a model of text; a grid of samples shows the user's prompts, and captions of the data.

        Raises:
            ValueError: if there are neither.
        """
        prompts = (*self.model_arguments.validation_prompts, *self._captions)
        if not prompts:
            raise ValueError(
                "`validation_prompts` must be given, since there are no test captions to draw samples of."
            )
        if settings.null:
            encoder.prepare([NULL_CAPTION])  # first, so that the file of the captions is the same without it
        encoder.prepare(prompts)
        return TextConditioner(encoder, settings, prompts)

    def naming_encoder(self, settings: TextSettings) -> TextSettings:
        """The settings with the name of the encoder, if it is on the Hub and not saved with the model."""
        model = self.model_arguments
        if not is_on_the_hub(model.text_encoder):
            return settings
        return dataclasses.replace(settings, encoder=model.text_encoder, encoder_revision=model.text_encoder_revision)

    @property
    def name_of_encoder(self) -> str:
        """The name of the encoder, without the path of a folder."""
        name = self.model_arguments.text_encoder
        return name if is_on_the_hub(name) else Path(name).name

    def text_fingerprint(self, settings: TextSettings) -> dict[str, Any]:
        """What of the text determines the result of a run."""
        settings = dataclasses.replace(settings, encoder=None, encoder_revision=None)  # wherever it is from
        return {"text encoder": self.encoder.fingerprint, "text": dataclasses.asdict(settings)}


def captions_shown(data: ImageData) -> list[str]:
    """Different captions of test images, or of training images if there are none, evenly spread; none of a stream."""
    images = data.test if len(data.test) else data.train
    values = images.columns.get(PROMPT, []) if isinstance(images, LevelImages) else []
    first = list(dict.fromkeys(value if isinstance(value, str) else value[0] for value in values))
    count = min(SHOWN, len(first))
    return [first[k * len(first) // count] for k in range(count)]
