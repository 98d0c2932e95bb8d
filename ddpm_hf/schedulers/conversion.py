# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What the configurations of other schedulers of diffusers mean in the terms of a DDPM."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..diffusion.noise_schedule import NoiseSchedule
from .configuration import DEFAULTS_KEY, noise_schedule


def in_our_terms(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose betas are those of its process: CogVideoX divides the named schedule's SNR by a number.

    Args:
        config: with the beta arguments, where it has a `snr_shift_scale`.
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
    """The betas of a scheduler's own table of ᾱ, if that is another than its configuration says, else None.

    Args:
        alphas_cumprod: ᾱ_1 … ᾱ_T that the scheduler uses, of any precision.
        expected: what its configuration says.
    """
    table = alphas_cumprod.detach().to("cpu", torch.float64)
    # Stock's tables are float32, and some write 2⁻²⁴ where nothing of the data is left.
    if table.shape == expected.shape and torch.allclose(table, expected, rtol=1e-3, atol=1e-6):
        return None
    return (1 - table / torch.cat([torch.ones_like(table[:1]), table[:-1]])).tolist()
