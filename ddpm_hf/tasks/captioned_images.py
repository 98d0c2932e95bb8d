# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images with captions, for models of text to image, or without, for other models of the same default data."""

from __future__ import annotations

from ..data.arguments import CaptionedDataArguments
from ..data.data_columns import no_columns
from ..data.level_images import ImageData
from ..data.loading import load_images
from ..data.openmoji import load_openmoji
from .caption_columns import caption_column


def load_captioned_images(arguments: CaptionedDataArguments) -> ImageData:
    """The images that the arguments name, with a column `prompt` of captions; OpenMoji if they name none.

    Raises:
        ValueError: as `load_images`, and if there is no column of captions.
        BadImage: for an image that cannot be read or has no caption, unless bad images are skipped.
    """
    return load_images(arguments, caption_column(arguments.caption_column), load_openmoji)


def load_plain_images(arguments: CaptionedDataArguments) -> ImageData:
    """The images that the arguments name, without captions; OpenMoji if they name none. Errors as `load_images`."""
    return load_images(arguments, no_columns, load_openmoji)
