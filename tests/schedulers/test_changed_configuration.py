# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A scheduler follows its configuration after any kind of change.

Training scripts switch the prediction type by `register_to_config`; stock's pipelines replace the whole configuration;
others assign single values. The tests compare with a scheduler built from the new values.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import tiny_pipelines
import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import FrozenDict
from oracles import Mixture, model_output
from package_bound import package_bound
from torch import Tensor

from ddpm_hf import DDPMPaperScheduler, DenoisingErrors, bits_per_dim


# Every argument that stock has too, with a value that is not its default, and what else it takes to see its effect.
CHANGES = {
    "num_train_timesteps": (60, {}),
    "beta_start": (0.0003, {}),
    "beta_end": (0.015, {}),
    "beta_schedule": ("scaled_linear", {}),
    "trained_betas": (np.linspace(0.1, 0.3, 60).tolist(), {}),
    "variance_type": ("fixed_large", {}),
    "clip_sample": (False, {}),
    "prediction_type": ("v_prediction", {}),
    "thresholding": (True, {"sample_max_value": 2.0}),
    "dynamic_thresholding_ratio": (0.5, {"thresholding": True, "sample_max_value": 2.0}),
    "clip_sample_range": (0.5, {}),
    "sample_max_value": (1.5, {"thresholding": True}),
    "timestep_spacing": ("trailing", {}),
    "steps_offset": (1, {}),
    "rescale_betas_zero_snr": (True, {"prediction_type": "sample"}),
}


def register(scheduler: DDPMPaperScheduler, **values: object) -> None:
    scheduler.register_to_config(**values)


def replace_all(scheduler: DDPMPaperScheduler, **values: object) -> None:
    """As `StableDiffusionPipeline.__init__` does it."""
    scheduler._internal_dict = FrozenDict({**scheduler.config, **values})


def assign_attributes(scheduler: DDPMPaperScheduler, **values: object) -> None:
    for name, value in values.items():
        setattr(scheduler.config, name, value)


def assign_items(scheduler: DDPMPaperScheduler, **values: object) -> None:
    for name, value in values.items():
        scheduler.config[name] = value


WAYS = [register, replace_all, assign_attributes, assign_items]


def results(scheduler: DDPMPaperScheduler) -> list[Tensor]:
    """What a scheduler makes of fixed samples, on its chain and on one of ten steps."""
    generator = torch.Generator().manual_seed(0)
    x_0, noise, output = torch.randn(3, 4, 3, 4, 4, generator=generator)
    found = [scheduler.alphas_cumprod, scheduler.timesteps.clone(), torch.tensor(len(scheduler))]
    for chain in ("all", "ten"):
        if chain == "ten":
            scheduler.set_timesteps(10)
            found.append(scheduler.timesteps.clone())
        t = scheduler.timesteps[[0, 2, 5, -1]]
        x_t = scheduler.add_noise(x_0, noise, t)
        found += [x_t, scheduler.training_target(x_0, noise, t), scheduler.min_snr_weights(t)]
        found += scheduler.p_mean_variance(output, x_t, t)
        found += scheduler.step(output, t, x_t, torch.Generator().manual_seed(1), return_dict=False)
        found += scheduler.step(output, int(t[2]), x_t, torch.Generator().manual_seed(1), return_dict=False)
        found += scheduler.ddim_step(output, int(t[2]), x_t, return_dict=False)
        found += [scheduler.score(output, x_t, t), scheduler.prior_loss(x_0), scheduler.expected_terms]
        found.append(scheduler.vlb_loss(output, x_0.clamp(-1, 1).mul(255 / 2).round() / (255 / 2), x_t, t))
    return found


def public(scheduler: DDPMPaperScheduler) -> dict[str, object]:
    return {name: value for name, value in scheduler.config.items() if name != "_use_default_values"}


def assert_same(changed: DDPMPaperScheduler, built: DDPMPaperScheduler) -> None:
    for mine, theirs in zip(results(changed), results(built), strict=True):
        assert torch.equal(mine, theirs)
    assert public(changed) == public(built)


@pytest.mark.parametrize("change", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_value_counts_as_if_it_had_been_given(name: str, change: Callable):
    value, others = CHANGES[name]
    options = {"num_train_timesteps": 50, **others}
    scheduler, x = DDPMPaperScheduler(**options), torch.zeros(2, 3, 4, 4)
    scheduler.vlb_loss(x, x, scheduler.step(x, 7, x).prev_sample, torch.tensor([3, 7]))  # tables are cached now
    change(scheduler, **{name: value})
    assert_same(scheduler, DDPMPaperScheduler(**{**options, name: value}))


def test_every_argument_of_stock_is_tried():
    names = {name for name in DDPMScheduler().config if not name.startswith("_")}
    assert set(CHANGES) == names


def test_a_value_may_change_again_and_back():
    scheduler, generator = DDPMPaperScheduler(50, clip_sample=False), torch.Generator().manual_seed(0)
    x_t, output = torch.randn(2, 1, 4, generator=generator)
    found = []
    for way, kind in zip([*WAYS, *WAYS], ["sample", "epsilon", "v_prediction"] * 3, strict=False):
        way(scheduler, prediction_type=kind)
        found.append(scheduler.step(output, 0, x_t).prev_sample)
        assert torch.equal(
            found[-1], DDPMPaperScheduler(50, clip_sample=False, prediction_type=kind).step(output, 0, x_t)[0]
        )
    assert torch.equal(found[0], found[3])


def test_the_predicted_sample_follows_the_prediction_type():
    """√ᾱ x_t − √(1 − ᾱ) v at timestep 500 of the linear schedule."""
    scheduler = DDPMPaperScheduler(clip_sample=False)
    x_t, output = torch.full((1, 1), 2.0), torch.full((1, 1), 0.3)
    scheduler.step(output, 500, x_t)
    scheduler.register_to_config(prediction_type="v_prediction")
    abar = float(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[500])
    expected = 2 * math.sqrt(abar) - 0.3 * math.sqrt(1 - abar)
    assert expected == pytest.approx(0.2697, abs=5e-5)
    assert scheduler.step(output, 500, x_t).pred_original_sample.item() == pytest.approx(expected, abs=1e-6)


def test_the_bound_follows_the_prediction_type():
    """A v-model of N(0, .09) on the linear schedule with σ² = β: .3155 bits/dim, whose entropy is .3101."""
    data = Mixture.gaussian(0.0, 0.09)
    scheduler = DDPMPaperScheduler(clip_sample=False, num_levels=None, variance_type="fixed_large")
    scheduler.step(torch.zeros(1, 1), 500, torch.zeros(1, 1))
    scheduler.register_to_config(prediction_type="v_prediction")
    assert package_bound(scheduler.process, data).total / math.log(2) == pytest.approx(0.31552, abs=1e-5)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        log_abar = scheduler.schedule.log_alpha_cumprod(t + 1)
        return model_output("v_prediction", data.denoise(x_t[:, 0], log_abar), x_t[:, 0], log_abar)[:, None]

    x_0 = 0.3 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = bits_per_dim(denoise, scheduler, [x_0], generator=torch.Generator().manual_seed(1))
    assert result.standard_error < 0.05
    assert result.total == pytest.approx(0.31552, abs=4 * result.standard_error)


# --- the chain ------------------------------------------------------------------------------------------------------


def test_a_chain_that_was_chosen_is_kept():
    scheduler = DDPMPaperScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(50)
    before = scheduler.timesteps.clone()
    scheduler.register_to_config(prediction_type="sample", timestep_spacing="leading", beta_end=0.01)
    assert scheduler.process.times == [t + 1 for t in reversed(before.tolist())]
    assert torch.equal(scheduler.timesteps, before)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == 980


def test_a_chain_that_no_longer_fits_is_refused():
    scheduler = DDPMPaperScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(50)
    scheduler.register_to_config(num_train_timesteps=500)
    with pytest.raises(ValueError, match=r"visits timestep 999, but `num_train_timesteps` is 500 .*`set_timesteps`"):
        scheduler.step(torch.zeros(1, 1), 19, torch.zeros(1, 1))
    scheduler.register_to_config(num_train_timesteps=1000)
    scheduler.step(torch.zeros(1, 1), 19, torch.zeros(1, 1))


def test_a_variance_of_neighbouring_timesteps_is_refused_for_a_chain_that_leaves_some_out():
    scheduler = DDPMPaperScheduler()
    scheduler.set_timesteps(50)
    scheduler.register_to_config(variance_type="learned")
    with pytest.raises(ValueError, match="all 1000 must be visited"):
        scheduler.step(torch.zeros(1, 2), 20, torch.zeros(1, 1))


def test_what_does_not_change_is_not_made_anew():
    scheduler = DDPMPaperScheduler(trained_betas=[0.1, 0.2, 0.3])
    process = scheduler.process
    scheduler._internal_dict = FrozenDict(dict(scheduler.config))
    scheduler.register_to_config(clip_sample=True, something_else=5)
    assert scheduler.process is process


# --- mistakes, copies, our own arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("prediction_type", "noise"), ("beta_schedule", "cubic"), ("beta_end", 3.0), ("clip_sample_range", -1.0)],
)
def test_an_impossible_value_is_named_when_it_is_used(name: str, value: object):
    scheduler, x = DDPMPaperScheduler(), torch.zeros(1, 1)
    right = scheduler.config[name]
    scheduler.register_to_config(**{name: value})
    for _ in range(2):
        with pytest.raises(ValueError, match=f"`{name}` must"):
            scheduler.step(x, 10, x)
    scheduler.register_to_config(**{name: right})
    scheduler.step(x, 10, x)


def test_an_array_of_betas_becomes_a_list():
    scheduler = DDPMPaperScheduler()
    for betas in (np.array([0.1, 0.2]), np.array([0.1, 0.3]), torch.tensor([0.1, 0.2, 0.4])):
        scheduler.register_to_config(trained_betas=betas)
        assert len(scheduler) == scheduler.config.num_train_timesteps == len(betas)
        assert isinstance(scheduler.config.trained_betas, list)
    scheduler.register_to_config(trained_betas=None, num_train_timesteps=7)
    assert len(scheduler) == 7


def test_copies_change_by_themselves():
    scheduler = DDPMPaperScheduler(clip_sample=False)
    x_t = torch.full((1, 1), 2.0)
    expected = scheduler.step(x_t, 0, x_t).prev_sample
    for duplicate in (copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))):
        other = duplicate(scheduler)
        other.register_to_config(prediction_type="sample")
        assert torch.equal(other.step(x_t, 0, x_t).prev_sample, x_t)
        assert torch.equal(scheduler.step(x_t, 0, x_t).prev_sample, expected)


def test_what_stock_has_no_name_for_may_change_too():
    errors = DenoisingErrors(log_snr=(5.0, -5.0), errors=(0.01, 0.5))
    scheduler = DDPMPaperScheduler(num_levels=None)
    scheduler.register_to_config(_ddpm_hf={"num_levels": 17, "first_variance": 1})
    assert (scheduler.num_levels, scheduler.first_variance) == (17, 1.0)
    scheduler.register_to_config(_ddpm_hf={"denoising_errors": errors}, variance_type="optimal")
    assert (scheduler.num_levels, scheduler.first_variance) == (256, None)
    assert scheduler.denoising_errors == errors
    built = DDPMPaperScheduler(denoising_errors=errors, variance_type="optimal")
    assert torch.equal(scheduler.process.table.log_variance, built.process.table.log_variance)
    assert public(scheduler) == public(built)


# --- inside stock's pipelines ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"prediction_type": "v_prediction"}], ids=["epsilon", "v"])
def test_stable_diffusion_turns_clipping_off(options: dict[str, object]):
    """Its `__init__` replaces the configuration to set `clip_sample` and `steps_offset`; latents are larger than 1."""
    found = []
    for scheduler in (DDPMScheduler(**options), DDPMPaperScheduler(**options)):
        pipeline = tiny_pipelines.stable_diffusion(scheduler)
        assert (scheduler.config.clip_sample, scheduler.config.steps_offset) == (False, 1)
        generator = torch.Generator().manual_seed(0)
        latents = pipeline("a cat", 16, 16, 8, generator=generator, output_type="latent", guidance_scale=4.0).images
        found.append(latents)
    assert found[0].abs().max() > 1.5
    torch.testing.assert_close(*found, rtol=0, atol=1e-4 * found[0].abs().max().item())
