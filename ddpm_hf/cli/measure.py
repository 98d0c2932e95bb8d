# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf measure`: measure a model's denoising errors, and save it with the optimal variance and timesteps."""

from __future__ import annotations

import torch

from ..data.arguments import CaptionedDataArguments
from ..data.level_images import LevelImages
from ..diffusion.denoising_errors import step_costs
from ..diffusion.numerics import LOG_2
from ..diffusion.timestep_spacing import optimal_times
from ..evaluation.arguments import MeasurementArguments, ModelPathArguments, check_batches
from ..evaluation.measuring import measured_errors, with_errors
from ..evaluation.scoring import check_fit, load_as_they_are, load_pipeline, split_of
from ..evaluation.truncation import tell_of_truncation
from ..hub.push import INDEX
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..runtime.distributed import require_one_process
from ..runtime.errors import user_errors
from ..runtime.output_folder import claim_folder, write_folder
from ..runtime.progress import progress_bar
from ..runtime.randomness import Use, generator_of
from ..runtime.threads import use_all_cores
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .running import run_script


SHOWN = (5, 10, 25, 50, 100)  # numbers of steps in the printed table


def main() -> None:
    run_script(measure, ModelPathArguments, CaptionedDataArguments, MeasurementArguments)


def measure(
    script: str, model: ModelPathArguments, data: CaptionedDataArguments, measurement: MeasurementArguments
) -> None:
    """Measure the errors, save the model with them, and print the expected bound."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with user_errors(script):
        require_one_process()
        pipeline = load_pipeline(model, device)
        images = choose_images(data, pipeline, measurement)
        check_fit(pipeline, images)
        tell_of_truncation([pipeline], images)
        folder = claim_folder(measurement.output_dir, measurement.overwrite_output_dir)
    use_all_cores(device)
    with user_errors(script):
        scheduler = measure_on(images, pipeline, measurement, device)
    write_folder(folder, pipeline.with_scheduler(scheduler).save_pretrained, last=INDEX)
    print(f"Measured on {len(images)} training images; the model with its measured errors is in {folder}.")
    print(expectations(scheduler))


def choose_images(
    data: CaptionedDataArguments, pipeline: SamplingPipeline, measurement: MeasurementArguments
) -> LevelImages:
    """The training images, at most `max_images`."""
    check_batches(measurement.batch_size, measurement.max_images)
    return split_of(load_as_they_are(data, pipeline), "train").spread(measurement.max_images)


def measure_on(
    images: LevelImages, pipeline: SamplingPipeline, measurement: MeasurementArguments, device: torch.device
) -> DDPMPaperScheduler:
    """The model's scheduler with the measured errors and the variance that follows from them.

    What else the likelihood needs is measured on the same images, and recorded in the pipeline's parts.
    """
    config, size = pipeline.scheduler.config, measurement.batch_size
    on_device = (x.to(device) for x, _ in images.batches_with_columns(size))
    pipeline.measure_likelihood(on_device, images.num_levels, generator_of(Use.MEASURING, measurement.seed))
    levels = pipeline.levels_of_examples(images.num_levels)
    scheduler = DDPMPaperScheduler.from_config(config, num_levels=levels, denoising_errors=None)
    errors = measured_errors(
        pipeline.denoiser(),
        scheduler,
        progress_bar(images.batches_with_columns(size), total=-(-len(images) // size), desc="measuring", unit="batch"),
        len(images),
        tuple(pipeline.example_shape),
        measurement.seed,
        device,
        measurement.num_noise_levels,
        measurement.num_evaluations,
        measurement.per_element,
        pipeline.examples_of,
    )
    return with_errors(scheduler, errors)


def expectations(scheduler: DDPMPaperScheduler) -> str:
    """A table of rate + decoder with the variance σ*² on training images, by the number of optimal timesteps."""
    costs = step_costs(scheduler.schedule, scheduler.denoising_errors)
    lines = ["Expected rate + decoder on training images, with the optimal variance and timesteps:"]
    for K in [*(K for K in SHOWN if len(scheduler) > K), len(scheduler)]:
        times = optimal_times(costs, K, at_most=True)
        bits = costs[[0, *times[:-1]], times].sum().item() / LOG_2
        lines.append(f"{K:6} steps  {bits:.4f} bits/dim")
    return "\n".join(lines)
