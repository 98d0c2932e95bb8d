# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf sample`: draw a grid of images from a saved model, and animate how they come about."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..conditioning.columns import Columns
from ..evaluation.arguments import GuidanceArguments, ModelPathArguments, SampleArguments
from ..evaluation.filming import Film, draw_film
from ..evaluation.guiding import load_guidance
from ..evaluation.interpolating import draw_between
from ..evaluation.sampling import draw_images
from ..evaluation.scoring import load_pipeline
from ..pipelines.guidance import Guidance
from ..pipelines.images import batch_of_images, check_images
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..reporting.animation import check_animation, images_shown, save_animation
from ..reporting.figures import check_picture, save_grid
from ..runtime.errors import user_errors
from ..runtime.output_folder import claim_file
from ..runtime.progress import shows_bars
from ..runtime.threads import use_all_cores
from .cascades import sample_cascade
from .running import run_script
from .sample_requests import (
    asked_by_turns,
    captions_of,
    chain_of,
    check_call,
    check_sampling,
    pictures_in,
    steps_of,
    with_count_of_files,
    with_files,
)


def main() -> None:
    run_script(sample, ModelPathArguments, SampleArguments, GuidanceArguments)


def sample(script: str, model: ModelPathArguments, sampling: SampleArguments, guiding: GuidanceArguments) -> None:
    """Draw images on all processes; the main process writes the grid."""
    if sampling.cascade:
        return sample_cascade(script, model, sampling, guiding)
    with user_errors(script):
        sampling = with_count_of_files(sampling)
        check_sampling(sampling)
        output = claim_file(sampling.output)
        animation = None if sampling.gif is None else claim_animation(sampling.gif, output)
        accelerator = Accelerator()
        pipeline = load_pipeline(model, accelerator.device)
        steps = steps_of(pipeline, sampling.num_inference_steps)
        pipeline.scheduler.set_timesteps(steps, timestep_spacing=sampling.timestep_spacing)
        pipeline.set_progress_bar_config(disable=not (accelerator.is_main_process and shows_bars()))
        check_picture(output, pipeline.image_channels)
        guidance = load_guidance(guiding, pipeline)
        turns = with_files(pipeline, sampling, asked_by_turns(pipeline, sampling))
        check_call(pipeline, sampling, steps, turns, guidance)
        ends = ends_of(pipeline, sampling)
    use_all_cores(accelerator.device)
    if ends is not None:
        images = draw_between(
            pipeline,
            ends,
            sampling.num_images,
            sampling.batch_size,
            {"num_inference_steps": steps, "timestep_spacing": sampling.timestep_spacing},
            sampling.solver_order,
            turns,
            guidance,
            sampling.seed,
        )
        if accelerator.is_main_process:
            save_grid(images, output)
            print(f"{sampling.num_images} images between {' and '.join(sampling.interpolate)} in {output}")
        return
    filmed = 0 if animation is None else images_shown(sampling.num_images, pipeline.image_shape)
    images, film = draw(pipeline, sampling, steps, accelerator, turns, guidance, filmed)
    if accelerator.is_main_process:
        save_grid(images, output, captions=captions_of(sampling))
        print(f"{sampling.num_images} samples in {output}")
        if film is not None:
            save_animation(film.frames, film.timesteps, animation)
            print(f"The reverse process of {filmed} of them in {animation}")


def draw(
    pipeline: SamplingPipeline,
    sampling: SampleArguments,
    steps: int,
    accelerator: Accelerator,
    turns: Columns | None,
    guidance: Guidance,
    filmed: int,
) -> tuple[Tensor, Film | None]:
    """The images, and the film of the first `filmed` of them, if any."""
    chain = chain_of(sampling)
    how = (sampling.batch_size, sampling.seed, accelerator, turns)
    film, parts = None, []
    if filmed:
        film = draw_film(pipeline, filmed, *how, num_inference_steps=steps, **chain, **guidance.options)
        parts.append(film.images)
    if filmed < sampling.num_images:
        batch_size, *others = how
        options = {**chain, "guidance": guidance, "first": filmed}
        parts.append(draw_images(pipeline, sampling.num_images, batch_size, steps, *others, **options))
    return torch.cat(parts), film


def ends_of(pipeline: SamplingPipeline, sampling: SampleArguments) -> Tensor | None:
    """The two images to draw others between, `[2, C, H, W]` in [−1, 1]; None if there are none.

    Raises:
        ValueError: for files that cannot be read, or images of another size than the model's.
    """
    if not sampling.interpolate:
        return None
    pictures = pictures_in("interpolate", sampling.interpolate)
    images = batch_of_images("interpolate", pictures, pipeline.image_channels)
    check_images("interpolate", images, (2, *pipeline.image_shape))
    return images


def claim_animation(path: str, output: Path) -> Path:
    """The path of the animation, which does not exist yet; ValueError for a name that it cannot have."""
    check_animation(Path(path))
    animation = claim_file(path, "gif")
    if animation.resolve() == output.resolve():
        raise ValueError(f"`gif` {path} must be another file than `output`.")
    return animation
