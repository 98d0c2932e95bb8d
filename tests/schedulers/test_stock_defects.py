# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The errors of `diffusers.DDPMScheduler`, case by case, which `DDPMPaperScheduler` must not have.

The assertions are only about our own scheduler. Tests that also run stock print its results (`pytest -rP`), so that a
correction in diffusers does not break them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm_hf import DDPMPaperScheduler


COSINE = "squaredcos_cap_v2"


def exact_abar(beta_schedule: str = "linear") -> np.ndarray:
    """ᾱ_0 … ᾱ_1000 from the definition."""
    if beta_schedule == "linear":
        return np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
    curve = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.concatenate([[1.0], np.cumprod(np.maximum(curve[1:] / curve[:-1], 0.001))])


def exact_variances(t: int) -> tuple[float, float]:
    """β and β̃ of the linear schedule at diffusers' timestep t."""
    abar = exact_abar()
    beta = 1 - abar[t + 1] / abar[t]
    return beta, beta * (1 - abar[t]) / (1 - abar[t + 1])


def pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    sample, other = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return sample.to(dtype), other.to(dtype)


def stock_does(action: Callable[[], object]) -> None:
    """Print what stock makes of the same case, for the reader alone."""
    try:
        print("stock:", action())
    except Exception as error:  # whatever it raises, the test is not about it
        print("stock:", type(error).__name__, error)


def noise_added(scheduler, model_output: Tensor, t: int, x_t: Tensor) -> Tensor:
    """What `step` adds to the mean, from the same generator with which the noise itself can be drawn again."""
    sampled = scheduler.step(model_output, t, x_t, generator=torch.Generator().manual_seed(1)).prev_sample
    return sampled - scheduler.p_mean_variance(model_output, x_t, t).mean


# --- noising in half precision --------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta_schedule", ["linear", COSINE])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_noise_is_never_lost_next_to_the_data(dtype: torch.dtype, beta_schedule: str):
    """Around x_0 = 0 nothing hides the noise: its standard deviation is √(1 − ᾱ) to the precision of the dtype."""
    t = torch.arange(1000)
    x_0, eps = torch.zeros(1000, 16, dtype=dtype), torch.ones(1000, 16, dtype=dtype)
    expected = torch.from_numpy(np.sqrt(1 - exact_abar(beta_schedule)[1:]))[:, None].expand(1000, 16)
    stock = DDPMScheduler(beta_schedule=beta_schedule).add_noise(x_0, eps, t)
    print("stock adds no noise at", t[(stock == 0).all(dim=1)].tolist())
    noisy = DDPMPaperScheduler(beta_schedule=beta_schedule).add_noise(x_0, eps, t)
    torch.testing.assert_close(noisy.double(), expected, rtol=torch.finfo(dtype).eps / 2 * 1.001, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_velocity_keeps_its_part_of_the_data(dtype: torch.dtype):
    x_0, eps = torch.ones(1000, 4, dtype=dtype), torch.zeros(1000, 4, dtype=dtype)
    expected = -torch.from_numpy(np.sqrt(1 - exact_abar()[1:]))[:, None].expand(1000, 4)
    velocity = DDPMPaperScheduler().get_velocity(x_0, eps, torch.arange(1000))
    torch.testing.assert_close(velocity.double(), expected, rtol=torch.finfo(dtype).eps / 2 * 1.001, atol=0)


# --- variances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 2, 500, 999])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"])
def test_log_of_a_fixed_variance_is_the_same_variance(variance_type: str, t: int):
    scheduler = DDPMPaperScheduler(variance_type=variance_type)
    x_t, eps = pair(2, 3, 4)
    stock = DDPMScheduler(variance_type=variance_type)
    stock_does(lambda: stock.step(eps, t, x_t).prev_sample.isnan().float().mean())
    beta, posterior = exact_variances(t)
    sigma = math.sqrt(posterior if "small" in variance_type else beta)
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(noise_added(scheduler, eps, t, x_t), sigma * noise, rtol=0, atol=1e-11)


@pytest.mark.parametrize("t", [1, 2, 500, 999])
def test_learned_variance_is_read_as_its_logarithm(t: int):
    x_t, eps = pair(2, 3, 4)
    log_variance = torch.linspace(-12, 2, 24, dtype=torch.float64).reshape(2, 3, 4)
    output = torch.cat([eps, log_variance], dim=1)
    stock = DDPMScheduler(variance_type="learned")
    stock_does(lambda: stock.step(output, t, x_t).prev_sample.isnan().float().mean())
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scheduler = DDPMPaperScheduler(variance_type="learned")
    added = noise_added(scheduler, output, t, x_t)
    torch.testing.assert_close(added, (0.5 * log_variance).exp() * noise, rtol=0, atol=1e-11)


@pytest.mark.parametrize("t", [1, 2, 500, 999])
def test_learned_range_interpolates_the_logarithms(t: int):
    x_t, eps = pair(2, 3, 4)
    raw = torch.linspace(-1.5, 1.5, 24, dtype=torch.float64).reshape(2, 3, 4)
    beta, posterior = exact_variances(t)
    nu = (raw + 1) / 2
    sigma = (0.5 * (nu * math.log(beta) + (1 - nu) * math.log(posterior))).exp()
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scheduler = DDPMPaperScheduler(variance_type="learned_range")
    added = noise_added(scheduler, torch.cat([eps, raw], dim=1), t, x_t)
    torch.testing.assert_close(added, sigma * noise, rtol=0, atol=1e-11)


def test_learned_range_at_the_first_timestep_lies_between_variances_of_the_chain():
    """There β̃ is 0: its place is taken by the next pair's, not by 1e-20, which makes the decoder's variance absurd."""
    x_t, eps = pair(2, 3, 4)
    beta, next_posterior = exact_variances(0)[0], exact_variances(1)[1]
    scheduler = DDPMPaperScheduler(variance_type="learned_range")
    stock = DDPMScheduler(variance_type="learned_range")
    for raw, expected in ((-1.0, next_posterior), (1.0, beta), (0.0, math.sqrt(beta * next_posterior))):
        channels = torch.full_like(eps, raw)
        stock_does(lambda channels=channels: stock._get_variance(0, channels).exp().flatten()[0])
        variance = scheduler.p_mean_variance(torch.cat([eps, channels], dim=1), x_t, 0).variance
        torch.testing.assert_close(variance, torch.full_like(eps, expected), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("variance_type", "channels"),
    [("learned", 3), ("learned_range", 3), ("learned_range", 4), ("fixed_small", 6), ("fixed_large", 2)],
)
@pytest.mark.parametrize("t", [0, 500])
def test_channels_that_do_not_fit_the_variance_type_are_named(variance_type: str, channels: int, t: int):
    x_t, output = torch.zeros(2, 3, 4, 4), torch.zeros(2, channels, 4, 4)
    stock_does(lambda: DDPMScheduler(variance_type=variance_type).step(output, t, x_t).prev_sample.shape)
    scheduler = DDPMPaperScheduler(variance_type=variance_type)
    for call in (
        lambda: scheduler.step(output, t, x_t),
        lambda: scheduler.p_mean_variance(output, x_t, t),
        lambda: scheduler.vlb_loss(output, x_t, x_t, t),
    ):
        with pytest.raises(ValueError, match=rf"`model_output`.*\[2, {channels}, 4, 4\]") as error:
            call()
        assert variance_type in str(error.value) or channels not in (3, 6)  # where another type would fit


# --- timesteps ------------------------------------------------------------------------------------------------------


def test_a_batch_may_hold_different_timesteps():
    x_t, eps = pair(4, 3, 2)
    t = torch.tensor([999, 500, 1, 0])
    stock_does(lambda: DDPMScheduler().step(eps, t, x_t).prev_sample.shape)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    scheduler = DDPMPaperScheduler()
    together = scheduler.step(eps, t, x_t, generator=generators).prev_sample
    for i in range(4):
        generator = torch.Generator().manual_seed(i)
        alone = scheduler.step(eps[i : i + 1], int(t[i]), x_t[i : i + 1], generator=generator).prev_sample
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("K", [600, 999, 501, 3, 7, 334])
def test_leading_timesteps_reach_the_top_of_the_range(K: int):
    stock = DDPMScheduler()
    stock.set_timesteps(K)
    print("stock starts at", stock.timesteps[0].item())
    scheduler = DDPMPaperScheduler()
    scheduler.set_timesteps(K)
    expected = [k * 1000 // K for k in range(K)][::-1]
    assert scheduler.timesteps.tolist() == expected
    assert expected[0] >= 1000 - math.ceil(1000 / K)


def test_offset_out_of_the_range_is_refused_where_the_chain_is_chosen():
    stock = DDPMScheduler(steps_offset=1)
    stock.set_timesteps(1000)
    stock_does(lambda: stock.step(torch.zeros(1, 1), stock.timesteps[0], torch.zeros(1, 1)))
    with pytest.raises(ValueError, match=r"`steps_offset`.*1.*1000"):
        DDPMPaperScheduler(steps_offset=1).set_timesteps(1000)
    with pytest.raises(ValueError, match="`steps_offset`"):
        DDPMPaperScheduler(steps_offset=-1).set_timesteps(10)


def test_no_steps_are_refused():
    stock_does(lambda: DDPMScheduler().set_timesteps(0))
    with pytest.raises(ValueError, match=r"`num_inference_steps`.*0"):
        DDPMPaperScheduler().set_timesteps(0)


@pytest.mark.parametrize("t", [-5, -1, torch.tensor(-5), torch.tensor([-5, 0])], ids=str)
def test_negative_timesteps_are_refused(t: int | Tensor):
    x_t, eps = pair(2, 3)
    stock_does(lambda: DDPMScheduler().step(eps, t, x_t).prev_sample)
    scheduler = DDPMPaperScheduler()
    for call in (
        lambda: scheduler.step(eps, t, x_t),
        lambda: scheduler.add_noise(x_t, eps, t),
        lambda: scheduler.vlb_loss(eps, x_t, x_t, t),
    ):
        with pytest.raises(ValueError, match=r"imesteps?.*-"):
            call()


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_number_of_steps_gives_that_many_timesteps(spacing: str):
    stock, scheduler = (cls(timestep_spacing=spacing) for cls in (DDPMScheduler, DDPMPaperScheduler))
    miscounted = []
    for K in range(1, 1001):
        stock.set_timesteps(K)
        if len(stock.timesteps) != K:
            miscounted.append(K)
        scheduler.set_timesteps(K)
        timesteps = scheduler.timesteps.tolist()
        assert len(timesteps) == K
        assert sorted(set(timesteps), reverse=True) == timesteps
        assert 0 <= timesteps[-1] <= timesteps[0] <= 999
    print("stock miscounts", miscounted)


def test_last_of_a_trailing_chain_adds_no_noise_to_the_image():
    """Stock looks at the timestep, 19 here, instead of at its place in the chain."""
    x_t, eps = pair(2, 3)
    for cls in (DDPMScheduler, DDPMPaperScheduler):
        scheduler = cls(variance_type="fixed_large", timestep_spacing="trailing")
        scheduler.set_timesteps(50)
        step = scheduler.step(eps, 19, x_t)
        print(cls.__name__, "is off the mean by", (step.prev_sample - step.pred_original_sample).abs().max().item())
    torch.testing.assert_close(step.prev_sample, step.pred_original_sample, rtol=0, atol=1e-12)


# --- zero terminal signal-to-noise ratio ----------------------------------------------------------------------------


def test_epsilon_at_zero_signal_to_noise_ratio_is_refused_with_a_sentence():
    x_t, eps = pair(2, 3)
    stock = DDPMScheduler(rescale_betas_zero_snr=True, clip_sample=False)
    stock_does(lambda: stock.step(eps, 999, x_t).prev_sample)
    scheduler = DDPMPaperScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    for call in (
        lambda: scheduler.set_timesteps(50),
        lambda: scheduler.step(eps, 999, x_t),
        lambda: scheduler.step(eps, torch.tensor([999, 3]), x_t),
        lambda: scheduler.p_mean_variance(eps, x_t, 999),
        lambda: scheduler.vlb_loss(eps, x_t, x_t, 999),
    ):
        with pytest.raises(ValueError, match=r"`prediction_type` 'epsilon'.*signal-to-noise ratio"):
            call()
    # Noising, and every chain that does not visit that timestep, work.
    assert bool(scheduler.add_noise(x_t, eps, 999).isfinite().all())
    scheduler.set_timesteps(timesteps=[998, 500, 0])
    assert bool(scheduler.step(eps, 998, x_t).prev_sample.isfinite().all())


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample", "mean"])
def test_other_predictions_are_right_at_zero_signal_to_noise_ratio(prediction_type: str):
    """There x_t is the noise alone, v is −x_0, and the posterior mean is √ᾱ_s x_0."""
    scheduler = DDPMPaperScheduler(
        rescale_betas_zero_snr=True, prediction_type=prediction_type, clip_sample=False, timestep_spacing="trailing"
    )
    root = np.sqrt(exact_abar()[1:])
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])  # Lin et al. 2024, Algorithm 1
    x_0, eps = pair(2, 3)
    x_t = scheduler.add_noise(x_0, eps, 999)
    torch.testing.assert_close(x_t, eps, rtol=0, atol=0)
    for K in (1000, 50):
        scheduler.set_timesteps(K)
        s = 999 - 1000 // K
        output = {"v_prediction": -x_0, "sample": x_0, "mean": rescaled[998] * x_0}[prediction_type]
        torch.testing.assert_close(scheduler.training_target(x_0, eps, 999), output, rtol=0, atol=1e-13)
        p = scheduler.p_mean_variance(output, x_t, 999)
        torch.testing.assert_close(p.pred_original_sample, x_0, rtol=0, atol=1e-10)
        torch.testing.assert_close(p.mean, rescaled[s] * x_0, rtol=0, atol=1e-12)
        assert p.variance.item() == pytest.approx(1 - rescaled[s] ** 2, rel=1e-9)
        assert bool(scheduler.step(output, 999, x_t).prev_sample.isfinite().all())
        assert scheduler.prior_loss(x_0).tolist() == [0.0, 0.0]
        assert float(scheduler.vlb_loss(output, x_0, x_t, 999).abs().max()) < 1e-12


# --- configuration --------------------------------------------------------------------------------------------------


def test_argument_given_by_position_survives_conversion():
    """diffusers records it as a default, and conversion in memory leaves defaults out."""
    stock_does(lambda: len(DDPMScheduler.from_config(DDPMScheduler(20).config)))
    assert len(DDPMPaperScheduler.from_config(DDPMPaperScheduler(20).config)) == 20
    assert len(DDPMScheduler.from_config(DDPMPaperScheduler(20).config)) == 20


# --- waiting for the device -----------------------------------------------------------------------------------------


def run_everything(scheduler: DDPMPaperScheduler, sample: Tensor, model_output: Tensor, t: int | Tensor) -> None:
    scheduler.step(model_output, t, sample)
    scheduler.add_noise(sample, sample, t)
    scheduler.get_velocity(sample, sample, t)
    scheduler.q_mean_variance(sample, t)
    scheduler.q_posterior_mean_variance(sample, sample, t)
    scheduler.p_mean_variance(model_output, sample, t)
    scheduler.training_target(sample, sample, t)
    scheduler.vlb_loss(model_output, sample, sample, t)
    scheduler.prior_loss(sample)
    scheduler.previous_timestep(t)


SETTINGS = [
    pytest.param({"variance_type": "fixed_small"}, id="fixed"),
    pytest.param({"variance_type": "fixed_large_log", "prediction_type": "v_prediction"}, id="v_prediction"),
    pytest.param({"variance_type": "learned_range", "prediction_type": "mean"}, id="learned_range"),
    pytest.param({"variance_type": "learned", "thresholding": True, "num_levels": None}, id="learned"),
]
SETTINGS_ON_CHAINS = [
    pytest.param(*setting.values, chain, id=f"{setting.id}-{chain}")
    for setting in SETTINGS
    for chain in ((None,) if setting.id == "learned" else (None, 50))  # "learned" visits every timestep
]


@pytest.mark.parametrize("timestep", ["int", "on the host", "scalar", "one", "batch", "from the chain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("settings", "chain"), SETTINGS_ON_CHAINS)
def test_nothing_is_read_back_from_the_device(settings: dict, chain: int | None, dtype: torch.dtype, timestep: str):
    """A meta tensor has no values: whatever would wait for a device to read one raises."""
    scheduler = DDPMPaperScheduler(**settings)
    if chain is not None:
        scheduler.set_timesteps(chain, device="meta")
    elif timestep == "from the chain":
        scheduler.set_timesteps(1000, device="meta")
    channels = 6 if scheduler.variance_type.startswith("learned") else 3
    sample, model_output = (torch.empty(4, n, 2, 2, dtype=dtype, device="meta") for n in (3, channels))
    with pytest.raises((RuntimeError, NotImplementedError)):
        sample.sum().item()  # the test can fail
    t = {
        "int": 500,
        "on the host": torch.tensor([0, 20, 500, 980]),
        "scalar": torch.empty((), dtype=torch.long, device="meta"),
        "one": torch.empty(1, dtype=torch.long, device="meta"),
        "batch": torch.empty(4, dtype=torch.long, device="meta"),
        "from the chain": scheduler.timesteps[7],
    }[timestep]
    run_everything(scheduler, sample, model_output, t)
    step = scheduler.step(model_output, t, sample)
    assert step.prev_sample.device.type == "meta"
    assert (step.prev_sample.shape, step.prev_sample.dtype) == (sample.shape, dtype)


class Operations(TorchDispatchMode):
    """The names of the tensor operations run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))

    def reads(self) -> list[str]:
        return [name for name in self.names if "_local_scalar_dense" in name or "nonzero" in name]


@pytest.mark.parametrize("chain", [None, 50])
def test_step_at_an_int_reads_no_tensor_and_copies_none(chain: int | None):
    x_t, eps = pair(2, 3, 4, dtype=torch.float32)
    counted = []
    for cls in (DDPMScheduler, DDPMPaperScheduler):
        scheduler = cls()
        if chain is not None:
            scheduler.set_timesteps(chain)
        scheduler.step(eps, 500, x_t)  # tables are built once
        with Operations() as operations:
            scheduler.step(eps, 500, x_t)
        print(cls.__name__, len(operations.names), "operations,", len(operations.reads()), "reads")
        counted.append(operations)
    assert counted[1].reads() == []
    assert not [name for name in counted[1].names if "copy" in name]
    assert len(counted[1].names) <= 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("timestep", ["int", "scalar", "batch"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_nothing_waits_for_a_cuda_device(settings: dict, timestep: str):
    scheduler = DDPMPaperScheduler(**settings)
    scheduler.set_timesteps(50, device="cuda")
    channels = 6 if scheduler.variance_type.startswith("learned") else 3
    sample, model_output = (torch.randn(4, n, 8, 8, device="cuda") for n in (3, channels))
    t = {"int": 500, "scalar": scheduler.timesteps[7], "batch": scheduler.timesteps[:4]}[timestep]
    run_everything(scheduler, sample, model_output, t)  # tables are moved once
    torch.cuda.set_sync_debug_mode("error")
    try:
        run_everything(scheduler, sample, model_output, t)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- accuracy next to the data --------------------------------------------------------------------------------------


def test_variances_next_to_the_data_keep_all_their_digits():
    abar = exact_abar()
    stock, scheduler = DDPMScheduler(), DDPMPaperScheduler()
    exact = 1 - abar[1:]
    print("stock's 1 − ᾱ is off by", np.abs((1 - stock.alphas_cumprod.numpy()) / exact - 1).max())
    x_0 = torch.zeros(1000, 1, dtype=torch.float64)
    variance = scheduler.q_mean_variance(x_0, torch.arange(1000))[1].numpy()[:, 0]
    np.testing.assert_allclose(variance, exact, rtol=1e-11)
    posterior = np.array([exact_variances(t)[1] for t in range(1, 1000)])
    theirs = np.array([float(stock._get_variance(t)) for t in range(1, 1000)])
    print("stock's β̃ is off by", np.abs(theirs / posterior - 1).max())
    mine = np.array([float(scheduler._get_variance(t)) for t in range(1, 1000)])
    np.testing.assert_allclose(mine, posterior, rtol=1e-11)
    assert scheduler.betas[0].item() == pytest.approx(1e-4, rel=1e-12)
    assert 1 - scheduler.alphas_cumprod[0].item() == pytest.approx(1e-4, rel=1e-11)
