# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the optimisation and of the output, named as in diffusers' `train_unconditional.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from diffusers.optimization import SchedulerType

from ..evaluation.arguments import MEASURED_IMAGES, QualityArguments, check_num_evaluations, check_num_paths
from ..evaluation.quality_features import check_quality_features
from ..runtime.arguments import help_text
from ..tasks.arguments import (
    OBJECTIVES,
    TIMESTEP_SAMPLINGS,
    DiffusionArguments,
    check_conditioning_dropout,
    check_variance,
)


PRECISIONS = ("no", "fp16", "bf16")
LOGGERS = ("none", "tensorboard", "wandb", "trackio")
LR_SCHEDULERS = [each.value for each in SchedulerType if each != SchedulerType.PIECEWISE_CONSTANT]  # wants rules too
LATEST = "latest"


@dataclass
class RunArguments:
    """The optimisation of any kind of model, and where results are written."""

    _argument_group_name = "training"

    output_dir: str = field(default="runs/digits", metadata=help_text("Must not hold another run."))
    overwrite_output_dir: bool = field(default=False, metadata=help_text("Write over another run after all."))
    seed: int = 0
    local_rank: int = field(default=-1, metadata=help_text("Set by old launchers; new ones set LOCAL_RANK."))
    num_epochs: int = field(default=56, metadata=help_text("Passes over the data."))
    max_train_steps: int | None = field(
        default=None, metadata=help_text("Optimisation steps, in place of num_epochs.")
    )
    train_batch_size: int = field(default=64, metadata=help_text("Per process."))
    eval_batch_size: int = field(default=36, metadata=help_text("Images in a sample grid."))
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = field(
        default=False, metadata=help_text("Less memory for a third more computation.")
    )
    torch_compile: bool = field(default=False, metadata=help_text("Compile the model; also by `accelerate launch`."))
    learning_rate: float = 4e-3
    lr_scheduler: str = "cosine"
    lr_warmup_steps: int = 50
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    adam_weight_decay: float = 0.3
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 10.0
    mixed_precision: str | None = field(
        default=None, metadata=help_text("no, fp16 or bf16, or the launcher's; noise, loss and averages stay float32.")
    )
    use_ema: bool = True
    ema_inv_gamma: float = 1.0
    ema_power: float = 0.75
    ema_max_decay: list[float] = field(
        default_factory=lambda: [0.99], metadata=help_text("One or several; samples and scores are of the first.")
    )
    logger: str = field(default="none", metadata=help_text("none, tensorboard, wandb or trackio."))
    logging_dir: str = field(default="logs", metadata=help_text("Within the output folder."))
    save_images_epochs: int = field(default=40, metadata=help_text("A sample grid every so many epochs; 0 for none."))
    save_model_epochs: int = field(
        default=0, metadata=help_text("Save the model every so many epochs; 0: at the end.")
    )
    validation_steps: int = field(
        default=500, metadata=help_text("Bits/dim of validation images every so many steps; 0 for never.")
    )
    max_validation_images: int = field(
        default=256, metadata=help_text("Validation images that are scored during the training.")
    )
    checkpointing_steps: int = field(default=500, metadata=help_text("A checkpoint every so many steps; 0 for none."))
    checkpoints_total_limit: int | None = field(
        default=2, metadata=help_text("Checkpoints that are kept; all if negative.")
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata=help_text("A checkpoint of this run or its name; `latest`, the last or else the beginning."),
    )
    max_measured_images: int = field(
        default=MEASURED_IMAGES,
        metadata=help_text("Training images that the model is measured on at the end."),
    )

    @property
    def scoring_batch_size(self) -> int:
        """The batch size of sampling and scoring: larger than in training, since no activations are kept.

        With gradient checkpointing it is that of training, which already fits with few activations kept.
        """
        return self.train_batch_size * (1 if self.gradient_checkpointing else 4)


@dataclass
class TrainingArguments(QualityArguments, RunArguments):
    """The optimisation, and where results are written."""

    num_validation_evaluations: int = field(
        default=10, metadata=help_text("Model calls for each of them, at least 2.")
    )
    num_evaluations: int = field(
        default=50, metadata=help_text("Model calls per test image for the bits/dim, at most; 0 for all T.")
    )
    num_retrieval_images: int = field(
        default=128,
        metadata=help_text(
            "Test images, and as many training images, whose own caption is looked for among 16, for a model that is"
            " told of text; 0 for none."
        ),
    )
    num_paths: int | None = field(
        default=None,
        metadata=help_text(
            "Paths per test image along a chain of at most 50 steps, for an importance-weighted bound; 0 for none. If"
            " unset, 4 for at most 512 test images and a variance that is not `learned`, else 0."
        ),
    )


def check_training_arguments(training: TrainingArguments, diffusion: DiffusionArguments) -> None:
    """Raise ValueError, naming the argument, for arguments out of range or that contradict each other."""
    check_choices(objective=(diffusion.objective, OBJECTIVES))
    check_choices(timestep_sampling=(diffusion.timestep_sampling, TIMESTEP_SAMPLINGS))
    check_run_arguments(training)
    check_variance(diffusion)
    check_conditioning_dropout(diffusion)
    if training.num_validation_evaluations < 2:
        raise ValueError(
            f"`num_validation_evaluations` must be at least 2, but is {training.num_validation_evaluations}."
        )
    if diffusion.snr_gamma is not None and (diffusion.objective != "simple" or not diffusion.snr_gamma > 0):
        raise ValueError("`snr_gamma` must be above 0, and weights L_simple; pass --objective simple with it.")
    check_num_evaluations(training.num_evaluations)
    if training.num_retrieval_images < 0:
        raise ValueError(f"`num_retrieval_images` must be at least 0, but is {training.num_retrieval_images}.")
    check_num_paths(training.num_paths or 0)
    if training.num_quality_samples < 0 or training.num_quality_samples == 1:  # one has no covariance
        raise ValueError(f"`num_quality_samples` must be 0, or at least 2, but is {training.num_quality_samples}.")
    check_quality_features(training)


def check_run_arguments(training: RunArguments) -> None:
    """Raise ValueError, naming the argument, for arguments of the optimisation out of range."""
    numbers = {
        "num_epochs": training.num_epochs,
        "train_batch_size": training.train_batch_size,
        "eval_batch_size": training.eval_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "max_validation_images": training.max_validation_images,
        "max_measured_images": training.max_measured_images,
        "max_train_steps": 1 if training.max_train_steps is None else training.max_train_steps,
    }
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {value}.")
    check_choices(
        mixed_precision=(training.mixed_precision or "no", PRECISIONS),
        logger=(training.logger, LOGGERS),
        lr_scheduler=(training.lr_scheduler, LR_SCHEDULERS),
    )
    _check_ranges(training)


def check_choices(**choices: tuple[str, Sequence[str]]) -> None:
    """Raise ValueError for an argument whose value, the first of its pair, is not among those allowed, the second."""
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, but is {value!r}.")


def _check_ranges(training: RunArguments) -> None:
    names = ("save_images_epochs", "save_model_epochs", "validation_steps", "checkpointing_steps")
    for name in (*names, "lr_warmup_steps", "ema_power"):
        if not getattr(training, name) >= 0:  # NaN included
            raise ValueError(f"`{name}` must be at least 0, but is {getattr(training, name)}.")
    if training.checkpoints_total_limit == 0:
        raise ValueError("`checkpoints_total_limit` must be at least 1; pass --checkpointing_steps 0 for none at all.")
    for name in ("max_grad_norm", "ema_inv_gamma"):
        if not getattr(training, name) > 0:
            raise ValueError(f"`{name}` must be above 0, but is {getattr(training, name)}.")
    decays = training.ema_max_decay
    if not decays or not all(0 <= decay <= 1 for decay in decays) or len(set(decays)) < len(decays):
        raise ValueError(f"`ema_max_decay` must be in [0, 1], each another, but is {decays}.")
