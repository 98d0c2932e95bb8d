# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A NaN raises an error that names its origin: the examples, or the model's output and its timesteps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DModel
from tiny_models import tiny_unet
from torch import Tensor

from ddpm_hf import (
    DDPMPaperPipeline,
    DDPMPaperScheduler,
    bits_per_dim,
    importance_weighted_bits_per_dim,
    log_path_weights,
    measure_denoising_errors,
    ode_bits_per_dim,
    ode_encode,
    ode_log_likelihood,
    ode_sample,
    predictor_corrector,
)


T = 20
X = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Denoise = Callable[[Tensor, Tensor], Tensor]


def scheduler_of(**options: object) -> DDPMPaperScheduler:
    return DDPMPaperScheduler(T, 0.005, 0.4, **{"num_levels": None, "clip_sample": False, **options})


def broken(*timesteps: int, value: float = math.nan) -> Denoise:
    """A model with one value of every example wrong at some timesteps."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        output, is_wrong = 0.5 * x_t, torch.isin(t, torch.tensor(timesteps)) if timesteps else torch.ones_like(t) > 0
        output[:, 0, 0, 0] = torch.where(is_wrong, value, output[:, 0, 0, 0])
        return output

    return denoise


SCORES: dict[str, Callable[[Denoise, DDPMPaperScheduler, Tensor], object]] = {
    "the bound": lambda denoise, scheduler, x: bits_per_dim(denoise, scheduler, [x]),
    "an estimate": lambda denoise, scheduler, x: bits_per_dim(denoise, scheduler, [x], num_evaluations=T - 1),
    "a path": lambda denoise, scheduler, x: log_path_weights(denoise, scheduler, x),
    "paths": lambda denoise, scheduler, x: importance_weighted_bits_per_dim(denoise, scheduler, [x], num_paths=2),
    "errors": lambda denoise, scheduler, x: measure_denoising_errors(denoise, scheduler, [x], num_evaluations=T),
}
FLOWS: dict[str, Callable[[Denoise, DDPMPaperScheduler, Tensor], object]] = {
    "density": lambda denoise, scheduler, x: ode_log_likelihood(denoise, scheduler, x),
    "bits": lambda denoise, scheduler, x: ode_bits_per_dim(denoise, scheduler, [x], num_steps=3),
    "encode": lambda denoise, scheduler, x: ode_encode(denoise, scheduler, x),
    "sample": lambda denoise, scheduler, x: ode_sample(denoise, scheduler, x, num_steps=3),
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("score", SCORES)
def test_a_score_names_the_timesteps_of_the_models_output(score: str, value: float):
    with pytest.raises(ValueError, match=r"`denoise` gives values that are not finite at timesteps 3, 11\.$"):
        SCORES[score](broken(3, 11, value=value), scheduler_of(), X)
    SCORES[score](broken(T), scheduler_of(), X)  # a timestep that there is not


@pytest.mark.parametrize("score", SCORES)
def test_of_many_timesteps_some_are_named(score: str):
    with pytest.raises(ValueError, match="at timesteps 0, 1, 2, 3, 4 and 15 more"):
        SCORES[score](broken(), scheduler_of(), X)


@pytest.mark.parametrize("score", SCORES)
def test_one_example_is_enough(score: str):
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        output = 0.5 * x_t
        output[7, 0, 1, 2] = torch.where(t[7] == 4, math.nan, output[7, 0, 1, 2])
        return output

    with pytest.raises(ValueError, match=r"not finite at timestep 4\.$"):
        for _ in range(50):  # of an estimate, which draws times, until it is drawn
            SCORES[score](denoise, scheduler_of(), X)


def test_the_chain_decides_where_a_model_is_asked():
    scheduler = scheduler_of()
    scheduler.set_timesteps(timesteps=[19, 10, 2])
    bits_per_dim(broken(0, 11), scheduler, [X])
    with pytest.raises(ValueError, match=r"at timestep 10\.$"):
        bits_per_dim(broken(10, 11), scheduler, [X])


def test_a_learned_variance_beyond_float32_is_no_fault_of_the_output():
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x_t, -200 * (t == 5).to(x_t).reshape(-1, 1, 1, 1) * torch.ones_like(x_t)], dim=1)

    with pytest.raises(ValueError, match="The bound is not finite at timestep 5, though the output of `denoise` is"):
        bits_per_dim(denoise, scheduler_of(variance_type="learned"), [X])


@pytest.mark.parametrize("num_levels", [None, 17])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("score", [*SCORES, *FLOWS])
def test_examples_that_are_not_finite_are_named(score: str, value: float, num_levels: int | None):
    x, call = torch.zeros(40, 1, 4, 4), {**SCORES, **FLOWS}[score]
    x[5, 0, 2, 2] = value
    with pytest.raises(ValueError, match=r"NaN or infinite|`x(_0)?` must be finite"):
        call(broken(T), scheduler_of(num_levels=num_levels), x)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_flow_names_the_timestep(flow: str):
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.where(t[0] > 5, math.nan, 1.0) * x_t

    with pytest.raises(ValueError, match=r"`denoise` gives values that are not finite at timestep (\d\d|[5-9])"):
        FLOWS[flow](denoise, scheduler_of(), X)


def test_a_prior_of_a_flow_must_be_a_number():
    with pytest.raises(ValueError, match="`log_prior` must give log-densities, but gave NaN"):
        ode_log_likelihood(broken(T), scheduler_of(), X, log_prior=lambda x: x.flatten(1).sum(1) * math.nan)


def test_langevin_samples():
    with pytest.raises(ValueError, match="The samples are not finite: the output of `denoise` is not"):
        predictor_corrector(broken(3), scheduler_of(), X)


# --- a model of Fourier times ---------------------------------------------------------------------------------------


def fourier_unet() -> UNet2DModel:
    """As NCSN++ is built: it divides by its timestep, and embeds the logarithm."""
    torch.manual_seed(0)
    return UNet2DModel.from_config(tiny_unet().config, time_embedding_type="fourier").eval()


def test_a_model_of_fourier_times_has_no_timestep_0():
    unet = fourier_unet()
    for score in SCORES.values():
        with pytest.raises(
            ValueError, match=r"at timestep 0\. A UNet whose `time_embedding_type` is 'fourier' .*t \+ 1"
        ):
            score(lambda x, t: unet(x, t).sample, scheduler_of(), X)
    with pytest.raises(ValueError, match=r"at timestep 0\. A UNet whose `time_embedding_type` is 'fourier' .*t \+ 1"):
        ode_log_likelihood(lambda x, t: unet(x, t).sample, scheduler_of(), X)


def test_what_the_message_advises_helps():
    unet, scheduler = fourier_unet(), scheduler_of()
    assert math.isfinite(bits_per_dim(lambda x, t: unet(x, t + 1).sample, scheduler, [X]).total)
    scheduler.set_timesteps(timesteps=range(T - 1, 0, -1))
    assert math.isfinite(bits_per_dim(lambda x, t: unet(x, t).sample, scheduler, [X]).total)


def pipeline_of(unet: UNet2DModel) -> DDPMPaperPipeline:
    pipeline = DDPMPaperPipeline(unet, scheduler_of())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_a_pipeline_of_fourier_times_says_so(output_type: str):
    pipeline = pipeline_of(fourier_unet())
    with pytest.raises(ValueError, match=r"^The images are not finite: .* at timestep 0\. A UNet whose .* 'fourier'"):
        pipeline(2, num_inference_steps=5, output_type=output_type)
    with pytest.raises(ValueError, match=r"^The latents are not finite: .* A UNet whose .* 'fourier'"):
        pipeline.encode(X[:2], 5)
    images = pipeline(2, timesteps=[19, 10, 1], output_type="pt").images
    assert bool(images.isfinite().all())


def test_a_pipeline_says_where_images_ceased_to_be():
    unet = tiny_unet()
    pipeline, forward = pipeline_of(unet), unet.forward

    def broken_at(timestep: int) -> Callable:
        def replaced(sample: Tensor, t: Tensor, **options: object) -> object:
            return forward(sample * (math.nan if int(t.flatten()[0]) == timestep else 1.0), t, **options)

        return replaced

    for timestep, told in ((0, r"at timestep 0\.$"), (8, r"at a timestep before 0; `iterate` yields all steps\.$")):
        unet.forward = broken_at(timestep)
        with pytest.raises(ValueError, match=f"^The images are not finite: .*{told}"):
            pipeline(2, num_inference_steps=5, output_type="pt")


@pytest.mark.parametrize("name", ["latents", "images"])
def test_a_pipeline_is_not_given_what_is_not_finite(name: str):
    x = X[:2].clone()
    x[0, 0, 0, 0] = math.nan
    pipeline = pipeline_of(tiny_unet())
    with pytest.raises(ValueError, match=f"`{name}` must be finite"):
        pipeline(2, num_inference_steps=2, latents=x) if name == "latents" else pipeline.encode(x, 2)
