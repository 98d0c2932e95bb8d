# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Schedulers of other classes: every class of diffusers is either converted or refused by name."""

from __future__ import annotations

import inspect
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, SchedulerMixin
from diffusers.schedulers.deprecated import ScoreSdeVpScheduler
from diffusers.schedulers.scheduling_consistency_decoder import ConsistencyDecoderScheduler
from tiny_models import tiny_unet

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # inside diffusers

NOT_AT_THE_TOP = {
    "ScoreSdeVpScheduler": ScoreSdeVpScheduler,
    "ConsistencyDecoderScheduler": ConsistencyDecoderScheduler,
}
REQUIRED = {
    "AmusedScheduler": {"mask_token_id": 0},
    "VQDiffusionScheduler": {"num_vec_classes": 8},
    "RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "1/t", "tsr_k": 1.0, "tsr_sigma": 1.0},
}
NAMES = sorted({name for name in dir(diffusers) if name.endswith("Scheduler")} | set(NOT_AT_THE_TOP))


def class_named(name: str) -> type[SchedulerMixin]:
    return NOT_AT_THE_TOP.get(name) or getattr(diffusers, name)


def built(name: str, **options: object) -> SchedulerMixin:
    try:
        return class_named(name)(**REQUIRED.get(name, {}), **options)
    except ImportError as error:  # of a package that a class needs
        pytest.skip(str(error).strip().splitlines()[0])


def takes(name: str, argument: str) -> bool:
    return argument in inspect.signature(class_named(name).__init__).parameters


WITH_BETAS = [name for name in NAMES if takes(name, "beta_schedule")]
OTHERS = [name for name in NAMES if name not in WITH_BETAS]
DDPM_ARGUMENTS = [name for name in DDPMScheduler().config if not name.startswith("_")]


def assert_same_process(converted: DDPMPaperScheduler, source: SchedulerMixin) -> None:
    table = torch.as_tensor(source.alphas_cumprod).double()
    # Float32 tables; some have 2⁻²⁴ where nothing is left.
    torch.testing.assert_close(converted.alphas_cumprod, table, rtol=2e-4, atol=1e-6)


def assert_arguments_kept(converted: DDPMPaperScheduler, source: SchedulerMixin, *names: str) -> None:
    for name in names:
        expected = source.config[name]
        if name == "variance_type" and expected is None:  # for which the step of stock takes β̃
            expected = "fixed_small"
        assert converted.config[name] == expected, name


def test_there_are_both_kinds():
    assert {"DDPMScheduler", "UnCLIPScheduler", "LCMScheduler", "CogVideoXDDIMScheduler"} < set(WITH_BETAS)
    assert {"EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "ScoreSdeVeScheduler"} < set(OTHERS)
    assert len(WITH_BETAS) > 20 and len(OTHERS) > 20


# --- schedulers with betas ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_BETAS)
def test_the_defaults_of_another_class_are_kept(name: str):
    source = built(name)
    converted = DDPMPaperScheduler.from_scheduler(source)
    assert_same_process(converted, source)
    kept = [argument for argument in DDPM_ARGUMENTS if takes(name, argument)]
    if takes(name, "snr_shift_scale"):
        kept.remove("trained_betas")
    assert_arguments_kept(converted, source, *kept)
    own = DDPMPaperScheduler().config
    for argument in set(DDPM_ARGUMENTS) - set(kept) - {"trained_betas"}:
        assert converted.config[argument] == own[argument]


def test_heun_has_noisier_data_at_the_end_than_the_linear_schedule():
    assert DDPMPaperScheduler.from_scheduler(built("HeunDiscreteScheduler")).alphas_cumprod[-1] == pytest.approx(
        0.001579, abs=5e-7
    )


OPTIONS = {
    "num_train_timesteps": 123,
    "beta_start": 0.0003,
    "beta_end": 0.015,
    "beta_schedule": "scaled_linear",
    "prediction_type": "sample",
    "clip_sample": False,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "variance_type": "fixed_large",
    "thresholding": True,
    "sample_max_value": 1.5,
    "rescale_betas_zero_snr": True,
}


@pytest.mark.parametrize("changed", ["named", "trained betas"])
@pytest.mark.parametrize("name", WITH_BETAS)
def test_given_arguments_are_kept(name: str, changed: str):
    options = {argument: value for argument, value in OPTIONS.items() if takes(name, argument)}
    if name == "UnCLIPScheduler":
        options["beta_schedule"], options["variance_type"] = "squaredcos_cap_v2", "learned_range"
    if changed == "trained betas":
        if not takes(name, "trained_betas"):
            pytest.skip("takes no betas")
        options["trained_betas"] = np.linspace(0.01, 0.1, 123)
    source = built(name, **options)
    converted = DDPMPaperScheduler.from_scheduler(source)
    assert_same_process(converted, source)
    assert_arguments_kept(converted, source, *(set(options) - {"trained_betas"}))
    assert len(converted) == 123


@pytest.mark.parametrize("name", WITH_BETAS)
def test_a_saved_scheduler_loads_as_what_it_was(name: str, tmp_path: Path):
    source = built(name)
    source.save_pretrained(tmp_path)
    loaded = DDPMPaperScheduler.from_pretrained(tmp_path)
    assert_same_process(loaded, source)


@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
def test_a_shifted_ratio_of_signal_to_noise_comes_back(name: str):
    source = built(name, rescale_betas_zero_snr=False)
    converted = DDPMPaperScheduler.from_scheduler(source)
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, dim=0)
    log_snr = torch.log(abar / (1 - abar)) - torch.log(torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(converted.schedule.log_snr[1:], log_snr, rtol=1e-10, atol=1e-10)
    assert_same_process(converted, class_named(name).from_config(converted.config))


def test_the_table_of_a_scheduler_counts_where_it_is_not_that_of_its_configuration():
    """Scripts write other betas into a scheduler, such as those of zero terminal SNR."""
    source, rescaled = DDPMScheduler(prediction_type="v_prediction"), DDPMScheduler(rescale_betas_zero_snr=True)
    for table in ("betas", "alphas", "alphas_cumprod"):
        setattr(source, table, getattr(rescaled, table).clone())
    converted = DDPMPaperScheduler.from_scheduler(source)
    assert_same_process(converted, rescaled)
    assert converted.alphas_cumprod[-1] == 0
    assert converted.config.prediction_type == "v_prediction"


def test_a_value_that_was_assigned_to_a_configuration_counts():
    """As pipelines do it, and as the source's own `step` reads it."""
    source = DDPMScheduler()
    source.config.prediction_type = "v_prediction"
    assert DDPMPaperScheduler.from_scheduler(source).config.prediction_type == "v_prediction"


def test_what_is_no_scheduler_is_refused():
    for other in (None, "DDPMScheduler", tiny_unet()):
        with pytest.raises(ValueError, match="`scheduler` must be a scheduler of diffusers, but is"):
            DDPMPaperScheduler.from_scheduler(other)


# --- schedulers of other processes ----------------------------------------------------------------------------------


def refusal(name: str) -> str:
    return rf"^`scheduler` must have the process of a DDPM \(.*\), but {name} belongs to [^.]+\.( \d{{4}}\)\.)?$"


@pytest.mark.parametrize("name", OTHERS)
def test_another_process_is_refused_by_name(name: str):
    with pytest.raises(ValueError, match=refusal(name)):
        DDPMPaperScheduler.from_scheduler(built(name))


@pytest.mark.parametrize("name", OTHERS)
def test_another_process_is_refused_as_a_file(name: str, tmp_path: Path):
    built(name).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=refusal(name)):
        DDPMPaperScheduler.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", OTHERS)
def test_a_pipeline_refuses_another_process(name: str):
    with pytest.raises(ValueError, match=refusal(name)):
        DDPMPaperPipeline(tiny_unet(), built(name))


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "ScoreSdeVeScheduler"])
def test_a_saved_pipeline_of_another_process_is_refused(name: str, tmp_path: Path):
    DDPMPipeline(tiny_unet(), built(name)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=refusal(name)):
        DDPMPaperPipeline.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "scheduler" / "scheduler_config.json").rename(tmp_path / "scheduler_config.json")
    for file in (tmp_path / "unet").iterdir():
        file.rename(tmp_path / file.name)
    with pytest.raises(ValueError, match=refusal(name)):
        DDPMPaperPipeline.from_pretrained(tmp_path)  # the flat layout


@pytest.mark.parametrize("name", [name for name in WITH_BETAS if takes(name, "use_flow_sigmas")])
def test_a_solver_that_follows_a_flow_is_refused(name: str, tmp_path: Path):
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    source = built(name, **options)
    source.save_pretrained(tmp_path)
    for convert in (
        lambda: DDPMPaperScheduler.from_scheduler(source),
        lambda: DDPMPaperScheduler.from_config(source.config),
        lambda: DDPMPaperScheduler.from_pretrained(tmp_path),
    ):
        with pytest.raises(ValueError, match=r"belongs to flow matching \(`use_flow_sigmas` is True\)"):
            convert()


def test_a_solver_in_continuous_time_is_refused():
    """As Stable Video Diffusion has it, a model of EDM."""
    source = built("EulerDiscreteScheduler", timestep_type="continuous", prediction_type="v_prediction")
    with pytest.raises(ValueError, match="EulerDiscreteScheduler belongs to the EDM process"):
        DDPMPaperScheduler.from_scheduler(source)


def test_spacings_of_the_noise_along_a_ddpm_are_no_other_process():
    for option in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
        source = built("EulerDiscreteScheduler", **{option: True}, beta_schedule="scaled_linear")
        assert_same_process(DDPMPaperScheduler.from_scheduler(source), source)


def test_a_class_that_inherits_from_another_process_is_refused():
    class Mine(diffusers.FlowMatchEulerDiscreteScheduler):
        pass

    with pytest.raises(ValueError, match="but Mine belongs to flow matching"):
        DDPMPaperScheduler.from_scheduler(Mine())


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "ScoreSdeVeScheduler"])
def test_a_configuration_without_betas_is_refused_though_it_has_no_name(name: str):
    config = built(name).config
    assert "_class_name" not in config
    with pytest.raises(ValueError, match="this configuration belongs to another process, which has no betas"):
        DDPMPaperScheduler.from_config(config)


def test_a_process_that_diffusers_does_not_know_is_refused_if_it_has_no_betas():
    config = {"_class_name": "NewFlowScheduler", "num_train_timesteps": 1000, "sigma_max": 3.0}
    with pytest.raises(ValueError, match="NewFlowScheduler belongs to another process, which has no betas"):
        DDPMPaperScheduler.from_config(config)


def test_a_ddpm_comes_back_from_a_scheduler_of_another_process(tmp_path: Path):
    """diffusers calls EDM's compatible; our own configuration still says what the model is."""
    ours = DDPMPaperScheduler(beta_schedule="scaled_linear", num_levels=17)
    theirs = diffusers.EDMEulerScheduler.from_config(ours.config)
    theirs.save_pretrained(tmp_path)
    for back in (DDPMPaperScheduler.from_config(theirs.config), DDPMPaperScheduler.from_pretrained(tmp_path)):
        assert torch.equal(back.betas, ours.betas)
        assert back.num_levels == 17


def test_plain_dictionaries_may_leave_everything_out():
    assert len(DDPMPaperScheduler.from_config({"num_train_timesteps": 10})) == 10
    for name in ("DDPMScheduler", "DDPMPaperScheduler"):
        assert len(DDPMPaperScheduler.from_config({"_class_name": name, "num_train_timesteps": 10})) == 10
