# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""importance_weighting: weights against the likelihood of Gaussian data, and against a model's own by quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import Mixture, double, exact_bound, model_output, optimal_log_variance
from torch import Tensor
from torch.distributions import Normal

from ddpm_hf import (
    DDPMPaperScheduler,
    ImportanceWeightedBits,
    bits_per_dim,
    importance_weighted_bits_per_dim,
    log_path_weights,
)
from ddpm_hf.diffusion.denoiser import Denoiser
from ddpm_hf.diffusion.reverse_process import ReverseProcess


LOG_2 = math.log(2.0)
MIXTURE = Mixture.of((0.3, -0.7, 0.1), (0.7, 0.4, 0.2))
FIVE_LEVELS = Mixture.of_levels(double([0, 1, 3, 4]), double([0.4, 0.2, 0.1, 0.3]), 5)


def scheduler_of(
    T: int = 4, *, num_levels: int | None = None, variance_type: str = "fixed_large", **more: object
) -> DDPMPaperScheduler:
    return DDPMPaperScheduler(
        num_train_timesteps=T,
        beta_schedule="squaredcos_cap_v2",
        variance_type=variance_type,
        clip_sample=False,
        num_levels=num_levels,
        **more,
    )


def oracle(scheduler: DDPMPaperScheduler, data: Mixture, error: float = 0.0) -> Denoiser:
    """The optimal denoiser of every element, with its optimal variance where one is learned; x̂_0 off by `error`."""

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        log_abar = scheduler.schedule.log_alphas_cumprod[timesteps + 1].repeat_interleave(x_t[0].numel())
        flat = x_t.double().flatten()
        x_0 = data.denoise(flat, log_abar) + error * torch.cos(flat)
        output = model_output(scheduler.config.prediction_type, x_0, flat, log_abar).reshape(x_t.shape)
        process = scheduler.process
        if process.learns_variance:
            log_abars = process.schedule.log_alphas_cumprod[[0, *process.times]]
            of_pairs = optimal_log_variance(log_abars, data.mmse(log_abars[1:]))
            index = process.times.index(int(timesteps[0]) + 1)
            channel, row = of_pairs[index], process.coefficients(index)
            if process.variance_type == "learned_range":
                share = (channel - row.log_variance_small) / (row.log_variance_large - row.log_variance_small)
                channel = 2 * share - 1
            output = torch.cat([output, channel.expand_as(output)], dim=1)
        return output.to(x_t.dtype)

    return denoise


def levels(numbers: Tensor, num_levels: int = 5) -> Tensor:
    return (2 * numbers / (num_levels - 1) - 1).double()


def model_log_likelihood(process: ReverseProcess, denoise: Denoiser, num_levels: int, n: int = 2401) -> Tensor:
    """log p_θ of every level of one-dimensional data, by the trapezoidal rule through all steps; `[num_levels]`."""
    x = torch.linspace(-8, 8, n, dtype=torch.float64)
    density = Normal(double(0.0), double(1.0)).log_prob(x).exp()
    for k in range(len(process.times) - 1, -1, -1):
        timesteps = torch.full((n,), process.times[k] - 1)
        p = process.p_mean_variance(denoise(x[:, None], timesteps), x[:, None], k)
        step = Normal(p.mean, p.log_variance.mul(0.5).exp().double())
        if k > 0:
            density = 16 / (n - 1) * step.log_prob(x).exp().T @ density
    edges = double([-math.inf, *((2 * torch.arange(num_levels - 1) + 1) / (num_levels - 1) - 1).tolist(), math.inf])
    return torch.log(16 / (n - 1) * step.cdf(edges).diff(dim=1).T @ density)


# --- truths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("times", [None, [160, 60, 4, 0]])
def test_every_path_of_gaussian_data_has_their_likelihood(
    prediction_type: str, times: list[int] | None, generator: torch.Generator
):
    # The true reverse steps are Gaussian: p_θ(x_0 … x_T) is q(x_0 … x_T) but for its start, whatever the path.
    data = Mixture.gaussian(0.3, 0.25)
    scheduler = scheduler_of(
        200,
        variance_type="learned_range",
        prediction_type=prediction_type,
        rescale_betas_zero_snr=prediction_type != "epsilon",
    )
    if times is not None:
        scheduler.set_timesteps(timesteps=[199, *times])
    x_0 = 0.3 + 0.5 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    log_w = log_path_weights(oracle(scheduler, data), scheduler, x_0, generator=generator)
    # At SNR 0 the start is right as well; epsilon's chain ends at 2.4e-9, and its start is off by the root of that.
    tolerance = 1e-8 if prediction_type != "epsilon" else 3e-3
    expected = Normal(double(0.3), double(0.5)).log_prob(x_0).sum(1)
    torch.testing.assert_close(log_w, expected, rtol=0, atol=tolerance)


def test_the_mean_weight_is_the_models_own_likelihood(generator: torch.Generator):
    # Of β̃ as the variance: one larger than the posterior's has weights of infinite variance, and no such test.
    scheduler = scheduler_of(5, num_levels=5, variance_type="fixed_small")
    denoise = oracle(scheduler, FIVE_LEVELS, error=0.1)
    log_p = model_log_likelihood(scheduler.process, denoise, 5)
    assert torch.logsumexp(log_p, dim=0).item() == pytest.approx(0, abs=1e-9)
    for number in range(5):
        x_0 = levels(torch.full((20_000, 1), number))
        w = torch.exp(log_path_weights(denoise, scheduler, x_0, generator=generator) - log_p[number])
        assert w.mean().item() == pytest.approx(1, abs=4.5 * w.std().item() / 20_000**0.5)


def test_more_paths_bound_better_from_the_variational_bound_down_to_the_likelihood(generator: torch.Generator):
    scheduler = scheduler_of(5, num_levels=5, variance_type="fixed_small")
    denoise = oracle(scheduler, FIVE_LEVELS, error=0.1)
    log_p = model_log_likelihood(scheduler.process, denoise, 5)
    numbers = torch.multinomial(FIVE_LEVELS.weights, 2000, replacement=True, generator=generator)[:, None]
    x_0 = FIVE_LEVELS.means[numbers]
    truth = -log_p[((x_0 + 1) * 2).long()].mean().item() / LOG_2
    result = importance_weighted_bits_per_dim(denoise, scheduler, [x_0], num_paths=100, generator=generator)
    bound = bits_per_dim(denoise, scheduler, [x_0], generator=generator)
    bounds = list(result.by_num_paths.values())
    assert list(result.by_num_paths) == [1, 2, 4, 8, 16, 32, 64, 100]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] == pytest.approx(bound.total, abs=4 * bound.estimation_error)
    assert bounds[0] > truth + 0.02
    assert truth - 2e-3 < result.total < truth + 0.01


def test_the_bound_of_a_mixture_lies_between_its_entropy_and_the_variational_bound(generator: torch.Generator):
    scheduler = scheduler_of(20, variance_type="learned")
    component = torch.multinomial(MIXTURE.weights, 8_000, replacement=True, generator=generator)
    noise = torch.randn(8_000, generator=generator, dtype=torch.float64)
    x_0 = (MIXTURE.means[component] + MIXTURE.variances[component].sqrt() * noise)[:, None]
    entropy = -MIXTURE.log_density(x_0[:, 0], double(0.0)).mean().item() / LOG_2
    log_abar = scheduler.schedule.log_alphas_cumprod
    best = optimal_log_variance(log_abar, MIXTURE.mmse(log_abar[1:]))
    variational = exact_bound(MIXTURE, log_abar, best).total / LOG_2
    result = importance_weighted_bits_per_dim(
        oracle(scheduler, MIXTURE), scheduler, [x_0], num_paths=16, generator=generator
    )
    assert result.by_num_paths[1] == pytest.approx(variational, abs=4 * result.standard_error)
    assert entropy - 2e-3 < result.total < result.by_num_paths[1] - 0.5 * (result.by_num_paths[1] - entropy)


# --- what it promises -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range", "learned"])
@pytest.mark.parametrize("num_levels", [None, 5])
def test_the_weight_of_a_path_is_the_densities_written_out(
    variance_type: str, num_levels: int | None, generator: torch.Generator
):
    scheduler = scheduler_of(6, num_levels=num_levels, variance_type=variance_type)
    times = [5, 4, 3, 2, 1, 0] if variance_type == "learned" else [5, 2, 0]
    scheduler.set_timesteps(timesteps=times)
    x_0 = levels(torch.randint(5, (4, 2, 3), generator=generator))
    seen = []

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        output = torch.cat([torch.sin(x_t)] + [torch.cos(x_t)] * scheduler.process.learns_variance, dim=1)
        seen.append((x_t, timesteps, output))
        return output

    log_w = log_path_weights(denoise, scheduler, x_0, generator=generator)
    assert [int(timesteps[0]) for _, timesteps, _ in seen] == times
    path, clock = [x_t for x_t, _, _ in seen], [0, *(t + 1 for t in reversed(times))]  # the first is x_6

    def log_q(earlier: Tensor, later: Tensor, s: int, t: int) -> Tensor:
        log_alpha = scheduler.schedule.log_alphas_cumprod[t] - scheduler.schedule.log_alphas_cumprod[s]
        transition = Normal((0.5 * log_alpha).exp() * earlier, (1 - log_alpha.exp()).sqrt())
        return transition.log_prob(later).flatten(1).sum(1)

    expected = Normal(double(0.0), double(1.0)).log_prob(path[0]).flatten(1).sum(1)
    last = len(times) - 1
    for k, (x_t, _, output) in zip(range(last, -1, -1), seen, strict=True):
        p = scheduler.process.p_mean_variance(output, x_t, k)
        if k > 0:
            step = Normal(p.mean, (0.5 * p.log_variance).exp().double())
            earlier = path[last + 1 - k]
            expected = expected + step.log_prob(earlier).flatten(1).sum(1)
            expected = expected - log_q(earlier, x_t, *clock[k : k + 2])
        else:
            terms = scheduler.vlb_loss(output, x_0, x_t, torch.zeros(4, dtype=torch.int64))  # the decoder, bits/dim
            expected = expected - terms * LOG_2 * 6 - log_q(x_0, x_t, 0, 1)
    torch.testing.assert_close(log_w, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_asked_in_the_precision_of_the_examples(dtype: torch.dtype, generator: torch.Generator):
    scheduler = scheduler_of(num_levels=5)
    seen = set()

    def denoise(x_t: Tensor, timesteps: Tensor, **conditioning: object) -> Tensor:
        seen.add((x_t.dtype, timesteps.dtype, timesteps.shape, x_t.requires_grad, conditioning["scale"]))
        return x_t

    x_0 = levels(torch.randint(5, (3, 2), generator=generator)).to(dtype).requires_grad_()
    log_w = log_path_weights(denoise, scheduler, x_0, {"scale": 2.0}, generator=generator)
    assert seen == {(dtype, torch.int64, (3,), False, 2.0)}
    assert log_w.dtype == torch.float64
    assert not log_w.requires_grad


def random_levels(*shape: int, seed: int = 0) -> Tensor:
    return levels(torch.randint(5, shape, generator=torch.Generator().manual_seed(seed)))


def scored(*batches: Tensor, num_paths: int = 3, seed: int = 0) -> ImportanceWeightedBits:
    scheduler = scheduler_of(num_levels=5)
    generator = torch.Generator().manual_seed(seed)
    denoise = oracle(scheduler, FIVE_LEVELS)
    return importance_weighted_bits_per_dim(denoise, scheduler, batches, num_paths=num_paths, generator=generator)


def test_the_figures_of_a_data_set():
    result = scored(random_levels(3, 2), random_levels(0, 2), random_levels(2, 2, seed=1))
    assert result.num_examples == len(result.per_example) == 5
    assert result.num_paths == 3
    assert result.num_model_evaluations == 5 * 3 * 4
    assert list(result.by_num_paths) == [1, 2, 3]
    assert result.total == result.by_num_paths[3] == pytest.approx(sum(result.per_example) / 5)
    spread = torch.tensor(result.per_example, dtype=torch.float64).std().item()
    assert result.standard_error == pytest.approx(spread / math.sqrt(5))
    assert result == scored(random_levels(3, 2), random_levels(2, 2, seed=1))
    assert result != scored(random_levels(3, 2), random_levels(2, 2, seed=1), seed=1)


def test_parts_merge_to_the_whole():
    first, second = scored(random_levels(3, 2)), scored(random_levels(2, 2, seed=1), seed=1)
    whole = ImportanceWeightedBits.merged([first, second])
    assert whole.per_example == first.per_example + second.per_example
    assert whole.total == pytest.approx((3 * first.total + 2 * second.total) / 5)
    assert whole.by_num_paths[1] == pytest.approx((3 * first.by_num_paths[1] + 2 * second.by_num_paths[1]) / 5)
    assert (whole.num_examples, whole.num_model_evaluations) == (5, 60)
    assert 0 < whole.standard_error < math.inf
    for parts in ([], [first, scored(random_levels(2, 2), num_paths=2)]):
        with pytest.raises(ValueError, match="all with the same number of paths"):
            ImportanceWeightedBits.merged(parts)


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_paths", [0, -1, 2.0, True])
def test_a_number_of_paths_below_1_is_refused(num_paths: object):
    with pytest.raises(ValueError, match="`num_paths` must be an int >= 1"):
        scored(random_levels(2, 2), num_paths=num_paths)


def test_no_examples_and_values_between_levels_are_refused():
    with pytest.raises(ValueError, match="no examples"):
        scored(random_levels(0, 2))
    with pytest.raises(ValueError, match="5 evenly spaced levels"):
        scored(random_levels(2, 2) * 0.9)


def test_a_prediction_that_says_nothing_is_refused():
    scheduler = scheduler_of(rescale_betas_zero_snr=True, prediction_type="epsilon")
    with pytest.raises(ValueError, match="says nothing about x_0"):
        log_path_weights(lambda x_t, t: x_t, scheduler, random_levels(2, 2))
