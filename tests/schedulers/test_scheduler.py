# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperScheduler`: its additions to stock's interface, its accuracy in every dtype, and errors for bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpm_hf import DDPMPaperScheduler, NoiseSchedule


CHAINS = {"all": {}, "50": {"num_inference_steps": 50}, "custom": {"timesteps": [980, 700, 333, 100, 12, 3]}}
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "mean")
LOG_2 = math.log(2)


class Truth(NamedTuple):
    """The coefficients of one pair of visited times s < t, from the definitions, in Python's floats."""

    abar_t: float
    beta: float  # 1 − ᾱ_t/ᾱ_s
    c_x0: float  # Ho et al. 2020, Eq. 7
    c_xt: float
    posterior_variance: float


def truth(chain: list[int]) -> dict[int, Truth]:
    """`Truth` for every timestep of a chain on the linear schedule, which is ascending here."""
    abar = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
    pairs = {}
    for s, t in zip([-1, *chain[:-1]], chain, strict=True):
        abar_s, abar_t = float(abar[s + 1]), float(abar[t + 1])
        beta = 1 - abar_t / abar_s
        pairs[t] = Truth(
            abar_t=abar_t,
            beta=beta,
            c_x0=math.sqrt(abar_s) * beta / (1 - abar_t),
            c_xt=math.sqrt(abar_t / abar_s) * (1 - abar_s) / (1 - abar_t),
            posterior_variance=beta * (1 - abar_s) / (1 - abar_t),
        )
    return pairs


def scheduler_on(chain: str, **options: object) -> DDPMPaperScheduler:
    scheduler = DDPMPaperScheduler(**options)
    if CHAINS[chain]:
        scheduler.set_timesteps(**CHAINS[chain])
    return scheduler


def on_chains(*variance_types: str) -> list[tuple[str, str]]:
    """The variance types on the chains that they can walk: "learned" is a variance of neighbouring times."""
    return [(kind, chain) for kind in variance_types for chain in CHAINS if kind != "learned" or chain == "all"]


def ascending(scheduler: DDPMPaperScheduler) -> list[int]:
    return scheduler.timesteps.tolist()[::-1]


def samples(*shape: int, count: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, *shape, generator=generator, dtype=torch.float64).to(dtype))


def per_row(values: list[float], x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1))


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


# --- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_levels", [2, 17, 65536, None])
@pytest.mark.parametrize("first_variance", [None, "posterior", "beta", "measured", 0.01])
def test_own_arguments_survive_a_file(num_levels, first_variance, tmp_path):
    DDPMPaperScheduler(num_levels=num_levels, first_variance=first_variance).save_pretrained(tmp_path)
    loaded = DDPMPaperScheduler.from_pretrained(tmp_path)
    assert (loaded.num_levels, loaded.first_variance) == (num_levels, first_variance)
    assert loaded.process.first_variance == first_variance


def test_own_arguments_travel_under_one_private_key():
    config = DDPMPaperScheduler(num_levels=17).config
    assert config["_ddpm_hf"] == {"num_levels": 17, "first_variance": None}
    assert "num_levels" not in config
    assert "first_variance" not in config


def test_a_loaded_configuration_is_the_saved_one_and_nothing_more(tmp_path):
    saved = DDPMPaperScheduler(beta_schedule="squaredcos_cap_v2", num_levels=17)
    saved.save_pretrained(tmp_path)
    expected = {key: value for key, value in saved.config.items() if key != "_use_default_values"}
    assert dict(DDPMPaperScheduler.from_pretrained(tmp_path).config) == expected


def test_own_arguments_may_be_replaced_on_loading(tmp_path):
    DDPMPaperScheduler(num_levels=17).save_pretrained(tmp_path)
    loaded = DDPMPaperScheduler.from_pretrained(tmp_path, num_levels=None, first_variance="beta")
    assert (loaded.num_levels, loaded.first_variance) == (None, "beta")
    expected = truth([0])[0].beta
    assert loaded.process.table.log_variance_small[0].exp().item() == pytest.approx(expected, rel=1e-9)


def test_unknown_own_argument_is_named():
    config = dict(DDPMPaperScheduler().config)
    config["_ddpm_hf"] = {"num_levels": 256, "first_variance": None, "from_the_future": 1}
    with pytest.raises(ValueError, match=r"_ddpm_hf.*from_the_future"):
        DDPMPaperScheduler.from_config(config)


def test_missing_own_argument_takes_its_default():
    config = dict(DDPMPaperScheduler().config)
    config["_ddpm_hf"] = {"num_levels": 17}
    loaded = DDPMPaperScheduler.from_config(config)
    assert (loaded.num_levels, loaded.first_variance) == (17, None)


@pytest.mark.parametrize("value", [None, 5, ["num_levels"]])
def test_private_key_that_is_no_dictionary_is_named(value):
    config = dict(DDPMPaperScheduler().config)
    config["_ddpm_hf"] = value
    with pytest.raises(ValueError, match="_ddpm_hf"):
        DDPMPaperScheduler.from_config(config)


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule.linear_log_snr(1000, 6.5, -9.0),
        NoiseSchedule.cosine(4000),
        NoiseSchedule.linear(20, 0.1, 0.5).rescale_zero_terminal_snr(),
    ],
    ids=["linear log-SNR", "cosine", "zero terminal SNR"],
)
def test_any_schedule_survives_a_file_to_the_last_bit_of_its_betas(schedule: NoiseSchedule, tmp_path):
    saved = DDPMPaperScheduler.from_schedule(schedule, prediction_type="v_prediction", num_levels=17)
    assert torch.allclose(saved.betas, schedule.betas, rtol=1e-13, atol=0)
    assert len(saved) == saved.config.num_train_timesteps == schedule.T
    saved.save_pretrained(tmp_path)
    in_the_file = json.loads((tmp_path / "scheduler_config.json").read_text())["trained_betas"]
    assert in_the_file == schedule.betas.tolist()
    loaded = DDPMPaperScheduler.from_pretrained(tmp_path)
    assert torch.equal(loaded.betas, saved.betas)
    assert torch.equal(loaded.alphas_cumprod, saved.alphas_cumprod)
    assert (loaded.config.prediction_type, loaded.num_levels) == ("v_prediction", 17)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_trained_betas_may_be_a_list_or_an_array(kind: Callable):
    scheduler = DDPMPaperScheduler(num_train_timesteps=3, trained_betas=kind([0.1, 0.2, 0.5]))
    assert len(scheduler) == 3
    assert scheduler.timesteps.tolist() == [2, 1, 0]
    expected = 1 - np.cumprod(1 - np.asarray(kind([0.1, 0.2, 0.5]), dtype=np.float64))
    np.testing.assert_allclose(1 - scheduler.alphas_cumprod.numpy(), expected, rtol=1e-14)


def test_number_of_trained_betas_is_the_number_of_timesteps_that_the_configuration_states():
    scheduler = DDPMPaperScheduler(trained_betas=[0.1, 0.2, 0.5])
    assert len(scheduler) == scheduler.config.num_train_timesteps == 3


# --- the forward process --------------------------------------------------------------------------------------------


def ordered_bits(x: Tensor) -> Tensor:
    """Neighbouring 16-bit floats as neighbouring integers."""
    bits = x.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_noising_is_exact_at_every_timestep(method: str, dtype: torch.dtype):
    x_0, eps = samples(1000, 64, dtype=dtype)
    abar = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[:, None]
    if method == "add_noise":
        first, second = abar.sqrt() * x_0.double(), (1 - abar).sqrt() * eps.double()
    else:
        first, second = abar.sqrt() * eps.double(), -(1 - abar).sqrt() * x_0.double()
    exact = first + second
    result = getattr(DDPMPaperScheduler(), method)(x_0, eps, torch.arange(1000))
    assert result.dtype == dtype
    if dtype == torch.float64:
        torch.testing.assert_close(result, exact, rtol=0, atol=1e-12)
    elif dtype == torch.float32:
        # Both coefficients, both products and the sum are rounded once each.
        bound = 2 * torch.finfo(dtype).eps * (first.abs() + second.abs())
        assert bool(((result.double() - exact).abs() <= bound).all())
    else:
        off = (ordered_bits(result) - ordered_bits(exact.to(dtype))).abs()
        # More than one neighbour away only where the terms cancel, as float32, in which they are added, does too.
        cancels = exact.abs() < 2**-10 * (first.abs() + second.abs())
        assert int(off[~cancels].max()) <= 1
        assert float((off == 0).double().mean()) > 0.99


def test_noising_accepts_an_int_and_every_shape_of_tensor():
    scheduler = DDPMPaperScheduler()
    x_0, eps = samples(4, 3, 2, 2, dtype=torch.float32)
    one = scheduler.add_noise(x_0, eps, 7)
    for t in (torch.tensor(7), torch.tensor([7]), torch.tensor([7] * 4), torch.tensor([7] * 4, dtype=torch.int32)):
        assert torch.equal(scheduler.add_noise(x_0, eps, t), one)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("chain", CHAINS)
def test_q_mean_variance(chain: str, dtype: torch.dtype):
    scheduler = scheduler_on(chain)
    visited = ascending(scheduler)
    pairs = truth(visited)
    (x_0,) = samples(len(visited), 2, 3, count=1, dtype=dtype)
    mean, variance, log_variance = scheduler.q_mean_variance(x_0, torch.tensor(visited))
    abar = per_row([pairs[t].abar_t for t in visited], x_0)
    tolerance = {"rtol": 1e-10, "atol": 0} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-6}
    assert mean.dtype == variance.dtype == log_variance.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert mean.shape == x_0.shape
    assert variance.shape == log_variance.shape == (len(visited), 1, 1)
    torch.testing.assert_close(mean.double(), abar.sqrt() * x_0.double(), **tolerance)
    torch.testing.assert_close(variance.double(), 1 - abar, **tolerance)
    torch.testing.assert_close(log_variance.double(), torch.log(1 - abar), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("chain", CHAINS)
def test_q_posterior_mean_variance_follows_the_visited_timesteps(chain: str, dtype: torch.dtype):
    scheduler = scheduler_on(chain)
    visited = ascending(scheduler)
    pairs = truth(visited)
    x_0, x_t = samples(len(visited), 2, 3, dtype=dtype)
    mean, variance, log_variance = scheduler.q_posterior_mean_variance(x_0, x_t, torch.tensor(visited))
    c_x0, c_xt = (per_row([getattr(pairs[t], name) for t in visited], x_0) for name in ("c_x0", "c_xt"))
    expected = per_row([pairs[t].posterior_variance for t in visited], x_0)
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-6}
    assert mean.dtype == variance.dtype == log_variance.dtype == (dtype if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(mean.double(), c_x0 * x_0.double() + c_xt * x_t.double(), **tolerance)
    torch.testing.assert_close(variance.double(), expected, **tolerance)
    torch.testing.assert_close(log_variance[1:].double(), expected[1:].log(), **tolerance)
    assert variance[0] == 0
    assert log_variance[0] == -math.inf


# --- the reverse process --------------------------------------------------------------------------------------------


def expected_log_variance(pairs: dict[int, Truth], variance_type: str, raw: Tensor) -> Tensor:
    """log σ² of every visited timestep: the first β̃, which is 0, is the second's, as in the original code."""
    visited = list(pairs)
    small = [math.log(pairs[t].posterior_variance) for t in visited[1:]]
    small = per_row([small[0], *small], raw)
    large = per_row([math.log(pairs[t].beta) for t in visited], raw)
    if variance_type == "learned":
        return raw
    if variance_type == "learned_range":
        nu = (raw + 1) / 2
        return nu * large + (1 - nu) * small
    return (small if variance_type.startswith("fixed_small") else large).expand_as(raw)


@pytest.mark.parametrize(
    ("variance_type", "chain"),
    on_chains("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"),
)
def test_p_mean_variance_follows_the_visited_timesteps(variance_type: str, chain: str):
    scheduler = scheduler_on(chain, variance_type=variance_type, prediction_type="sample", clip_sample_range=0.5)
    visited = ascending(scheduler)
    pairs = truth(visited)
    output, x_t, raw = samples(len(visited), 2, 3, count=3)
    model_output = torch.cat([output, raw], dim=1) if variance_type.startswith("learned") else output
    p = scheduler.p_mean_variance(model_output, x_t, torch.tensor(visited))
    x_0 = output.clamp(-0.5, 0.5)
    c_x0, c_xt = (per_row([getattr(pairs[t], name) for t in visited], x_t) for name in ("c_x0", "c_xt"))
    torch.testing.assert_close(p.pred_original_sample, x_0, rtol=0, atol=0)
    torch.testing.assert_close(p.mean, c_x0 * x_0 + c_xt * x_t, rtol=1e-10, atol=1e-12)
    expected = expected_log_variance(pairs, variance_type, raw)
    torch.testing.assert_close(p.log_variance.expand_as(x_t), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(p.variance.expand_as(x_t), expected.exp(), rtol=1e-9, atol=0)
    # One timestep for the whole batch is the same numbers.
    t = visited[len(visited) // 2]
    single = scheduler.p_mean_variance(model_output, x_t, t)
    again = scheduler.p_mean_variance(model_output, x_t, torch.full((len(visited),), t))
    for mine, theirs in zip(single, again, strict=True):
        torch.testing.assert_close(mine.expand_as(x_t), theirs.expand_as(x_t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_p_mean_variance_is_at_least_float32_and_step_keeps_the_dtype_of_the_sample(dtype: torch.dtype):
    scheduler = DDPMPaperScheduler()
    x_t, output = samples(2, 1, 4, dtype=dtype)
    p = scheduler.p_mean_variance(output, x_t, torch.tensor([500, 1]))
    assert {x.dtype for x in p} == {torch.promote_types(dtype, torch.float32)}
    step = scheduler.step(output, 500, x_t)
    assert step.prev_sample.dtype == step.pred_original_sample.dtype == dtype


@pytest.mark.parametrize("t", [5, torch.tensor([5, 5])], ids=["one", "batch"])
def test_half_precision_model_output_leaves_a_float32_sample_in_float32(t: int | Tensor):
    """As under autocast: only the model's output and the noise, which stock draws in its dtype, are rounded."""
    scheduler = DDPMPaperScheduler()
    x_t, output = samples(2, 1, 4, dtype=torch.float32)
    half = output.bfloat16()
    step = scheduler.step(half, t, x_t, generator=generators(1)[0])
    p = scheduler.p_mean_variance(half.float(), x_t, t)
    noise = torch.randn(2, 1, 4, generator=generators(1)[0], dtype=torch.bfloat16).float()
    assert step.prev_sample.dtype == step.pred_original_sample.dtype == torch.float32
    torch.testing.assert_close(step.prev_sample, p.mean + p.variance.sqrt() * noise, rtol=0, atol=1e-6)


@pytest.mark.parametrize("t", [0, 1, 500])
def test_p_mean_variance_of_one_timestep_lies_where_the_sample_does(t: int):
    sample = torch.empty(2, 1, 4, device="meta")
    p = DDPMPaperScheduler().p_mean_variance(sample, sample, t)
    assert {x.device for x in p} == {sample.device}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_training_target_is_what_determines_x_0(prediction_type: str, chain: str):
    """The perfect model: its x̂_0 is x_0, its mean the posterior's, and its terms of the bound 0."""
    scheduler = scheduler_on(chain, prediction_type=prediction_type, clip_sample=False)
    visited = torch.tensor(ascending(scheduler))
    x_0, eps = samples(len(visited), 1, 4)
    x_t = scheduler.add_noise(x_0, eps, visited)
    target = scheduler.training_target(x_0, eps, visited)
    assert target.shape == x_0.shape
    assert target.dtype == x_0.dtype
    p = scheduler.p_mean_variance(target, x_t, visited)
    torch.testing.assert_close(p.pred_original_sample, x_0, rtol=0, atol=1e-8)
    torch.testing.assert_close(p.mean, scheduler.q_posterior_mean_variance(x_0, x_t, visited)[0], rtol=0, atol=1e-11)
    loss = scheduler.vlb_loss(target, x_0, x_t, visited)
    assert float(loss[1:].abs().max()) < 1e-12


def test_training_target_is_the_named_quantity():
    x_0, eps = samples(5, 1, 4)
    t = torch.tensor([0, 1, 10, 500, 999])
    pairs = truth(list(range(1000)))
    abar = per_row([pairs[int(i)].abar_t for i in t], x_0)
    x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * eps
    c_x0, c_xt = (per_row([getattr(pairs[int(i)], name) for i in t], x_0) for name in ("c_x0", "c_xt"))
    expected = {
        "epsilon": eps,
        "sample": x_0,
        "v_prediction": abar.sqrt() * eps - (1 - abar).sqrt() * x_0,
        "mean": c_x0 * x_0 + c_xt * x_t,
    }
    for prediction_type, target in expected.items():
        mine = DDPMPaperScheduler(prediction_type=prediction_type).training_target(x_0, eps, t)
        torch.testing.assert_close(mine, target, rtol=0, atol=1e-12)


# --- step -----------------------------------------------------------------------------------------------------------


def test_a_variance_of_neighbouring_timesteps_walks_no_other_chain():
    scheduler = DDPMPaperScheduler(20, variance_type="learned")
    with pytest.raises(ValueError, match=r"'learned' .* all 20 must be visited, but 10"):
        scheduler.set_timesteps(10)
    assert len(scheduler.timesteps) == 20  # as before
    scheduler.set_timesteps(20)


def test_step_takes_one_timestep_as_an_int_or_any_tensor():
    scheduler = DDPMPaperScheduler()
    x_t, output = samples(4, 3, 2, 2, dtype=torch.float32)
    expected = scheduler.step(output, 500, x_t, generator=generators(1)[0])
    for t in (np.int64(500), torch.tensor(500), torch.tensor([500]), torch.tensor([500] * 4)):
        step = scheduler.step(output, t, x_t, generator=generators(1)[0])
        torch.testing.assert_close(step.prev_sample, expected.prev_sample, rtol=0, atol=1e-6)
        torch.testing.assert_close(step.pred_original_sample, expected.pred_original_sample, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("variance_type", "chain"), on_chains("fixed_small", "fixed_large_log", "learned", "learned_range")
)
@pytest.mark.parametrize("constraint", [{}, {"clip_sample": False}, {"thresholding": True, "sample_max_value": 2.0}])
def test_batch_of_different_timesteps_is_every_row_by_itself(chain: str, variance_type: str, constraint: dict):
    scheduler = scheduler_on(chain, variance_type=variance_type, **constraint)
    visited = ascending(scheduler)
    t = torch.tensor([visited[0], visited[1], visited[len(visited) // 2], visited[-1], visited[0]])
    x_t, output, raw = samples(5, 3, 2, 2, count=3)
    model_output = torch.cat([output, raw], dim=1) if variance_type.startswith("learned") else output
    together = scheduler.step(model_output, t, x_t, generator=generators(5))
    for i in range(5):
        row = slice(i, i + 1)
        alone = scheduler.step(model_output[row], int(t[i]), x_t[row], generator=generators(5)[i])
        scale = float(alone.pred_original_sample.abs().max())
        torch.testing.assert_close(together.prev_sample[row], alone.prev_sample, rtol=0, atol=1e-13 * (1 + scale))
        torch.testing.assert_close(
            together.pred_original_sample[row], alone.pred_original_sample, rtol=0, atol=1e-13 * (1 + scale)
        )


def test_step_returns_an_output_or_its_two_fields():
    scheduler = DDPMPaperScheduler()
    x_t, output = samples(2, 1, 4, dtype=torch.float32)
    step = scheduler.step(output, 10, x_t, generator=generators(1)[0])
    fields = scheduler.step(output, 10, x_t, generator=generators(1)[0], return_dict=False)
    assert isinstance(fields, tuple)
    assert torch.equal(fields[0], step.prev_sample)
    assert torch.equal(fields[1], step.pred_original_sample)


def test_generator_decides_the_noise():
    scheduler = DDPMPaperScheduler()
    x_t, output = samples(2, 1, 8, dtype=torch.float32)
    first, second = (scheduler.step(output, 500, x_t, generator=g).prev_sample for g in generators(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, scheduler.step(output, 500, x_t, generator=generators(1)[0]).prev_sample)
    rows = scheduler.step(output, 500, x_t, generator=generators(2)).prev_sample
    assert torch.equal(rows[1:], scheduler.step(output[1:], 500, x_t[1:], generator=generators(2)[1]).prev_sample)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range"])
def test_step_samples_p(variance_type: str):
    """(x_s − μ_θ)/σ over 40 000 elements is standard normal: mean and variance within five standard errors."""
    scheduler = scheduler_on("50", variance_type=variance_type)
    x_t, output, raw = samples(100, 2, 200, count=3)
    model_output = torch.cat([output, raw], dim=1) if variance_type == "learned_range" else output
    p = scheduler.p_mean_variance(model_output, x_t, 500)
    z = (scheduler.step(model_output, 500, x_t, generator=generators(1)[0]).prev_sample - p.mean) / p.variance.sqrt()
    n = z.numel()
    assert abs(float(z.mean())) < 5 / math.sqrt(n)
    assert abs(float(z.var()) - 1) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("chain", CHAINS)
def test_last_visited_timestep_gives_the_mean_and_no_noise(chain: str):
    scheduler = scheduler_on(chain, variance_type="fixed_large")
    t = ascending(scheduler)[0]
    x_t, output = samples(2, 1, 4)
    step = scheduler.step(output, t, x_t)
    torch.testing.assert_close(step.prev_sample, scheduler.p_mean_variance(output, x_t, t).mean, rtol=0, atol=0)
    torch.testing.assert_close(step.prev_sample, step.pred_original_sample, rtol=0, atol=1e-12)


def test_chain_is_followed_after_it_changes():
    scheduler = DDPMPaperScheduler()
    x_t, output = samples(3, 1, 4)
    for chain in ({"num_inference_steps": 10}, {"timesteps": [900, 10]}, {"num_inference_steps": 1000}):
        scheduler.set_timesteps(**chain)
        visited = ascending(scheduler)
        t = torch.tensor([visited[-1]] * 3)
        pair = truth(visited)[visited[-1]]
        mean, variance, _ = scheduler.q_posterior_mean_variance(output, x_t, t)
        torch.testing.assert_close(mean, pair.c_x0 * output + pair.c_xt * x_t, rtol=0, atol=1e-12)
        assert variance.flatten()[0].item() == pytest.approx(pair.posterior_variance, rel=1e-10)


# --- the bound ------------------------------------------------------------------------------------------------------


def expected_vlb(
    pairs: dict[int, Truth],
    variance_type: str,
    x_0: Tensor,
    x_t: Tensor,
    x_hat: Tensor,
    raw: Tensor,
    levels: int | None,
) -> Tensor:
    """Every term by PyTorch's general Gaussian KL, CDF and density, bits/dim."""
    visited = list(pairs)
    c_x0, c_xt = (per_row([getattr(pairs[t], name) for t in visited], x_t) for name in ("c_x0", "c_xt"))
    sigma = (0.5 * expected_log_variance(pairs, variance_type, raw)).exp()
    p = Normal(c_x0 * x_hat + c_xt * x_t, sigma)
    variance = per_row([pairs[t].posterior_variance or 1.0 for t in visited], x_t)
    nats = kl_divergence(Normal(c_x0 * x_0 + c_xt * x_t, variance.sqrt()), p)
    if levels is None:
        nats[0] = -p.log_prob(x_0)[0]
    else:
        half = 1 / (levels - 1)
        upper = torch.where(x_0 > 1 - half, 1.0, p.cdf(x_0 + half))
        lower = torch.where(x_0 < -1 + half, 0.0, p.cdf(x_0 - half))
        nats[0] = -torch.log(upper - lower)[0]
    return nats.flatten(1).mean(1) / LOG_2


@pytest.mark.parametrize("num_levels", [17, None])
@pytest.mark.parametrize(
    ("variance_type", "chain"), on_chains("fixed_small", "fixed_large", "learned", "learned_range")
)
def test_vlb_loss_follows_the_visited_timesteps(variance_type: str, chain: str, num_levels: int | None):
    scheduler = scheduler_on(
        chain, variance_type=variance_type, prediction_type="sample", clip_sample=False, num_levels=num_levels
    )
    visited = ascending(scheduler)
    pairs = truth(visited)
    shape = (len(visited), 2, 3)
    levels = torch.randint(17, shape, generator=torch.Generator().manual_seed(0))
    levels[0, 0] = torch.tensor([0, 8, 16])
    x_0 = levels / 8.0 - 1.0
    x_0 = x_0.double()
    eps, error, raw = samples(*shape, count=3)
    x_t = scheduler.add_noise(x_0, eps, torch.tensor(visited))
    x_hat = x_0 + 0.02 * error
    if variance_type == "learned":  # raw values are log-variances: near those of the chain
        raw = expected_log_variance(pairs, "fixed_large", raw) + 0.3 * raw
    model_output = torch.cat([x_hat, raw], dim=1) if variance_type.startswith("learned") else x_hat
    expected = expected_vlb(pairs, variance_type, x_0, x_t, x_hat, raw, num_levels)
    loss = scheduler.vlb_loss(model_output, x_0, x_t, torch.tensor(visited))
    assert loss.shape == (len(visited),)
    # The general KL subtracts two means that agree to more digits than their difference has.
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-9)
    for i in {0, 1, len(visited) - 1}:
        row = slice(i, i + 1)
        alone = scheduler.vlb_loss(model_output[row], x_0[row], x_t[row], visited[i])
        torch.testing.assert_close(alone, loss[row], rtol=1e-12, atol=1e-14)


def test_vlb_loss_has_one_value_per_example_for_one_timestep():
    scheduler = DDPMPaperScheduler()
    x_0, eps = samples(3, 1, 4, dtype=torch.float32)
    for t in (0, 500):
        for form in (t, torch.tensor(t), torch.tensor([t]), torch.tensor([t] * 3)):
            loss = scheduler.vlb_loss(eps, x_0, scheduler.add_noise(x_0, eps, form), form)
            assert loss.shape == (3,)
            assert loss.dtype in (torch.float32, torch.float64)


@pytest.mark.parametrize("variance_type", ["fixed_small", "learned", "learned_range"])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_vlb_loss_has_the_right_derivative(prediction_type: str, variance_type: str):
    chain = "all" if variance_type == "learned" else "custom"
    scheduler = scheduler_on(
        chain, variance_type=variance_type, prediction_type=prediction_type, clip_sample=False, num_levels=17
    )
    t = torch.tensor(ascending(scheduler)[:: len(scheduler.timesteps) // 6][:6])
    x_0 = torch.linspace(-1, 1, 17, dtype=torch.float64)[torch.arange(12).reshape(6, 1, 2) + 2]
    (eps,) = samples(6, 1, 2, count=1)
    x_t = scheduler.add_noise(x_0, eps, t)
    target = scheduler.training_target(x_0, eps, t)
    if variance_type == "learned":
        target = torch.cat([target, scheduler.q_mean_variance(x_0, t)[2].expand_as(target)], dim=1)
    elif variance_type == "learned_range":
        target = torch.cat([target, torch.zeros_like(target)], dim=1)
    output = (target + 1e-3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda output: scheduler.vlb_loss(output, x_0, x_t, t), (output,), eps=1e-7, atol=1e-3, rtol=1e-4
    )


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range"])
def test_gradients_of_a_far_off_model_are_finite_at_every_timestep(variance_type: str):
    scheduler = DDPMPaperScheduler(variance_type=variance_type)
    x_0, eps = samples(1000, 1, 2, dtype=torch.float32)
    x_0 = x_0.clamp(-1, 1)
    t = torch.arange(1000)
    channels = 2 if variance_type == "learned_range" else 1
    output = torch.full((1000, channels, 2), 50.0, requires_grad=True)
    loss = scheduler.vlb_loss(output, x_0, scheduler.add_noise(x_0, eps, t), t)
    loss.sum().backward()
    assert bool(loss.isfinite().all())
    assert bool(output.grad.isfinite().all())


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_prior_loss_is_that_of_the_first_visited_timestep(chain: str, dtype: torch.dtype):
    scheduler = scheduler_on(chain)
    visited = ascending(scheduler)
    abar = truth(visited)[visited[-1]].abar_t
    (x_0,) = samples(3, 1, 4, count=1, dtype=dtype)
    one = torch.ones((), dtype=torch.float64)
    q = Normal(math.sqrt(abar) * x_0.double(), math.sqrt(1 - abar) * one)
    expected = kl_divergence(q, Normal(0 * one, one)).flatten(1).mean(1) / LOG_2
    loss = scheduler.prior_loss(x_0)
    assert loss.shape == (3,)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-9, atol=1e-14)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("beta_schedule", "cosine"),
        ("variance_type", "other"),
        ("prediction_type", "score"),
        ("timestep_spacing", "karras"),
        ("num_train_timesteps", 0),
        ("num_train_timesteps", -3),
        ("num_train_timesteps", 1000.0),
        ("num_train_timesteps", True),
        ("beta_start", 0.0),
        ("beta_start", -0.1),
        ("beta_start", math.nan),
        ("beta_end", 2.0),
        ("beta_end", math.inf),
        ("trained_betas", [0.1, 2.0]),
        ("trained_betas", [0.1, 0.0]),
        ("trained_betas", [0.1, math.nan]),
        ("trained_betas", [1.0, 0.1]),
        ("trained_betas", [[0.1, 0.2]]),
        ("trained_betas", []),
        ("steps_offset", 0.5),
        ("clip_sample_range", 0.0),
        ("clip_sample_range", -1.0),
        ("clip_sample_range", math.nan),
        ("sample_max_value", 0.0),
        ("dynamic_thresholding_ratio", 0.0),
        ("dynamic_thresholding_ratio", 1.5),
        ("num_levels", 1),
        ("num_levels", 256.0),
        ("num_levels", "256"),
        ("first_variance", 0.0),
        ("first_variance", -1.0),
        ("first_variance", math.nan),
        ("first_variance", math.inf),
        ("first_variance", "small"),
        ("first_variance", [0.1]),
    ],
)
def test_argument_of_the_constructor_out_of_its_range_is_named(argument: str, value: object):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        DDPMPaperScheduler(**{argument: value})


def test_rescaling_a_schedule_of_one_step_is_refused():
    with pytest.raises(ValueError, match="`rescale_betas_zero_snr`"):
        DDPMPaperScheduler(num_train_timesteps=1, rescale_betas_zero_snr=True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "`num_inference_steps`.*`timesteps`"),
        ({"num_inference_steps": 5, "timesteps": [3, 0]}, "`num_inference_steps`.*`timesteps`"),
        ({"num_inference_steps": 0}, "`num_inference_steps`.*0"),
        ({"num_inference_steps": -1}, "`num_inference_steps`.*-1"),
        ({"num_inference_steps": 1001}, "`num_inference_steps`.*1001"),
        ({"num_inference_steps": 10.0}, "`num_inference_steps`.*10.0"),
        ({"num_inference_steps": True}, "`num_inference_steps`.*True"),
        ({"timesteps": []}, "`timesteps`"),
        ({"timesteps": [1000, 0]}, "`timesteps`"),
        ({"timesteps": [5, -1]}, "`timesteps`"),
        ({"timesteps": [5, 7, 0]}, "`timesteps`"),
        ({"timesteps": [5, 5, 0]}, "`timesteps`"),
        ({"timesteps": [5.0, 0.0]}, "`timesteps`.*5.0"),
        ({"timesteps": 5}, "`timesteps`.*5"),
    ],
)
def test_bad_chain_is_named_and_leaves_the_old_one(arguments: dict, named: str):
    scheduler = DDPMPaperScheduler()
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match=named):
        scheduler.set_timesteps(**arguments)
    assert len(scheduler.timesteps) == 10
    assert (scheduler.num_inference_steps, scheduler.custom_timesteps) == (10, False)


X = torch.zeros(4, 3, 2, 2)
METHODS: dict[str, Callable[..., object]] = {
    "add_noise": lambda s, t, x: s.add_noise(x, x, t),
    "get_velocity": lambda s, t, x: s.get_velocity(x, x, t),
    "q_mean_variance": lambda s, t, x: s.q_mean_variance(x, t),
    "q_posterior_mean_variance": lambda s, t, x: s.q_posterior_mean_variance(x, x, t),
    "p_mean_variance": lambda s, t, x: s.p_mean_variance(x, x, t),
    "step": lambda s, t, x: s.step(x, t, x),
    "vlb_loss": lambda s, t, x: s.vlb_loss(x, x, x, t),
    "training_target": lambda s, t, x: s.training_target(x, x, t),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "timesteps",
    [1000, -1, 2.5, torch.tensor(1000), torch.tensor([0, 1, 2, 1000]), torch.tensor([-5, 0, 1, 2]), "five"],
    ids=str,
)
def test_timestep_that_does_not_exist_is_refused(method: str, timesteps: object):
    scheduler = DDPMPaperScheduler(prediction_type="mean" if method == "training_target" else "epsilon")
    with pytest.raises(ValueError, match=r"[Tt]imestep"):
        METHODS[method](scheduler, timesteps, X)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "timesteps",
    [torch.tensor([0, 1, 2]), torch.zeros(0, dtype=torch.long), torch.tensor([0.0, 1.0, 2.0, 3.0])],
    ids=["three for four", "none", "floats"],
)
def test_timesteps_that_do_not_fit_the_batch_are_named(method: str, timesteps: Tensor):
    scheduler = DDPMPaperScheduler(prediction_type="mean" if method == "training_target" else "epsilon")
    with pytest.raises(ValueError, match=r"`timesteps?`"):
        METHODS[method](scheduler, timesteps, X)


@pytest.mark.parametrize("method", ["q_posterior_mean_variance", "p_mean_variance", "step", "vlb_loss"])
@pytest.mark.parametrize("timesteps", [999, torch.tensor([0, 20, 40, 41])], ids=["one", "batch"])
def test_timestep_that_the_chain_does_not_visit_is_refused(method: str, timesteps: object):
    scheduler = scheduler_on("50")
    with pytest.raises(ValueError, match=r"(999|41).*set_timesteps"):
        METHODS[method](scheduler, timesteps, X)


# (method, argument): a call with the given tensor in that argument's place.
ARGUMENTS: dict[tuple[str, str], Callable[..., object]] = {
    ("add_noise", "original_samples"): lambda s, x: s.add_noise(x, X, 5),
    ("add_noise", "noise"): lambda s, x: s.add_noise(X, x, 5),
    ("get_velocity", "sample"): lambda s, x: s.get_velocity(x, X, 5),
    ("get_velocity", "noise"): lambda s, x: s.get_velocity(X, x, 5),
    ("q_mean_variance", "original_samples"): lambda s, x: s.q_mean_variance(x, 5),
    ("q_posterior_mean_variance", "original_samples"): lambda s, x: s.q_posterior_mean_variance(x, X, 5),
    ("q_posterior_mean_variance", "noisy_samples"): lambda s, x: s.q_posterior_mean_variance(X, x, 5),
    ("p_mean_variance", "model_output"): lambda s, x: s.p_mean_variance(x, X, 5),
    ("p_mean_variance", "noisy_samples"): lambda s, x: s.p_mean_variance(X, x, 5),
    ("step", "model_output"): lambda s, x: s.step(x, 5, X),
    ("step", "sample"): lambda s, x: s.step(X, 5, x),
    ("vlb_loss", "model_output"): lambda s, x: s.vlb_loss(x, X, X, 5),
    ("vlb_loss", "original_samples"): lambda s, x: s.vlb_loss(X, x, X, 5),
    ("vlb_loss", "noisy_samples"): lambda s, x: s.vlb_loss(X, X, x, 5),
    ("prior_loss", "original_samples"): lambda s, x: s.prior_loss(x),
}


@pytest.mark.parametrize(("method", "argument"), ARGUMENTS)
def test_integer_samples_are_named(method: str, argument: str):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        ARGUMENTS[method, argument](DDPMPaperScheduler(), X.to(torch.uint8))


@pytest.mark.parametrize(
    ("method", "argument"), [key for key in ARGUMENTS if key[0] not in ("q_mean_variance", "prior_loss")]
)
def test_samples_of_another_shape_are_named(method: str, argument: str):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        ARGUMENTS[method, argument](DDPMPaperScheduler(), X[:, :, :1])


def test_list_of_generators_of_the_wrong_length_is_named():
    with pytest.raises(ValueError, match="`generator`"):
        DDPMPaperScheduler().step(X, 500, X, generator=generators(3))
