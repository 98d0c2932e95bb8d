# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Names of version 0.1 still work for a release: modules, their functions, classes and choices, and saved files."""

from __future__ import annotations

import importlib.util
import inspect
import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from tiny_models import tiny_unet

import ddpm_hf
from ddpm_hf import DDPMPaperScheduler


# The module of version 0.1, the module where the names are now, and the names. Constants that only tune an algorithm,
# and protocols, which no caller needs, are left out.
NAMES = [
    ("decoders", "diffusion.discretized_likelihood", "discretized_gaussian_log_likelihood gaussian_log_density"),
    ("decoders", "diffusion.discretized_likelihood", "discrete_normal_log_likelihood decoder_nll"),
    ("denoising_errors", "diffusion.denoising_errors", "DenoisingErrors optimal_log_variances step_costs chain_costs"),
    ("denoising_errors", "diffusion.denoising_errors", "gaussian_decoder_cost"),
    ("gaussian_process", "diffusion.gaussian_process", "PREDICTION_TYPES Coefficients MarginalCoefficients"),
    ("gaussian_process", "diffusion.gaussian_process", "StepCoefficients q_sample velocity q_mean_variance"),
    ("gaussian_process", "diffusion.gaussian_process", "q_transition_mean_variance q_posterior_mean_variance"),
    ("gaussian_process", "diffusion.gaussian_process", "gaussian_kl ddim_coefficients check_eta prediction_from_x0"),
    ("gaussian_process", "diffusion.gaussian_process", "x0_from_prediction conversion convert_prediction"),
    ("gaussian_process", "diffusion.gaussian_process", "linear_combination unknown"),
    ("hub", "hub.push", "INDEX push_folder claim_repository model_files"),
    ("hub_errors", "hub_errors", "HubError hub_errors"),
    ("importance_weighting", "likelihood.importance_weighting", "log_path_weights ImportanceWeightedBits"),
    ("importance_weighting", "likelihood.importance_weighting", "importance_weighted_bits_per_dim"),
    ("langevin", "diffusion.langevin", "corrector_step predictor_corrector"),
    ("likelihood", "diffusion.bound_terms", "prior_kl posterior_kl vlb_terms"),
    ("likelihood", "diffusion.denoiser", "Denoiser randn_like"),
    ("likelihood", "likelihood.batches", "Batches checked_batches check_levels"),
    ("likelihood", "likelihood.variational", "BitsPerDim bits_per_dim"),
    ("measurement", "likelihood.measurement", "measure_denoising_errors"),
    ("model_card", "hub.model_card", "CARD SAMPLES METRICS MEASURES TEMPLATE fill_card merge_cards embeds_classes"),
    ("model_card", "hub.model_card", "number_of_classes in_stock weights_of count_parameters read_json"),
    ("noise_schedule", "diffusion.noise_schedule", "NoiseSchedule ContinuousSchedule"),
    ("numerics", "diffusion.numerics", "Coefficient Times LOG_2 log1mexp require_samples promote demote to_float64"),
    ("numerics", "diffusion.numerics", "move_coefficients expand_like mean_flat spherical_interpolation"),
    ("numerics", "diffusion.numerics", "standard_error require_positive require_count nats_to_bits check_num_levels"),
    ("objectives", "diffusion.losses", "simple_loss min_snr_weights vlb_loss variance_loss hybrid_loss rate_loss"),
    ("objectives", "diffusion.timestep_sampling", "uniform_timesteps stratified_timesteps ImportanceTimesteps"),
    ("pipeline_ddpm_paper", "pipelines.images", "OUTPUT_TYPES"),
    ("pipeline_ddpm_paper", "pipelines.pipeline_ddpm_paper", "DenoisingStep DDPMPaperPipeline"),
    ("pipeline_ddpm_paper", "pipelines.pipeline_ddpm_paper", "Generators ClassLabels"),
    ("probability_flow", "diffusion.ode_solver", "ADAPTIVE_METHODS FIXED_METHODS State Field"),
    ("probability_flow", "diffusion.probability_flow", "FlowResult flow_sample flow_encode"),
    ("probability_flow", "likelihood.ode", "TRACES LogPrior FlowLikelihood FlowBitsPerDim flow_log_likelihood"),
    ("probability_flow", "likelihood.ode", "flow_bits_per_dim dequantize"),
    ("reverse_process", "diffusion.reverse_variances", "FIXED_VARIANCE_TYPES VARIANCE_TYPES FIRST_VARIANCES"),
    ("reverse_process", "diffusion.reverse_process", "ReverseStep ReverseCoefficients ReverseProcess cast_variance"),
    ("reverse_process", "diffusion.reverse_process", "check_first_variance check_times"),
    ("reverse_process", "diffusion.constraints", "clip_sample dynamic_threshold"),
    ("scheduler_config", "schedulers.configuration", "OWN_CONFIG_KEY OWN_ARGUMENTS NEAREST_IN_STOCK DEFAULTS_KEY"),
    ("scheduler_config", "schedulers.configuration", "own_arguments in_todays_names names_at_default"),
    ("scheduling_ddpm_paper", "schedulers.configuration", "BETA_SCHEDULES"),
    ("scheduling_ddpm_paper", "schedulers.construction", "PREDICTION_TYPES"),
    ("scheduling_ddpm_paper", "schedulers.configured_chain", "CHOSEN_SPACINGS"),
    ("scheduling_ddpm_paper", "schedulers.scheduling_ddpm_paper", "DDPMPaperScheduler check_arguments"),
    ("timesteps", "diffusion.timestep_spacing", "TIMESTEP_SPACINGS spaced_times quadratic_times log_snr_times"),
    ("timesteps", "diffusion.timestep_spacing", "optimal_times custom_times"),
]
OF_THE_PACKAGE = [
    *(
        "BitsPerDim",
        "DDPMPaperPipeline",
        "DDPMPaperScheduler",
        "DenoisingErrors",
        "HubError",
        "ImportanceWeightedBits",
    ),
    *("NoiseSchedule", "__version__", "bits_per_dim", "flow_bits_per_dim", "flow_encode", "flow_log_likelihood"),
    *("flow_sample", "importance_weighted_bits_per_dim", "log_path_weights", "measure_denoising_errors"),
    *("predictor_corrector", "push_folder", "spherical_interpolation"),
]
STAYED = {"hub", "hub_errors", "likelihood", "scheduling_ddpm_paper"}  # under these names for good


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("old", "new", "names"), NAMES, ids=lambda value: value)
def test_an_old_name_is_the_new_one(old: str, new: str, names: str) -> None:
    before, now = (importlib.import_module(f"ddpm_hf.{module}") for module in (old, new))
    for name in names.split():
        assert getattr(before, name) is getattr(now, name), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", OF_THE_PACKAGE)
def test_the_package_has_the_names_that_it_had(name: str) -> None:
    assert getattr(ddpm_hf, name) is not None


@pytest.mark.parametrize(("old", "new", "names"), NAMES, ids=lambda value: value)
def test_an_old_name_tells_where_it_is_now(old: str, new: str, names: str) -> None:
    module, name = importlib.import_module(f"ddpm_hf.{old}"), names.split()[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(module, name)
    if old in STAYED:
        assert caught == []
    else:
        (warning,) = caught
        assert warning.category is DeprecationWarning and warning.filename == __file__
        assert str(warning.message).startswith(f"`ddpm_hf.{old}.{name}` is now `ddpm_hf.{new}.{name}`")


def test_an_old_module_is_an_attribute_and_imports_by_every_statement() -> None:
    import ddpm_hf.decoders as one
    from ddpm_hf import decoders as two

    assert one is two is ddpm_hf.decoders is importlib.import_module("ddpm_hf.decoders")
    assert importlib.util.find_spec("ddpm_hf.decoders").name == one.__name__ == "ddpm_hf.decoders"


@pytest.mark.parametrize("name", ["nothing", "_nothing", "decoders_", "diffusion_"])
def test_a_name_that_never_was_is_none(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'ddpm_hf' has no attribute '{name}'"):
        getattr(ddpm_hf, name)
    with pytest.raises(AttributeError, match=rf"module 'ddpm_hf\.decoders' has no attribute '{name}'"):
        getattr(ddpm_hf.decoders, name)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"ddpm_hf.{name}")


LOAD = """
import ddpm_hf  # and no more of it: what is saved is found
from diffusers import DDPMPipeline
scheduler = DDPMPipeline.from_pretrained({folder!r}).scheduler
print(type(scheduler) is ddpm_hf.DDPMPaperScheduler, len(scheduler), scheduler.num_levels)
"""


def test_stock_pipelines_save_the_module_that_they_always_saved(tmp_path: Path) -> None:
    """They look it up in sys.modules when they load, so it must be there after `import ddpm_hf`."""
    folder = str(tmp_path / "model")
    DDPMPipeline(tiny_unet(), DDPMPaperScheduler(30, num_levels=17)).save_pretrained(folder)
    index = json.loads(Path(folder, "model_index.json").read_text())
    assert index["scheduler"] == ["ddpm_hf.scheduling_ddpm_paper", "DDPMPaperScheduler"]  # as version 0.1 wrote it
    command = [sys.executable, "-W", "error::DeprecationWarning:ddpm_hf", "-c", LOAD.format(folder=folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "30", "17"] and "DeprecationWarning" not in done.stderr


def test_what_a_stock_pipeline_loads_draws_the_same_images(tmp_path: Path) -> None:
    unet, scheduler = tiny_unet(), DDPMPaperScheduler(30, beta_schedule="squaredcos_cap_v2")
    pipelines = [DDPMPipeline(unet, scheduler)]
    pipelines[0].save_pretrained(tmp_path)
    pipelines.append(DDPMPipeline.from_pretrained(tmp_path))
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
    images = [each(2, torch.Generator().manual_seed(0), 5, output_type="np").images for each in pipelines]
    assert (images[0] == images[1]).all()


def test_the_scheduler_is_what_tools_take_it_for() -> None:
    assert pickle.loads(pickle.dumps(DDPMPaperScheduler)) is DDPMPaperScheduler
    assert inspect.getsource(DDPMPaperScheduler).startswith("class DDPMPaperScheduler")
