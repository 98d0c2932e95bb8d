# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The settings of a run: those that decide what it arrives at, and those that anyone may know."""

from __future__ import annotations

import dataclasses
from typing import Any

from accelerate import Accelerator
from diffusers import UNet2DModel

from ..data.batches import Share
from ..data.image_streams import ImageStream
from ..data.level_images import ImageData


# Arguments that do not change what a run arrives at: where things lie, what is written, how the work is divided.
INDIFFERENT = {
    *("train_data_dir", "cache_dir", "dataloader_num_workers", "enable_xformers_memory_efficient_attention"),
    *("output_dir", "overwrite_output_dir", "local_rank", "num_epochs", "max_train_steps", "eval_batch_size"),
    *("train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "logger", "logging_dir"),
    *("save_images_epochs", "save_model_epochs", "validation_steps", "max_validation_images"),
    *("num_validation_evaluations", "checkpointing_steps", "checkpoints_total_limit", "resume_from_checkpoint"),
    *("num_evaluations", "num_paths", "num_quality_samples", "max_measured_images", "ddpm_num_inference_steps"),
    "skip_bad_images",
    *("dataset_name", "mixed_precision"),  # told apart by what they come to
}


def course_of(
    unet: UNet2DModel, images: ImageData, share: Share, accelerator: Accelerator, *arguments: Any
) -> dict[str, Any]:
    """What decides the weights that a run arrives at."""
    given = _given(arguments)
    model = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    return (
        model
        | {name: value for name, value in given.items() if name not in INDIFFERENT}
        | {
            "images in a step": share.total,
            "data": images.name,
            "images": None if isinstance(images.train, ImageStream) else images.train.epoch_size,
            "precision": accelerator.mixed_precision,
        }
    )


def check_course(recorded: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError if a run with these settings does not go on the one that was recorded.

    Records hold what counted when they were written; what has since proved indifferent does not count.
    """
    counted = (recorded.keys() | now.keys()) - INDIFFERENT
    names = sorted(name for name in counted if recorded.get(name) != now.get(name))
    if names:
        told = "; ".join(f"{name} was {recorded.get(name)!r} and is {now.get(name)!r}" for name in names)
        raise ValueError(f"its settings are others: {told}.")


def settings(unet: UNet2DModel, *arguments: Any) -> dict[str, Any]:
    """What a reader of the model card may know of the arguments: nothing about the user's machine.

    The model's are those that it has, wherever they come from.
    """
    # Places; the data are named, without theirs, in the card.
    private = ("_dir", "_path", "dataset_name", "resume_from_checkpoint")
    given = _given(arguments)
    given |= {name: unet.config[name] for name in given if name in unet.config}
    return {name: value for name, value in given.items() if not (value is None or name.endswith(private))}


def _given(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """All arguments by name."""
    return {name: value for group in arguments for name, value in dataclasses.asdict(group).items()}
