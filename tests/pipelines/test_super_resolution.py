# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperSuperResolutionPipeline` beside stock's, and the images, sizes and noise that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, IFSuperResolutionPipeline, UNet2DConditionModel
from PIL import Image
from tiny_pipelines import SIZE, TEXT_WIDTH, conditional_unet, deepfloyd_super_resolution, prepared, text_parts
from torch import Tensor
from transformers import CLIPTokenizer

from ddpm_hf import DDPMPaperScheduler
from ddpm_hf.conditioning.box_means import box_mean
from ddpm_hf.conditioning.low_resolution import (
    LowResolutionSettings,
    enlarged,
    low_resolution_of,
    noised,
    standard_noising,
)
from ddpm_hf.pipelines.loading import load_pipeline
from ddpm_hf.pipelines.pipeline_ddpm_paper_super_resolution import DDPMPaperSuperResolutionPipeline


PROMPTS = ["a cat", "two dogs"]
SMALL = SIZE // 2


def scheduler(**options: Any) -> DDPMPaperScheduler:
    return DDPMPaperScheduler(60, beta_end=0.2, variance_type="learned_range", **options)


@pytest.fixture(scope="module")
def stock() -> DiffusionPipeline:
    """A whole stock pipeline with random weights, in float64."""
    return deepfloyd_super_resolution(scheduler(), torch.float64)


@pytest.fixture(scope="module")
def ours(stock: DiffusionPipeline) -> DDPMPaperSuperResolutionPipeline:
    """The same parts."""
    names = ("tokenizer", "text_encoder", "unet", "scheduler", "image_noising_scheduler")
    return prepared(DDPMPaperSuperResolutionPipeline(*(getattr(stock, name) for name in names)), torch.float64)


@pytest.fixture
def without_text() -> DDPMPaperSuperResolutionPipeline:
    """A model that enlarges images twofold and is not told of text."""
    torch.manual_seed(5)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=2,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        class_embed_type="timestep",
    ).eval()
    unet.register_to_config(**LowResolutionSettings(2, 17, 200).to_config())
    noising = standard_noising()
    pipeline = DDPMPaperSuperResolutionPipeline(None, None, unet, DDPMPaperScheduler(20, beta_end=0.3), noising)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def small(count: int = 2, channels: int = 3, side: int = SMALL) -> Tensor:
    return (
        torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
        - 1
    )


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- beside stock ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 250, 999])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_images_are_those_of_stock(stock: Any, ours: Any, level: int, scale: float) -> None:
    asked = {"image": small(), "num_inference_steps": 5, "guidance_scale": scale, "noise_level": level}
    theirs = stock(PROMPTS, **asked, generator=generator(), output_type="pt").images
    expected = (theirs / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(
        ours(PROMPTS, **asked, generator=generator(), output_type="pt").images, expected, rtol=0, atol=1e-6
    )


def test_several_images_of_a_prompt_and_a_negative_one_are_those_of_stock(stock: Any, ours: Any) -> None:
    asked = {"image": small(), "num_inference_steps": 3, "guidance_scale": 2.5, "num_images_per_prompt": 2}
    asked |= {"negative_prompt": ["blue", "green"], "noise_level": 100}
    theirs = stock(PROMPTS, **asked, generator=generator(), output_type="np").images
    np.testing.assert_allclose(
        ours(PROMPTS, **asked, generator=generator(), output_type="np").images, theirs, atol=1e-6
    )


def test_pictures_and_arrays_are_read_as_stock_reads_them(stock: Any, ours: Any) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (SMALL, SMALL, 3), dtype=np.uint8)
    arrays = (levels.astype(np.float32) / 127.5 - 1)[None]
    asked = {"num_inference_steps": 2, "guidance_scale": 1.0, "noise_level": 40, "output_type": "np"}
    for given in (Image.fromarray(levels), [Image.fromarray(levels)], arrays):
        theirs = stock("a cat", image=given, **asked, generator=generator()).images
        images = ours("a cat", image=given, **asked, generator=generator()).images
        np.testing.assert_allclose(images, theirs, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_image_is_one_for_all_or_for_each_prompt_or_image(ours: Any, count: int) -> None:
    asked = {"num_inference_steps": 2, "noise_level": 100, "output_type": "pt", "num_images_per_prompt": 2}
    found = ours(PROMPTS, image=small(count), **asked, generator=generator()).images
    of_each = small(count)[[[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 2, 3]][count // 2]]
    assert torch.equal(found, ours(PROMPTS, image=of_each, **asked, generator=generator()).images)
    if count > 1:
        without = ours(image=small(count), **asked, generator=generator()).images
        assert torch.equal(without, ours([""] * count, image=small(count), **asked, generator=generator()).images)


def test_images_that_fit_neither_prompts_nor_images_are_refused(ours: Any) -> None:
    images = r"`image` must be one, or one for each of 4 images, but are 2\."
    both = r"`image` must be one, one for each of 4 prompts, or one for each of 12 images, but are 2\."
    for call, message in (
        (lambda: ours(PROMPTS * 2, image=small()), images),
        (lambda: ours(PROMPTS * 2, image=small(), num_images_per_prompt=3), both),
        (lambda: ours(image=small(), batch_size=4), images),
        (lambda: ours(image=small(), batch_size=5, num_images_per_prompt=2), images.replace("4", "5")),
        (lambda: ours.encode(torch.zeros(4, 3, SIZE, SIZE), small()), images),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_list_of_generators_draws_each_image_as_alone(ours: Any) -> None:
    asked = {"num_inference_steps": 3, "noise_level": 100, "output_type": "pt"}
    both = ours(PROMPTS, image=small(), **asked, generator=[generator(1), generator(2)]).images
    for k, seed in enumerate((1, 2)):
        alone = ours(PROMPTS[k], image=small()[k], **asked, generator=[generator(seed)]).images
        torch.testing.assert_close(both[k : k + 1], alone, rtol=0, atol=1e-9)


def test_it_loads_what_stock_saved_and_stock_loads_what_it_saves(stock: Any, ours: Any, tmp_path: Path) -> None:
    ours.save_pretrained(tmp_path / "ours")
    loaded = prepared(IFSuperResolutionPipeline.from_pretrained(tmp_path / "ours", safety_checker=None), torch.float64)
    assert type(loaded.scheduler) is type(loaded.image_noising_scheduler) is DDPMScheduler
    loaded.save_pretrained(tmp_path / "stock")
    again = prepared(load_pipeline(tmp_path / "stock"), torch.float64)
    assert isinstance(again, DDPMPaperSuperResolutionPipeline)
    asked = {"image": small(), "num_inference_steps": 3, "guidance_scale": 2.0, "noise_level": 50}
    expected = ours(PROMPTS, **asked, generator=generator(), output_type="np").images
    for pipeline in (loaded, again):
        images = pipeline(PROMPTS, **asked, generator=generator(), output_type="np").images
        np.testing.assert_allclose(images, expected, atol=1e-4)  # stock's schedulers compute in float32


# --- what it takes --------------------------------------------------------------------------------------------------


def test_the_size_follows_from_the_factor_or_is_given(without_text: Any, ours: Any) -> None:
    asked = {"num_inference_steps": 2, "output_type": "pt", "generator": generator()}
    image = torch.rand(1, 1, 6, 10) * 2 - 1  # the model's own size is 8
    assert without_text(image=image, **asked).images.shape == (1, 1, 12, 20)
    assert without_text(image=image, height=8, width=16, **asked).images.shape == (1, 1, 8, 16)
    assert ours("a cat", image=small(1, side=5), **asked).images.shape == (1, 3, SIZE, SIZE)  # as stock does
    with pytest.raises(ValueError, match="`height` must be a multiple of 2, which the model halves, but is 9"):
        without_text(image=image, height=9, **asked)


def test_level_0_is_no_noise_and_draws_the_same_random_numbers(without_text: Any) -> None:
    image = torch.rand(1, 1, 4, 4) * 2 - 1
    seen: list[Tensor] = []
    without_text.unet.register_forward_pre_hook(lambda _, given: seen.append(given[0][:, 1:]))
    for level in (0, 80):
        without_text(image=image, noise_level=level, num_inference_steps=2, generator=generator(), output_type="pt")
    torch.testing.assert_close(seen[0], enlarged(image, 8, 8), rtol=0, atol=0)
    draws = generator()
    torch.randn(1, 1, 8, 8, generator=draws)  # x_T comes first
    noise = torch.randn(1, 1, 8, 8, generator=draws)
    expected = noised(enlarged(image, 8, 8), noise, torch.tensor([80]), standard_noising())
    torch.testing.assert_close(seen[2], expected, rtol=0, atol=1e-6)


def test_images_are_encoded_and_come_back(without_text: Any) -> None:
    x_0, image = torch.rand(2, 1, 8, 8) * 2 - 1, torch.rand(2, 1, 4, 4) * 2 - 1
    pipeline = without_text.with_scheduler(DDPMPaperScheduler(20, beta_end=0.3, clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline.encode(x_0, image)
    back = pipeline(image=image, latents=latents, eta=0.0, output_type="pt").images
    assert (back - (x_0 / 2 + 0.5)).abs().max() < 0.25  # 20 steps
    assert (pipeline(image=-image, latents=latents, eta=0.0, output_type="pt").images - back).abs().max() > 1e-4


def test_prompts_of_images_to_encode_that_do_not_fit_are_refused(ours: Any) -> None:
    x_0 = torch.zeros(2, 3, SIZE, SIZE)
    for prompts, message in (
        (["a", "b", "c"], r"^`prompt` must be one for all images, or one for each of 2, but are 3\.$"),
        ([], r"^`prompt` must be a string or a list of strings, but is \[\]\.$"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.encode(x_0, small(), prompts, 2)


def test_steps_are_yielded_and_called_back(without_text: Any) -> None:
    image, called = torch.rand(1, 1, 4, 4) * 2 - 1, []
    asked = {"image": image, "num_inference_steps": 3}
    steps = list(without_text.iterate(**asked, generator=generator()))
    images = without_text(
        **asked, generator=generator(), output_type="pt", callback=lambda *given: called.append(given)
    ).images
    assert [given[1] for given in called] == [step.timestep for step in steps]
    torch.testing.assert_close(images, (steps[-1].prev_sample / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt": "a cat"}, "`prompt` and `negative_prompt` must be None: the model is not told of text"),
        ({"guidance_scale": 2.0}, "`guidance_scale` must be 1, but is 2.0: the model has no conditioning"),
        ({"noise_level": 201}, r"`noise_level` must be an int in 0 \.\.\. 200, or one per image, but is 201\.$"),
        ({"noise_level": torch.tensor([999])}, r"`noise_level` must be an int in 0 \.\.\. 200, .*, but is 999\.$"),
        ({"noise_level": [3, 999]}, r"`noise_level` must be an int in 0 \.\.\. 200, .*, but is 999\.$"),
        ({"noise_level": [1, 2]}, "`noise_level` must be one, or one for each of 1 images, but are 2"),
        ({"noise_level": -1}, r"`noise_level` must be an int in 0 \.\.\. 200"),
        ({"image": None}, r"`image` must be PIL images, or floating tensors .*, but is NoneType\.$"),
        ({"image": np.zeros((4, 4, 1), np.uint8)}, r"`image` must be PIL images, or .*, but is an array of uint8\.$"),
        ({"image": [torch.zeros(1, 4, 4).long()]}, r"`image` must be PIL images, or .*, but is a tensor of int64\.$"),
        ({"image": torch.zeros(4, 4)}, r"`image` must be PIL images, or .*, but is a tensor of shape \[4, 4\]\.$"),
        ({"image": np.zeros((4, 4))}, r"`image` must be PIL images, or .*, but is an array of shape \[4, 4\]\.$"),
        ({"image": torch.full((1, 1, 4, 4), torch.nan)}, "`image`"),
        ({"image": torch.zeros(1, 3, 4, 4)}, r"`image` must be of shape \[1, 1, 4, 4\], but is \[1, 3, 4, 4\]"),
        ({"image": [torch.zeros(1, 4, 4), torch.zeros(1, 6, 6)]}, "all of one size"),
        ({"batch_size": 3, "image": torch.zeros(2, 1, 4, 4)}, "`image` must be one, or one for each of 3 images"),
        ({"noise": torch.zeros(1, 1, 4, 4)}, r"`noise` must be of shape \[1, 1, 8, 8\]"),
    ],
)
def test_what_does_not_fit_is_refused(without_text: Any, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        without_text(**{"image": torch.zeros(1, 1, 4, 4), "num_inference_steps": 2, **asked})


def test_a_model_of_an_odd_number_of_channels_is_refused() -> None:
    unet = conditional_unet(3, 3, SIZE, class_embed_type="timestep")
    with pytest.raises(ValueError, match="`unet` must have twice the channels of the images"):
        DDPMPaperSuperResolutionPipeline(
            **text_parts(), unet=unet, scheduler=scheduler(), image_noising_scheduler=scheduler()
        )


def test_a_tokenizer_without_words_is_refused(ours: Any) -> None:
    with pytest.raises(ValueError, match="`tokenizer` knows no words, only special tokens"):
        DDPMPaperSuperResolutionPipeline(**{**ours.components, "tokenizer": CLIPTokenizer()})


def test_guidance_leaves_out_the_text_and_keeps_the_image(ours: Any) -> None:
    denoiser = ours.denoiser()
    conditioning = {
        "low_resolution": small(2, side=SIZE),
        "class_labels": torch.tensor([3, 7]),
        "encoder_hidden_states": torch.ones(2, 77, TEXT_WIDTH, dtype=torch.float64),
    }
    null = denoiser.conditioners.unconditional(conditioning)
    assert torch.equal(null["low_resolution"], conditioning["low_resolution"])
    assert null["class_labels"].tolist() == [3, 7]
    assert not torch.equal(null["encoder_hidden_states"], conditioning["encoder_hidden_states"])
    assert denoiser.conditioners.has_null


# --- low resolution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("factor", [2, 3])
def test_the_mean_over_boxes_is_rounded_to_levels(levels: int, factor: int) -> None:
    numbers = torch.randint(levels, (5, 3, 6, 12), generator=generator())
    for dtype in (torch.uint8, torch.int32):
        low = box_mean(numbers.to(dtype), factor)
        means = numbers.double().unfold(2, factor, factor).unfold(3, factor, factor).mean(dim=(-1, -2))
        assert low.dtype == dtype and torch.equal(low.double(), (means + 0.5).floor())
    x_0 = numbers.float() * (2 / (levels - 1)) - 1
    expected = box_mean(numbers, factor).float() * (2 / (levels - 1)) - 1
    assert torch.equal(low_resolution_of(x_0, factor, levels), expected)
    assert torch.equal(low_resolution_of(x_0.flip(-1), factor, levels), expected.flip(-1))


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="sides that are multiples of 2, but are 5x4"):
        low_resolution_of(torch.zeros(1, 1, 5, 4), 2, 17)
