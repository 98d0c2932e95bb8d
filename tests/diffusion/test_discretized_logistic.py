# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""discretized_logistic: bins of the logistic distribution against scipy's, and in closed form far in the tails."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import logistic

from ddpm_hf.diffusion.discretized_logistic import discretized_logistic_log_likelihood


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("scale", [0.003, 0.1, 2.0])
def test_the_bins_are_scipys_and_sum_to_one(num_levels: int, scale: float) -> None:
    levels = torch.linspace(-1, 1, num_levels, dtype=torch.float64)
    mean, half = 0.1234, 1 / (num_levels - 1)
    got = discretized_logistic_log_likelihood(levels, torch.tensor(mean), torch.tensor(math.log(scale)), num_levels)
    assert got.dtype == torch.float64 and logsumexp(got.numpy()) == pytest.approx(0, abs=1e-6)
    edges = np.concatenate([[-math.inf], levels.numpy()[:-1] + half, [math.inf]])
    expected = np.diff(logistic.cdf(edges, mean, scale))
    assert got.exp().numpy() == pytest.approx(expected, rel=1e-5, abs=1e-13)


def test_the_tail_is_exact_and_has_a_gradient() -> None:
    """At d ≫ s the bin is e^(−(d − h)/s) − e^(−(d + h)/s), where a difference of two cdf would be 0."""
    mean = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    log_scale = torch.full((2,), math.log(1e-4), dtype=torch.float64, requires_grad=True)
    x = torch.tensor([199, -199], dtype=torch.float64) / 255
    got = discretized_logistic_log_likelihood(x, mean, log_scale, 256)
    distance, half = 199 / 255, 1 / 255
    expected = -(distance - half) / 1e-4 + math.log1p(-math.exp(-2 * half / 1e-4))
    assert got.tolist() == pytest.approx([expected, expected], rel=1e-12)
    got.sum().backward()
    assert mean.grad.tolist() == pytest.approx([1e4, -1e4], rel=1e-9)
    assert log_scale.grad.tolist() == pytest.approx([(distance - half) / 1e-4] * 2, rel=1e-6)


def test_number_of_levels_is_checked() -> None:
    with pytest.raises(ValueError, match="num_levels"):
        discretized_logistic_log_likelihood(torch.zeros(1), torch.zeros(1), torch.zeros(1), 1)
