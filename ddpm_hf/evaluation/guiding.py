# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Guidance from command-line arguments."""

from __future__ import annotations

from typing import Any

import torch

from ..pipelines.guidance import Guidance
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .arguments import GuidanceArguments, ModelPathArguments
from .scoring import load_pipeline


SAME = 1e-4  # largest difference of log ᾱ between equal noise schedules: stock stores betas in float32


def load_guidance(arguments: GuidanceArguments, pipeline: SamplingPipeline) -> Guidance:
    """The guidance, with the weaker model, if any, on the pipeline's device.

    Raises:
        ValueError, OSError: if the guidance does not fit the model, or the weaker model cannot be loaded or has
            another diffusion process.
    """
    interval, weaker = arguments.guidance_interval, None
    if arguments.guidance_model_name_or_path is not None:
        path = ModelPathArguments(arguments.guidance_model_name_or_path)
        loaded = load_pipeline(path, pipeline.device, "guidance_model_name_or_path")
        _check_process(loaded.scheduler, pipeline.scheduler)
        weaker = loaded.unet
    guidance = Guidance(
        arguments.guidance_scale,
        None if interval is None else tuple(interval),
        arguments.guidance_rescale,
        weaker,
    )
    guidance.check(pipeline.unet, pipeline.conditioners_of)
    return guidance


def guidance_report(arguments: GuidanceArguments) -> dict[str, Any]:
    """The guidance arguments for a report."""
    return {
        "guidance_scale": arguments.guidance_scale,
        "guidance_interval": arguments.guidance_interval,
        "guidance_rescale": arguments.guidance_rescale,
        "guidance_model": arguments.guidance_model_name_or_path,
    }


def _check_process(weaker: DDPMPaperScheduler, strong: DDPMPaperScheduler) -> None:
    """Raise ValueError unless both models have the same prediction type and noise schedule."""
    kinds = weaker.config.prediction_type, strong.config.prediction_type
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"`guidance_model_name_or_path` must be of a model with prediction_type {kinds[1]!r}, but it has"
            f" {kinds[0]!r}."
        )
    schedules = weaker.schedule.log_alphas_cumprod, strong.schedule.log_alphas_cumprod
    if len(weaker) != len(strong) or not torch.allclose(*schedules, rtol=SAME, atol=SAME):
        raise ValueError("`guidance_model_name_or_path` must be of a model with the same noise schedule.")
