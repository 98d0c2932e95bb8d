# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Nothing depends on the default device: results are the same without one, and on the device of the data.

The device "meta" stands for any other: a tensor that is built there has no values, and fails where they are needed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from tiny_models import tiny_unet
from torch import Tensor

from ddpm_hf import (
    BitsPerDim,
    DDPMPaperPipeline,
    DDPMPaperScheduler,
    DenoisingErrors,
    ImportanceWeightedBits,
    NoiseSchedule,
    bits_per_dim,
    importance_weighted_bits_per_dim,
    log_path_weights,
    measure_denoising_errors,
    ode_bits_per_dim,
    ode_encode,
    ode_log_likelihood,
    ode_sample,
    predictor_corrector,
    slerp,
)
from ddpm_hf.diffusion.losses import rate_loss, variance_loss
from ddpm_hf.diffusion.timestep_sampling import ImportanceTimesteps, stratified_timesteps, uniform_timesteps
from ddpm_hf.diffusion.timestep_spacing import optimal_times
from ddpm_hf.likelihood.ode import OdeBitsPerDim


T = 20
LEVELS = 17
X_0 = torch.randint(LEVELS, (24, 2, 3, 3), generator=torch.Generator().manual_seed(0)) / 8 - 1.0
NOISE, OUTPUT = torch.randn(2, *X_0.shape, generator=torch.Generator().manual_seed(1))
TIMES = torch.arange(24) % T
UNET = tiny_unet()
ERRORS = DenoisingErrors((6.0, -4.0), (0.01, 0.4), (0.01, 0.4), (0.3, 2.0), LEVELS)


def denoise(x_t: Tensor, t: Tensor) -> Tensor:
    return x_t * (0.3 + 0.5 * t.to(x_t) / T).reshape(-1, *[1] * (x_t.ndim - 1))


def scheduler_of(**options: object) -> DDPMPaperScheduler:
    return DDPMPaperScheduler(T, 0.005, 0.4, num_levels=LEVELS, **options)


def drawn(draw: Callable[[torch.Generator | None], object]) -> object:
    """With a generator, and with torch's own."""
    torch.manual_seed(0)
    return draw(torch.Generator(device="cpu").manual_seed(0)), draw(None)


def of_the_scheduler() -> object:
    scheduler = scheduler_of(variance_type="optimal", denoising_errors=ERRORS)
    for spacing in ("quadratic", "log_snr", "optimal", "leading"):
        scheduler.set_timesteps(10, timestep_spacing=spacing)
    scheduler.timesteps = [T - 1, 12, 7, 2]
    t, one = torch.tensor([T - 1, 12, 7, 2], device="cpu").repeat(6), 7
    results = [scheduler.add_noise(X_0, NOISE, t), scheduler.get_velocity(X_0, NOISE, one), scheduler.timesteps]
    for timestep in (t, one):
        results += [scheduler.q_mean_variance(X_0, timestep), scheduler.score(OUTPUT, NOISE, timestep)]
        results += [scheduler.q_posterior_mean_variance(X_0, NOISE, timestep), scheduler.min_snr_weights(timestep)]
        results += [tuple(scheduler.p_mean_variance(OUTPUT, NOISE, timestep)), scheduler.prior_loss(X_0)]
        results += [scheduler.vlb_loss(OUTPUT, X_0, NOISE, timestep), scheduler.previous_timestep(timestep)]
        results += [drawn(lambda g, t=timestep: scheduler.step(OUTPUT, t, NOISE, g, return_dict=False))]
        results += [drawn(lambda g, t=timestep: scheduler.ddim_step(OUTPUT, t, NOISE, 0.5, g, return_dict=False))]
    results += [scheduler.encode_step(OUTPUT, one, NOISE), scheduler.expected_terms, scheduler._get_variance(7)]
    return [*results, scheduler.training_target(X_0, NOISE, t)]


def of_noise_schedules() -> object:
    schedules = [
        NoiseSchedule.linear(T),
        NoiseSchedule.scaled_linear(T),
        NoiseSchedule.sigmoid(T),
        NoiseSchedule.cosine(T),
        NoiseSchedule.laplace(T),
        NoiseSchedule.linear_log_snr(T, 5.0, -5.0),
        NoiseSchedule.from_betas([0.1, 0.2]),
        NoiseSchedule.cosine(T).rescale_zero_terminal_snr(),
    ]
    continuous = schedules[0].continuous
    reals = [continuous.log_snr(2.5), continuous.beta(3), continuous.time_at(3.0)]
    return [schedule.log_alphas_cumprod for schedule in schedules], reals


def of_conversions() -> object:
    stock = DDPMScheduler(T, beta_schedule="scaled_linear")  # whose tables have no values on "meta"
    converted = DDPMPaperScheduler.from_scheduler(stock)
    again = DDPMPaperScheduler.from_config(scheduler_of().to_stock().config)
    return converted.betas, again.betas, again.timesteps


def of_a_bound() -> object:
    scheduler = scheduler_of()
    whole = drawn(lambda g: bits_per_dim(denoise, scheduler, [X_0, X_0[:3]], generator=g))
    estimate = drawn(lambda g: bits_per_dim(denoise, scheduler, [X_0], num_evaluations=6, generator=g))
    return whole, estimate, BitsPerDim.merged(list(whole))


def of_weighted_paths() -> object:
    scheduler = scheduler_of(variance_type="fixed_large")
    weights = drawn(lambda g: log_path_weights(denoise, scheduler, X_0, generator=g))
    bits = drawn(lambda g: importance_weighted_bits_per_dim(denoise, scheduler, [X_0], num_paths=3, generator=g))
    return weights, bits, ImportanceWeightedBits.merged(list(bits)), bits[0].standard_error


def of_measured_errors() -> object:
    options = {"num_noise_levels": 4, "num_evaluations": 2}
    whole = drawn(lambda g: measure_denoising_errors(denoise, scheduler_of(), [X_0], **options, generator=g))
    return whole, measure_denoising_errors(denoise, scheduler_of(), [X_0], per_element=True, **options)


def of_times_to_train_at() -> object:
    importance = ImportanceTimesteps(T, warmup=1)
    first = drawn(lambda g: importance.sample(24, g))
    importance.update(TIMES, OUTPUT.flatten(1).mean(1))
    second, state = drawn(lambda g: importance.sample(24, g)), importance.state_dict()
    importance.load_state_dict(state)
    uniform, stratified = (
        drawn(lambda g, draw=draw: draw(24, T, generator=g)) for draw in (uniform_timesteps, stratified_timesteps)
    )
    return first, second, state, uniform, stratified, importance.probabilities


def of_losses() -> object:
    learned, output = scheduler_of(variance_type="learned_range").process, torch.cat([OUTPUT, NOISE], dim=1)
    variance = [variance_loss(learned, output, X_0, NOISE, TIMES, LEVELS, stride) for stride in (1, 3)]
    return rate_loss(scheduler_of().process, OUTPUT, X_0, NOISE, TIMES), variance


def of_langevin_steps() -> object:
    return drawn(lambda g: predictor_corrector(denoise, scheduler_of(), NOISE, generator=g))


def of_the_flow() -> object:
    scheduler, x = scheduler_of(), X_0[:3]
    options = [{}, {"trace": "exact"}, {"num_steps": 4}, {"num_steps": 4, "method": "rk4"}]
    likelihoods = [
        drawn(lambda g, option=option: ode_log_likelihood(denoise, scheduler, x, **option, generator=g))
        for option in options
    ]
    bits = drawn(lambda g: ode_bits_per_dim(denoise, scheduler, [x], num_dequantizations=2, generator=g))
    ways = [way(denoise, scheduler, x, **o) for way in (ode_sample, ode_encode) for o in ({}, {"num_steps": 4})]
    return likelihoods, bits, OdeBitsPerDim.merged(list(bits)), ways


def of_a_pipeline() -> object:
    pipeline = DDPMPaperPipeline(UNET, scheduler_of())
    pipeline.set_progress_bar_config(disable=True)
    images = [drawn(lambda g, kind=kind: pipeline(2, g, 5, output_type=kind).images) for kind in ("pt", "np", "pil")]
    latents = pipeline.encode(X_0[:2, :1].repeat(1, 1, 2, 2)[..., :4, :4], 5)
    return images, latents, pipeline(2, num_inference_steps=5, eta=0.0, latents=latents, output_type="pt").images


def of_a_pipeline_with_classes() -> object:
    torch.manual_seed(0)
    unet = UNet2DModel.from_config(UNET.config, num_class_embeds=3).to_empty(device="cpu").eval()
    with torch.no_grad():
        for weight in unet.parameters():
            weight.normal_(0, 0.1, generator=torch.Generator(device="cpu").manual_seed(0))
    pipeline = DDPMPaperPipeline(unet, scheduler_of())
    pipeline.set_progress_bar_config(disable=True)
    return [drawn(lambda g, k=k: pipeline(2, g, 5, "pt", class_labels=k).images) for k in (1, [0, 2])]


def of_the_rest() -> object:
    costs = torch.rand(T + 1, T + 1, generator=torch.Generator(device="cpu").manual_seed(0), device="cpu")
    between = slerp(X_0, NOISE, 0.3), slerp(X_0, NOISE, TIMES / T)
    return optimal_times(costs, 5, at_most=True), between, DenoisingErrors.from_dict(ERRORS.to_dict())


@functools.cache
def without_default(part: Callable[[], object]) -> object:
    return part()


PARTS = [value for name, value in globals().items() if name.startswith("of_")]


def assert_same(found: object, expected: object) -> None:
    assert type(found) is type(expected)
    if isinstance(found, Tensor):
        assert found.device.type == "cpu"
        assert torch.equal(found, expected)
    elif isinstance(found, dict):
        assert_same(list(found.items()), list(expected.items()))
    elif isinstance(found, (list, tuple)):
        for mine, theirs in zip(found, expected, strict=True):
            assert_same(mine, theirs)
    elif dataclasses.is_dataclass(found):
        assert_same(vars(found), vars(expected))
    elif isinstance(found, Image.Image):
        assert found.tobytes() == expected.tobytes()
    elif hasattr(found, "dtype"):
        assert (found == expected).all()
    else:
        assert found == expected


@pytest.mark.parametrize("way", ["context", "set_default_device"])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_the_default_device_changes_nothing(part: Callable[[], object], way: str):
    expected = without_default(part)
    if way == "context":
        with torch.device("meta"):
            found = part()
    else:
        torch.set_default_device("meta")
        try:
            found = part()
        finally:
            torch.set_default_device(None)
    assert_same(found, expected)
