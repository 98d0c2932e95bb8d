# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A finished run in figures: metrics.json, the lines printed at the end, the model card."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from output_folder import write_file

from ddpm_hf import BitsPerDim


TEMPLATE = Path(__file__).parents[1] / "model_card.md"


def metrics(job: Any, result: BitsPerDim) -> dict[str, Any]:
    """The figures of a run, for metrics.json."""
    scheduler = job.scheduler
    return {
        "bits_per_dim": result.total,
        "bits_per_dim_standard_error": result.standard_error,
        "bits_per_dim_prior": result.prior,
        "bits_per_dim_rate": result.rate,
        "bits_per_dim_decoder": result.decoder,
        "test_images": result.num_examples,
        "model_evaluations_per_test_image": result.num_model_evaluations // result.num_examples,
        "train_images": len(job.data.train),
        "train_seconds": job.seconds,
        "train_steps": job.steps,
        "cpu_threads": torch.get_num_threads(),
        "train_batch_size": job.loader.batch_size * job.accelerator.num_processes,
        "data": job.data.name,
        "image_shape": list(job.data.train.shape),
        "num_levels": job.data.train.num_levels,
        "parameters": sum(parameter.numel() for parameter in job.unet.parameters()),
        "prediction_type": scheduler.config.prediction_type,
        "variance_type": scheduler.config.variance_type,
        "decoder_variance": scheduler.first_variance,
        "timesteps": len(scheduler),
        "objective": job.objective,
        "seed": job.training.seed,
    }


def describe(report: dict[str, Any]) -> str:
    """What a run ends with on the screen."""
    return (
        f"{report['bits_per_dim']:.4f} ± {report['bits_per_dim_standard_error']:.4f} bits/dim on"
        f" {report['test_images']} test images"
        f" = prior {report['bits_per_dim_prior']:.4f} + rate {report['bits_per_dim_rate']:.4f}"
        f" + decoder {report['bits_per_dim_decoder']:.4f}\n"
        f"trained {report['train_steps']} steps in {report['train_seconds']:.0f} s"
    )


def write_model_card(path: Path, report: dict[str, Any]) -> None:
    """The model card, filled from the run's own figures."""
    result = EvalResult(
        task_type="unconditional-image-generation",
        dataset_type=report["data"].replace(" ", "-"),
        dataset_name=report["data"],
        metric_type="bits_per_dim",
        metric_name="bits/dim (variational bound)",
        metric_value=round(report["bits_per_dim"], 4),
    )
    data = ModelCardData(
        license="apache-2.0",
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["ddpm_hf", "ddpm", "diffusion"],
        model_name=path.resolve().parent.name,
        eval_results=[result],
    )
    card = ModelCard.from_template(data, template_path=str(TEMPLATE), name=path.resolve().parent.name, **report)
    write_file(path, lambda partial: partial.write_text(str(card)))


def evaluation_report(result: BitsPerDim, **settings: Any) -> dict[str, Any]:
    """The figures of an evaluation, the per-time table last."""
    figures = dataclasses.asdict(result)
    timesteps, per_timestep = figures.pop("timesteps"), figures.pop("per_timestep")
    table = [{"timestep": t, "bits_per_dim": bits} for t, bits in zip(timesteps, per_timestep, strict=True)]
    return {**settings, **figures, "per_timestep": table}
