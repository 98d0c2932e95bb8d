# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf image_encoder`: train an encoder of images against a frozen encoder of text, score it and save it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.arguments import help_text
from ..tasks.image_encoder import ImageEncoderTask
from ..training.arguments import RunArguments
from ..training.contrastive import Contrastive
from ..training.loop import Step
from . import train


METHOD = Contrastive()


@dataclass
class ImageEncoderTrainingArguments(RunArguments):
    """The optimisation, and where results are written."""

    output_dir: str = field(default="runs/unclip-image-encoder", metadata=help_text("Must not hold another run."))
    eval_batch_size: int = field(default=36, metadata=help_text("Captions in a grid of the images most similar."))


def main(training_step: Step | None = None) -> None:
    """A training from the command line to its end."""
    train.main(training_step, ImageEncoderTask, ImageEncoderTrainingArguments, METHOD)
