# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""losses and timestep_sampling: losses per example, and the distribution of drawn times."""

from __future__ import annotations

import math

import mpmath
import pytest
import safetensors.torch
import torch
from mpmath import mpf
from oracles import LOG_2, Mixture, double, exact_bound, fixed_log_variances, model_output
from scipy.stats import chisquare
from torch import Tensor

from ddpm_hf.diffusion.bound_terms import vlb_terms
from ddpm_hf.diffusion.constraints import clip_sample
from ddpm_hf.diffusion.gaussian_process import PREDICTION_TYPES
from ddpm_hf.diffusion.losses import hybrid_loss, min_snr_weights, rate_loss, simple_loss, variance_loss, vlb_loss
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.diffusion.reverse_process import ReverseProcess
from ddpm_hf.diffusion.timestep_sampling import ImportanceTimesteps, stratified_timesteps, uniform_timesteps
from ddpm_hf.schedulers.scheduling_ddpm_paper import DDPMPaperScheduler


SCHEDULE = NoiseSchedule.linear(10, 0.05, 0.3)
SIGNIFICANCE = 1e-3  # the seeds are fixed: a right sampler passes on every run


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- losses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[4], [4, 3], [4, 3, 2], [4, 3, 2, 2], [4, 3, 2, 2, 2]], ids=len)
def test_the_simple_loss_is_the_squared_error_per_example(shape: list[int]):
    output, target = randn(*shape), randn(*shape, seed=1)
    expected = [((output[b] - target[b]) ** 2).mean().item() for b in range(4)]
    loss = simple_loss(output, target)
    assert loss.shape == (4,)
    assert loss.tolist() == pytest.approx(expected, rel=1e-14, abs=0)


def test_the_simple_loss_leaves_out_the_variance_channels():
    output, target = randn(4, 6, 2), randn(4, 3, 2, seed=1)
    assert torch.equal(simple_loss(output, target), simple_loss(output[:, :3], target))
    output.requires_grad_()
    simple_loss(output, target).sum().backward()
    assert (output.grad[:, 3:] == 0).all()
    assert (output.grad[:, :3] != 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_simple_loss_of_half_precision_is_summed_in_float32(dtype: torch.dtype):
    output, target = 300 * torch.ones(2, 5, dtype=dtype), torch.zeros(2, 5, dtype=dtype)
    loss = simple_loss(output, target)
    assert loss.dtype == torch.float32
    assert loss.tolist() == [90000.0, 90000.0]  # beyond float16


def test_the_simple_loss_is_differentiable():
    assert torch.autograd.gradcheck(simple_loss, (randn(3, 2).requires_grad_(), randn(3, 2, seed=1).requires_grad_()))


@pytest.mark.parametrize("shape", [[4, 2], [4, 9], [3, 3], [4, 3, 1], [4]], ids=str)
def test_the_simple_loss_refuses_shapes_that_do_not_fit(shape: list[int]):
    with pytest.raises(ValueError, match="`model_output`"):
        simple_loss(torch.zeros(shape), torch.zeros(4, 3))


@pytest.mark.parametrize("times", [range(1, 11), [1, 3, 4, 8, 10], [10]], ids=str)
@pytest.mark.parametrize("variance_type", ["fixed_small", "learned"])
def test_the_mean_of_the_vlb_loss_over_all_indices_is_the_bound(variance_type: str, times: list[int]):
    data = Mixture.gaussian(0.3, 0.25)
    process = ReverseProcess(SCHEDULE, times, "epsilon", variance_type)
    log_abar = SCHEDULE.log_alphas_cumprod[[0, *times]]
    fixed = fixed_log_variances(log_abar)[0] if len(times) > 1 else fixed_log_variances(log_abar)[1]  # β alone
    log_variance = torch.full_like(fixed, -2.0) if process.learns_variance else fixed
    bound = exact_bound(data, log_abar, log_variance)
    grid = data.grid(log_abar[1:])
    output = model_output("epsilon", grid.mean, grid.x_t, grid.log_abar)[:, None]
    if process.learns_variance:
        output = torch.cat([output, torch.full_like(output, -2.0)], dim=1)
    mean = 0.0
    for side in (-1, 1):  # two values of x_0 that share its posterior moments
        x_0 = grid.mean + side * grid.variance.sqrt()
        losses = vlb_loss(process, output, x_0[:, None], grid.x_t[:, None], grid.index, None)
        assert losses.shape == x_0.shape
        mean += 0.5 * (grid.weight * losses).sum().item() / len(times)  # over uniform indices and their nodes
    assert mean == pytest.approx((bound.total - bound.prior) / LOG_2, rel=1e-12, abs=0)


def test_the_vlb_loss_is_the_number_of_visited_pairs_times_its_term():
    process = ReverseProcess(SCHEDULE, [1, 3, 4, 8, 10])
    output, x_t, index = randn(4, 2), randn(4, 2, seed=1), torch.tensor([0, 1, 4, 2])
    x_0 = double([[-1, 1], [0, 0.5], [0.25, 0], [1, 1]])
    terms = vlb_terms(process, output, x_0, x_t, index, 17)
    torch.testing.assert_close(vlb_loss(process, output, x_0, x_t, index, 17), 5 * terms, rtol=1e-15, atol=0)


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
def test_the_hybrid_loss_is_both_and_each_trains_what_it_should(variance_type: str):
    process = ReverseProcess(SCHEDULE, range(1, 11), variance_type=variance_type)
    output, x_t, target = randn(4, 4).requires_grad_(), randn(4, 2, seed=1), randn(4, 2, seed=2)
    x_0, index = double([[-1, 1], [0, 0.5], [0.25, 0], [1, 1]]), torch.tensor([0, 1, 9, 4])
    arguments = (x_0, x_t, index, 17)
    simple, bound = simple_loss(output, target), vlb_loss(process, output, *arguments)
    (of_simple,), (of_bound,) = (torch.autograd.grad(loss.sum(), output) for loss in (simple, bound))
    for weight in (0.001, 0.3, 0.0):
        hybrid = hybrid_loss(process, output, target, *arguments, vlb_weight=weight)
        torch.testing.assert_close(hybrid, simple + weight * bound, rtol=1e-14, atol=0)
        (gradient,) = torch.autograd.grad(hybrid.sum(), output)
        torch.testing.assert_close(gradient[:, :2], of_simple[:, :2], rtol=1e-14, atol=0)  # the mean, by L_simple
        torch.testing.assert_close(gradient[:, 2:], weight * of_bound[:, 2:], rtol=1e-13, atol=1e-16)
    assert torch.equal(hybrid_loss(process, output, target, *arguments), simple + 0.001 * bound)  # the authors' λ


def test_the_hybrid_loss_of_half_precision_is_float32():
    process = ReverseProcess(SCHEDULE, range(1, 11), variance_type="learned_range")
    parts = [randn(*shape, seed=seed).bfloat16() for seed, shape in enumerate([(4, 4), (4, 2), (4, 2), (4, 2)])]
    assert hybrid_loss(process, *parts, torch.arange(4), None).dtype == torch.float32


def test_the_hybrid_loss_is_refused_where_no_variance_is_learned():
    samples = [randn(4, 2, seed=seed) for seed in range(4)]
    with pytest.raises(ValueError, match="no variance to learn: the variance type is 'fixed_small'"):
        hybrid_loss(ReverseProcess(SCHEDULE, range(1, 11)), *samples, torch.arange(4), None)
    process = ReverseProcess(SCHEDULE, range(1, 11), variance_type="learned")
    with pytest.raises(ValueError, match="`vlb_weight` must be at least 0, but is -1"):
        hybrid_loss(process, randn(4, 4), *samples[1:], torch.arange(4), None, vlb_weight=-1)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("times", [range(1, 11), [1, 3, 4, 8, 10], [2, 7]], ids=str)
def test_the_rate_loss_is_the_vlb_loss_with_the_posteriors_variance(prediction_type: str, times: list[int]):
    process = ReverseProcess(SCHEDULE, times, prediction_type, "fixed_small", constrain=clip_sample(1.0))
    index = torch.arange(1, len(times))
    shape = [len(index), 2, 3]
    output, x_0, x_t = randn(*shape), randn(*shape, seed=1).clamp(-1, 1), randn(*shape, seed=2)
    loss = rate_loss(process, output, x_0, x_t, index)
    assert loss.shape == (len(index),)
    torch.testing.assert_close(loss, vlb_loss(process, output, x_0, x_t, index, 17), rtol=1e-10, atol=1e-12)


def test_the_rate_loss_weighs_the_first_step_as_if_the_log_snr_went_on():
    # On equal steps of log-SNR the weight of every step is e^(their size) times that of the next.
    schedule = NoiseSchedule.linear_log_snr(10, 5.0, -4.0)
    process = ReverseProcess(schedule, range(1, 11), "sample")
    x_0 = torch.zeros(10, 1, dtype=torch.float64)
    loss = rate_loss(process, x_0 + 1, x_0, x_0, torch.arange(10))
    assert (loss[:-1] / loss[1:]).tolist() == pytest.approx([math.e] * 9, rel=1e-9, abs=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_rate_loss_of_every_dtype_is_at_least_float32(dtype: torch.dtype):
    process = ReverseProcess(SCHEDULE, range(1, 11), "v_prediction")
    output, x_0, x_t = (randn(10, 3, seed=seed, dtype=dtype) for seed in range(3))
    loss = rate_loss(process, output, x_0, x_t, torch.arange(10))
    assert loss.dtype == torch.float32
    exact = rate_loss(process, output.double(), x_0.double(), x_t.double(), torch.arange(10))
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)


def test_the_rate_loss_is_finite_at_zero_terminal_snr():
    process = ReverseProcess(SCHEDULE.rescale_zero_terminal_snr(), range(1, 11), "v_prediction")
    x_t, x_0 = randn(10, 3), randn(10, 3, seed=1)
    output = randn(10, 3, seed=2).requires_grad_()
    loss = rate_loss(process, output, x_0, x_t, torch.arange(10))
    # At the last time SNR_t is 0 and v is −x_0: the term is ½ SNR_s (x_0 − x̂_0)².
    expected = 10 * process.schedule.log_snr[9].exp() / 2 * (x_0[9] + output[9]).square().mean() / LOG_2
    assert loss[9].item() == pytest.approx(expected.item(), rel=1e-9, abs=0)
    loss.sum().backward()
    assert output.grad.isfinite().all()


def test_the_rate_loss_is_differentiable_and_reads_nothing_back():
    process = ReverseProcess(SCHEDULE, [1, 3, 4, 8, 10])
    x_0, x_t, index = randn(5, 2), randn(5, 2, seed=1), torch.arange(5)
    assert torch.autograd.gradcheck(
        lambda output: rate_loss(process, output, x_0, x_t, index), (randn(5, 2, seed=2).requires_grad_(),)
    )
    on_meta = [tensor.to("meta") for tensor in (x_0, x_0, x_t, index)]  # has no values to read
    assert rate_loss(process, *on_meta).shape == (5,)


def test_the_rate_loss_takes_one_index_for_the_whole_batch():
    process = ReverseProcess(SCHEDULE, [1, 3, 4, 8, 10])
    output, x_0, x_t = (randn(5, 2, seed=seed) for seed in range(3))
    one_each = rate_loss(process, output, x_0, x_t, torch.full((5,), 3))
    torch.testing.assert_close(rate_loss(process, output, x_0, x_t, torch.tensor(3)), one_each, rtol=1e-14, atol=0)
    on_meta = [tensor.to("meta") for tensor in (x_0, x_0, x_t, torch.tensor(3))]
    assert rate_loss(process, *on_meta).shape == (5,)


def test_the_rate_loss_refuses_a_chain_of_one_step():
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="L_rate needs a chain of at least 2 timesteps"):
        rate_loss(ReverseProcess(SCHEDULE, [5]), x, x, x, torch.tensor([0]))


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
def test_the_rate_loss_trains_the_mean_and_the_variance_loss_the_variance(variance_type: str):
    process = ReverseProcess(SCHEDULE, range(1, 11), variance_type=variance_type)
    fixed = ReverseProcess(SCHEDULE, range(1, 11))
    output, x_0, x_t, index = randn(4, 4).requires_grad_(), randn(4, 2, seed=1), randn(4, 2, seed=2), torch.arange(4)
    rate = rate_loss(process, output, x_0, x_t, index)
    assert torch.equal(rate, rate_loss(fixed, output[:, :2], x_0, x_t, index))
    (gradient,) = torch.autograd.grad(rate.sum(), output)
    assert bool((gradient[:, 2:] == 0).all()) and bool((gradient[:, :2] != 0).all())
    bound = variance_loss(process, output, x_0, x_t, index, None)
    torch.testing.assert_close(bound, vlb_loss(process, output, x_0, x_t, index, None))
    (gradient,) = torch.autograd.grad(bound.sum(), output)
    assert bool((gradient[:, :2] == 0).all()) and bool((gradient[:, 2:] != 0).all())


@pytest.mark.parametrize("stride", [1, 2, 3, 9, 10, 25])
@pytest.mark.parametrize("num_levels", [None, 5])
def test_the_strided_variance_loss_is_the_mean_bound_of_the_shorter_chains(stride: int, num_levels: int | None):
    """Those that end by 1 and 0 and visit every `stride`-th time before, walked one by one."""
    options = {"variance_type": "learned_range", "first_variance": 0.01}
    process = ReverseProcess(SCHEDULE, range(1, 11), **options)
    output, x_0, x_t = randn(10, 4), randn(10, 2, seed=1), randn(10, 2, seed=2)  # what is there at each of the times
    loss = variance_loss(process, output, x_0, x_t, torch.arange(10), num_levels, stride)
    bounds = []
    for last in range(10, 10 - stride, -1):
        times = sorted({1, *(t for t in range(last, 1, -stride))})
        chain, rows = ReverseProcess(SCHEDULE, times, **options), torch.tensor(times) - 1
        terms = vlb_terms(chain, output[rows], x_0[rows], x_t[rows], torch.arange(len(times)), num_levels)
        bounds.append(terms.sum())
    torch.testing.assert_close(loss.mean(), torch.stack(bounds).mean(), rtol=1e-12, atol=0)


def test_a_stride_that_does_not_fit():
    x, index = torch.zeros(2, 2), torch.tensor([0, 1])
    process = ReverseProcess(SCHEDULE, [1, 5], variance_type="learned_range")
    with pytest.raises(ValueError, match="`stride` must be an int >= 1, but is 0"):
        variance_loss(process, torch.zeros(2, 4), x, x, index, None, stride=0)
    process = ReverseProcess(SCHEDULE, [1, 5], variance_type="learned")
    with pytest.raises(ValueError, match="`stride` must be 1 for variance_type 'learned'"):
        variance_loss(process, torch.zeros(2, 4), x, x, index, None, stride=2)


def test_the_rate_loss_refuses_samples_that_do_not_fit():
    process, x, index = ReverseProcess(SCHEDULE, [1, 5]), torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="`original_samples`"):
        rate_loss(process, x, x[:, :1], x, index)
    with pytest.raises(ValueError, match="`model_output`"):
        rate_loss(process, x[:, :1], x, x, index)


# --- weights ----------------------------------------------------------------------------------------------------


EXTREMES = NoiseSchedule(double([0, -1e-120, -1e-16, -1e-4, -1, -300, -math.inf]))


def exact_min_snr_weight(kind: str, log_abar_s: float, log_abar_t: float, gamma: float) -> float:
    """In arithmetic of 400 digits, which cancels nothing."""
    with mpmath.workdps(400):
        abar_s, abar = (mpmath.exp(mpf(x)) for x in (log_abar_s, log_abar_t))
        snr = abar / (1 - abar)
        weight = min(snr, mpf(gamma))
        if kind == "epsilon":
            return float(weight / snr if snr else mpf(1))  # its limit
        if kind == "score":  # −ε/σ
            return float((1 - abar) * (weight / snr if snr else mpf(1)))
        if kind == "mean":
            c_1 = mpmath.sqrt(abar_s) * (1 - abar / abar_s) / (1 - abar)  # (Ho et al. 2020, Eq. 7)
            return float(weight / c_1**2)
        return float(weight if kind == "sample" else weight / (snr + 1))


@pytest.mark.parametrize("gamma", [0.1, 1, 5.0, 1e9])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(
    "schedule",
    [SCHEDULE, NoiseSchedule.cosine(1000), SCHEDULE.rescale_zero_terminal_snr(), EXTREMES],
    ids=["linear", "cosine", "zero terminal SNR", "extremes"],
)
def test_the_min_snr_weights_are_the_minimum_over_the_predictions_own_weight(
    schedule: NoiseSchedule, kind: str, gamma: float
):
    t = torch.arange(1, schedule.T + 1)[:: max(1, schedule.T // 20)]
    weights = min_snr_weights(schedule, t, kind, gamma)
    assert weights.shape == t.shape
    assert weights.dtype == torch.float64
    log_abar = schedule.log_alphas_cumprod.tolist()
    expected = [exact_min_snr_weight(kind, log_abar[k - 1], log_abar[k], gamma) for k in t.tolist()]
    assert weights.tolist() == pytest.approx(expected, rel=1e-12, abs=0)
    assert [min_snr_weights(schedule, k, kind, gamma).item() for k in t.tolist()] == weights.tolist()


def test_the_authors_gamma_is_the_default():
    t = torch.arange(1, 11)
    assert torch.equal(min_snr_weights(SCHEDULE, t, "sample"), min_snr_weights(SCHEDULE, t, "sample", 5.0))


def every_prediction(x_0: Tensor, x_t: Tensor, log_abar_s: Tensor, log_abar_t: Tensor) -> dict[str, Tensor]:
    """What a model of each type says where it means x_0: `[B, D]`."""
    log_abar_s, log_abar_t = log_abar_s[:, None], log_abar_t[:, None]
    abar_s, abar_t = log_abar_s.exp(), log_abar_t.exp()
    predictions = {
        kind: model_output(kind, x_0, x_t, log_abar_t) for kind in ("epsilon", "sample", "v_prediction", "score")
    }
    alpha = abar_t / abar_s
    mean = (abar_s.sqrt() * (1 - alpha) * x_0 + alpha.sqrt() * (1 - abar_s) * x_t) / (1 - abar_t)
    return {**predictions, "mean": mean}


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_the_weighted_loss_of_the_same_guess_is_the_same_for_every_prediction_type(gamma: float):
    schedule, t = NoiseSchedule.linear(1000), torch.tensor([1, 2, 50, 200, 300, 700, 1000])
    x_0, guess, x_t = (randn(len(t), 6, seed=seed) for seed in range(3))
    log_abar_s, log_abar_t = schedule.log_alphas_cumprod[t - 1], schedule.log_alphas_cumprod[t]
    targets, outputs = (every_prediction(x, x_t, log_abar_s, log_abar_t) for x in (x_0, guess))
    snr = log_abar_t.exp() / (1 - log_abar_t.exp())
    expected = snr.clamp(max=gamma) * ((x_0 - guess) ** 2).mean(1)
    assert set(targets) == set(PREDICTION_TYPES)
    for kind in PREDICTION_TYPES:
        loss = min_snr_weights(schedule, t, kind, gamma) * simple_loss(outputs[kind], targets[kind])
        torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)


def test_without_a_bound_min_snr_is_the_simple_loss_of_epsilon():
    t = torch.arange(1, 11)
    assert min_snr_weights(SCHEDULE, t, "epsilon", 1e30).tolist() == [1.0] * 10
    torch.testing.assert_close(
        min_snr_weights(SCHEDULE, t, "v_prediction", 1e30), SCHEDULE.alphas_cumprod[1:], rtol=1e-14, atol=0
    )


def test_the_min_snr_weights_of_a_mean_belong_to_its_pair_of_times():
    s, t = torch.tensor([0, 2, 5]), torch.tensor([2, 5, 10])
    log_abar = SCHEDULE.log_alphas_cumprod
    expected = [
        exact_min_snr_weight("mean", *pair, 5.0)
        for pair in zip(log_abar[s].tolist(), log_abar[t].tolist(), strict=True)
    ]
    assert min_snr_weights(SCHEDULE, t, "mean", s=s).tolist() == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_the_min_snr_weights_read_nothing_back(kind: str):
    t = torch.tensor([1, 4, 10], device="meta")  # has no values to read
    weights = min_snr_weights(SCHEDULE.to("meta"), t, kind)
    assert weights.shape == (3,)
    assert weights.device.type == "meta"


@pytest.mark.parametrize("gamma", [0, -5.0, math.nan, math.inf])
def test_a_gamma_that_is_not_positive_is_refused(gamma: float):
    with pytest.raises(ValueError, match="`gamma` must be a positive number"):
        min_snr_weights(SCHEDULE, 1, "epsilon", gamma)


def test_min_snr_weights_refuse_names_and_times_that_there_are_not():
    with pytest.raises(ValueError, match=r"`prediction_type` must be one of 'epsilon'.*'noise'"):
        min_snr_weights(SCHEDULE, 1, "noise")
    for kind in PREDICTION_TYPES:
        for t in (11, torch.tensor([1, 11])):
            with pytest.raises(ValueError, match=r"0 \.\.\. 10"):
                min_snr_weights(SCHEDULE, t, kind)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "mean"])
def test_the_schedulers_min_snr_weights_are_those_of_its_training_target(kind: str):
    scheduler = DDPMPaperScheduler(100, prediction_type=kind, clip_sample=False)
    x_0, guess, noise = (randn(4, 6, seed=seed) for seed in range(3))

    def check(timesteps: Tensor) -> None:
        x_t = scheduler.add_noise(x_0, noise, timesteps)
        # The noise that x_t would hold if the guess were right: its target is then what a model with that guess says.
        abar = scheduler.alphas_cumprod[timesteps, None]
        implied = (x_t - abar.sqrt() * guess) / (1 - abar).sqrt()
        target, output = (scheduler.training_target(*pair, timesteps) for pair in ((x_0, noise), (guess, implied)))
        loss = scheduler.min_snr_weights(timesteps, 2.0) * simple_loss(output, target)
        expected = (abar / (1 - abar)).flatten().clamp(max=2) * ((x_0 - guess) ** 2).mean(1)
        torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)

    check(torch.tensor([0, 1, 50, 99]))
    scheduler.set_timesteps(10)
    check(torch.tensor([0, 10, 50, 90]))
    one = scheduler.min_snr_weights(torch.tensor([50]))
    assert one.shape == (1,)
    assert scheduler.min_snr_weights(50).shape == ()
    assert scheduler.min_snr_weights(50).item() == one.item()
    assert scheduler.min_snr_weights(torch.tensor([0, 50], device="meta")).shape == (2,)
    with pytest.raises(ValueError, match=r"0 \.\.\. 99"):
        scheduler.min_snr_weights(torch.tensor([0, 100]))


# --- times ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [uniform_timesteps, stratified_timesteps])
@pytest.mark.parametrize(("batch_size", "num_timesteps"), [(1, 1), (1, 1000), (7, 3), (64, 1000), (1000, 10)])
def test_times_are_indices_of_the_chain(draw: object, batch_size: int, num_timesteps: int, generator: torch.Generator):
    for _ in range(20):
        times = draw(batch_size, num_timesteps, generator=generator)
        assert times.shape == (batch_size,)
        assert times.dtype == torch.int64
        assert times.min() >= 0
        assert times.max() < num_timesteps


@pytest.mark.parametrize("draw", [uniform_timesteps, stratified_timesteps])
def test_times_follow_from_the_generator(draw: object):
    one, same, other = (draw(8, 1000, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("draw", [uniform_timesteps, stratified_timesteps])
def test_times_are_drawn_on_the_device_asked_for(draw: object):
    assert draw(8, 1000, device="meta").device.type == "meta"
    assert draw(8, 1000, device=torch.device("cpu")).device.type == "cpu"


@pytest.mark.parametrize("draw", [uniform_timesteps, stratified_timesteps])
def test_all_times_are_equally_likely(draw: object, generator: torch.Generator):
    counts = torch.zeros(20)
    for _ in range(3000):
        times = draw(4, 20, generator=generator)
        # One at random: those of one batch are not independent of each other.
        chosen = times[torch.randint(4, (), generator=generator)]
        counts[chosen] += 1
    assert chisquare(counts).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("draw", [uniform_timesteps, stratified_timesteps])
@pytest.mark.parametrize("position", [0, 3])
def test_the_time_of_every_position_in_the_batch_is_uniform(draw: object, position: int, generator: torch.Generator):
    # A loader that does not shuffle must not always give its first example the first times.
    counts = torch.zeros(20)
    for _ in range(2000):
        counts[draw(4, 20, generator=generator)[position]] += 1
    assert chisquare(counts).pvalue > SIGNIFICANCE


@pytest.mark.parametrize(("batch_size", "num_timesteps"), [(4, 20), (5, 1000), (64, 1000), (100, 10), (7, 7), (8, 20)])
def test_a_batch_has_one_time_in_every_stratum(batch_size: int, num_timesteps: int, generator: torch.Generator):
    for _ in range(50):
        times = stratified_timesteps(batch_size, num_timesteps, generator=generator).sort().values
        for j, t in enumerate(times.tolist()):
            # u in [j/B, (j + 1)/B) has the time floor(u T)
            assert math.floor(j * num_timesteps / batch_size) <= t
            assert t < math.ceil((j + 1) * num_timesteps / batch_size)


def test_a_batch_of_all_times_has_each_once(generator: torch.Generator):
    for _ in range(20):
        assert stratified_timesteps(50, 50, generator=generator).sort().values.tolist() == list(range(50))


def test_independent_times_are_independent(generator: torch.Generator):
    counts = torch.zeros(5, 5)
    for _ in range(2000):
        first, second = uniform_timesteps(2, 5, generator=generator).tolist()
        counts[first, second] += 1
    assert chisquare(counts.flatten()).pvalue > SIGNIFICANCE


def test_stratified_times_lower_the_variance_of_a_batchs_loss(generator: torch.Generator):
    loss = torch.linspace(1, 0, 1000) ** 4  # falls with time, as the terms of the bound do
    spread = {
        draw: torch.stack([loss[draw(32, 1000, generator=generator)].mean() for _ in range(300)]).std()
        for draw in (uniform_timesteps, stratified_timesteps)
    }
    assert spread[stratified_timesteps] < 0.2 * spread[uniform_timesteps]


# --- times by importance ----------------------------------------------------------------------------------------


def trained_sampler(losses: Tensor, updates: int = 400, **kwargs: object) -> ImportanceTimesteps:
    """A sampler that has seen every index's loss many times."""
    sampler = ImportanceTimesteps(len(losses), **kwargs)
    for _ in range(updates):
        sampler.update(torch.arange(len(losses)), losses)
    return sampler


LOSSES = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0, 0.5, 0.5, 0.25])


def test_importance_is_uniform_before_it_knows_better(generator: torch.Generator):
    sampler = ImportanceTimesteps(8, warmup=3)
    for _ in range(3):
        assert torch.equal(sampler.probabilities, torch.full((8,), 1 / 8))
        index, weight = sampler.sample(4, generator)
        assert index.dtype == torch.int64
        assert index.shape == (4,)
        assert weight.tolist() == [1.0] * 4
        sampler.update(torch.arange(8), LOSSES)
    assert sampler.probabilities.max() > 1 / 8


@pytest.mark.parametrize("uniform_share", [0.2, 0.5, 1.0])
def test_importance_is_the_root_of_the_second_moment_mixed_with_a_uniform_share(uniform_share: float):
    sampler = trained_sampler(LOSSES, uniform_share=uniform_share)
    expected = uniform_share / 8 + (1 - uniform_share) * LOSSES / LOSSES.sum()
    torch.testing.assert_close(sampler.probabilities, expected, rtol=1e-4, atol=0)
    assert sampler.probabilities.sum().item() == pytest.approx(1, rel=1e-6, abs=0)


def test_second_moments_are_running_means_that_decay_per_loss():
    sampler = ImportanceTimesteps(4, decay=0.9)
    sampler.update(torch.tensor([1, 1, 3]), torch.tensor([2.0, 4.0, 3.0]))
    kept = 0.9**2
    assert sampler.second_moments.tolist() == pytest.approx(
        [1, kept + (1 - kept) * 10, 1, 0.9 + 0.1 * 9], rel=1e-6, abs=0
    )


def test_neighbouring_indices_share_a_bin():
    sampler = trained_sampler(torch.linspace(2, 1, 1000), updates=60)
    assert len(sampler.second_moments) == 40
    assert sampler.probabilities.shape == (1000,)
    assert len(sampler.probabilities.unique()) == 40
    assert sampler.probabilities.sum().item() == pytest.approx(1, rel=1e-5, abs=0)
    assert (sampler.probabilities.diff() <= 0).all()


def test_weights_keep_the_mean_loss_what_it_is_for_uniform_times(generator: torch.Generator):
    sampler = trained_sampler(LOSSES)
    index, weight = sampler.sample(5, generator)
    torch.testing.assert_close(weight * sampler.probabilities[index] * 8, torch.ones(5))
    batches = [sampler.sample(4, generator) for _ in range(2000)]
    means = torch.stack([(weight * LOSSES[index]).mean() for index, weight in batches])
    assert abs(means.mean() - LOSSES.mean()) <= 4 * means.std() / math.sqrt(2000)


@pytest.mark.parametrize("position", [0, 3])
def test_times_by_importance_follow_their_density_at_every_position(position: int, generator: torch.Generator):
    sampler = trained_sampler(LOSSES)
    counts = torch.zeros(8)
    for _ in range(2000):
        counts[sampler.sample(4, generator)[0][position]] += 1
    assert (
        chisquare(counts.double(), 2000 * sampler.probabilities.double() / sampler.probabilities.double().sum()).pvalue
        > SIGNIFICANCE
    )


def test_importance_lowers_the_variance_of_the_mean_loss(generator: torch.Generator):
    losses = torch.linspace(1, 0.01, 1000) ** 6
    sampler = trained_sampler(losses, updates=60)
    by_importance = [sampler.sample(1, generator) for _ in range(1000)]
    weighted = torch.stack([(weight * losses[index]).mean() for index, weight in by_importance])
    uniform = torch.stack([losses[uniform_timesteps(1, 1000, generator=generator)].mean() for _ in range(1000)])
    assert weighted.std() < 0.5 * uniform.std()


def drawn(sampler: ImportanceTimesteps, generator: torch.Generator, updates: int) -> list[Tensor]:
    """What a sampler draws and becomes over some updates."""
    values = []
    for _ in range(updates):
        index, weights = sampler.sample(16, generator)
        sampler.update(index, torch.rand(16, generator=generator) * (100 - index))
        values += [index, weights, sampler.second_moments]
    return values


@pytest.mark.parametrize("through_bytes", [False, True])
@pytest.mark.parametrize("updates", [0, 3, 20])
def test_a_sampler_restored_on_the_way_goes_on_as_if_it_had_not_stopped(
    updates: int, through_bytes: bool, generator: torch.Generator
):
    straight, restored = (ImportanceTimesteps(100, num_bins=7, warmup=5) for _ in range(2))
    drawn(straight, generator, updates)
    state, place = straight.state_dict(), generator.get_state()
    if through_bytes:
        state = safetensors.torch.load(safetensors.torch.save(state))
    expected = drawn(straight, generator, 10)
    drawn(restored, torch.Generator().manual_seed(1), 2)  # what it was before is forgotten
    restored.load_state_dict(state)
    generator.set_state(place)
    assert all(torch.equal(a, b) for a, b in zip(drawn(restored, generator, 10), expected, strict=True))
    assert restored.num_updates == straight.num_updates == updates + 10
    assert type(restored.num_updates) is int


def test_a_samplers_state_is_its_own():
    sampler = trained_sampler(LOSSES, updates=3)
    state = sampler.state_dict()
    assert {name: (value.dtype, list(value.shape)) for name, value in state.items()} == {
        "second_moments": (torch.float32, [8]),
        "num_updates": (torch.int64, []),
    }
    other = ImportanceTimesteps(8)
    other.load_state_dict(state)
    for value in state.values():
        value.zero_()
    for each in (sampler, other):
        assert (each.second_moments > 0).all()
        assert each.num_updates == 3


def test_a_sampler_stays_on_its_device_and_reads_nothing_back():
    sampler = ImportanceTimesteps(8, device="meta", warmup=0)  # has no values to read
    sampler.load_state_dict(trained_sampler(LOSSES, updates=3).state_dict())
    index, weights = sampler.sample(4)
    sampler.update(index, weights)
    assert {each.device.type for each in (sampler.second_moments, index, weights)} == {"meta"}
    assert sampler.num_updates == 4


def test_the_state_of_another_sampler_is_refused():
    with pytest.raises(ValueError, match=r"`state`.*40 bins.*\[8\].*`num_bins`"):
        ImportanceTimesteps(1000).load_state_dict(ImportanceTimesteps(8).state_dict())
    with pytest.raises(ValueError, match=r"`state`.*'second_moments'"):
        ImportanceTimesteps(8).load_state_dict({"second_moments": torch.ones(8)})


@pytest.mark.parametrize("share", [0, -0.1, 1.1, math.nan])
def test_a_uniform_share_outside_0_to_1_is_refused(share: float):
    with pytest.raises(ValueError, match=r"`uniform_share` must be in \(0, 1\]"):
        ImportanceTimesteps(10, uniform_share=share)
