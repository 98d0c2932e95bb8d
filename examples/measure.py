# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Measure how far a saved model is from its training images, and save it with the variance and times that follow.

    python examples/measure.py --model_name_or_path runs/digits --output_dir runs/digits_optimal
    python examples/evaluate.py --model_name_or_path runs/digits_optimal --num_inference_steps 10 \
        --timestep_spacing optimal --output_dir ten_steps

For any unconditional or class-conditional model, those of stock diffusers too. The saved pipeline can visit optimal
times (Watson et al. 2021), and has the optimal variance (Bao et al. 2022) unless the model learned one.
"""

from __future__ import annotations


from threads import use_all_cores  # isort: skip - before torch

import torch
from arguments import DataArguments, MeasurementArguments, ModelPathArguments, check_batches, user_errors
from image_data import LevelImages
from measuring import measured_errors, with_errors
from output_folder import claim_folder, write_folder
from scoring import check_fit, images_as_they_are, load_pipeline
from sharing import require_one_process
from stopping import run_script
from tqdm.auto import tqdm

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler
from ddpm_hf.denoising_errors import step_costs
from ddpm_hf.hub import INDEX
from ddpm_hf.numerics import LOG_2
from ddpm_hf.timesteps import optimal_times


SHOWN = (5, 10, 25, 50, 100)  # steps that the table printed has


def main() -> None:
    run_script(__file__, measure, ModelPathArguments, DataArguments, MeasurementArguments)


def measure(script: str, model: ModelPathArguments, data: DataArguments, measurement: MeasurementArguments) -> None:
    """Measure, save, and tell what to expect."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with user_errors(script):
        require_one_process()
        pipeline = load_pipeline(model, device)
        images = choose_images(data, measurement)
        check_fit(pipeline, images)
        folder = claim_folder(measurement.output_dir, measurement.overwrite_output_dir)
    use_all_cores(device)
    with user_errors(script):
        scheduler = measure_on(images, pipeline, measurement, device)
    write_folder(folder, DDPMPaperPipeline(pipeline.unet, scheduler).save_pretrained, last=INDEX)
    print(f"Measured on {len(images)} training images; the model that knows its errors is in {folder}.")
    print(expectations(scheduler))


def choose_images(data: DataArguments, measurement: MeasurementArguments) -> LevelImages:
    """The training images, up to as many as asked for."""
    check_batches(measurement.batch_size, measurement.max_images)
    return images_as_they_are(data, "train").spread(measurement.max_images)


def measure_on(
    images: LevelImages, pipeline: DDPMPaperPipeline, measurement: MeasurementArguments, device: torch.device
) -> DDPMPaperScheduler:
    """The model's scheduler with the errors that were measured, and the variance by them."""
    config = pipeline.scheduler.config
    scheduler = DDPMPaperScheduler.from_config(config, num_levels=images.num_levels, denoising_errors=None)
    size = measurement.batch_size
    errors = measured_errors(
        pipeline.unet,
        scheduler,
        tqdm(images.labelled_batches(size), total=-(-len(images) // size), desc="measuring", unit="batch"),
        len(images),
        measurement.seed,
        device,
        measurement.num_noise_levels,
        measurement.num_evaluations,
        measurement.per_element,
    )
    return with_errors(scheduler, errors)


def expectations(scheduler: DDPMPaperScheduler) -> str:
    """The bound with the variance σ* on training images, but for the prior's term, by the number of optimal steps."""
    costs = step_costs(scheduler.schedule, scheduler.denoising_errors)
    lines = ["Rate and decoder to expect of σ* on training images along the optimal times:"]
    for K in [*(K for K in SHOWN if len(scheduler) > K), len(scheduler)]:
        times = optimal_times(costs, K, at_most=True)
        bits = costs[[0, *times[:-1]], times].sum().item() / LOG_2
        lines.append(f"{K:6} steps  {bits:.4f} bits/dim")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
