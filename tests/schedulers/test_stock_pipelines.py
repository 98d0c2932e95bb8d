# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Whole pipelines of stock diffusers draw the same images with `DDPMPaperScheduler` as with `DDPMScheduler`.

The weights are random, so that nothing is downloaded; the weights and the generators are the same on both sides.

Tolerances, of images in [0, 1]: in float32 the two differ by stock's float32 tables, whose 1 − ᾱ_t is off by up to
2e-4 relative near the data, and by the rounding that guidance and the networks enlarge; 1e-5 was seen, 1e-4 passes.
In float64, with exact tables in stock's place, only the conversion of the finished images to float32 is left: 1e-6.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from tiny_pipelines import SIZE

from ddpm_hf import DDPMPaperScheduler


STEPS = 8
FLOAT32_TABLES = 1e-4
EXACT_TABLES = 1e-6

Images = np.ndarray
Build = Callable[[SchedulerMixin, torch.dtype], DiffusionPipeline]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def picture() -> torch.Tensor:
    return torch.rand(1, 3, SIZE, SIZE, generator=seeded())


def guided(pipeline: DiffusionPipeline, **options: object) -> Images:
    """Two images of a prompt, with guidance."""
    options = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "num_images_per_prompt": 2, **options}
    return pipeline("a cat", generator=seeded(), output_type="np", **options).images


def draw_stable_diffusion(pipeline: DiffusionPipeline) -> Images:
    return guided(pipeline)


def draw_image_to_image(pipeline: DiffusionPipeline) -> Images:
    return guided(pipeline, image=picture(), strength=0.6)


def draw_inpainting(pipeline: DiffusionPipeline) -> Images:
    right_half = torch.zeros(1, 1, SIZE, SIZE)
    right_half[..., SIZE // 2 :] = 1
    return guided(pipeline, image=picture(), mask_image=right_half, strength=0.6, height=SIZE, width=SIZE)


def draw_deepfloyd(pipeline: DiffusionPipeline) -> Images:
    return guided(pipeline, clean_caption=False)


def draw_deepfloyd_super_resolution(pipeline: DiffusionPipeline) -> Images:
    return guided(pipeline, image=picture()[..., ::2, ::2], clean_caption=False)


def draw_latent_unconditional(pipeline: DiffusionPipeline) -> Images:
    torch.manual_seed(0)  # `LDMPipeline` passes no generator to `step`
    return pipeline(2, generator=seeded(), num_inference_steps=STEPS, output_type="np").images


def draw_diffusion_transformer(pipeline: DiffusionPipeline) -> Images:
    torch.manual_seed(0)  # neither does `DiTPipeline`
    return pipeline([1, 7], generator=seeded(), num_inference_steps=STEPS, output_type="np").images


# What Stable Diffusion's pipelines would otherwise write into the configuration themselves.
LATENT = {"clip_sample": False, "steps_offset": 1}

# Chains that end at timestep 0. Where one ends above it, stock adds noise to the finished sample, and we do not.
TO_ZERO = {"clip_sample": False, "timestep_spacing": "linspace"}

CASES = [
    ("stable_diffusion", LATENT),
    ("stable_diffusion", {**LATENT, "prediction_type": "v_prediction", "beta_schedule": "scaled_linear"}),
    ("stable_diffusion", {**TO_ZERO, "variance_type": "fixed_large"}),
    ("image_to_image", LATENT),
    ("image_to_image", {**TO_ZERO, "variance_type": "fixed_large", "prediction_type": "v_prediction"}),
    ("inpainting", LATENT),
    ("deepfloyd", {}),
    ("deepfloyd", {"variance_type": "fixed_large", "prediction_type": "v_prediction"}),
    ("deepfloyd", {"variance_type": "learned_range"}),
    (
        "deepfloyd",
        {
            "variance_type": "learned_range",
            "beta_schedule": "squaredcos_cap_v2",
            "thresholding": True,
            "dynamic_thresholding_ratio": 0.95,
            "sample_max_value": 1.5,
        },
    ),
    ("deepfloyd_super_resolution", {}),
    ("deepfloyd_super_resolution", {"variance_type": "fixed_large"}),
    ("deepfloyd_super_resolution", {"variance_type": "learned_range"}),
    ("latent_unconditional", {}),
    ("latent_unconditional", {"clip_sample": False, "variance_type": "fixed_large"}),
    ("diffusion_transformer", {}),
    ("diffusion_transformer", {"clip_sample": False, "prediction_type": "v_prediction"}),
]


def name_of(case: object) -> str:
    return case if isinstance(case, str) else "-".join(map(str, case.values())) or "default"


def with_exact_tables(stock: DDPMScheduler) -> DDPMScheduler:
    """Stock's formulas over float64 tables in the place of its float32 ones."""
    linspace = functools.partial(torch.linspace, dtype=torch.float64)
    T, low, high = 1000, stock.config.beta_start, stock.config.beta_end
    if stock.config.beta_schedule == "squaredcos_cap_v2":
        curve = torch.cos((linspace(0, 1, T + 1) + 0.008) / 1.008 * torch.pi / 2) ** 2
        stock.betas = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    elif stock.config.beta_schedule == "scaled_linear":
        stock.betas = linspace(low**0.5, high**0.5, T) ** 2
    else:
        stock.betas = linspace(low, high, T)
    stock.alphas = 1 - stock.betas
    stock.alphas_cumprod = torch.cumprod(stock.alphas, dim=0)
    stock.one = torch.ones((), dtype=torch.float64)
    return stock


@pytest.mark.filterwarnings("ignore")  # of the pipelines
@pytest.mark.parametrize(("name", "options"), CASES, ids=name_of)
def test_images_are_those_of_stock(name: str, options: dict[str, object], dtype: torch.dtype):
    build, draw = getattr(tiny_pipelines, name), globals()[f"draw_{name}"]
    stock, ours = DDPMScheduler(**options), DDPMPaperScheduler(**options)
    if dtype == torch.float64:
        with_exact_tables(stock)
    expected, found = (draw(build(scheduler, dtype)) for scheduler in (stock, ours))
    assert found.shape == (2, SIZE, SIZE, 3)
    assert expected.std() > 0.05  # images, and not one colour that anything would give
    tolerance = FLOAT32_TABLES if dtype == torch.float32 else EXACT_TABLES
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["stable_diffusion", "deepfloyd", "latent_unconditional", "diffusion_transformer"])
def test_a_saved_pipeline_loads_with_our_scheduler_and_draws_the_same(name: str, tmp_path: Path):
    build, draw = getattr(tiny_pipelines, name), globals()[f"draw_{name}"]
    pipeline = build(DDPMPaperScheduler(**LATENT, variance_type="fixed_large", num_levels=17), torch.float32)
    pipeline.save_pretrained(tmp_path)
    loaded = type(pipeline).from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is DDPMPaperScheduler
    assert (loaded.scheduler.variance_type, loaded.scheduler.num_levels) == ("fixed_large", 17)
    np.testing.assert_array_equal(draw(loaded), draw(pipeline))
