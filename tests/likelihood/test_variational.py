# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""variational: the terms of the bound against their definition, and their estimates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import mpmath
import numpy as np
import pytest
import torch
from oracles import Mixture, double, exact_bound, model_output, optimal_log_variance
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpm_hf.diffusion.bound_terms import posterior_kl, prior_kl, vlb_terms
from ddpm_hf.diffusion.denoising_errors import DenoisingErrors
from ddpm_hf.diffusion.discretized_likelihood import decoder_nll, discrete_normal_log_likelihood
from ddpm_hf.diffusion.gaussian_process import (
    PREDICTION_TYPES,
    convert_prediction,
    gaussian_kl,
    q_mean_variance,
    q_posterior_mean_variance,
    q_sample,
    velocity,
)
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.diffusion.reverse_process import ReverseProcess, ReverseStep
from ddpm_hf.diffusion.reverse_variances import VARIANCE_TYPES
from ddpm_hf.likelihood.batches import check_levels
from ddpm_hf.likelihood.variational import BitsPerDim, _strata, bits_per_dim
from ddpm_hf.schedulers.scheduling_ddpm_paper import DDPMPaperScheduler


LOG_2 = math.log(2.0)

mp = mpmath.mp.clone()
mp.dps = 60


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- the terms --------------------------------------------------------------------------------------------------

SCHEDULE = NoiseSchedule.linear(10, 0.05, 0.3)
TIMES = [1, 3, 4, 8, 10]
ERRORS = DenoisingErrors(SCHEDULE.log_snr[1:].tolist(), [0.1 * t for t in range(1, 11)])


def case(
    prediction_type: str = "epsilon",
    variance_type: str = "fixed_small",
    dtype: torch.dtype = torch.float64,
    errors: DenoisingErrors = ERRORS,
    first_variance: str | None = None,
) -> tuple[ReverseProcess, Tensor, Tensor, Tensor, Tensor]:
    """(process, model output, x_0 of 17 levels, x_t, index) with the first pair twice and every other once."""
    process = ReverseProcess(SCHEDULE, TIMES, prediction_type, variance_type, first_variance, denoising_errors=errors)
    index = torch.tensor([2, 0, 1, 4, 0, 3])
    x_0 = (8 * randn(6, 2, 3).clamp(-1, 1)).round() / 8
    x_t = q_sample(SCHEDULE, x_0, randn(6, 2, 3, seed=1), torch.tensor(TIMES)[index])
    output = randn(6, 4 if process.learns_variance else 2, 3, seed=2)
    return process, output.to(dtype), x_0.to(dtype), x_t.to(dtype), index


def test_the_prior_term_is_the_divergence_from_a_standard_normal():
    for schedule in (NoiseSchedule.linear(1000), NoiseSchedule.linear(10, 1e-4, 0.02), SCHEDULE):
        for t in (1, schedule.T // 2, schedule.T):
            x_0 = randn(4, 3)
            mean, variance, _ = q_mean_variance(schedule, x_0, t)
            zero = torch.zeros_like(x_0)
            expected = kl_divergence(Normal(mean, variance.sqrt().expand_as(mean)), Normal(zero, zero + 1)).mean(1)
            torch.testing.assert_close(prior_kl(schedule, x_0, t), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("abar", [1e-30, 1e-10, 1e-3, 0.0099, 0.0101, 0.3, 0.999])
def test_the_prior_term_does_not_cancel_where_little_is_left_of_the_data(abar: float):
    schedule = NoiseSchedule(double([0.0, math.log(abar)]))
    exact = mp.exp(mp.mpf(math.log(abar)))
    for x in (0.0, 0.5, 1.0):
        expected = (exact * mp.mpf(x) ** 2 - exact - mp.log1p(-exact)) / 2
        assert prior_kl(schedule, double([[x, x]]), 1).item() == pytest.approx(float(expected), rel=1e-12, abs=0)


def test_the_prior_term_vanishes_at_zero_terminal_snr():
    assert prior_kl(NoiseSchedule.from_betas([0.1, 1.0]), torch.ones(2, 3), 2).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_later_terms_are_the_divergence_of_the_posterior_from_the_reverse_step(
    prediction_type: str, variance_type: str
):
    process, output, x_0, x_t, index = case(prediction_type, variance_type)
    later = index > 0
    output, x_0, x_t, index = output[later], x_0[later], x_t[later], index[later]
    times = torch.tensor([0, *TIMES])
    posterior_mean, _, posterior_log = q_posterior_mean_variance(SCHEDULE, x_0, x_t, times[index], times[index + 1])
    p = process.p_mean_variance(output, x_t, index)
    expected = gaussian_kl(posterior_mean, posterior_log, p.mean, p.log_variance).mean((1, 2))
    terms = vlb_terms(process, output, x_0, x_t, index, 17)
    assert terms.shape == (4,)
    torch.testing.assert_close(terms, expected / LOG_2, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(posterior_kl(process.coefficients(index), p, x_0), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("num_levels", [17, None])
def test_the_first_term_is_the_decoders(num_levels: int | None, variance_type: str):
    process, output, x_0, x_t, _ = case("v_prediction", variance_type)
    p = process.p_mean_variance(output, x_t, 0)
    sigma = (0.5 * p.log_variance).exp().expand_as(p.mean)
    if num_levels is None:
        expected = -Normal(p.mean, sigma).log_prob(x_0).mean((1, 2))
    elif variance_type == "optimal":
        expected = -discrete_normal_log_likelihood(x_0, p.mean, p.log_variance, num_levels).mean((1, 2))
    else:
        low = torch.where(x_0 == -1, -math.inf, x_0 - 1 / 16)
        high = torch.where(x_0 == 1, math.inf, x_0 + 1 / 16)
        probability = norm.cdf(high, p.mean, sigma) - norm.cdf(low, p.mean, sigma)
        expected = -double(np.log(probability)).mean((1, 2))
    index = torch.zeros(6, dtype=torch.int64)
    terms = vlb_terms(process, output, x_0, x_t, index, num_levels)
    assert terms.shape == (6,)
    torch.testing.assert_close(terms, expected / LOG_2, rtol=1e-8, atol=1e-12)
    is_law = variance_type == "optimal"
    torch.testing.assert_close(decoder_nll(p, x_0, num_levels, is_law), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("num_levels", [17, None])
@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
def test_a_batch_of_first_and_later_pairs_is_its_examples_one_by_one(variance_type: str, num_levels: int | None):
    process, output, x_0, x_t, index = case(variance_type=variance_type)
    together = vlb_terms(process, output, x_0, x_t, index, num_levels)
    assert together.shape == (6,)
    for b in range(6):
        one = slice(b, b + 1)
        alone = vlb_terms(process, output[one], x_0[one], x_t[one], index[one], num_levels)
        torch.testing.assert_close(together[one], alone, rtol=1e-14, atol=1e-14)
        scalar = vlb_terms(process, output, x_0, x_t, index[b], num_levels)  # one pair for the whole batch
        assert scalar.shape == (6,)
        torch.testing.assert_close(scalar[one], alone, rtol=1e-14, atol=1e-14)


def test_a_chain_of_one_step_has_only_a_decoder():
    process = ReverseProcess(SCHEDULE, [10], "sample", "fixed_large")
    x_0, x_t = torch.zeros(3, 2), randn(3, 2, dtype=torch.float32)
    for index in (torch.tensor(0), torch.tensor([0, 0, 0])):
        terms = vlb_terms(process, x_0, x_0, x_t, index, 17)
        torch.testing.assert_close(terms, decoder_nll(process.p_mean_variance(x_0, x_t, 0), x_0, 17) / LOG_2)


@pytest.mark.parametrize("num_levels", [17, None])
def test_the_decoder_that_was_measured_is_a_discrete_normal_law_for_levels(num_levels: int | None):
    errors = dataclasses.replace(ERRORS, decoder_variances=[0.05 * t for t in range(1, 11)], decoder_costs=[1.0] * 10)
    process, output, x_0, x_t, _ = case(errors=errors, first_variance="measured")
    index = torch.tensor([0, 1, 0, 2, 0, 0])
    terms = vlb_terms(process, output, x_0, x_t, index, num_levels)
    guess = process.p_mean_variance(output, x_t, index).pred_original_sample
    log_variance = double(math.log(0.05))
    if num_levels is None:
        cost = -Normal(guess, 0.05**0.5).log_prob(x_0).mean((1, 2)) / LOG_2
    else:
        cost = -discrete_normal_log_likelihood(x_0, guess, log_variance, num_levels).mean((1, 2)) / LOG_2
    first = index == 0
    torch.testing.assert_close(terms[first], cost[first], rtol=1e-12, atol=1e-12)
    plain = dataclasses.replace(process, first_variance=None, denoising_errors=None)
    torch.testing.assert_close(terms[~first], vlb_terms(plain, output, x_0, x_t, index, num_levels)[~first])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
def test_terms_do_not_depend_on_the_dtype_of_the_samples(variance_type: str, dtype: torch.dtype):
    process, output, x_0, x_t, index = case(variance_type=variance_type, dtype=dtype)
    exact = vlb_terms(process, output.double(), x_0.double(), x_t.double(), index, 17)
    terms = vlb_terms(process, output, x_0, x_t, index, 17)
    assert terms.isfinite().all()
    torch.testing.assert_close(terms.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_nearly_perfect_model_has_nearly_no_loss_in_float32():
    # On a chain of 1000 steps the terms are tiny: they must not drown in the rounding of their ingredients.
    schedule = NoiseSchedule.linear(1000)
    process = ReverseProcess(schedule, range(1, 1001), "sample", "fixed_small")
    index = torch.arange(1, 1000)
    x_0 = torch.zeros(999, 2)
    x_t = q_sample(schedule, x_0, randn(999, 2, dtype=torch.float32), index + 1)
    terms = vlb_terms(process, x_0 + 1e-3, x_0, x_t, index, None)
    abar = schedule.alphas_cumprod
    exact = 1e-6 / 2 * (abar[1:-1] / (1 - abar[1:-1]) - abar[2:] / (1 - abar[2:])) / LOG_2  # (C) of the identities
    torch.testing.assert_close(terms.double(), exact, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("num_levels", [17, None])
@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_terms_are_differentiable(prediction_type: str, variance_type: str, num_levels: int | None):
    process, output, x_0, x_t, index = case(prediction_type, variance_type)
    keep = torch.tensor([0, 1, 3])  # a later pair, the first, and the last
    assert torch.autograd.gradcheck(
        lambda output: vlb_terms(process, output, x_0[keep], x_t[keep], index[keep], num_levels),
        (output[keep].requires_grad_(),),
    )


@pytest.mark.parametrize("variance_type", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("guess", [-1e4, 1e4])
def test_gradients_are_finite_however_bad_the_model(guess: float, variance_type: str):
    process, output, x_0, x_t, index = case("sample", variance_type)
    output = torch.cat([torch.full_like(x_0, guess), output[:, 2:]], dim=1).requires_grad_()
    terms = vlb_terms(process, output, x_0, x_t, index, 17)
    terms.sum().backward()
    assert terms.isfinite().all()
    assert output.grad.isfinite().all()
    outermost = x_0 == math.copysign(1, guess)  # there the decoder is right, however far beyond the guess lies
    learns = output.grad[:, :2] * guess > 0
    assert learns[index > 0].all()
    assert torch.equal(learns[index == 0], ~outermost[index == 0])


# --- no waiting for the device ----------------------------------------------------------------------------------
# A tensor on the meta device has no values: whatever asks for one raises.


def on_meta(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to("meta") for tensor in tensors]


@pytest.mark.parametrize("num_levels", [17, None])
@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_bound_reads_nothing_back(prediction_type: str, variance_type: str, num_levels: int | None):
    process, *tensors = case(prediction_type, variance_type, torch.float32)
    output, x_0, x_t, index = on_meta(*tensors)
    terms = vlb_terms(process, output, x_0, x_t, index, num_levels)
    assert terms.device.type == "meta"
    assert terms.shape == (6,)
    for chosen in (index, 2):
        step = process.p_mean_variance(output, x_t, chosen)
        assert step.mean.device.type == "meta"
        assert step.mean.shape == step.pred_original_sample.shape == x_t.shape
    assert prior_kl(SCHEDULE, x_0, 10).shape == (6,)


def test_one_index_for_the_whole_batch_is_not_read_back_either():
    process, *tensors = case(dtype=torch.float32)
    output, x_0, x_t, index = on_meta(*tensors)
    assert process.p_mean_variance(output, x_t, index[0]).mean.shape == x_t.shape
    assert vlb_terms(process, output, x_0, x_t, index[0], 17).shape == (6,)


def test_the_forward_process_reads_nothing_back():
    schedule = SCHEDULE.to("meta")
    x_0, noise, t = on_meta(randn(6, 2), randn(6, 2), torch.arange(1, 7))
    assert q_sample(schedule, x_0, noise, t).device.type == "meta"
    assert velocity(schedule, x_0, noise, t).device.type == "meta"
    assert q_posterior_mean_variance(schedule, x_0, noise, t - 1, t)[0].device.type == "meta"


@pytest.mark.parametrize("target", PREDICTION_TYPES)
@pytest.mark.parametrize("source", PREDICTION_TYPES)
def test_conversions_read_nothing_back(source: str, target: str):
    x, x_t, t = on_meta(randn(6, 2), randn(6, 2), torch.arange(1, 7))
    assert convert_prediction(x, x_t, source, target, SCHEDULE.to("meta"), t).device.type == "meta"


# --- over a data set --------------------------------------------------------------------------------------------

DATA = Mixture.gaussian(0.3, 0.25)


def scheduler_of(T: int = 20, num_levels: int | None = None, **kwargs: object) -> DDPMPaperScheduler:
    return DDPMPaperScheduler(
        T, 0.1 / T, 4 / T, num_levels=num_levels, clip_sample=False, prediction_type="sample", **kwargs
    )


def oracle(scheduler: DDPMPaperScheduler, data: Mixture = DATA) -> Callable[[Tensor, Tensor], Tensor]:
    """The optimal denoiser of data whose dimensions are independent."""

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        log_abar = scheduler.schedule.log_alphas_cumprod[timesteps + 1]
        flat = x_t.flatten(1)
        x_0 = data.denoise(flat.flatten(), log_abar.repeat_interleave(flat.shape[1])).reshape(x_t.shape)
        output = model_output(scheduler.config.prediction_type, x_0, x_t, log_abar.reshape(-1, *[1] * (x_t.ndim - 1)))
        if scheduler.variance_type == "learned_range":
            output = torch.cat([output, 0.3 * torch.tanh(x_t)], dim=1)
        return output

    return denoise


def samples(count: int, *shape: int, seed: int = 0) -> Tensor:
    return 0.3 + 0.5 * randn(count, *shape, seed=seed)


def exact_total(scheduler: DDPMPaperScheduler, x_0: Tensor) -> float:
    """The expectation of the bound over the noise alone, which here is of second degree: Gauss–Hermite has it exactly.

    It is so in the data too: two values with their moments stand for all of them.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    mean, deviation = x_0.mean(), x_0.std(correction=0)
    values = torch.stack([mean - deviation, mean + deviation])
    t, noise, x_0 = torch.cartesian_prod(scheduler.timesteps.double(), double(nodes), values).split(1, dim=1)
    t = t[:, 0].long()
    x_t = scheduler.add_noise(x_0, noise, t)
    terms = scheduler.vlb_loss(oracle(scheduler)(x_t, t), x_0, x_t, t).reshape(-1, len(nodes), 2).mean(2)
    return (scheduler.prior_loss(x_0[:2]).mean() + (terms @ double(weights / weights.sum())).sum()).item()


@pytest.mark.parametrize("num_inference_steps", [None, 4])
@pytest.mark.parametrize("num_levels", [17, None])
@pytest.mark.parametrize("variance_type", ["fixed_small", "learned_range"])
def test_the_full_sum_is_the_bound_written_out(
    variance_type: str, num_levels: int | None, num_inference_steps: int | None
):
    scheduler = scheduler_of(7, num_levels, variance_type=variance_type)
    if num_inference_steps:
        scheduler.set_timesteps(num_inference_steps)
    seen = []

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        seen.append((x_t, timesteps, oracle(scheduler)(x_t, timesteps)))
        return seen[-1][2]

    batches = [(8 * samples(b, 2, 3, seed=b).clamp(-1, 1)).round() / 8 for b in (3, 2)]
    result = bits_per_dim(denoise, scheduler, batches, generator=torch.Generator().manual_seed(0))

    times = [0, *sorted((scheduler.timesteps + 1).tolist())]
    K = len(times) - 1
    abar = scheduler.schedule.alphas_cumprod.tolist()
    terms, totals, priors = [0.0] * K, [], []
    for i, batch in enumerate(batches):
        for b, x_0 in enumerate(batch.numpy()):
            prior = 0.5 * (abar[times[-1]] * x_0**2 - abar[times[-1]] - math.log(1 - abar[times[-1]])).mean()
            total = prior
            for k in range(K):
                x_t, timesteps, output = (value[b].numpy() for value in seen[i * K + k])
                s, t = times[k], times[k + 1]
                assert timesteps == t - 1
                beta = 1 - abar[t] / abar[s]
                posterior = beta * (1 - abar[s]) / (1 - abar[t])
                first = 1 - abar[times[2]] / abar[times[1]]
                first *= (1 - abar[times[1]]) / (1 - abar[times[2]])
                low = first if k == 0 else posterior
                nu = (output[2:] + 1) / 2 if variance_type == "learned_range" else 0.0
                variance = np.exp(nu * np.log(beta) + (1 - nu) * np.log(low)) + 0 * x_0
                c1 = math.sqrt(abar[s]) * beta / (1 - abar[t])
                c2 = math.sqrt(abar[t] / abar[s]) * (1 - abar[s]) / (1 - abar[t])
                mean, true_mean = c1 * output[:2] + c2 * x_t, c1 * x_0 + c2 * x_t
                if k > 0:
                    ratio = posterior / variance
                    nats = 0.5 * (ratio - 1 - np.log(ratio) + (mean - true_mean) ** 2 / variance)
                elif num_levels is None:
                    nats = -norm.logpdf(x_0, mean, np.sqrt(variance))
                else:
                    low_edge = np.where(x_0 == -1, -np.inf, x_0 - 1 / 16)
                    high_edge = np.where(x_0 == 1, np.inf, x_0 + 1 / 16)
                    edges = norm.cdf([low_edge, high_edge], mean, np.sqrt(variance))
                    nats = -np.log(edges[1] - edges[0])
                terms[k] += nats.mean() / LOG_2 / 5
                total += nats.mean()
            totals.append(total / LOG_2)
            priors.append(prior / LOG_2)

    assert result.per_timestep == pytest.approx(terms, rel=1e-8, abs=0)
    assert result.decoder == pytest.approx(terms[0], rel=1e-8, abs=0)
    assert result.rate == pytest.approx(sum(terms[1:]), rel=1e-8, abs=0)
    assert result.prior == pytest.approx(np.mean(priors), rel=1e-8, abs=0)
    assert result.total == pytest.approx(np.mean(totals), rel=1e-8, abs=0)
    assert result.standard_error == pytest.approx(np.std(totals, ddof=1) / math.sqrt(5), rel=1e-6, abs=0)
    assert result.timesteps == [t - 1 for t in times[1:]]
    assert result.num_examples == 5
    assert result.num_model_evaluations == 5 * K
    assert len(seen) == 2 * K


@pytest.mark.parametrize("num_evaluations", [None, 2, 3, 7, 20])
def test_the_parts_sum_to_the_total(num_evaluations: int | None):
    scheduler = scheduler_of()
    generator = torch.Generator().manual_seed(0)
    result = bits_per_dim(
        oracle(scheduler),
        scheduler,
        [samples(5, 3), samples(2, 3, seed=1)],
        num_evaluations=num_evaluations,
        generator=generator,
    )
    assert result.total == pytest.approx(result.prior + result.rate + result.decoder, rel=1e-12, abs=0)
    assert sum(result.per_timestep) == pytest.approx(result.rate + result.decoder, rel=1e-12, abs=0)
    assert result.per_timestep[0] == result.decoder
    assert len(result.per_timestep) == len(result.timesteps) == 20
    assert result.num_model_evaluations == 7 * (num_evaluations or 20)
    assert len(set(result.per_timestep)) == (num_evaluations or 20)


@pytest.mark.parametrize("num_evaluations", [2, 4, 9])
def test_the_estimate_is_unbiased(num_evaluations: int):
    # The examples grow from first to last: their times must not follow their order.
    scheduler, x_0 = scheduler_of(), samples(6, 8) * torch.linspace(0.1, 4, 6, dtype=torch.float64)[:, None]
    estimates = [
        bits_per_dim(
            oracle(scheduler),
            scheduler,
            [x_0],
            num_evaluations=num_evaluations,
            generator=torch.Generator().manual_seed(seed),
        ).total
        for seed in range(150)
    ]
    error = np.mean(estimates) - exact_total(scheduler, x_0)
    assert abs(error) <= 4 * np.std(estimates, ddof=1) / math.sqrt(len(estimates))


def test_the_full_sum_is_unbiased_and_much_sharper():
    scheduler, x_0 = scheduler_of(), samples(6, 8)
    totals = [
        bits_per_dim(oracle(scheduler), scheduler, [x_0], generator=torch.Generator().manual_seed(seed)).total
        for seed in range(60)
    ]
    error = np.mean(totals) - exact_total(scheduler, x_0)
    assert abs(error) <= 4 * np.std(totals, ddof=1) / math.sqrt(len(totals))


def test_spreading_the_times_evenly_beats_drawing_them_independently():
    scheduler, x_0 = scheduler_of(), samples(16, 64)
    denoise = oracle(scheduler)

    def independent(generator: torch.Generator) -> float:
        """The same number of calls: L_0, and two times per example drawn from the other K − 1."""
        terms = scheduler.prior_loss(x_0).clone()
        for weight, t in (
            (1, torch.zeros(16, dtype=torch.int64)),
            (19 / 2, torch.randint(1, 20, (16,), generator=generator)),
            (19 / 2, torch.randint(1, 20, (16,), generator=generator)),
        ):
            noise = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
            x_t = scheduler.add_noise(x_0, noise, t)
            terms += weight * scheduler.vlb_loss(denoise(x_t, t), x_0, x_t, t)
        return terms.mean().item()

    def spread(function: Callable[[torch.Generator], float]) -> float:
        return float(np.std([function(torch.Generator().manual_seed(seed)) for seed in range(100)]))

    def stratified(generator: torch.Generator) -> float:
        return bits_per_dim(denoise, scheduler, [x_0], num_evaluations=3, generator=generator).total

    assert spread(stratified) < 0.5 * spread(independent)


@pytest.mark.parametrize(("T", "num_evaluations", "highest"), [(5, None, 0.99), (10, 4, 1.0)])
def test_the_standard_error_is_calibrated(T: int, num_evaluations: int | None, highest: float):
    # Two standard errors must cover the truth in about 95 of 100 data sets; an estimate that spreads its times evenly
    # may cover more, since the error is stated as if they had been independent.
    scheduler = scheduler_of(T)
    truth = population_total(scheduler)
    covered = 0
    for seed in range(200):
        x_0 = samples(24, 4, seed=1000 + seed)
        result = bits_per_dim(
            oracle(scheduler),
            scheduler,
            x_0.split(8),
            num_evaluations=num_evaluations,
            generator=torch.Generator().manual_seed(seed),
        )
        covered += abs(result.total - truth) <= 2 * result.standard_error
    assert 0.9 <= covered / 200 <= highest


def population_total(scheduler: DDPMPaperScheduler) -> float:
    """The bound's expectation over the data too: two more Gauss–Hermite nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    values = [exact_total(scheduler, double([[0.3 + 0.5 * node]])) for node in nodes]
    return float(np.dot(values, weights / weights.sum()))


# --- few calls ---


def with_errors(scheduler: DDPMPaperScheduler, **options: object) -> DDPMPaperScheduler:
    """The scheduler with the errors of the optimal denoiser of N(0.3, 0.25)."""
    log_abar = scheduler.schedule.log_alphas_cumprod[1:]
    mmse = Mixture.gaussian(0.3, 0.25).mmse(log_abar)
    errors = DenoisingErrors(scheduler.schedule.log_snr[1:].tolist(), mmse.tolist())
    return DDPMPaperScheduler.from_config(scheduler.config, denoising_errors=errors, **options)


def estimates(scheduler: DDPMPaperScheduler, x_0: Tensor, count: int, num_evaluations: int) -> list[BitsPerDim]:
    denoise = oracle(scheduler)
    return [
        bits_per_dim(
            denoise,
            scheduler,
            [x_0],
            num_evaluations=num_evaluations,
            generator=torch.Generator().manual_seed(1000 + seed),  # not that of the examples
        )
        for seed in range(count)
    ]


# Each number of evaluations, and each variance with few of them and with more.
@pytest.mark.parametrize(
    ("num_evaluations", "variance_type"),
    [
        (2, "optimal"),
        (20, "optimal"),
        (2, "fixed_small, unmeasured"),
        (9, "fixed_small, unmeasured"),
        (4, "fixed_large"),
        (9, "fixed_large"),
    ],
)
def test_the_estimate_by_expected_costs_is_unbiased(num_evaluations: int, variance_type: str):
    is_measured = not variance_type.endswith("unmeasured")
    scheduler = with_errors(scheduler_of(), variance_type=variance_type) if is_measured else scheduler_of()
    x_0 = samples(6, 8) * torch.linspace(0.1, 4, 6, dtype=torch.float64)[:, None]
    totals = [result.total for result in estimates(scheduler, x_0, 150, num_evaluations)]
    error = np.mean(totals) - exact_total(scheduler, x_0)
    assert abs(error) <= 4 * np.std(totals, ddof=1) / math.sqrt(len(totals))


def terms_of_the_optimal_variance(scheduler: DDPMPaperScheduler, data: Mixture) -> Tensor:
    """What the steps of its chain cost an optimal denoiser, `[K]`."""
    log_abar = scheduler.schedule.log_alphas_cumprod[[0, *scheduler.process.times]]
    return exact_bound(data, log_abar, optimal_log_variance(log_abar, data.mmse(log_abar[1:]))).terms


def test_what_is_expected_of_every_term_is_what_it_is_on_average():
    scheduler = with_errors(scheduler_of(), variance_type="optimal")
    scheduler.set_timesteps(7)
    expected = terms_of_the_optimal_variance(scheduler, Mixture.gaussian(0.3, 0.25))
    torch.testing.assert_close(scheduler.expected_terms, expected, rtol=1e-10, atol=0)


def test_without_errors_what_is_expected_is_that_of_standard_normal_data():
    scheduler = scheduler_of()
    scheduler.set_timesteps(7)
    standard = Mixture.gaussian(0.0, 1.0)
    expected = terms_of_the_optimal_variance(scheduler, standard)
    torch.testing.assert_close(scheduler.expected_terms, expected, rtol=1e-10, atol=0)


def test_a_twentieth_of_the_calls_is_enough_whether_errors_are_measured_or_not():
    # Terms of 1000 times that differ by orders of magnitude: nearly all of the bound is at a few of them.
    small = DDPMPaperScheduler(clip_sample=False, num_levels=None)
    large = DDPMPaperScheduler.from_config(small.config, variance_type="fixed_large")
    chains = {"small": small, "large": large, "informed": with_errors(small, variance_type="optimal")}
    x_0, largest = samples(128, 64), {"small": 0.03, "large": 0.01, "informed": 0.01}
    for name, scheduler in chains.items():
        exact = exact_total(scheduler, x_0)
        found = estimates(scheduler, x_0, 12, num_evaluations=50)
        spread = math.sqrt(np.mean([(result.total - exact) ** 2 for result in found]))
        stated = math.sqrt(np.mean([result.estimation_error**2 for result in found]))
        assert spread < 1.4 * stated  # on the large side, but for the luck of twelve draws
        assert found[0].num_model_evaluations == 128 * 1000 / 20
        assert spread < 0.01 and stated < largest[name]


@pytest.mark.parametrize("num_evaluations", [None, 3, 8, 9])
def test_the_estimation_error_is_that_of_the_noise_and_the_times(num_evaluations: int | None):
    # The same examples again and again: what varies is the noise and the times.
    scheduler, x_0 = with_errors(scheduler_of(), variance_type="optimal"), samples(12, 16)
    found = estimates(scheduler, x_0, 100, num_evaluations)
    spread, stated = np.std([each.total for each in found], ddof=1), np.mean([each.estimation_error for each in found])
    assert spread < 1.2 * stated < 4 * spread


def test_what_the_length_of_the_noise_explains_is_taken_off_and_the_mean_stays():
    # At little noise the error of the best guess is the noise: next to nothing is left to chance.
    options = {"num_levels": None, "clip_sample": False, "prediction_type": "sample"}
    scheduler = DDPMPaperScheduler.from_schedule(NoiseSchedule.from_betas([1e-4]), **options)
    x_0 = samples(64, 8)
    found = [
        bits_per_dim(oracle(scheduler), scheduler, [x_0], generator=torch.Generator().manual_seed(seed)).total
        for seed in range(40)
    ]
    alone = [
        bits_per_dim(oracle(scheduler), scheduler, x_0.split(8), generator=torch.Generator().manual_seed(seed)).total
        for seed in range(40)
    ]  # in batches too small for it
    exact = exact_total(scheduler, x_0)
    assert np.std(found) < 0.2 * np.std(alone)
    assert abs(np.mean(found) - exact) <= 4 * np.std(found, ddof=1) / math.sqrt(40)


def test_strata_cost_about_the_same_and_none_is_empty():
    costs = torch.exp(-torch.arange(40.0).double())  # nearly all of it in the first few
    for num_evaluations in (2, 5, 20, 40):
        strata = _strata(40, num_evaluations, costs)
        terms = [term for stratum in strata for term in stratum.terms]
        assert terms == list(range(40)) and len(strata) == num_evaluations
        assert all(torch.isclose(each.probabilities.sum(), torch.tensor(1.0).double()) for each in strata)
    even = _strata(101, 11, torch.ones(101).double())
    assert [len(stratum.terms) for stratum in even] == [1] + [10] * 10


def test_one_example_has_no_finite_standard_error():
    scheduler = scheduler_of()
    assert bits_per_dim(oracle(scheduler), scheduler, [samples(1, 3)]).standard_error == math.inf


def test_the_bounds_of_parts_merge_to_the_bound_of_all():
    scheduler = scheduler_of()
    batches = [samples(5, 3), samples(2, 3, seed=1), samples(1, 3, seed=2)]
    generator = torch.Generator().manual_seed(0)
    together = bits_per_dim(oracle(scheduler), scheduler, batches, num_evaluations=7, generator=generator)
    generator = torch.Generator().manual_seed(0)  # goes on from batch to batch, as it does above
    parts = [
        bits_per_dim(oracle(scheduler), scheduler, [batch], num_evaluations=7, generator=generator)
        for batch in batches
    ]
    merged, expected = (dataclasses.asdict(bound) for bound in (BitsPerDim.merged(parts), together))
    assert merged.keys() == expected.keys()
    for name, value in expected.items():
        assert merged[name] == pytest.approx(value, rel=1e-12, abs=0), name
    assert np.mean(merged["per_example"]) == pytest.approx(merged["total"], rel=1e-12)


def test_bounds_of_other_chains_do_not_merge():
    scheduler = scheduler_of()
    part = bits_per_dim(oracle(scheduler), scheduler, [samples(2, 3)])
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="same timesteps"):
        BitsPerDim.merged([part, bits_per_dim(oracle(scheduler), scheduler, [samples(2, 3)])])
    with pytest.raises(ValueError, match="at least one"):
        BitsPerDim.merged([])


def test_conditioning_reaches_the_model():
    scheduler, seen = scheduler_of(5), []

    def denoise(x_t: Tensor, timesteps: Tensor, **conditioning: object) -> Tensor:
        seen.append(conditioning)
        return oracle(scheduler)(x_t, timesteps)

    conditionings: list[Mapping[str, object]] = [{"class_labels": torch.tensor([1, 2]), "scale": 3.0}, {}]
    bits_per_dim(denoise, scheduler, [(samples(2, 3), conditioning) for conditioning in conditionings])
    bits_per_dim(denoise, scheduler, [[samples(2, 3), {"other": 1}]])
    assert [sorted(keys) for keys in seen] == [["class_labels", "scale"]] * 5 + [[]] * 5 + [["other"]] * 5
    assert seen[0]["class_labels"] is conditionings[0]["class_labels"]


def test_the_model_is_given_indices_one_per_example_and_no_gradient():
    scheduler = scheduler_of(5)

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        assert timesteps.dtype == torch.int64
        assert timesteps.shape == (len(x_t),)
        assert 0 <= timesteps.min() <= timesteps.max() <= 4
        assert not torch.is_grad_enabled()
        return oracle(scheduler)(x_t, timesteps)

    for num_evaluations in (None, 3):
        bits_per_dim(denoise, scheduler, [samples(4, 3)], num_evaluations=num_evaluations)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_samples_keep_their_dtype_on_the_way_to_the_model(dtype: torch.dtype):
    scheduler, dtypes = scheduler_of(5), set()

    def denoise(x_t: Tensor, timesteps: Tensor) -> Tensor:
        dtypes.add(x_t.dtype)
        return oracle(scheduler)(x_t.double(), timesteps).to(dtype)

    x_0 = samples(4, 3).to(dtype)
    result = bits_per_dim(denoise, scheduler, [x_0], generator=torch.Generator().manual_seed(0))
    assert dtypes == {dtype}
    assert math.isfinite(result.total)


def test_the_same_generator_gives_the_same_figures():
    scheduler = scheduler_of()
    results = {
        bits_per_dim(
            oracle(scheduler),
            scheduler,
            [samples(4, 3)],
            num_evaluations=5,
            generator=torch.Generator().manual_seed(seed),
        ).total
        for seed in (0, 0, 1)
    }
    assert len(results) == 2


def test_progress_wraps_the_batches():
    scheduler, wrapped = scheduler_of(5), []

    def progress(batches: list[Tensor]) -> list[Tensor]:
        wrapped.append(batches)
        return batches

    result = bits_per_dim(oracle(scheduler), scheduler, [samples(2, 3)], progress=progress)
    assert isinstance(result, BitsPerDim)
    assert len(wrapped) == 1


def test_batches_may_be_an_iterator():
    scheduler = scheduler_of(5)
    assert bits_per_dim(oracle(scheduler), scheduler, iter([samples(2, 3), samples(3, 3)])).num_examples == 5


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_evaluations", [0, 1, 21, -1, 2.0, True, "3"])
def test_a_number_of_evaluations_outside_2_to_K_is_refused(num_evaluations: object):
    scheduler = scheduler_of()
    with pytest.raises(ValueError, match=r"`num_evaluations` must be an int in 2 \.\.\. 20"):
        bits_per_dim(oracle(scheduler), scheduler, [samples(2, 3)], num_evaluations=num_evaluations)


@pytest.mark.parametrize("num_levels", [None, 17])
@pytest.mark.parametrize("shapes", [[], [(0, 3)], [(0, 3), (0, 3)]], ids=str)
def test_a_data_set_without_examples_is_refused(shapes: list[tuple[int, int]], num_levels: int | None):
    scheduler = scheduler_of(num_levels=num_levels)
    with pytest.raises(ValueError, match="no examples"):
        bits_per_dim(oracle(scheduler), scheduler, [torch.zeros(shape) for shape in shapes])


@pytest.mark.parametrize(
    "x_0",
    [
        torch.full((2, 3), 0.06),
        torch.full((2, 3), 0.2 / 8),
        torch.tensor([[0.0, 1.125]]),
        torch.full((2, 3), math.nan),
        torch.full((2, 3), 100.0),
    ],
    ids=str,
)
def test_values_that_are_not_levels_are_refused(x_0: Tensor):
    scheduler = scheduler_of(num_levels=17)
    with pytest.raises(ValueError, match="17 evenly spaced levels"):
        bits_per_dim(oracle(scheduler), scheduler, [x_0])


def test_data_of_other_levels_are_refused_and_continuous_data_are_not_looked_at():
    check_levels(2 * torch.arange(17.0)[:, None] / 16 - 1, 17)
    check_levels(2 * torch.arange(256.0)[:, None] / 255 - 1, 256)
    check_levels(torch.full((2, 3), 0.05 / 8), 17)  # as far off as rounding may lead
    check_levels(randn(4, 3), None)
    with pytest.raises(ValueError, match="levels"):
        check_levels(2 * torch.arange(17.0)[:, None] / 16 - 1, 16)
    with pytest.raises(ValueError, match="levels"):
        check_levels(torch.arange(256.0)[:, None] / 255, 17)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("num_levels", [None, 256])
def test_integer_images_are_refused_with_advice(dtype: torch.dtype, num_levels: int | None):
    scheduler = scheduler_of(num_levels=num_levels)
    with pytest.raises(ValueError, match=r"scale images to \[-1, 1\]"):
        bits_per_dim(oracle(scheduler), scheduler, [torch.zeros(2, 3, dtype=dtype)])


def test_terms_of_samples_that_do_not_fit_are_refused():
    process, output, x_0, x_t, index = case()
    for bad in (x_0[:, :1], x_0[:3], x_0.long()):
        with pytest.raises(ValueError, match="`original_samples`"):
            vlb_terms(process, output, bad, x_t, index, 17)
    with pytest.raises(ValueError, match="`model_output`"):
        vlb_terms(process, output[:, :1], x_0, x_t, index, 17)
    with pytest.raises(ValueError, match="batch"):
        vlb_terms(process, output, x_0, x_t, index[:3], 17)


def test_a_step_is_a_tuple_of_four():
    process, output, _, x_t, index = case()
    mean, variance, log_variance, x_0 = process.p_mean_variance(output, x_t, index)
    step = ReverseStep(mean, variance, log_variance, x_0)
    assert step.pred_original_sample is x_0
