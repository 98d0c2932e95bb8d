# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Which schedulers of diffusers belong to a DDPM, and what their configurations mean for a DDPM.

The process of a DDPM is a discrete, variance-preserving diffusion of T steps, given by β_1 … β_T. Ancestral samplers,
DDIM and most solvers share it. Schedulers of other processes have the same argument names, or only some of them, and
without a check would pass for a DDPM with default β.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..diffusion.noise_schedule import NoiseSchedule
from .configuration import DEFAULTS_KEY, OWN_CONFIG_KEY, noise_schedule


_EDM = "the EDM process (Karras et al. 2022)"
_VE = "a variance-exploding diffusion"
_CONTINUOUS = "a diffusion in continuous time"
_FLOW = "flow matching"
_CONSISTENCY = "a consistency model"
_DISCRETE = "a diffusion of discrete tokens"

OTHER_PROCESSES = {
    "EDMDPMSolverMultistepScheduler": _EDM,
    "EDMEulerScheduler": _EDM,
    "CosineDPMSolverMultistepScheduler": _EDM,
    "KarrasVeScheduler": _VE,
    "ScoreSdeVeScheduler": _VE,
    "ScoreSdeVpScheduler": _CONTINUOUS,
    "DDPMWuerstchenScheduler": _CONTINUOUS,
    "IPNDMScheduler": _CONTINUOUS,
    "FlowMapEulerDiscreteScheduler": _FLOW,
    "FlowMatchEulerDiscreteScheduler": _FLOW,
    "FlowMatchHeunDiscreteScheduler": _FLOW,
    "FlowMatchLCMScheduler": _FLOW,
    "HeliosDMDScheduler": _FLOW,
    "HeliosScheduler": _FLOW,
    "LTXEulerAncestralRFScheduler": _FLOW,
    "MiniMaxH3Scheduler": _FLOW,
    "PiflowScheduler": _FLOW,
    "RFD4ProteinaScheduler": _FLOW,
    "CMStochasticIterativeScheduler": _CONSISTENCY,
    "ConsistencyDecoderScheduler": _CONSISTENCY,
    "SCMScheduler": _CONSISTENCY,
    "AmusedScheduler": _DISCRETE,
    "BlockRefinementScheduler": _DISCRETE,
    "DiscreteDDIMScheduler": _DISCRETE,
    "EntropyBoundScheduler": _DISCRETE,
    "VQDiffusionScheduler": _DISCRETE,
}

_BETA_ARGUMENTS = {"beta_start", "beta_end", "beta_schedule"}
_OF_A_DDPM = {"DDPMScheduler", "DDPMPaperScheduler"}  # may omit the beta arguments


def check_process(config: Mapping[str, Any], class_names: Collection[str]) -> None:
    """Raise ValueError unless a scheduler has the process of a DDPM.

    Args:
        config: the scheduler's configuration.
        class_names: names of its class and of the base classes, as far as they are known.
    """
    name = next(iter(class_names), "this configuration")
    process = _other_process(config, class_names)
    if process is not None:
        raise ValueError(
            "`scheduler` must have the process of a DDPM (a discrete variance-preserving diffusion, such as"
            f" DDPMScheduler or DDIMScheduler), but {name} belongs to {process}."
        )


def _other_process(config: Mapping[str, Any], class_names: Collection[str]) -> str | None:
    was_ours = OWN_CONFIG_KEY in config  # then the process is still that of our scheduler
    known = [OTHER_PROCESSES[name] for name in class_names if name in OTHER_PROCESSES and not was_ours]
    if known:
        return known[0]
    if config.get("use_flow_sigmas"):
        return f"{_FLOW} (`use_flow_sigmas` is True)"
    if config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction":
        return f"{_EDM} (`timestep_type` is 'continuous')"
    is_of_another_class = (bool(class_names) or DEFAULTS_KEY in config) and not _OF_A_DDPM & set(class_names)
    if is_of_another_class and not was_ours and not _BETA_ARGUMENTS & set(config):
        return "another process, which has no betas"
    return None


def in_our_terms(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose betas describe its process: CogVideoX divides the SNR of the named schedule by a number.

    Args:
        config: a configuration; if it has a `snr_shift_scale`, it must also have the beta arguments.
    """
    shift = config.get("snr_shift_scale", 1.0)
    if shift == 1.0:
        return config
    # ᾱ/(s + (1 − s) ᾱ) has the signal-to-noise ratio SNR/s.
    log_snr = noise_schedule(config).log_snr[1:] - math.log(shift)
    log_alphas_cumprod = torch.nn.functional.logsigmoid(log_snr)
    shifted = NoiseSchedule(torch.cat([torch.zeros_like(log_alphas_cumprod[:1]), log_alphas_cumprod]))
    given = [name for name in config.get(DEFAULTS_KEY, []) if name not in ("trained_betas", "snr_shift_scale")]
    known_defaults = {DEFAULTS_KEY: given} if DEFAULTS_KEY in config else {}
    return {**config, "trained_betas": shifted.betas.tolist(), "snr_shift_scale": 1.0, **known_defaults}


def betas_unlike(alphas_cumprod: Tensor, expected: Tensor) -> list[float] | None:
    """The betas of a scheduler's own table of ᾱ if it differs from its configuration, else None.

    Args:
        alphas_cumprod: ᾱ_1 … ᾱ_T that the scheduler uses, in any precision.
        expected: ᾱ_1 … ᾱ_T from its configuration.
    """
    if alphas_cumprod.is_meta:  # built where no values are kept
        return None
    table = alphas_cumprod.detach().to("cpu", torch.float64)
    # Stock's tables are float32, and some contain 2⁻²⁴ instead of 0.
    if table.shape == expected.shape and torch.allclose(table, expected, rtol=1e-3, atol=1e-6):
        return None
    return (1 - table / torch.cat([torch.ones_like(table[:1]), table[:-1]])).tolist()
