# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf sample`: draw a grid of images from a saved model."""

from __future__ import annotations

from accelerate import Accelerator

from ..conditioning.classes import number_of_classes, of_classes
from ..conditioning.columns import Columns
from ..diffusion.gaussian_process import check_eta
from ..evaluation.arguments import GuidanceArguments, ModelPathArguments, SampleArguments
from ..evaluation.guiding import load_guidance
from ..evaluation.sampling import draw_images
from ..evaluation.scoring import load_pipeline
from ..reporting.figures import check_picture, save_grid
from ..runtime.errors import user_errors
from ..runtime.output_folder import claim_file
from ..runtime.progress import shows_bars
from ..runtime.threads import use_all_cores
from .running import run_script


def main() -> None:
    run_script(sample, ModelPathArguments, SampleArguments, GuidanceArguments)


def sample(script: str, model: ModelPathArguments, sampling: SampleArguments, guiding: GuidanceArguments) -> None:
    """Draw images on all processes; the main process writes the grid."""
    with user_errors(script):
        for name in ("num_images", "batch_size"):
            if getattr(sampling, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {getattr(sampling, name)}.")
        if sampling.eta is not None:
            check_eta(sampling.eta)
        output = claim_file(sampling.output)
        accelerator = Accelerator()
        pipeline = load_pipeline(model, accelerator.device)
        steps = len(pipeline.scheduler) if sampling.num_inference_steps is None else sampling.num_inference_steps
        pipeline.scheduler.set_timesteps(steps, timestep_spacing=sampling.timestep_spacing)
        pipeline.set_progress_bar_config(disable=not (accelerator.is_main_process and shows_bars()))
        check_picture(output, pipeline.example_shape[0])
        guidance = load_guidance(guiding, pipeline)
        turns = asked_by_turns(number_of_classes(pipeline.unet.config), sampling.class_labels)
    use_all_cores(accelerator.device)
    images = draw_images(
        pipeline,
        sampling.num_images,
        sampling.batch_size,
        steps,
        sampling.seed,
        accelerator,
        turns,
        sampling.timestep_spacing,
        sampling.eta,
        guidance,
    )
    if accelerator.is_main_process:
        save_grid(images, output)
        print(f"{sampling.num_images} samples in {output}")


def asked_by_turns(known: int | None, asked: list[int] | None) -> Columns | None:
    """The column of the requested classes; None if none are requested.

    Raises:
        ValueError: for classes that the model does not know.
    """
    if asked is None:
        return None
    if not (known and asked and all(0 <= label < known for label in asked)):
        what = f"knows the classes 0 ... {known - 1}" if known else "is not class-conditional"
        raise ValueError(f"`class_labels` are {asked}, but the model {what}.")
    return of_classes(asked)
