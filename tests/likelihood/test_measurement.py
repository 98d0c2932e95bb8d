# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Denoising errors measured on data against closed forms, and their use by a scheduler."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from oracles import Mixture, model_output
from scipy.optimize import minimize_scalar
from tiny_models import tiny_unet
from torch import Tensor

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, bits_per_dim, measure_denoising_errors
from ddpm_hf.diffusion.denoising_errors import DenoisingErrors
from ddpm_hf.diffusion.discretized_likelihood import discrete_normal_log_likelihood
from ddpm_hf.diffusion.timestep_spacing import log_snr_times
from ddpm_hf.likelihood.measurement import EXAMPLES_OF_THE_MEAN, _smoothed


MEAN, VARIANCE = 0.3, 0.25
GAUSSIAN = Mixture.gaussian(MEAN, VARIANCE)


def scheduler_of(**options: object) -> DDPMPaperScheduler:
    return DDPMPaperScheduler(100, 1e-3, 0.2, **{"clip_sample": False, "num_levels": None, **options})


def optimal_model(scheduler: DDPMPaperScheduler) -> Callable[..., Tensor]:
    """The denoiser of N(MEAN, VARIANCE), saying what the scheduler's prediction type asks for."""

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        log_abar = scheduler.schedule.log_alpha_cumprod(timesteps + 1)
        log_abar = log_abar[:, None].expand_as(x_t).flatten()
        x_0 = GAUSSIAN.denoise(x_t.double().flatten(), log_abar)
        output = model_output(scheduler.config.prediction_type, x_0, x_t.double().flatten(), log_abar)
        return output.view_as(x_t).to(x_t.dtype)

    return denoise


def gaussian_batches(count: int = 8, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    for _ in range(count):
        yield MEAN + VARIANCE**0.5 * torch.randn(64, 32, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_errors_are_those_of_the_optimal_denoiser(prediction_type: str, generator: torch.Generator):
    scheduler = scheduler_of(prediction_type=prediction_type)
    errors = measure_denoising_errors(
        optimal_model(scheduler),
        scheduler,
        gaussian_batches(generator=generator),
        num_noise_levels=16,
        num_evaluations=16,
        generator=generator,
    )
    times = log_snr_times(16, scheduler.schedule)
    assert list(errors.log_snr) == pytest.approx(scheduler.schedule.log_snr[times].tolist())
    expected = GAUSSIAN.mmse(scheduler.schedule.log_alphas_cumprod[times])
    n = 8 * 64 * 32
    torch.testing.assert_close(
        torch.tensor(errors.errors, dtype=torch.float64), expected, rtol=5 * (2 / n) ** 0.5, atol=0
    )
    assert errors.decoder_variances is None


def test_every_level_is_visited_by_as_many_examples(generator: torch.Generator):
    scheduler, seen = scheduler_of(), []

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        seen.append(timesteps)
        return x_t

    measure_denoising_errors(
        denoise, scheduler, gaussian_batches(5, generator), num_noise_levels=20, num_evaluations=4
    )
    times, counts = torch.cat(seen).unique(return_counts=True)
    assert times.tolist() == [t - 1 for t in log_snr_times(20, scheduler.schedule)]
    assert counts.tolist() == [5 * 64 * 4 // 20] * 20
    per_example = torch.stack([torch.stack(seen[4 * k : 4 * k + 4]) for k in range(5)])
    assert all(len(set(column.tolist())) == 4 for batch in per_example for column in batch.T)


def test_a_model_that_learns_its_variance_is_measured_by_its_mean(generator: torch.Generator):
    fixed, learned = scheduler_of(), scheduler_of(variance_type="learned_range")
    found = []
    for scheduler in (fixed, learned):
        model = optimal_model(scheduler)

        def denoise(x_t: Tensor, t: Tensor, model: Callable = model, twice: bool = scheduler is learned) -> Tensor:
            output = model(x_t, t)
            return torch.cat([output, torch.randn_like(output)], dim=1) if twice else output

        batches = [batch[:, :, None, None] for batch in gaussian_batches(2, torch.Generator().manual_seed(1))]
        flat = {"num_noise_levels": 8, "num_evaluations": 4, "generator": torch.Generator().manual_seed(2)}
        scheduler.set_timesteps(10)  # the chain is of no account
        found.append(measure_denoising_errors(_in_rows(denoise), scheduler, batches, **flat))
    assert found[0] == found[1]


def _in_rows(denoise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A model of rows for images `[B, C, 1, 1]`."""
    return lambda x_t, t: denoise(x_t[:, :, 0, 0], t)[:, :, None, None]


def test_the_decoders_variance_is_the_one_under_which_levels_cost_the_least(generator: torch.Generator):
    scheduler = scheduler_of(num_levels=17, prediction_type="sample")
    x_0 = torch.randint(17, (256, 24), generator=generator).double() / 8 - 1
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    predicted = scheduler.add_noise(x_0, noise, 0)
    errors = measure_denoising_errors(
        lambda x_t, t: x_t,
        scheduler,
        [x_0],
        num_noise_levels=1,
        num_evaluations=1,
        generator=torch.Generator().manual_seed(3),
    )
    assert errors.errors[0] == pytest.approx(((x_0 - predicted) ** 2).mean().item(), rel=1e-12)

    def cost(log_variance: float) -> float:
        return -discrete_normal_log_likelihood(x_0, predicted, torch.tensor(log_variance), 17).mean().item()

    best = minimize_scalar(cost, bounds=(-12, 0), method="bounded")
    assert errors.decoder_costs[0] == pytest.approx(best.fun, abs=1e-4)
    assert errors.decoder_costs[0] == pytest.approx(cost(torch.tensor(errors.decoder_variances[0]).log().item()))


def test_the_optimal_variance_costs_less_than_any_other_and_optimal_times_less_than_even_ones():
    scheduler = scheduler_of(prediction_type="v_prediction")
    generator = torch.Generator().manual_seed(0)
    errors = measure_denoising_errors(
        optimal_model(scheduler), scheduler, gaussian_batches(8, generator), generator=generator
    )
    data = list(gaussian_batches(4, torch.Generator().manual_seed(1)))

    def bound(variance_type: str, spacing: str | None, K: int) -> float:
        chain = DDPMPaperScheduler.from_config(scheduler.config, variance_type=variance_type, denoising_errors=errors)
        chain.set_timesteps(K, timestep_spacing=spacing)
        seeded = torch.Generator().manual_seed(2)
        return bits_per_dim(optimal_model(scheduler), chain, data, generator=seeded).total

    for K in (5, 10, 100):
        best = bound("optimal", None, K)
        assert best < min(bound("fixed_small", None, K), bound("fixed_large", None, K))
    for spacing in ("linspace", "leading", "trailing", "quadratic", "log_snr"):
        assert bound("optimal", "optimal", 5) < bound("optimal", spacing, 5) + 1e-9


def test_an_element_has_its_own_error_drawn_a_little_towards_the_mean():
    # A model that errs by known amounts: 0.5 at one element, 0.1 at another.
    scheduler, off = scheduler_of(prediction_type="sample"), torch.tensor([[0.5, 0.1]]).double()
    x_0 = torch.zeros(40, 1, 2, dtype=torch.float64)
    options = {"num_noise_levels": 4, "num_evaluations": 1}
    found = measure_denoising_errors(lambda x_t, t: off.expand_as(x_t), scheduler, [x_0], per_element=True, **options)
    mean = (0.25 + 0.01) / 2
    expected = [[(10 * each + EXAMPLES_OF_THE_MEAN * mean) / (10 + EXAMPLES_OF_THE_MEAN) for each in (0.25, 0.01)]]
    assert found.shape == (1, 2)
    torch.testing.assert_close(torch.tensor(found.errors), torch.tensor([expected] * 4))
    together = measure_denoising_errors(lambda x_t, t: off.expand_as(x_t), scheduler, [x_0], **options)
    assert together.errors == pytest.approx([mean] * 4)


@pytest.mark.parametrize("per_element", [False, True])
def test_all_elements_share_a_decoder(per_element: bool, generator: torch.Generator):
    scheduler, spread = scheduler_of(num_levels=65536, prediction_type="sample"), 0.02
    x_0 = (torch.rand(4000, 2, generator=generator, dtype=torch.float64) * 65535).round() / 65535 * 2 - 1
    guess = x_0 + spread * torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
    options = {"num_noise_levels": 1, "num_evaluations": 1, "per_element": per_element}
    found = measure_denoising_errors(lambda x_t, t: guess, scheduler, [x_0], **options)
    assert math.sqrt(found.decoder_variances[0]) == pytest.approx(spread, rel=0.06)
    # The entropy, nats, up to the width of a bin.
    expected = 0.5 * math.log(2 * math.pi * math.e * spread**2) - math.log(2 / 65535)
    assert found.decoder_costs[0] == pytest.approx(expected, rel=0.01)


def test_a_decoder_that_is_to_be_measured_need_not_have_been(generator: torch.Generator):
    x_0 = torch.randint(17, (40, 24), generator=generator).double() / 8 - 1
    options = {"num_noise_levels": 4, "num_evaluations": 1}
    found = [
        measure_denoising_errors(
            lambda x_t, t: x_t,
            scheduler_of(num_levels=17, prediction_type="sample", first_variance=choice),
            [x_0],
            generator=torch.Generator().manual_seed(0),
            **options,
        )
        for choice in (None, "measured")
    ]
    assert found[0] == found[1]


def test_the_decoder_of_levels_in_noise_is_found_to_be_that_noise(generator: torch.Generator):
    # Of uniform levels the posterior is the discrete normal law with v = 1/SNR, whose entropy is the least cost.
    scheduler = scheduler_of(num_levels=17, prediction_type="sample")
    levels = torch.linspace(-1, 1, 17, dtype=torch.float64)

    def posterior(x_t: Tensor, t: Tensor) -> Tensor:
        snr = scheduler.schedule.log_snr[t + 1].exp()[:, None, None]
        alpha = torch.sigmoid(scheduler.schedule.log_snr[t + 1]).sqrt()[:, None, None]
        return torch.softmax(-0.5 * snr * (x_t[..., None] / alpha - levels) ** 2, dim=-1)

    x_0 = levels[torch.randint(17, (4000, 24), generator=generator)]
    found = measure_denoising_errors(
        lambda x_t, t: posterior(x_t, t) @ levels,
        scheduler,
        [x_0],
        num_noise_levels=40,
        num_evaluations=4,
        generator=generator,
    )
    seen = 0
    for level, v, cost in zip(found.log_snr, found.decoder_variances, found.decoder_costs, strict=True):
        if not 2.0 < level < 6.0:  # noise between a third of two levels' distance and three times it
            continue
        t = int((scheduler.schedule.log_snr[1:] - level).abs().argmin())
        x_t = scheduler.add_noise(x_0[:1000], torch.randn(1000, 24, generator=generator).double(), t)
        p = posterior(x_t, torch.full((1000,), t))
        entropy = -(p * p.clamp(min=1e-300).log()).sum(-1).mean().item()
        assert v * math.exp(level) == pytest.approx(1, rel=0.15)
        assert cost == pytest.approx(entropy, rel=0.03)
        seen += 1
    assert seen >= 5


def test_the_decoders_costs_are_smooth_over_noise_levels():
    level = torch.linspace(6, -9, 64, dtype=torch.float64)
    line = (2 - 0.3 * level).tolist()
    assert _smoothed(level.tolist(), line) == pytest.approx(line, rel=1e-12)  # a line is left as it is
    for apart in (0.0, -3.0):  # two of which no third tells that they are noise, and two that are no neighbours
        assert _smoothed([1.0, apart], [0.7, 0.9]) == pytest.approx([0.7, 0.9])
    assert _smoothed([1.0], [0.7]) == [0.7]
    noise = 0.02 * torch.randn(2000, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left = torch.tensor([_smoothed(level.tolist(), row.tolist()) for row in noise])
    assert left[:, 30].std() < 0.45 * 0.02
    assert abs(left[:, 30].mean()) < 0.001


def test_a_step_adds_the_noise_of_every_element(generator: torch.Generator):
    errors = DenoisingErrors([9.0, -9.0], [[[0.001, 0.1]], [[0.2, 0.9]]])
    scheduler = DDPMPaperScheduler(variance_type="optimal", denoising_errors=errors, num_levels=None)
    x_t, output = torch.randn(2, 3, 1, 2, generator=generator, dtype=torch.float64)
    p = scheduler.p_mean_variance(output, x_t, 500)
    assert p.log_variance.shape == (1, 1, 2) and p.log_variance[0, 0, 0] < p.log_variance[0, 0, 1]
    step = scheduler.step(output, 500, x_t, generator=torch.Generator().manual_seed(1), return_dict=False)[0]
    noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(step, p.mean + p.variance.sqrt() * noise)
    times = torch.tensor([500, 500, 0])
    rows = scheduler.step(output, times, x_t, generator=torch.Generator().manual_seed(1), return_dict=False)[0]
    torch.testing.assert_close(rows[:2], step[:2])
    torch.testing.assert_close(rows[2], scheduler.p_mean_variance(output, x_t, times).mean[2])
    with pytest.raises(ValueError, match=r"shape \[1, 2\], but `sample` has \[1, 4, 4\]"):
        scheduler.step(torch.zeros(1, 1, 4, 4), 500, torch.zeros(1, 1, 4, 4))


# --- kept with the model --------------------------------------------------------------------------------------------

ERRORS = DenoisingErrors([9.0, 0.0, -9.0], [1e-4, 0.1, 0.3], [2e-4, 0.2, 0.4], [1.0, 2.0, 3.0])


def test_a_scheduler_keeps_them_through_files_and_through_stocks_class(tmp_path: Path):
    scheduler = DDPMPaperScheduler(variance_type="optimal", denoising_errors=ERRORS)
    scheduler.save_pretrained(tmp_path / "ours")
    loaded = DDPMPaperScheduler.from_pretrained(tmp_path / "ours")
    stock = scheduler.to_stock()
    assert type(stock) is DDPMScheduler and stock.variance_type == "fixed_small"
    stock.save_pretrained(tmp_path / "stock")
    from_stock = DDPMPaperScheduler.from_pretrained(tmp_path / "stock")
    for other in (loaded, from_stock, DDPMPaperScheduler.from_scheduler(stock)):
        assert other.variance_type == "optimal"
        assert other.denoising_errors == ERRORS
        torch.testing.assert_close(other.process.table.log_variance, scheduler.process.table.log_variance)


def test_stock_weights_sample_along_the_optimal_times(tmp_path: Path):
    unet = tiny_unet()
    scheduler = DDPMPaperScheduler(variance_type="optimal", denoising_errors=ERRORS)
    DDPMPaperPipeline(unet, scheduler).save_pretrained(tmp_path)
    pipeline = DDPMPaperPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(2, torch.Generator().manual_seed(0), 6, output_type="pt", timestep_spacing="optimal").images
    assert images.isfinite().all()
    steps = pipeline.scheduler.timesteps.tolist()
    assert 1 <= len(steps) <= 6 and steps[0] == 999
    assert steps != DDPMPaperScheduler().timesteps[:: 1000 // 6].tolist()


@pytest.mark.parametrize(("spacing", "K"), [("quadratic", 50), ("log_snr", 50), ("trailing", 50), ("linspace", 7)])
def test_the_chain_follows_the_spacing_asked_for(spacing: str, K: int):
    scheduler = DDPMPaperScheduler()
    scheduler.set_timesteps(K, timestep_spacing=spacing)
    assert len(scheduler.timesteps) == K == scheduler.num_inference_steps
    assert scheduler.timesteps[0] == 999
    assert scheduler.config.timestep_spacing == "leading"


def test_what_is_missing_is_said():
    scheduler = DDPMPaperScheduler(variance_type="optimal")
    with pytest.raises(ValueError, match="`timestep_spacing` 'optimal' needs"):
        scheduler.set_timesteps(10, timestep_spacing="optimal")
    sample = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="`variance_type` 'optimal' needs `denoising_errors`"):
        scheduler.step(sample, 500, sample)
    with pytest.raises(ValueError, match="'log_snr', 'optimal', but is 'even'"):
        scheduler.set_timesteps(10, timestep_spacing="even")
    with pytest.raises(ValueError, match="it has no effect on `timesteps`"):
        scheduler.set_timesteps(timesteps=[5, 4], timestep_spacing="log_snr")
    with pytest.raises(ValueError, match="must map"):
        DDPMPaperScheduler(denoising_errors={"errors": [1.0]})


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"num_noise_levels": 0}, "`num_noise_levels` must be an int >= 1"),
        ({"num_noise_levels": 2.5}, "`num_noise_levels` must be an int >= 1"),
        ({"num_evaluations": 0}, "`num_evaluations` must be an int >= 1"),
        ({"num_noise_levels": 65, "num_evaluations": 1}, "at least 65 examples"),
    ],
)
def test_too_little_to_measure_on_is_refused(counts: dict[str, int], message: str):
    scheduler = scheduler_of()
    with pytest.raises(ValueError, match=message):
        measure_denoising_errors(optimal_model(scheduler), scheduler, gaussian_batches(1), **counts)
