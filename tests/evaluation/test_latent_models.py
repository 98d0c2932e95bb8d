# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`measure`, `evaluate`, `sample` and `classify` of tiny folders of stock's latent pipelines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DDIMScheduler
from in_process import run
from PIL import Image
from tiny_pipelines import SIZE, diffusion_transformer, latent_unconditional

from ddpm_hf.pipelines.loading import load_pipeline


pytestmark = pytest.mark.filterwarnings("ignore")  # of the stock pipelines

T = 20


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth colour images of two classes, six of them for tests."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 3)):
        for label, name in enumerate(("dark", "light")):
            (folder / split / name).mkdir(parents=True)
            for k in range(count):
                corners = random.integers(100 * label, 100 * label + 155, (2, 2, 3)).astype(np.uint8)
                picture = Image.fromarray(corners).resize((SIZE, SIZE), Image.BILINEAR)
                picture.save(folder / split / name / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def stock_dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dit")
    scheduler = DDIMScheduler(T, beta_end=0.5, clip_sample=False)
    diffusion_transformer(scheduler, num_classes=2).save_pretrained(folder)
    return folder


def options(images: Path, model: Path, folder: Path) -> list[Any]:
    given = {"model_name_or_path": model, "train_data_dir": images, "resolution": SIZE, "output_dir": folder}
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def succeeded(script: str, *arguments: Any) -> str:
    done = run(script, *arguments)
    assert done.code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def measured(images: Path, stock_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured") / "model"
    output = succeeded("measure.py", *options(images, stock_dit, folder), "--num_noise_levels", 8)
    assert "Measured on 24 training images" in output
    return folder


def test_measuring_gives_the_autoencoder_its_scale_and_the_chain_its_errors(measured: Path) -> None:
    pipeline = load_pipeline(measured)
    assert len(pipeline.autoencoder.require_likelihood().numbers) == 3
    errors = pipeline.scheduler.denoising_errors
    assert errors is not None and pipeline.scheduler.diffusion.num_levels is None
    law = pipeline.autoencoder.law
    before = (measured / "vae" / "config.json").read_text("utf-8")
    assert json.loads(before)["_ddpm_hf"]["autoencoder"]["log_scale"] == law.numbers
    assert all(0.001 < scale < 1 for scale in law.scale)


def test_a_measured_model_is_scored_in_bits_of_the_images(images: Path, measured: Path, tmp_path: Path) -> None:
    more = ("--num_paths", 2, "--few_steps", 5, "--guidance_scales", 1.5)
    output = succeeded("evaluate.py", *options(images, measured, tmp_path / "out"), *more)
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))
    parts = [report[name] for name in ("reconstruction", "posterior_entropy", "latent")]
    assert report["total"] == pytest.approx(sum(parts)) and report["num_examples"] == 6
    assert report["latent"] == pytest.approx(sum(report[name] for name in ("prior", "rate", "decoder")))
    assert report["importance_weighted"]["bits_per_dim"] < report["total"] + 0.5
    assert {row["timestep_spacing"] for row in report["few_steps"]} == {"linspace", "optimal"}
    assert all(math.isfinite(row["bits_per_dim"]) for row in report["few_steps"] + report["guidance"])
    assert f"= reconstruction {parts[0]:.4f} + posterior entropy {parts[1]:.4f} + latent {parts[2]:.4f}" in output
    assert (tmp_path / "out" / "evaluation.png").stat().st_size > 1000


def test_images_are_sampled_and_animated(measured: Path, tmp_path: Path) -> None:
    common = ("--model_name_or_path", measured, "--num_images", 2, "--class_labels", 0, 1)
    way = ("--num_inference_steps", 4, "--timestep_spacing", "optimal", "--gif", tmp_path / "way.gif")
    succeeded("sample.py", *common, *way, "--output", tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.mode == "RGB" and grid.width > SIZE


def test_classes_are_told_apart_by_bits_of_the_images(images: Path, measured: Path, tmp_path: Path) -> None:
    succeeded("classify.py", *options(images, measured, tmp_path / "out"), "--num_evaluations", 4)
    report = json.loads((tmp_path / "out" / "classification.json").read_text("utf-8"))
    assert 0 <= report["accuracy"] <= 1


def test_a_stock_model_is_not_scored_before_it_is_measured(images: Path, stock_dit: Path, tmp_path: Path) -> None:
    done = run("evaluate.py", *options(images, stock_dit, tmp_path / "out"))
    assert done.code == 2 and "`ddpm-hf measure` gives it the scale" in done.output


def test_latents_are_scored_by_the_ode(images: Path, measured: Path, tmp_path: Path) -> None:
    more = ("--num_flow_images", 3, "--batch_size", 2)
    output = succeeded("evaluate.py", *options(images, measured, tmp_path / "out"), *more)
    flow = json.loads((tmp_path / "out" / "evaluation.json").read_text())["flow"]
    parts = [flow[f"flow_bits_per_dim_{part}"] for part in ("reconstruction", "posterior_entropy", "latent")]
    assert flow["flow_bits_per_dim"] == pytest.approx(sum(parts)) and math.isfinite(sum(parts))
    assert flow["images"] == 3 and flow["model_calls_per_image"] > 0 and flow["dequantisation"] is None
    assert f"{flow['flow_bits_per_dim']:.4f} bits/dim by the ODE on 3 images" in output


def test_the_error_of_latents_is_not_drawn_as_one_of_images(images: Path, measured: Path, tmp_path: Path) -> None:
    done = run("evaluate.py", *options(images, measured, tmp_path / "out"), "--rate_distortion")
    assert done.code == 2 and "`rate_distortion` must be False" in done.output


def test_a_model_without_a_posterior_is_measured_for_few_steps_but_not_scored(images: Path, tmp_path: Path) -> None:
    stock, folder = tmp_path / "stock", tmp_path / "measured"
    latent_unconditional(DDIMScheduler(T, beta_end=0.5, clip_sample=False)).save_pretrained(stock)
    succeeded("measure.py", *options(images, stock, folder), "--num_noise_levels", 8)
    assert load_pipeline(folder).scheduler.denoising_errors is not None
    done = run("evaluate.py", *options(images, folder, tmp_path / "out"))
    assert done.code == 2 and "A VQModel has no posterior" in done.output
