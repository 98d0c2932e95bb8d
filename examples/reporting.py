# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A finished run in figures: metrics.json, and the lines printed at the end."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from job import Job
from quality import compared_size, pixel_frechet_distance
from torch import Tensor

from ddpm_hf import BitsPerDim, ImportanceWeightedBits


def training_facts(job: Job) -> dict[str, Any]:
    """What there is to tell of a run before it is scored."""
    scheduler = job.scheduler
    return {
        "data": job.data.name,
        "dataset_name": job.data.hub_name,
        "train_images": job.images_per_epoch,
        "bad_images_passed_over": len(job.bad_images),
        "train_steps": job.steps,
        "train_batch_size": job.share.total,
        "cpu_threads": torch.get_num_threads(),
        "image_shape": list(job.data.train.shape),
        "num_levels": job.data.train.num_levels,
        "parameters": sum(parameter.numel() for parameter in job.unet.parameters()),
        "prediction_type": scheduler.config.prediction_type,
        "variance_type": scheduler.variance_type,
        "timesteps": len(scheduler),
        "objective": job.diffusion.objective,
        "seed": job.training.seed,
        "settings": job.settings,
    }


def metrics(job: Job, result: BitsPerDim | None, more: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run, for metrics.json; without a result if there are no test images."""
    return {
        **({} if result is None else _score_report(result)),
        **more,
        "train_seconds": job.seconds,
        "validation": job.validation,
        **training_facts(job),
    }


def _score_report(result: BitsPerDim) -> dict[str, Any]:
    return {
        "bits_per_dim": result.total,
        "bits_per_dim_standard_error": result.standard_error,
        "bits_per_dim_estimation_error": result.estimation_error,
        "bits_per_dim_prior": result.prior,
        "bits_per_dim_rate": result.rate,
        "bits_per_dim_decoder": result.decoder,
        "test_images": result.num_examples,
        "model_evaluations_per_test_image": result.num_model_evaluations // result.num_examples,
    }


def describe(report: dict[str, Any]) -> str:
    """What a run ends with on the screen."""
    weighted = f"{weighted_line(report['importance_weighted'])}\n" if "importance_weighted" in report else ""
    quality = ""
    if "frechet_distance_pixels" in report:
        quality = (
            f"{report['frechet_distance_pixels']:.4f} Fréchet distance of pixels between the training images and"
            f" {report['quality_samples']} samples of {report['quality_inference_steps']} steps\n"
        )
    score = "there were no test images to score\n"
    if "bits_per_dim" in report:
        score = (
            f"{report['bits_per_dim']:.4f} ± {report['bits_per_dim_standard_error']:.4f} bits/dim on"
            f" {report['test_images']} test images"
            f" = prior {report['bits_per_dim_prior']:.4f} + rate {report['bits_per_dim_rate']:.4f}"
            f" + decoder {report['bits_per_dim_decoder']:.4f}\n"
        )
    return f"{score}{weighted}{quality}trained {report['train_steps']} steps in {report['train_seconds']:.0f} s"


def weighted_line(figures: dict[str, Any]) -> str:
    """The importance-weighted bound, from its report, as a line for the screen, beside the bound of the same chain."""
    of_one_path, *_ = figures["bits_per_dim_by_number_of_paths"].values()
    return (
        f"{figures['bits_per_dim']:.4f} ± {figures['bits_per_dim_standard_error']:.4f} bits/dim by {figures['paths']}"
        f" weighted paths of {figures['steps']} steps, a chain whose bound with one path is {of_one_path:.4f}"
    )


def paths_report(result: ImportanceWeightedBits) -> dict[str, Any]:
    """The importance-weighted bound, for metrics.json and for an evaluation."""
    return {
        "bits_per_dim": result.total,
        "bits_per_dim_standard_error": result.standard_error,
        "bits_per_dim_by_number_of_paths": result.by_num_paths,
        "paths": result.num_paths,
        "steps": result.num_model_evaluations // (result.num_examples * result.num_paths),
        "images": result.num_examples,
    }


def quality_of(samples: Tensor, steps: int, train: Tensor, test: Tensor) -> dict[str, Any]:
    """How far samples `[N, C, H, W]` in [0, 1] are from training images in [−1, 1], and how far test images are."""
    size, compared = tuple(samples.shape[-2:]), compared_size(*samples.shape[-2:])
    return {
        "frechet_distance_pixels": pixel_frechet_distance(samples * 2 - 1, train),
        "frechet_distance_pixels_of_test_images": pixel_frechet_distance(test, train) if len(test) > 1 else None,
        "quality_resolution": None if compared == size else f"{compared[0]}×{compared[1]}",
        "quality_samples": len(samples),
        "quality_inference_steps": steps,
    }


def evaluation_report(result: BitsPerDim, **settings: Any) -> dict[str, Any]:
    """The figures of an evaluation, the per-time table last."""
    figures = dataclasses.asdict(result)
    timesteps, per_timestep = figures.pop("timesteps"), figures.pop("per_timestep")
    table = [{"timestep": t, "bits_per_dim": bits} for t, bits in zip(timesteps, per_timestep, strict=True)]
    return {**settings, **figures, "per_timestep": table}
