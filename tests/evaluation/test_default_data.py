# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The images that a saved model is scored on if the user names none, or OpenMoji without a size."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import DDIMScheduler
from in_process import run
from tiny_models import tiny_unet
from tiny_pipelines import latent_unconditional

from ddpm_hf import DDPMPaperLatentPipeline, DDPMPaperPipeline, DDPMPaperScheduler
from ddpm_hf.data.arguments import CaptionedDataArguments
from ddpm_hf.evaluation.scoring import load_as_they_are
from ddpm_hf.pipelines.loading import load_pipeline


pytestmark = pytest.mark.filterwarnings("ignore")  # of the stock pipelines


@pytest.fixture(scope="module")
def latents() -> DDPMPaperLatentPipeline:
    return DDPMPaperLatentPipeline.from_stock(latent_unconditional(DDIMScheduler(20, clip_sample=False)))


def test_openmoji_is_drawn_at_the_size_of_the_model(latents: DDPMPaperLatentPipeline) -> None:
    pixels = DDPMPaperPipeline(tiny_unet(3, sample_size=12), DDPMPaperScheduler(8))
    named = CaptionedDataArguments(dataset_name="openmoji")
    assert load_as_they_are(named, pixels).test.shape == (3, 12, 12)
    assert load_as_they_are(CaptionedDataArguments(), latents, (3, 20, 20)).test.shape == (3, 20, 20)
    assert load_as_they_are(CaptionedDataArguments(resolution=24), latents).test.shape == (3, 24, 24)


def test_a_model_of_pixels_is_scored_on_the_digits() -> None:
    pixels = DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler(8))
    assert load_as_they_are(CaptionedDataArguments(), pixels).test.shape == (1, 8, 8)


def test_latents_are_measured_without_naming_data(latents: DDPMPaperLatentPipeline, tmp_path: Path) -> None:
    latents.save_pretrained(tmp_path / "model")
    flags = ("--num_noise_levels", 4, "--num_evaluations", 2, "--max_images", 8)
    done = run("measure.py", "--model_name_or_path", tmp_path / "model", *flags, "--output_dir", tmp_path / "out")
    assert done.code == 0, done.output
    assert load_pipeline(tmp_path / "out").scheduler.denoising_errors is not None
