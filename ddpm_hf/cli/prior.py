# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf prior`: train a diffusion of embeddings of images, given their captions, score it and save it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.arguments import help_text
from ..tasks.prior import PriorTask
from ..training.arguments import TrainingArguments
from ..training.prior import PriorDiffusion
from ..training.step import TrainingStep
from . import train


METHOD = PriorDiffusion()


@dataclass
class PriorTrainingArguments(TrainingArguments):
    """The optimisation, and where results are written."""

    output_dir: str = field(default="runs/unclip-prior", metadata=help_text("Must not hold another run."))
    max_train_steps: int | None = field(default=600, metadata=help_text("Optimisation steps, in place of num_epochs."))
    train_batch_size: int = field(default=64, metadata=help_text("Per process."))
    learning_rate: float = 1e-3
    lr_warmup_steps: int = 50
    adam_weight_decay: float = 0.1
    ema_max_decay: list[float] = field(
        default_factory=lambda: [0.995], metadata=help_text("One or several; samples and scores are of the first.")
    )
    save_images_epochs: int = field(default=0, metadata=help_text("A grid every so many epochs; 0 for none."))
    num_evaluations: int = field(
        default=100, metadata=help_text("Model calls per test image for the bits/dim, at most; 0 for all T.")
    )
    num_paths: int | None = field(default=0, metadata=help_text("Paths per test image for a tighter bound."))
    num_quality_samples: int = field(default=0, metadata=help_text("Must be 0: a prior draws no images."))


def main(training_step: TrainingStep | None = None) -> None:
    """A training from the command line to its end."""
    train.main(training_step, PriorTask, PriorTrainingArguments, METHOD)
