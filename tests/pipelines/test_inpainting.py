# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Inpainting and image to image: against a conditional Gaussian, against diffusers' RePaint, and what is kept."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import tiny_pipelines
import torch
from diffusers import DDPMScheduler, RePaintScheduler, UNet2DModel
from PIL import Image
from tiny_models import tiny_unet
from torch import Tensor

from ddpm_hf import DDPMPaperLatentPipeline, DDPMPaperPipeline, DDPMPaperScheduler
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.pipelines.denoising_step import stepper
from ddpm_hf.pipelines.inpainting import Inpainting, Jumps


CORRELATION, KNOWN = 0.95, 1.5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def order_of_stock(num_steps: int, length: int, repeats: int) -> list[int]:
    """The reverse steps that a `RePaintPipeline` takes, counted from the first."""
    scheduler = RePaintScheduler(num_train_timesteps=num_steps)
    scheduler.set_timesteps(num_steps, length, repeats)
    timesteps, last, taken = scheduler.timesteps.tolist(), num_steps, []
    for t in timesteps:
        if t < last:
            taken.append(num_steps - 1 - t)
        last = t
    return taken


@pytest.mark.parametrize(
    ("num_steps", "length", "repeats"), [(20, 5, 3), (23, 4, 2), (10, 10, 10), (12, 1, 2), (7, 3, 1)]
)
def test_jumps_are_those_of_stock(num_steps: int, length: int, repeats: int) -> None:
    assert Jumps(length, repeats).order(num_steps) == order_of_stock(num_steps, length, repeats)


def test_resampling_leads_to_the_conditional_gaussian() -> None:
    """Two pixels of correlation ρ, of which the first is known: the second is N(ρ a, 1 − ρ²)."""
    schedule = NoiseSchedule.linear_log_snr(60, 8.0, -8.0)
    scheduler = DDPMPaperScheduler.from_schedule(
        schedule, prediction_type="sample", clip_sample=False, num_levels=None, variance_type="fixed_small"
    )
    scheduler.set_timesteps(60)
    covariance = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)

    def denoise(x_t: Tensor, t: int) -> Tensor:
        abar = schedule.alphas_cumprod[t + 1]
        gain = abar.sqrt() * covariance @ torch.linalg.inv(abar * covariance + (1 - abar) * torch.eye(2).double())
        return (x_t.flatten(1) @ gain.T).view_as(x_t)

    count = 2000
    x_0 = torch.tensor([KNOWN, 0.0], dtype=torch.float64).view(1, 1, 1, 2).expand(count, -1, -1, -1)
    is_drawn = torch.tensor([False, True]).view(1, 1, 1, 2)

    def moments(repeats: int) -> tuple[float, float]:
        generator = seeded()
        x_t = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
        step = stepper(scheduler, None, 1, generator)
        for t, after in Inpainting(x_0, is_drawn, Jumps(6, repeats), generator).walk(scheduler):
            x_s, x_t = after(step(denoise(x_t, t), t, x_t)[0])
        assert torch.equal(x_s[..., 0], x_0[..., 0])
        return x_s[..., 1].mean().item(), x_s[..., 1].var().item()

    truth = CORRELATION * KNOWN, 1 - CORRELATION**2
    found = {repeats: moments(repeats) for repeats in (1, 4, 16)}
    off = {repeats: abs(mean - truth[0]) for repeats, (mean, _) in found.items()}
    assert off[1] > 2 * off[4] > 0 and off[16] < 0.06 < off[1]
    assert found[16][1] == pytest.approx(truth[1], rel=0.25) and found[1][1] > 1.5 * truth[1]


@pytest.fixture(scope="module")
def unet() -> UNet2DModel:
    return tiny_unet(sample_size=8)


def pixel_pipeline(unet: UNet2DModel, steps: int = 12) -> DDPMPaperPipeline:
    pipeline = DDPMPaperPipeline(unet, DDPMPaperScheduler(num_train_timesteps=steps, clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def shape_of(unet: UNet2DModel) -> tuple[int, ...]:
    return unet.config.in_channels, unet.config.sample_size, unet.config.sample_size


@pytest.mark.parametrize(("length", "repeats"), [(3, 2), (1, 3), (10, 10)])
def test_without_noise_it_takes_the_steps_of_stocks_repaint(unet: UNet2DModel, length: int, repeats: int) -> None:
    """The random numbers differ, since a jump is one draw here; with none, all of the rest must be equal."""
    steps, shape = 12, (2, *shape_of(unet))
    image = torch.rand(shape, generator=seeded(1)) * 2 - 1
    is_drawn = torch.zeros(1, 1, *shape[2:])
    is_drawn[..., 3:6] = 1
    noise = torch.randn(shape, generator=seeded(2))

    stock = RePaintScheduler(num_train_timesteps=steps, eta=0.0, clip_sample=False)
    stock.set_timesteps(steps, length, repeats)
    x, last = noise, steps
    target = "diffusers.schedulers.scheduling_repaint.randn_tensor"
    with torch.no_grad(), mock.patch(target, lambda shape, **_: torch.zeros(shape)):
        for t in stock.timesteps:
            if t < last:
                x = stock.step(unet(x, t).sample, t, x, image, 1 - is_drawn).prev_sample
            else:
                x = stock.undo_step(x, last)
            last = t

    arguments = {"image": image, "mask_image": is_drawn[0, 0], "jump_length": length, "jump_n_sample": repeats}
    zeros = "ddpm_hf.pipelines.inpainting.noise_like"
    with mock.patch(zeros, lambda sample, dtype, generator: torch.zeros_like(sample, dtype=dtype)):
        ours = pixel_pipeline(unet)(2, latents=noise, eta=0.0, output_type="pt", **arguments).images
    torch.testing.assert_close(ours, (x / 2 + 0.5).clamp(0, 1), rtol=0, atol=2e-4)


def pictures(shape: tuple[int, ...], seed: int = 0) -> list[Image.Image]:
    channels, height, width = shape
    draws = np.random.default_rng(seed)
    arrays = draws.integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    return [Image.fromarray(each[..., 0] if channels == 1 else each) for each in arrays]


def mask_picture(side: int) -> Image.Image:
    mask = np.zeros((side, side), np.uint8)
    mask[1 : side // 2, 1:] = 255
    return Image.fromarray(mask)


def latent_pipeline() -> DDPMPaperLatentPipeline:
    pipeline = DDPMPaperLatentPipeline.from_stock(tiny_pipelines.latent_unconditional(DDPMScheduler(12)))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_known_pixels_come_back_and_the_others_do_not(unet: UNet2DModel, kind: str) -> None:
    pipeline = pixel_pipeline(unet) if kind == "pixels" else latent_pipeline()
    given, mask = pictures(pipeline.image_shape), mask_picture(pipeline.image_shape[1])
    options: dict[str, Any] = {"image": given, "mask_image": mask, "jump_length": 2, "jump_n_sample": 2}
    found = pipeline(batch_size=2, generator=[seeded(1), seeded(2)], **options).images
    is_drawn = np.asarray(mask) > 0
    for before, after in zip(given, found, strict=True):
        before, after = np.asarray(before), np.asarray(after)
        assert np.array_equal(before[~is_drawn], after[~is_drawn])
        assert not np.array_equal(before[is_drawn], after[is_drawn])
    alone = pipeline(batch_size=1, generator=[seeded(2)], **{**options, "image": given[1]}).images
    np.testing.assert_allclose(np.asarray(alone[0], float), np.asarray(found[1], float), atol=1)  # of its batch
    steps = list(pipeline.iterate(batch_size=2, strength=0.5, generator=seeded(), **options))
    assert len(steps) == len(Jumps(2, 2).order(6)) and steps[0].timestep == 5


def test_a_latent_is_drawn_anew_if_any_of_its_pixels_is() -> None:
    pipeline = latent_pipeline()
    side, factor = pipeline.image_shape[1], pipeline.autoencoder.factor
    mask = torch.zeros(side, side)
    mask[factor, 0] = 1
    image = torch.zeros(1, *pipeline.image_shape)
    options = {"batch_size": 1, "jump_n_sample": 1, "output_type": "latent"}
    found = pipeline(image=image, mask_image=mask, generator=seeded(), **options).images
    known = pipeline.examples_of(image, seeded())
    is_kept = (found == known).all(dim=1)[0]
    assert not is_kept[1, 0] and is_kept.sum() == is_kept.numel() - 1


def test_pixels_start_from_an_image_as_latents_do(unet: UNet2DModel) -> None:
    pipeline = pixel_pipeline(unet)
    image = torch.zeros(1, *shape_of(unet))
    steps = list(pipeline.iterate(2, seeded(), image=image, strength=0.5))
    assert [step.timestep for step in steps] == [5, 4, 3, 2, 1, 0]
    noise = torch.randn(2, *shape_of(unet), generator=seeded())
    torch.testing.assert_close(
        steps[0].sample, pipeline.scheduler.add_noise(image.expand(2, -1, -1, -1), noise, 5), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"mask_image": torch.ones(8, 8)}, "`mask_image` needs an `image`"),
        ({"strength": 0.5}, "`strength` needs an `image`"),
        ({"image": "zeros", "mask_image": torch.ones(4, 8)}, "must have the size of `image`, 8x8, but has 4x8"),
        ({"image": "zeros", "mask_image": torch.ones(3, 1, 8, 8)}, "`mask_image` must be one, or one for each of 1"),
        ({"image": "zeros", "mask_image": "white"}, r"`mask_image` must be PIL images, or tensors .* but is str"),
        ({"image": "zeros", "mask_image": torch.ones(8, 8), "jump_length": 0}, "`jump_length` must be"),
        ({"image": "zeros", "mask_image": torch.ones(8, 8), "jump_n_sample": 0}, "`jump_n_sample` must be"),
        (
            {"image": "zeros", "mask_image": torch.ones(8, 8), "eta": 0.0, "solver_order": 2},
            "`solver_order` must be 1",
        ),
        ({"image": "zeros", "latents": "zeros"}, "`latents` must be left out with an `image`"),
        ({"image": "zeros", "strength": 2}, r"`strength` must lie in \(0, 1\], but is 2"),
    ],
)
def test_what_does_not_fit_is_told(unet: UNet2DModel, arguments: dict[str, Any], sentence: str) -> None:
    zeros = torch.zeros(1, *shape_of(unet))
    given = {
        name: zeros if isinstance(value, str) and value == "zeros" else value for name, value in arguments.items()
    }
    with pytest.raises(ValueError, match=sentence):
        pixel_pipeline(unet)(1, **given)
