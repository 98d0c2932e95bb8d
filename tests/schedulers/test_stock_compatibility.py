# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperScheduler` replaces `diffusers.DDPMScheduler`: arguments, configurations, methods and numbers."""

from __future__ import annotations

import inspect
import logging
import math
import pickle
from collections.abc import Iterator

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from diffusers.training_utils import compute_snr
from tiny_models import tiny_unet
from torch import Tensor

from ddpm_hf import DDPMPaperScheduler


# Every one of stock's arguments with a value that is not its default.
EVERY_OPTION = {
    "num_train_timesteps": 123,
    "beta_start": 0.0003,
    "beta_end": 0.015,
    "beta_schedule": "scaled_linear",
    "trained_betas": np.linspace(0.1, 0.3, 123).tolist(),
    "variance_type": "fixed_large",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.9,
    "clip_sample_range": 2.0,
    "sample_max_value": 1.5,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "rescale_betas_zero_snr": True,
}
CHAINS = {"all": {}, "50": {"num_inference_steps": 50}, "custom": {"timesteps": [980, 700, 333, 100, 12, 0]}}
CONSTRAINTS = {
    "clip": {},
    "free": {"clip_sample": False},
    "threshold": {"thresholding": True, "sample_max_value": 2.0},
}
EPS32 = torch.finfo(torch.float32).eps

# diffusers calls this one compatible too, but its process is another; see test_scheduler_conversion.py.
OF_A_DDPM = [name for name in DDPMScheduler._compatibles if name != "EDMEulerScheduler"]


@pytest.fixture
def complaints() -> Iterator[list[logging.LogRecord]]:
    """What diffusers logs as a warning or worse."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logger = logging.getLogger("diffusers")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def exact_betas(beta_schedule: str, T: int = 1000) -> np.ndarray:
    """β of a schedule by its definition, float64."""
    if beta_schedule == "linear":
        return np.linspace(1e-4, 0.02, T)
    if beta_schedule == "scaled_linear":
        return np.linspace(1e-4**0.5, 0.02**0.5, T) ** 2
    if beta_schedule == "sigmoid":
        return 1e-4 + (0.02 - 1e-4) / (1 + np.exp(-np.linspace(-6, 6, T)))
    u = np.arange(T + 1) / T
    if beta_schedule == "squaredcos_cap_v2":
        curve = np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    else:  # "laplace"
        snr = np.exp(-0.5 * np.where(u > 0.5, -1, 1) * np.log(1 - 2 * np.abs(0.5 - u) + 1e-6))
        curve = np.sqrt(snr / (1 + snr))
    return np.minimum(1 - curve[1:] / curve[:-1], 0.999)


def stock_with_exact_tables(**kwargs: object) -> DDPMScheduler:
    """Stock's formulas over float64 tables in place of its float32 ones."""
    stock = DDPMScheduler(**kwargs)
    stock.betas = torch.from_numpy(exact_betas(kwargs.get("beta_schedule", "linear")))
    stock.alphas = 1 - stock.betas
    stock.alphas_cumprod = torch.cumprod(stock.alphas, dim=0)
    stock.one = torch.ones((), dtype=torch.float64)
    return stock


def pair(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sample, model_output = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=dtype)
    return sample, model_output


def step_at(t: int, scheduler, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x_t, output = pair(t, dtype)
    return scheduler.step(output, t, x_t, generator=torch.Generator().manual_seed(t), return_dict=False)


def some_of(timesteps: Tensor) -> list[int]:
    """The ends of a chain and every seventh timestep between them."""
    timesteps = timesteps.tolist()
    return sorted({*timesteps[:2], *timesteps[::7], *timesteps[-4:]})


# --- arguments and configuration ------------------------------------------------------------------------------------


def test_takes_the_arguments_of_stock_in_its_order_with_its_defaults():
    stock = list(inspect.signature(DDPMScheduler.__init__).parameters.values())
    ours = list(inspect.signature(DDPMPaperScheduler.__init__).parameters.values())[: len(stock)]
    assert len(stock) >= 16  # self and fifteen arguments
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in stock]
    assert all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(DDPMPaperScheduler.__init__).parameters.values())


@pytest.mark.parametrize(
    "method", ["set_timesteps", "scale_model_input", "step", "add_noise", "get_velocity", "previous_timestep"]
)
def test_methods_take_the_parameters_of_stock(method: str):
    stock, ours = (inspect.signature(getattr(cls, method)).parameters for cls in (DDPMScheduler, DDPMPaperScheduler))
    own = list(ours.values())[len(stock) :]  # after stock's, and not needed
    assert list(ours)[: len(stock)] == list(stock)
    assert [p.default for p in ours.values()] == [p.default for p in stock.values()] + [None] * len(own)


def test_names_the_same_compatible_schedulers_as_stock():
    assert DDPMPaperScheduler._compatibles == DDPMScheduler._compatibles
    assert DDPMScheduler in DDPMPaperScheduler().compatibles


def test_default_configuration_is_that_of_stock():
    def public(config):
        return {name: value for name, value in config.items() if not name.startswith("_")}

    assert public(DDPMPaperScheduler().config) == public(DDPMScheduler().config)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside the other classes, on NumPy 2
@pytest.mark.parametrize("name", OF_A_DDPM)
@pytest.mark.parametrize("with_betas", [False, True], ids=["named schedule", "trained betas"])
def test_no_option_is_lost_from_and_to_a_compatible_scheduler(name: str, with_betas: bool):
    cls = getattr(diffusers, name, None)
    if cls is None:
        pytest.skip(f"this diffusers has no {name}")
    accepted = inspect.signature(cls.__init__).parameters
    options = {key: value for key, value in EVERY_OPTION.items() if key in accepted}
    if not with_betas:
        options.pop("trained_betas", None)
    try:
        theirs = cls(**options)
    except ImportError as error:
        pytest.skip(str(error).strip().splitlines()[0])
    ours = DDPMPaperScheduler.from_config(theirs.config)
    assert {key: ours.config[key] for key in options} == options
    stock = DDPMScheduler.from_config(theirs.config)
    assert {key: ours.config[key] for key in EVERY_OPTION} == {key: stock.config[key] for key in EVERY_OPTION}
    back = cls.from_config(ours.config)
    assert {key: back.config[key] for key in options} == options
    # What only the other class knows comes back too, where it does by way of stock.
    via_stock = cls.from_config(stock.config)
    assert {key: back.config.get(key) for key in via_stock.config if key[0] != "_"} == {
        key: value for key, value in via_stock.config.items() if key[0] != "_"
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("route", ["in memory", "save and load"])
@pytest.mark.parametrize("name", OF_A_DDPM)
def test_defaults_of_another_class_become_what_stock_makes_of_them(name: str, route: str, tmp_path):
    """In memory each class's own defaults; from a file, which states them, those of the class that was saved."""
    try:
        theirs = getattr(diffusers, name)()
    except (AttributeError, ImportError) as error:
        pytest.skip(str(error).strip().splitlines()[0])
    if route == "in memory":
        ours, stock = (cls.from_config(theirs.config) for cls in (DDPMPaperScheduler, DDPMScheduler))
    else:
        theirs.save_pretrained(tmp_path)
        ours, stock = (cls.from_pretrained(tmp_path) for cls in (DDPMPaperScheduler, DDPMScheduler))
    expected = {key: stock.config[key] for key in EVERY_OPTION}
    expected["variance_type"] = expected["variance_type"] or "fixed_small"  # null in solvers' files; stock's step: β̃
    assert {key: ours.config[key] for key in EVERY_OPTION} == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside the other classes, on NumPy 2
@pytest.mark.parametrize("route", ["in memory", "save and load"])
@pytest.mark.parametrize("name", DDPMScheduler._compatibles)
def test_every_option_survives_the_way_through_a_compatible_scheduler(name: str, route: str, tmp_path, complaints):
    options = {key: value for key, value in EVERY_OPTION.items() if key != "trained_betas"}
    ours, cls = DDPMPaperScheduler(**options, num_levels=17, first_variance=0.01), getattr(diffusers, name)
    if route == "in memory":
        theirs = cls.from_config(ours.config)
        back = DDPMPaperScheduler.from_config(theirs.config)
    else:
        ours.save_pretrained(tmp_path / "ours")
        theirs = cls.from_pretrained(tmp_path / "ours")
        theirs.save_pretrained(tmp_path / "theirs")
        back = DDPMPaperScheduler.from_pretrained(tmp_path / "theirs")
    shared = {key: value for key, value in options.items() if key in inspect.signature(cls.__init__).parameters}
    assert {key: theirs.config[key] for key in shared} == shared
    assert {key: back.config[key] for key in options} == options
    assert (back.num_levels, back.first_variance) == (17, 0.01)
    assert torch.equal(back.betas, ours.betas)
    # EDM has a noise schedule of its own, and warns of all that it leaves aside.
    assert complaints == [] or name == "EDMEulerScheduler"


# --- what stock cannot express --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variance_type", "nearest"), [("fixed_large_log", "fixed_large"), ("learned", "learned_range")]
)
@pytest.mark.parametrize("route", ["in memory", "save and load"])
def test_a_variance_that_stock_gets_wrong_becomes_the_nearest_and_comes_back(
    variance_type: str, nearest: str, route: str, tmp_path, complaints
):
    options = {"num_train_timesteps": 50, "variance_type": variance_type, "clip_sample": False}
    ours = DDPMPaperScheduler(**options, num_levels=17)
    stock = ours.to_stock()
    if route == "save and load":
        stock.save_pretrained(tmp_path / "a")
        stock = DDPMScheduler.from_pretrained(tmp_path / "a")
        stock.save_pretrained(tmp_path / "b")
        back = DDPMPaperScheduler.from_pretrained(tmp_path / "b")
    else:
        back = DDPMPaperScheduler.from_config(stock.config)
    assert (type(stock), stock.config.variance_type) == (DDPMScheduler, nearest)
    assert (back.variance_type, back.num_levels) == (variance_type, 17)
    assert "variance_type" not in back.config["_ddpm_hf"]  # once in a configuration, not twice
    x_t, output = pair()
    if variance_type == "learned":
        output = torch.cat([output, torch.full_like(output, -4.0)], dim=1)  # log σ²
    assert bool(DDPMScheduler(**options).step(output, 20, x_t).prev_sample.isnan().any())  # why there is a nearest
    theirs, mine = (s.step(output, 20, x_t, torch.Generator().manual_seed(0)).prev_sample for s in (stock, ours))
    assert bool(theirs.isfinite().all())
    if variance_type == "fixed_large_log":
        torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-5)
    assert complaints == []


def test_a_variance_chosen_in_stock_afterwards_stays_chosen():
    stock = DDPMPaperScheduler(variance_type="fixed_large_log").to_stock()
    changed = DDPMScheduler.from_config(stock.config, variance_type="fixed_small")
    assert DDPMPaperScheduler.from_config(changed.config).variance_type == "fixed_small"


def test_what_stock_can_express_becomes_itself():
    for variance_type in ("fixed_small", "fixed_small_log", "fixed_large", "learned_range"):
        stock = DDPMPaperScheduler(variance_type=variance_type).to_stock()
        assert stock.config.variance_type == variance_type
        assert stock.config["_ddpm_hf"] == {"num_levels": 256, "first_variance": None}


def test_configurations_of_the_first_diffusers_mean_what_they_meant(complaints):
    old = {"_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "tensor_format": "pt", "beta_end": 0.02}
    assert DDPMPaperScheduler.from_config({**old, "predict_epsilon": False}).config.prediction_type == "sample"
    assert DDPMPaperScheduler.from_config({**old, "predict_epsilon": True}).config.prediction_type == "epsilon"
    newer = {**old, "predict_epsilon": False, "prediction_type": "v_prediction"}
    assert DDPMPaperScheduler.from_config(newer).config.prediction_type == "v_prediction"
    assert complaints == []
    by_way_of_stock = DDPMScheduler.from_config({**old, "predict_epsilon": False})  # which knows nothing of it
    assert DDPMPaperScheduler.from_scheduler(by_way_of_stock).config.prediction_type == "sample"


def test_stock_configuration_gives_our_defaults_for_what_stock_has_no_argument_for():
    ours = DDPMPaperScheduler.from_config(DDPMScheduler().config)
    assert (ours.num_levels, ours.first_variance) == (256, None)
    assert DDPMPaperScheduler.from_config(DDPMScheduler().config, num_levels=17).num_levels == 17


def test_saving_and_loading_gives_the_same_configuration_and_steps(tmp_path, complaints):
    saved = DDPMPaperScheduler(beta_schedule="squaredcos_cap_v2", variance_type="fixed_large")
    saved.save_pretrained(tmp_path)
    loaded = DDPMPaperScheduler.from_pretrained(tmp_path)
    before, after = dict(saved.config), dict(loaded.config)
    for config in (before, after):
        config.pop("_use_default_values", None)
    assert after == before
    x_t, eps = pair()
    outputs = [s.step(eps, 500, x_t, torch.Generator().manual_seed(0)).prev_sample for s in (saved, loaded)]
    assert torch.equal(*outputs)
    assert complaints == []


def test_numpy_betas_survive_a_file(tmp_path):
    betas = np.array([0.1, 0.3])
    DDPMPaperScheduler(trained_betas=betas).save_pretrained(tmp_path)
    assert DDPMPaperScheduler.from_pretrained(tmp_path).betas.tolist() == pytest.approx(betas.tolist(), rel=1e-15)


def test_can_be_pickled_as_stock_can():
    pickle.loads(pickle.dumps(DDPMScheduler()))
    ours = pickle.loads(pickle.dumps(DDPMPaperScheduler(variance_type="fixed_large")))
    x_t, eps = pair()
    assert torch.equal(
        ours.step(eps, 0, x_t).prev_sample, DDPMPaperScheduler(variance_type="fixed_large").step(eps, 0, x_t)[0]
    )


def test_can_be_built_where_another_default_device_is_set():
    with torch.device("meta"):
        ours = DDPMPaperScheduler()
    x_t, eps = pair()
    assert torch.equal(ours.step(eps, 0, x_t).prev_sample, DDPMPaperScheduler().step(eps, 0, x_t).prev_sample)


# --- attributes and methods that pipelines and training scripts use -------------------------------------------------


def test_attributes_before_a_chain_is_chosen():
    ours, stock = DDPMPaperScheduler(), DDPMScheduler()
    assert torch.equal(ours.timesteps, stock.timesteps)
    assert ours.timesteps.dtype == stock.timesteps.dtype
    assert len(ours) == len(stock) == 1000
    assert (ours.order, ours.init_noise_sigma) == (stock.order, stock.init_noise_sigma)
    assert (ours.num_inference_steps, ours.custom_timesteps) == (None, False)
    assert ours.variance_type == "fixed_small"
    for name in ("betas", "alphas", "alphas_cumprod"):
        mine, theirs = getattr(ours, name), getattr(stock, name)
        assert mine.dtype == torch.float64
        torch.testing.assert_close(mine.float(), theirs, rtol=2e-5, atol=0)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
@pytest.mark.parametrize("T", [1, 2, 20, 1000])
def test_betas_are_those_of_the_schedule_that_stock_names(beta_schedule: str, T: int):
    ours, stock = (cls(T, beta_schedule=beta_schedule) for cls in (DDPMPaperScheduler, DDPMScheduler))
    np.testing.assert_allclose(ours.betas.numpy(), exact_betas(beta_schedule, T), rtol=1e-9)
    torch.testing.assert_close(ours.betas.float(), stock.betas, rtol=1e-4, atol=2e-7)


def test_rescaled_betas_are_those_of_stock():
    ours, stock = (cls(rescale_betas_zero_snr=True) for cls in (DDPMPaperScheduler, DDPMScheduler))
    torch.testing.assert_close(ours.alphas_cumprod.float(), stock.alphas_cumprod, rtol=1e-4, atol=1e-6)
    assert ours.alphas_cumprod[-1] == 0
    assert ours.alphas_cumprod[0] == pytest.approx(1 - 1e-4, rel=1e-14)


def test_model_input_is_not_scaled():
    sample, _ = pair()
    ours = DDPMPaperScheduler()
    assert ours.scale_model_input(sample, 0.0) is sample
    assert ours.scale_model_input(sample, timestep=torch.tensor(999)) is sample


@pytest.mark.parametrize("chain", CHAINS)
def test_previous_timestep_walks_down_the_chain_to_minus_one(chain: str):
    ours = DDPMPaperScheduler()
    if CHAINS[chain]:
        ours.set_timesteps(**CHAINS[chain])
    following = [*ours.timesteps.tolist()[1:], -1]
    assert [ours.previous_timestep(t).item() for t in ours.timesteps] == following
    assert [int(ours.previous_timestep(int(t))) for t in ours.timesteps] == following
    assert ours.previous_timestep(ours.timesteps).tolist() == following


def test_variance_of_a_timestep():
    betas = exact_betas("linear")
    abar = np.cumprod(1 - betas)
    ours = DDPMPaperScheduler()
    for t in (1, 487, 999):
        expected = betas[t] * (1 - abar[t - 1]) / (1 - abar[t])
        assert ours._get_variance(t).item() == pytest.approx(expected, rel=1e-10)
    assert ours._get_variance(0) == 0


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("K", [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000])
def test_timesteps_are_those_of_stock(spacing: str, K: int):
    ours, stock = (cls(timestep_spacing=spacing) for cls in (DDPMPaperScheduler, DDPMScheduler))
    for scheduler in (ours, stock):
        scheduler.set_timesteps(K, device="cpu")
    assert torch.equal(ours.timesteps, stock.timesteps)
    assert ours.timesteps.dtype == stock.timesteps.dtype
    assert (ours.num_inference_steps, ours.custom_timesteps) == (K, False)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_timesteps_differ_from_those_of_stock_by_no_more_than_the_rounding_of_a_half(spacing: str):
    ours, stock = (cls(timestep_spacing=spacing) for cls in (DDPMPaperScheduler, DDPMScheduler))
    for K in range(2, 1001, 7):
        for scheduler in (ours, stock):
            scheduler.set_timesteps(K)
        assert len(ours.timesteps) == K
        if len(stock.timesteps) == K:  # stock's "trailing" miscounts now and then
            assert (ours.timesteps - stock.timesteps).abs().max() <= 1


def test_steps_offset_shifts_the_leading_timesteps_as_in_stock():
    ours, stock = (cls(steps_offset=1) for cls in (DDPMPaperScheduler, DDPMScheduler))
    for scheduler in (ours, stock):
        scheduler.set_timesteps(50)
    assert torch.equal(ours.timesteps, stock.timesteps)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_custom_timesteps_may_be_a_list_or_an_array(kind):
    ours = DDPMPaperScheduler()
    ours.set_timesteps(timesteps=kind([100, 87, 50, 1, 0]))
    assert ours.timesteps.tolist() == [100, 87, 50, 1, 0]
    assert ours.custom_timesteps


def test_signal_to_noise_ratio_of_diffusers_training_utilities():
    t = torch.arange(1000)
    betas = exact_betas("linear")
    abar = torch.from_numpy(np.cumprod(1 - betas))
    torch.testing.assert_close(compute_snr(DDPMPaperScheduler(), t).double(), abar / (1 - abar), rtol=1e-3, atol=0)


# --- the numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_step_is_that_of_stock(variance_type: str, prediction_type: str, constraint: str, chain: str):
    options = {"variance_type": variance_type, "prediction_type": prediction_type, **CONSTRAINTS[constraint]}
    ours, stock, exact = DDPMPaperScheduler(**options), DDPMScheduler(**options), stock_with_exact_tables(**options)
    for scheduler in (ours, stock, exact):
        if CHAINS[chain]:
            scheduler.set_timesteps(**CHAINS[chain])
    abar = [1.0, *ours.alphas_cumprod.tolist()]
    for t in some_of(ours.timesteps):
        # Stock's formulas in float64 throughout: equal but for float64 rounding, which 1 − ᾱ magnifies.
        for mine, theirs in zip(step_at(t, ours, torch.float64), step_at(t, exact, torch.float64), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10 * theirs.abs().max().item())
        # In float32, with stock's own tables: equal but for what their rounding does to 1 − ᾱ_t/ᾱ_s and 1 − ᾱ_s, and
        # for that of the samples, which 1/√ᾱ_t magnifies.
        s = int(ours.previous_timestep(t))
        smallest = min(1 - abar[t + 1] / abar[s + 1], 1 - abar[s + 1] if s >= 0 else 1.0)
        rounding = EPS32 / smallest + EPS32 / math.sqrt(abar[t + 1])
        for mine, theirs in zip(step_at(t, ours, torch.float32), step_at(t, stock, torch.float32), strict=True):
            assert mine.dtype == theirs.dtype == torch.float32
            torch.testing.assert_close(mine, theirs, rtol=0, atol=2 * rounding * theirs.abs().max().item())


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
def test_step_is_that_of_stock_on_its_other_schedules(beta_schedule: str):
    ours = DDPMPaperScheduler(beta_schedule=beta_schedule)
    exact = stock_with_exact_tables(beta_schedule=beta_schedule)
    for t in some_of(ours.timesteps):
        x_t, eps = pair(t, torch.float64)
        mine, theirs = (s.step(eps, t, x_t, torch.Generator().manual_seed(t)).prev_sample for s in (ours, exact))
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8 * theirs.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_the_noise_of_stock(dtype: torch.dtype):
    x_t, eps = (x.to(dtype) for x in pair())
    mine, theirs = (
        s.step(eps, 500, x_t, torch.Generator().manual_seed(0)).prev_sample
        for s in (DDPMPaperScheduler(), DDPMScheduler())
    )
    assert mine.dtype == dtype
    torch.testing.assert_close(mine.float(), theirs.float(), rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_a_whole_chain_arrives_where_stock_arrives():
    stock_chain, exact_chain, our_chain = (
        _walk(scheduler) for scheduler in (DDPMScheduler(), stock_with_exact_tables(), DDPMPaperScheduler())
    )
    torch.testing.assert_close(our_chain, stock_chain, rtol=0, atol=1e-3)
    assert (our_chain - exact_chain).abs().max() < (our_chain - stock_chain).abs().max()


def _walk(scheduler) -> Tensor:
    x, _ = pair()
    generator = torch.Generator().manual_seed(0)
    for t in scheduler.timesteps:
        x = scheduler.step(x * t / (t + 1), t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "strided"])
def test_noise_is_that_of_stock_for_every_layout_of_the_sample(layout: str):
    x_t, eps = pair()
    if layout == "channels last":
        x_t, eps = (x.to(memory_format=torch.channels_last) for x in (x_t, eps))
    elif layout == "strided":
        x_t, eps = x_t.transpose(2, 3), eps.transpose(2, 3)
    mine, theirs = (
        s.step(eps, 500, x_t, torch.Generator().manual_seed(0)).prev_sample
        for s in (DDPMPaperScheduler(), DDPMScheduler())
    )
    torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


def test_step_can_be_differentiated_as_in_stock():
    x_t, eps = pair(dtype=torch.float64)
    gradients = []
    for scheduler in (DDPMPaperScheduler(clip_sample=False), stock_with_exact_tables(clip_sample=False)):
        inputs = x_t.clone().requires_grad_(), eps.clone().requires_grad_()
        output = scheduler.step(inputs[1], 300, inputs[0], torch.Generator().manual_seed(0)).prev_sample
        gradients.append(torch.autograd.grad(output.square().sum(), inputs))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
@pytest.mark.parametrize("shape", [(1000, 6), (1000, 1, 2, 3)])
def test_noising_is_that_of_stock(method: str, shape: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, *shape, generator=generator)
    t = torch.arange(1000)
    mine, theirs = (getattr(s, method)(x_0, eps, t) for s in (DDPMPaperScheduler(), DDPMScheduler()))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


def test_noising_takes_one_timestep_for_the_whole_batch():
    x_0, eps = pair()
    ours = DDPMPaperScheduler()
    one = ours.add_noise(x_0, eps, ours.timesteps[5][None])
    assert torch.equal(one, ours.add_noise(x_0, eps, torch.full((2,), 994)))


@pytest.mark.parametrize("chain", [{"num_inference_steps": 20}, {"num_inference_steps": 1}])
def test_works_inside_the_stock_pipeline(chain: dict):
    unet = tiny_unet()
    images = []
    for scheduler in (DDPMPaperScheduler(), DDPMScheduler()):
        pipe = DDPMPipeline(unet, scheduler)
        pipe.set_progress_bar_config(disable=True)
        assert pipe.scheduler is scheduler
        images.append(pipe(2, generator=torch.Generator().manual_seed(0), output_type="np", **chain).images)
    np.testing.assert_allclose(*images, rtol=0, atol=1e-4)
