# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf autoencoder`: train an autoencoder, reconstruct images, score it and save it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.arguments import help_text
from ..tasks.autoencoder import AutoencoderTask
from ..training.arguments import RunArguments
from ..training.autoencoding import Autoencoding
from ..training.loop import Step
from . import train


METHOD = Autoencoding()


@dataclass
class AutoencoderTrainingArguments(RunArguments):
    """The optimisation, and where results are written."""

    output_dir: str = field(default="runs/autoencoder", metadata=help_text("Must not hold another run."))


def main(training_step: Step | None = None) -> None:
    """A training from the command line to its end."""
    train.main(training_step, AutoencoderTask, AutoencoderTrainingArguments, METHOD)
