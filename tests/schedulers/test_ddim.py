# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""DDIM: between ancestral sampling and a map without noise, there and back; against stock, and on Gaussian data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from oracles import Mixture, model_output
from tiny_models import tiny_unet
from torch import Tensor

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, NoiseSchedule
from ddpm_hf.diffusion.gaussian_process import StepCoefficients, ddim_coefficients
from ddpm_hf.diffusion.numerics import slerp


MEAN, VARIANCE = 0.3, 0.25
GAUSSIAN = Mixture.gaussian(MEAN, VARIANCE)
MIXTURE = Mixture.of((0.3, -0.6, 0.1), (0.7, 0.5, 0.2))
SCHEDULES = [NoiseSchedule.linear(1000), NoiseSchedule.cosine(100), NoiseSchedule.linear_log_snr(50, 12.0, -9.0)]


def scheduler_of(**options: object) -> DDPMPaperScheduler:
    return DDPMPaperScheduler(**{"clip_sample": False, "num_levels": None, **options})


def optimal_model(data: Mixture, scheduler: DDPMPaperScheduler) -> Callable[[Tensor, int], Tensor]:
    """The best denoiser of one-dimensional data, for a batch `[N]` at one timestep."""

    def denoise(x_t: Tensor, timestep: int) -> Tensor:
        log_abar = scheduler.schedule.log_alpha_cumprod(timestep + 1)
        return model_output(scheduler.config.prediction_type, data.denoise(x_t, log_abar), x_t, log_abar)

    return denoise


def walk(
    denoise: Callable[[Tensor, int], Tensor],
    scheduler: DDPMPaperScheduler,
    x: Tensor,
    eta: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    step = scheduler.step if eta is None else partial(scheduler.ddim_step, eta=eta)
    for t in scheduler.timesteps.tolist():
        x = step(denoise(x, t), t, x, generator=generator, return_dict=False)[0]
    return x


def encoded(denoise: Callable[[Tensor, int], Tensor], scheduler: DDPMPaperScheduler, x_0: Tensor) -> Tensor:
    times = scheduler.timesteps.flip(0).tolist()
    x = x_0 * scheduler.schedule.marginal_coefficients(times[0] + 1)[0]
    for t in times[:-1]:
        x = scheduler.encode_step(denoise(x, t), t, x)
    return x


# --- the step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["linear", "cosine", "log-SNR"])
def test_with_all_the_noise_it_is_the_posterior(schedule: NoiseSchedule):
    s, t = torch.triu_indices(schedule.T + 1, schedule.T + 1, offset=1)[:, :: schedule.T // 7]
    a, b, log_variance = ddim_coefficients(schedule, t, s, eta=1.0)
    posterior = StepCoefficients.between(schedule, s, t)
    torch.testing.assert_close(a, posterior.posterior_coef_x0, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(b, posterior.posterior_coef_xt, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(log_variance, posterior.posterior_log_variance, rtol=1e-12, atol=0)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_it_keeps_the_marginals_of_the_forward_process(eta: float):
    # Given x_0, x_s has the mean √ᾱ_s x_0 and the variance 1 − ᾱ_s whatever η is (Song et al. 2021, lemma 1).
    schedule = SCHEDULES[0]
    s, t = torch.tensor([0, 1, 10, 499, 3]), torch.tensor([1, 2, 500, 500, 1000])
    a, b, log_variance = ddim_coefficients(schedule, t, s, eta)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.marginal_coefficients(t), schedule.marginal_coefficients(s)
    torch.testing.assert_close(a + b * alpha_t, alpha_s, rtol=1e-13, atol=0)
    torch.testing.assert_close(b**2 * sigma_t**2 + log_variance.exp(), sigma_s**2, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_is_that_of_stocks_ddim(eta: float, clip: bool, prediction_type: str, generator: torch.Generator):
    options = {"clip_sample": clip, "prediction_type": prediction_type, "timestep_spacing": "leading"}
    stock, ours = DDIMScheduler(set_alpha_to_one=True, **options), scheduler_of(**options)
    stock.alphas_cumprod = ours.alphas_cumprod  # stock's own are float32
    stock.set_timesteps(20), ours.set_timesteps(20)
    assert stock.timesteps.tolist() == ours.timesteps.tolist()
    x, output = torch.randn(2, 3, 2, 4, generator=generator, dtype=torch.float64)
    for t in ours.timesteps.tolist():
        seeded = [torch.Generator().manual_seed(1) for _ in range(2)]
        # With its clipped x̂_0, stock's own default keeps the ε̂ of the one that is not clipped.
        theirs = stock.step(output, t, x, eta, use_clipped_model_output=True, generator=seeded[0])
        found = ours.ddim_step(output, t, x, eta, seeded[1])
        torch.testing.assert_close(found.prev_sample, theirs.prev_sample, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found.pred_original_sample, theirs.pred_original_sample, rtol=1e-6, atol=1e-7)


def test_no_noise_is_drawn_without_any():
    scheduler, x = scheduler_of(), torch.ones(2, 1, 4, 4)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    scheduler.ddim_step(x, 500, x, generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_a_learned_or_measured_variance_is_left_aside():
    x, output = torch.randn(2, 1, 4, 4), torch.randn(2, 2, 4, 4)
    learned, fixed = scheduler_of(variance_type="learned_range"), scheduler_of()
    for eta in (0.0, 0.5):
        seeded = [torch.Generator().manual_seed(1) for _ in range(2)]
        found = learned.ddim_step(output, 500, x, eta, seeded[0]).prev_sample
        assert torch.equal(found, fixed.ddim_step(output[:, :1], 500, x, eta, seeded[1]).prev_sample)


def test_examples_may_be_at_different_timesteps(generator: torch.Generator):
    scheduler = scheduler_of()
    x, output = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    times = torch.tensor([0, 400, 999])
    together = scheduler.ddim_step(output, times, x, 0.5, torch.Generator().manual_seed(1)).prev_sample
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for k, t in enumerate(times.tolist()):
        mean = scheduler.ddim_step(output[k : k + 1], t, x[k : k + 1]).prev_sample
        a, b, log_variance = ddim_coefficients(scheduler.schedule, t + 1, t, 0.5)
        x_0 = scheduler.p_mean_variance(output[k : k + 1], x[k : k + 1], t).pred_original_sample
        expected = a * x_0 + b * x[k : k + 1] + (log_variance / 2).exp() * noise[k : k + 1]
        torch.testing.assert_close(together[k : k + 1], mean if t == 0 else expected)


# --- Gaussian data: the chain is linear ------------------------------------------------------------------------------


def variance_of_chain(scheduler: DDPMPaperScheduler, eta: float | None) -> float:
    """Of what the chain ends at from N(0, 1), by the linear recursion of its steps."""
    times, variance = [0, *scheduler.process.times], 1.0
    for k in range(len(times) - 2, -1, -1):
        s, t = times[k], times[k + 1]
        abar_s, abar = scheduler.schedule.alphas_cumprod[[s, t]].tolist()
        gain = math.sqrt(abar) * VARIANCE / (abar * VARIANCE + 1 - abar)  # of E[x_0 | x_t]
        beta = 1 - abar / abar_s
        posterior = beta * (1 - abar_s) / (1 - abar)
        if eta is None:  # with the variance β
            a, b = math.sqrt(abar_s) * beta / (1 - abar), math.sqrt(abar / abar_s) * (1 - abar_s) / (1 - abar)
            noise = beta if s else 0.0
        else:
            noise = eta**2 * posterior
            b = math.sqrt((1 - abar_s - noise) / (1 - abar))
            a = math.sqrt(abar_s) - b * math.sqrt(abar)
        variance = (a * gain + b) ** 2 * variance + noise
    return variance


@pytest.mark.parametrize("eta", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("K", [5, 50])
def test_samples_spread_as_the_recursion_says(K: int, eta: float | None):
    scheduler, n = scheduler_of(variance_type="fixed_large"), 40_000
    scheduler.set_timesteps(K, timestep_spacing="trailing")
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(n, generator=generator, dtype=torch.float64)
    samples = walk(optimal_model(GAUSSIAN, scheduler), scheduler, x_T, eta=eta, generator=generator)
    assert samples.var().item() == pytest.approx(variance_of_chain(scheduler, eta), rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_with_many_steps_samples_spread_as_the_data(eta: float):
    errors = []
    for T in (100, 1000):
        scheduler = DDPMPaperScheduler.from_schedule(NoiseSchedule.linear_log_snr(T, 12.0, -12.0), clip_sample=False)
        errors.append(abs(variance_of_chain(scheduler, eta) / VARIANCE - 1))
    assert errors[1] < 0.02 and errors[1] < errors[0] / 4


# --- there and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["Gaussian", "mixture"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_data_come_back_from_their_latents_the_better_the_more_steps(data: Mixture, prediction_type: str):
    # Where there are data: between the modes the way back is as steep as it is improbable.
    spread = torch.linspace(-1.5, 1.5, 21, dtype=torch.float64)
    x_0 = (data.means + data.variances.sqrt() * spread[:, None]).flatten()
    errors = []
    for K in (50, 150, 450):
        schedule = NoiseSchedule.linear_log_snr(K, 14.0, -10.0)
        scheduler = DDPMPaperScheduler.from_schedule(schedule, clip_sample=False, prediction_type=prediction_type)
        denoise = optimal_model(data, scheduler)
        back = walk(denoise, scheduler, encoded(denoise, scheduler, x_0), eta=0.0)
        errors.append((back - x_0).abs().max().item())
    assert errors[2] < 0.02
    assert all(fine < coarse / 2 for coarse, fine in itertools.pairwise(errors))


def test_latents_of_gaussian_data_are_standard_normal():
    scheduler = DDPMPaperScheduler.from_schedule(NoiseSchedule.linear_log_snr(2000, 14.0, -12.0), clip_sample=False)
    x_0 = MEAN + math.sqrt(VARIANCE) * torch.linspace(-2, 2, 9, dtype=torch.float64)
    latents = encoded(optimal_model(GAUSSIAN, scheduler), scheduler, x_0)
    torch.testing.assert_close(latents, torch.linspace(-2, 2, 9, dtype=torch.float64), rtol=0, atol=0.01)


def pipeline_of(classes: int | None = None) -> DDPMPaperPipeline:
    unet = tiny_unet()
    if classes is not None:
        unet = UNet2DModel.from_config(unet.config, num_class_embeds=classes)
    pipeline = DDPMPaperPipeline(unet, DDPMPaperScheduler(prediction_type="v_prediction"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_pipeline_encodes_images_and_draws_them_again(generator: torch.Generator):
    pipeline = pipeline_of()
    shape = (2, *pipeline.example_shape)
    images = torch.rand(shape, generator=generator) - 0.5
    errors = []
    for K in (10, 50):
        latents = pipeline.encode(images, K, timestep_spacing="trailing")
        options = {"eta": 0.0, "latents": latents, "timestep_spacing": "trailing", "output_type": "pt"}
        back, again = (pipeline(2, torch.Generator().manual_seed(k), K, **options).images for k in (0, 1))
        assert torch.equal(back, again)  # no noise is drawn: the latents decide
        errors.append((2 * back - 1 - images).abs().mean().item())
    assert latents.shape == images.shape
    assert errors[1] < errors[0] / 2 and errors[1] < 0.1


def test_a_pipeline_encodes_with_classes(generator: torch.Generator):
    pipeline = pipeline_of(3)
    images = torch.rand((2, *pipeline.example_shape), generator=generator) - 0.5
    first, second = (pipeline.encode(images, 5, class_labels=[0, label]) for label in (1, 2))
    torch.testing.assert_close(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    with pytest.raises(ValueError, match="`class_labels` must be given"):
        pipeline.encode(images, 5)


# --- between two latents --------------------------------------------------------------------------------------------


def test_a_great_circle_leads_from_one_to_the_other(generator: torch.Generator):
    a, b = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    t = torch.tensor([0.1, 0.3, 0.5, 0.9])
    each = [slerp(a[k : k + 1], b[k : k + 1], float(t[k])) for k in range(4)]
    torch.testing.assert_close(slerp(a, b, t), torch.cat(each))


def test_it_turns_by_a_part_of_the_angle():
    angle = 2.0
    a, b = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[math.cos(angle), math.sin(angle)]]).double()
    for t in (0.0, 0.25, 0.5, 1.0):
        expected = torch.tensor([[math.cos(t * angle), math.sin(t * angle)]]).double()
        torch.testing.assert_close(slerp(a, b, t), expected)
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), 2 * a)  # straight, where there is no angle


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-5])
def test_between_opposite_directions_there_is_no_way(distance: float, dtype: torch.dtype):
    x = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    across = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    y = -2 * x + distance * across
    with pytest.raises(ValueError, match="`a` and `b` must not point in opposite directions"):
        slerp(x, y, 0.25)
    with pytest.raises(ValueError, match="opposite"):  # one such pair is enough
        slerp(x, torch.cat([x[:2], y[2:]]), 0.25)
    for t, end in ((0.0, x), (1.0, y)):  # the ends are what they are
        torch.testing.assert_close(slerp(x, y, t), end)


def test_a_little_further_apart_the_way_keeps_its_length():
    def direction(angle: float) -> Tensor:
        return torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)

    for angle in (math.pi - 2e-3, math.pi - 0.1, 1e-9):
        between = slerp(direction(0.0), direction(angle), 0.25)
        torch.testing.assert_close(between, direction(0.25 * angle), rtol=1e-11, atol=1e-11)


def test_numbers_are_vectors_of_one_dimension():
    torch.testing.assert_close(
        slerp(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]), 0.5), torch.tensor([2.0, 2.0])
    )
    with pytest.raises(ValueError, match="opposite"):
        slerp(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0]), 0.5)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [-0.1, 3.0, math.nan, torch.tensor([0.5, 1.5]), torch.tensor([0.1, 0.2, 0.3])], ids=str)
def test_a_t_that_is_no_number_in_the_range_for_each_pair_is_refused(t: object):
    with pytest.raises(ValueError, match="`t` must"):
        slerp(torch.ones(2, 3), torch.zeros(2, 3), t)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_between_what_is_not_finite_there_is_nothing(value: float):
    with pytest.raises(ValueError, match="`a` and `b` must be finite"):
        slerp(torch.ones(2, 3), torch.tensor([[1.0, 2.0, 3.0], [1.0, value, 0.0]]), 0.5)


@pytest.mark.parametrize(
    "images", [[[0.0]], torch.zeros(0, 1, 4, 4), torch.tensor(0.5)], ids=["list", "none", "number"]
)
def test_what_is_no_batch_of_images_is_not_encoded(images: object):
    with pytest.raises(ValueError, match="`images` must be a tensor of at least one image"):
        DDPMPaperPipeline(tiny_unet(), scheduler_of()).encode(images, 5)


@pytest.mark.parametrize("eta", [-0.1, 1.5, math.nan, "0.5", True, torch.tensor(0.5)], ids=str)
def test_an_eta_that_is_no_number_in_the_range_is_refused(eta: object):
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"`eta` must lie in \[0, 1\]"):
        scheduler_of().ddim_step(x, 500, x, eta)
    with pytest.raises(ValueError, match=r"`eta` must lie in \[0, 1\]"):
        pipeline_of()(num_inference_steps=2, eta=eta)


def test_what_cannot_be_encoded_is_refused():
    x, scheduler, pipeline = torch.zeros(1, 1, 4, 4), scheduler_of(), pipeline_of()
    with pytest.raises(ValueError, match="not the first visited, but is 999"):
        scheduler.encode_step(x, 999, x)
    with pytest.raises(ValueError, match="one for the batch"):
        scheduler.encode_step(torch.zeros(2, 4), torch.tensor([3, 4]), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="`images` must be of shape"):
        pipeline.encode(torch.zeros(1, 1, 3, 3))
    with pytest.raises(ValueError, match="`images` must be a floating-point tensor"):
        pipeline.encode(torch.zeros((1, *pipeline.example_shape), dtype=torch.long))
    with pytest.raises(ValueError, match="`latents` must be of shape"):
        pipeline(latents=torch.zeros(2, 1, 3, 3))
    with pytest.raises(ValueError, match="s < t"):
        ddim_coefficients(SCHEDULES[0], 3, 5, eta=0.5)
