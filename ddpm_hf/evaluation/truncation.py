# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What the user is told of captions that a model truncates: their number, once."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence

from ..conditioning.columns import with_first
from ..conditioning.truncation import truncation_notes
from ..data.level_images import LevelImages
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..pipelines.text import logger
from ..runtime.distributed import is_main_process


def tell_of_truncation(pipelines: Sequence[SamplingPipeline], images: LevelImages) -> None:
    """Print how many different captions of the images the models truncate; scores take an image's first caption.

    Raises:
        ValueError: for a model of text without a text encoder.
    """
    each = (pipeline.conditioners for pipeline in pipelines)
    notes = [note for own in each for note in truncation_notes(own, with_first(own.read(images.columns)))]
    if is_main_process():
        for note in dict.fromkeys(notes):
            print(note, file=sys.stderr)


@contextlib.contextmanager
def truncation_is_counted() -> Iterator[None]:
    """A context in which pipelines do not warn of each caption that they truncate, since these are counted."""
    logger.addFilter(_is_no_warning)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_warning)


def _is_no_warning(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING
