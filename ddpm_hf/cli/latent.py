# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf latent`: train a diffusion of an autoencoder's latents, draw samples, score it and save it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.arguments import help_text
from ..tasks.latent import LatentTask
from ..training.arguments import TrainingArguments
from ..training.step import TrainingStep, training_step
from . import train


@dataclass
class LatentTrainingArguments(TrainingArguments):
    """The optimisation, and where results are written."""

    output_dir: str = field(default="runs/latent", metadata=help_text("Must not hold another run."))


def main(training_step: TrainingStep = training_step) -> None:
    """A training from the command line to its end."""
    train.main(training_step, LatentTask, LatentTrainingArguments)
