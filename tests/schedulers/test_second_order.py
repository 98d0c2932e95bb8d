# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""DPM-Solver++(2M): its order on a flow in closed form, against stock's solver, and against DDIM."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from oracles import Mixture, model_output
from tiny_models import tiny_unet
from torch import Tensor

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, NoiseSchedule
from ddpm_hf.diffusion.multistep import extrapolate, extrapolation_weight


MEAN, VARIANCE = 0.3, 0.25
GAUSSIAN = Mixture.gaussian(MEAN, VARIANCE)


def scheduler_of(T: int = 1000, **options: object) -> DDPMPaperScheduler:
    """Of a schedule whose times are even in log-SNR."""
    schedule = NoiseSchedule.linear_log_snr(T, 8.0, -8.0)
    return DDPMPaperScheduler.from_schedule(schedule, **{"clip_sample": False, "num_levels": None, **options})


def walk(scheduler: DDPMPaperScheduler, x: Tensor, stop_before_data: bool = False, order: int = 2) -> Tensor:
    """The chain of the best denoiser of Gaussian data, to its end or to its last visited noise level."""
    earlier = None
    timesteps = scheduler.timesteps.tolist()
    for t in timesteps[:-1] if stop_before_data else timesteps:
        log_abar = scheduler.schedule.log_alpha_cumprod(t + 1)
        output = model_output(scheduler.config.prediction_type, GAUSSIAN.denoise(x, log_abar), x, log_abar)
        if order == 1:
            x, _ = scheduler.ddim_step(output, t, x, return_dict=False)
        else:
            x, earlier = scheduler.second_order_step(output, t, x, earlier, return_dict=False)
    return x


def exact(scheduler: DDPMPaperScheduler, x: Tensor, t: int, s: int) -> Tensor:
    """Where the ODE of N(MEAN, VARIANCE) leads from time t to s: x̄ − m scales as √(v + s̄²)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = map(scheduler.schedule.marginal_coefficients, (t, s))
    spread = [torch.sqrt(VARIANCE + (sigma / alpha) ** 2) for alpha, sigma in ((alpha_s, sigma_s), (alpha_t, sigma_t))]
    return alpha_s * (MEAN + (x / alpha_t - MEAN) * spread[0] / spread[1])


def errors(order: int) -> list[float]:
    """At the last noise level, by 20, 40, 80 and 160 steps."""
    x, found = torch.tensor([-1.5, 0.2, 2.0], dtype=torch.float64), []
    for steps in (20, 40, 80, 160):
        scheduler = scheduler_of(1601)
        scheduler.set_timesteps(timesteps=list(range(1600, -1, -1600 // steps)))
        there = walk(scheduler, x, stop_before_data=True, order=order)
        found.append((there - exact(scheduler, x, 1601, 1)).abs().max().item())
    return found


@pytest.mark.parametrize("order", [1, 2])
def test_the_error_falls_with_the_order(order: int):
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors(order))]
    assert slopes[-1] == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 5, 20])
def test_a_chain_is_that_of_stocks_solver(prediction_type: str, steps: int, generator: torch.Generator):
    ours = DDPMPaperScheduler(prediction_type=prediction_type, clip_sample=False)
    stock = DPMSolverMultistepScheduler(prediction_type=prediction_type, timestep_spacing="linspace")
    stock.alphas_cumprod = ours.alphas_cumprod
    stock.alpha_t, stock.sigma_t = stock.alphas_cumprod.sqrt(), (1 - stock.alphas_cumprod).sqrt()
    stock.set_timesteps(steps)
    ours.set_timesteps(timesteps=stock.timesteps.tolist())
    x = theirs = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    earlier = None
    for t in ours.timesteps.tolist():
        output = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        theirs = stock.step(output, t, theirs).prev_sample
        x, earlier = ours.second_order_step(output, t, x, earlier, return_dict=False)
        scale = x.abs().max().item()
        torch.testing.assert_close(x, theirs, rtol=0, atol=1e-5 * scale)  # stock's σ are float32


def test_without_an_earlier_prediction_it_is_ddim(generator: torch.Generator):
    scheduler = scheduler_of(clip_sample=True)
    scheduler.set_timesteps(10)
    x, output = torch.randn(2, 3, 1, 4, 4, generator=generator, dtype=torch.float64)[:, :2]
    for t in scheduler.timesteps.tolist():
        ddim, second = scheduler.ddim_step(output, t, x), scheduler.second_order_step(output, t, x)
        assert torch.equal(ddim.prev_sample, second.prev_sample)
        assert torch.equal(ddim.pred_original_sample, second.pred_original_sample)


def test_the_last_step_is_the_prediction():
    scheduler, x = scheduler_of(), torch.ones(1, 1, 2, 2)
    scheduler.set_timesteps(3)
    last = int(scheduler.timesteps[-1])
    step = scheduler.second_order_step(0.3 * x, last, x, earlier_pred_original_sample=5 * x)
    torch.testing.assert_close(step.prev_sample, step.pred_original_sample)


def test_the_constraint_holds_for_the_prediction_that_is_extrapolated():
    scheduler, x = scheduler_of(clip_sample=True, prediction_type="sample"), torch.zeros(1, 1, 2, 2)
    scheduler.set_timesteps(timesteps=[900, 600, 300])
    earlier = torch.full_like(x, 0.5)
    step = scheduler.second_order_step(torch.full_like(x, 7.0), 600, x, earlier)
    assert torch.equal(step.pred_original_sample, torch.ones_like(x))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = map(scheduler.schedule.marginal_coefficients, (601, 301))
    expected = (alpha_s - sigma_s / sigma_t * alpha_t) * (1 + 0.5 * (1 - 0.5))  # even steps: w = 1/2
    torch.testing.assert_close(step.prev_sample, expected.float().expand_as(x), rtol=1e-5, atol=0)


def test_a_start_without_signal_gives_no_line():
    # λ = −∞ at T: whatever was predicted there, the second step is of first order.
    schedule = NoiseSchedule.linear(100).rescale_zero_terminal_snr()
    assert extrapolation_weight(schedule, 100, 60, 20) == 0
    x = torch.randn(3, dtype=torch.float64)
    assert torch.equal(extrapolate(x, 9 * x, 0.0), x)


def test_a_pipeline_follows_it():
    pipeline = DDPMPaperPipeline(tiny_unet(), scheduler_of(40))
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 6, "eta": 0, "latents": torch.randn(2, *pipeline.example_shape)}
    earlier = None
    for step in pipeline.iterate(2, solver_order=2, **how):
        with torch.no_grad():
            output = pipeline.unet(step.sample, step.timestep).sample
        found = pipeline.scheduler.second_order_step(output, step.timestep, step.sample, earlier)
        earlier = found.pred_original_sample
        torch.testing.assert_close(found.prev_sample, step.prev_sample)
    first, second = (pipeline(2, output_type="pt", solver_order=order, **how).images for order in (1, 2))
    assert (first - second).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"solver_order": 3, "eta": 0}, "`solver_order` must be 1 or 2, but is 3"),
        ({"solver_order": True, "eta": 0}, "`solver_order` must be 1 or 2, but is True"),
        ({"solver_order": 2}, "`eta` must be 0, but is None"),
        ({"solver_order": 2, "eta": 0.5}, "`eta` must be 0, but is 0.5"),
    ],
)
def test_another_order_or_noise_is_refused(options: dict, named: str):
    with pytest.raises(ValueError, match=named):
        DDPMPaperPipeline(tiny_unet(), scheduler_of(40)).iterate(1, **options)


def test_what_cannot_be_an_earlier_prediction_is_refused():
    scheduler, x = scheduler_of(), torch.zeros(2, 1, 2, 2)
    scheduler.set_timesteps(5)
    first, second, *_ = scheduler.timesteps.tolist()
    with pytest.raises(ValueError, match="`earlier_pred_original_sample` must be None at the first timestep"):
        scheduler.second_order_step(x, first, x, x)
    with pytest.raises(ValueError, match="`earlier_pred_original_sample` of shape"):
        scheduler.second_order_step(x, second, x, x[:1])
    with pytest.raises(ValueError, match="`timestep` must be one for the batch"):
        scheduler.second_order_step(x, torch.tensor([first, second]), x)
