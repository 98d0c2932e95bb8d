# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The settings of a run: those that determine its result, and those that are published with the model."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..data.image_streams import ImageStream
from .run_state import RunState


# Arguments that do not change the result of a run: paths, what is written, how the work is divided.
INDIFFERENT = {
    *("train_data_dir", "cache_dir", "dataloader_num_workers", "enable_xformers_memory_efficient_attention"),
    *("output_dir", "overwrite_output_dir", "local_rank", "num_epochs", "max_train_steps", "eval_batch_size"),
    *("train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "logger", "logging_dir"),
    *("save_images_epochs", "save_model_epochs", "validation_steps", "max_validation_images"),
    *("num_validation_evaluations", "checkpointing_steps", "checkpoints_total_limit", "resume_from_checkpoint"),
    *("num_evaluations", "num_paths", "num_quality_samples", "num_retrieval_images", "max_measured_images"),
    *("ddpm_num_inference_steps", "skip_bad_images", "quality_features", "inception_weights"),
    *("dataset_name", "mixed_precision"),  # the fingerprint has the images and the precision that result from them
}
# Arguments that older checkpoints do not know, and the values that they were written with.
NAMES, SIZES = "names of the images", "sizes of the images"
ADDED = {
    **{"conditioning_dropout_prob": 0.0, "image_column": None, "background": "white", "low_resolution_of": None},
    **{"kl_warmup_steps": None, "decoder_law": "gaussian", "decoder_components": 1},
    **{"perceptual_weight": 0.0, "adversarial_weight": 0.0, "adversarial_start_step": 0},
    **{"perceptual_model": "efficientnet_lite0", "discriminator_channels": 64},
}


def fingerprint_of(state: RunState) -> dict[str, Any]:
    """The settings that determine the final weights of a run."""
    given = _given(state.task.data_arguments, state.task.objective_arguments, state.training)
    model = {name: value for name, value in state.model.config.items() if not name.startswith("_")}
    train = state.data.train
    return (
        {name: value for name, value in model.items() if name not in ADDED or value != ADDED[name]}
        | {
            name: value
            for name, value in given.items()
            if name not in INDIFFERENT and (name not in ADDED or value != ADDED[name])
        }
        | {
            "images in a step": state.shard.total,
            "data": state.data.name,
            NAMES: None if state.data.identity is None else state.data.identity.names,
            SIZES: None if state.data.identity is None else state.data.identity.sizes,
            "images": None if isinstance(train, ImageStream) else train.epoch_size,
            "precision": state.accelerator.mixed_precision,
        }
        | state.task.fingerprint()
    )


def check_fingerprint(recorded: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError if a run with the settings `now` cannot resume the recorded one.

    Settings that earlier versions recorded and that no longer count are ignored.
    """
    counted = (recorded.keys() | now.keys()) - INDIFFERENT
    # Older checkpoints lack these, and the sizes are None if bad images may be skipped.
    counted -= {name for name in (NAMES, SIZES) if recorded.get(name) is None or now.get(name) is None}
    names = sorted(name for name in counted if recorded.get(name) != now.get(name))
    if names and {NAMES, SIZES}.issuperset(names):
        raise ValueError("its training images are others, by their names or sizes.")
    if names:
        told = "; ".join(f"{name} was {recorded.get(name)!r} and is {now.get(name)!r}" for name in names)
        raise ValueError(f"its settings are others: {told}.")


def settings(state: RunState) -> dict[str, Any]:
    """The arguments that the model card shows, without paths on the user's machine."""
    # These may be paths. The card names the data without their path.
    private = ("_dir", "_path", "dataset_name", "resume_from_checkpoint", "inception_weights", "perceptual_model")
    given = state.task.model_settings(state.model)
    given |= _given(state.task.data_arguments, state.task.objective_arguments, state.training)
    return {name: value for name, value in given.items() if not (value is None or name.endswith(private))}


def _given(*arguments: Any) -> dict[str, Any]:
    """All arguments by name."""
    return {name: value for group in arguments for name, value in dataclasses.asdict(group).items()}
