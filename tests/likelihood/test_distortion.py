# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The rate-distortion curve on Gaussian data, where it is D(R), and as the bound's sum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gaussian_codec import SHAPE, diffusion, posterior_mean

from ddpm_hf.likelihood.distortion import RateDistortion, rate_distortion
from ddpm_hf.likelihood.variational import bits_per_dim


VARIANCE, COUNT = 0.05, 6000


def curve_of(x_0: torch.Tensor) -> RateDistortion:
    chain = diffusion(VARIANCE, None, step=1)
    return rate_distortion(posterior_mean(VARIANCE), chain, [x_0], generator=torch.Generator().manual_seed(0))


def test_the_distortion_of_gaussian_data_is_that_of_the_rate() -> None:
    x_0 = torch.randn(COUNT, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    curve = curve_of(x_0 * math.sqrt(VARIANCE))
    assert curve.timesteps == list(range(59, -1, -1))
    exact = VARIANCE * 2 ** (-2 * np.array(curve.rates))
    # 96,000 elements; the rate and the distortion have an error of some 0.5 % each
    assert np.abs(np.array(curve.distortions) / exact - 1).max() < 0.03
    assert np.allclose(curve.psnr, 10 * np.log10(4 / np.array(curve.distortions)))


def test_it_ends_at_the_bound() -> None:
    x_0 = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.2
    chain = diffusion(VARIANCE, None, step=7)
    curve = rate_distortion(posterior_mean(VARIANCE), chain, [x_0], generator=torch.Generator().manual_seed(3))
    bounds = [
        bits_per_dim(posterior_mean(VARIANCE), chain, [x_0], generator=torch.Generator().manual_seed(seed))
        for seed in range(20)
    ]
    totals = [bound.total for bound in bounds]
    assert abs(curve.total - np.mean(totals)) < 4 * np.std(totals) + 1e-6
    assert curve.rates[0] == pytest.approx(bounds[0].prior)


def test_parts_are_merged_by_their_numbers_of_examples() -> None:
    parts = [
        RateDistortion([1, 0], [0.0, 1.0], [4.0, 2.0], 3.0, 1),
        RateDistortion([1, 0], [0.0, 4.0], [1.0, 2.0], 6.0, 2),
    ]
    merged = RateDistortion.merged(parts)
    assert merged == RateDistortion([1, 0], [0.0, 3.0], [2.0, 2.0], 5.0, 3)
    for wrong in ([], [parts[0], RateDistortion([2, 0], [0.0, 1.0], [4.0, 2.0], 3.0, 1)]):
        with pytest.raises(ValueError, match="at least one curve, all along the same timesteps"):
            RateDistortion.merged(wrong)
