# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Names of version 0.1 still work for a release: modules, their functions, classes and choices, and saved files."""

from __future__ import annotations

import importlib.util
import inspect
import json
import pickle
import re
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


pytestmark = pytest.mark.processes(1)


NAMES = {  # by module; without constants that only tune an algorithm, and protocols, which no caller needs
    "decoders": """
        discretized_gaussian_log_likelihood gaussian_log_density discrete_normal_log_likelihood decoder_nll
    """,
    "denoising_errors": """
        DenoisingErrors optimal_log_variances step_costs chain_costs gaussian_decoder_cost
    """,
    "gaussian_process": """
        PREDICTION_TYPES Coefficients MarginalCoefficients StepCoefficients q_sample velocity q_mean_variance
        q_transition_mean_variance q_posterior_mean_variance gaussian_kl ddim_coefficients check_eta
        prediction_from_x0 x0_from_prediction conversion convert_prediction linear_combination unknown
    """,
    "hub": """
        INDEX push_folder claim_repository model_files
    """,
    "hub_errors": """
        HubError hub_errors
    """,
    "importance_weighting": """
        log_path_weights ImportanceWeightedBits importance_weighted_bits_per_dim
    """,
    "langevin": """
        corrector_step predictor_corrector
    """,
    "likelihood": """
        prior_kl posterior_kl vlb_terms Denoiser randn_like Batches checked_batches check_levels BitsPerDim
        bits_per_dim
    """,
    "measurement": """
        measure_denoising_errors
    """,
    "model_card": """
        CARD SAMPLES METRICS MEASURES TEMPLATE fill_card merge_cards embeds_classes number_of_classes in_stock
        weights_of count_parameters read_json
    """,
    "noise_schedule": """
        NoiseSchedule ContinuousSchedule
    """,
    "numerics": """
        Coefficient Times LOG_2 log1mexp require_samples promote demote to_float64 move_coefficients
        expand_like mean_flat spherical_interpolation standard_error require_positive require_count
        nats_to_bits check_num_levels
    """,
    "objectives": """
        simple_loss min_snr_weights vlb_loss variance_loss hybrid_loss rate_loss uniform_timesteps
        stratified_timesteps ImportanceTimesteps
    """,
    "pipeline_ddpm_paper": """
        OUTPUT_TYPES DenoisingStep DDPMPaperPipeline Generators ClassLabels
    """,
    "probability_flow": """
        ADAPTIVE_METHODS FIXED_METHODS State Field FlowResult flow_sample flow_encode TRACES LogPrior
        FlowLikelihood FlowBitsPerDim flow_log_likelihood flow_bits_per_dim dequantize
    """,
    "reverse_process": """
        FIXED_VARIANCE_TYPES VARIANCE_TYPES FIRST_VARIANCES ReverseStep ReverseCoefficients ReverseProcess
        cast_variance check_first_variance check_times clip_sample dynamic_threshold
    """,
    "scheduler_config": """
        OWN_CONFIG_KEY OWN_ARGUMENTS NEAREST_IN_STOCK DEFAULTS_KEY own_arguments in_todays_names
        names_at_default
    """,
    "scheduling_ddpm_paper": """
        BETA_SCHEDULES PREDICTION_TYPES CHOSEN_SPACINGS DDPMPaperScheduler check_arguments
    """,
    "timesteps": """
        TIMESTEP_SPACINGS spaced_times quadratic_times log_snr_times optimal_times custom_times
    """,
}
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
RENAMED = [  # in version 0.1, today, the module where it is, and others that have it
    ("flow_sample", "ode_sample", "diffusion.probability_flow", ["", "diffusion", "probability_flow"]),
    ("flow_encode", "ode_encode", "diffusion.probability_flow", ["", "diffusion", "probability_flow"]),
    ("FlowResult", "OdeResult", "diffusion.probability_flow", ["probability_flow"]),
    ("flow_log_likelihood", "ode_log_likelihood", "likelihood.ode", ["", "likelihood", "probability_flow"]),
    ("flow_bits_per_dim", "ode_bits_per_dim", "likelihood.ode", ["", "likelihood", "probability_flow"]),
    ("FlowLikelihood", "OdeLikelihood", "likelihood.ode", ["likelihood", "probability_flow"]),
    ("FlowBitsPerDim", "OdeBitsPerDim", "likelihood.ode", ["likelihood", "probability_flow"]),
    ("promote", "upcast", "diffusion.numerics", ["numerics"]),
    ("demote", "cast_back", "diffusion.numerics", ["numerics"]),
]
TODAYS = {row[0]: row[1] for row in RENAMED}
STAYED = {"hub", "hub_errors", "likelihood", "scheduling_ddpm_paper"}  # under these names for good


def value_of(module: str, name: str) -> tuple[object, list[warnings.WarningMessage]]:
    """An attribute of a module of the package, and the warnings that it comes with."""
    holder = importlib.import_module(f"ddpm_hf.{module}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return getattr(holder, name), caught


@pytest.mark.parametrize("old", NAMES)
def test_old_names_are_there_and_say_where_they_are_now(old: str) -> None:
    for name in NAMES[old].split():
        value, caught = value_of(old, name)
        assert value is not None
        if old in STAYED:
            assert caught == []
            continue
        (warning,) = caught
        found = re.match(rf"`ddpm_hf\.{old}\.{name}` is now `ddpm_hf\.([\w.]+)\.(\w+)`;", str(warning.message))
        assert found and warning.category is DeprecationWarning and warning.filename == __file__
        assert found[2] == TODAYS.get(name, name)
        assert value_of(found[1], found[2]) == (value, [])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", OF_THE_PACKAGE)
def test_the_package_has_the_names_that_it_had(name: str) -> None:
    assert getattr(ddpm_hf, name) is not None


@pytest.mark.parametrize(("old", "new", "home", "others"), RENAMED, ids=lambda value: str(value))
def test_a_renamed_name_gives_the_new_one_and_says_so(old: str, new: str, home: str, others: list[str]) -> None:
    todays = getattr(importlib.import_module(f"ddpm_hf.{home}"), new)
    for name in (home, *others):
        module = importlib.import_module(f"ddpm_hf.{name}" if name else "ddpm_hf")
        with pytest.warns(DeprecationWarning, match=rf"\b{old}` is now `.*\b{new}`") as caught:
            assert getattr(module, old) is todays
        assert len(caught) == 1 and caught[0].filename == __file__
        assert old not in getattr(module, "__all__", [])


def test_interpolation_under_its_old_name_takes_its_old_argument() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    with pytest.warns(DeprecationWarning, match="spherical_interpolation` is now `slerp`") as caught:
        found = ddpm_hf.spherical_interpolation(a, b, share=0.5)
    assert caught[0].filename == __file__
    torch.testing.assert_close(found, torch.full((1, 2), 0.5**0.5))
    assert torch.equal(found, ddpm_hf.slerp(a, b, t=0.5))


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


@pytest.mark.slow
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
