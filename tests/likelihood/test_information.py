# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""information: what conditioning is worth, against closed forms, and standard errors of examples in groups."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_hf import BitsPerDim, DDPMPaperScheduler, NoiseSchedule, bits_per_dim, information_of
from ddpm_hf.likelihood.information import Information, grouped_standard_error


SHARED, OWN = 0.03, 0.01  # variances of c and of the noise on it: x = c + noise
DIMENSIONS, EXAMPLES = 4, 1024
SCHEDULER = DDPMPaperScheduler.from_schedule(
    NoiseSchedule.linear_log_snr(400, 11.0, -9.0),
    prediction_type="sample",
    variance_type="fixed_small",
    clip_sample=False,
    num_levels=None,
)
LOG_ABAR = SCHEDULER.schedule.log_alphas_cumprod


# --- a Gaussian whose mutual information is known --------------------------------------------------------------------


def exact(x_t: Tensor, timesteps: Tensor, c: Tensor) -> Tensor:
    """E[x_0 | x_t, c], and E[x_0 | x_t] where c is NaN, which says that it is not given."""
    log_abar = LOG_ABAR[timesteps + 1][:, None]
    alpha, abar, noise = (0.5 * log_abar).exp(), log_abar.exp(), -torch.expm1(log_abar)
    mean, variance = c.nan_to_num(), torch.where(c.isnan(), SHARED + OWN, OWN)
    return (mean + alpha * variance / (abar * variance + noise) * (x_t - alpha * mean)).float()


def bound(x_0: Tensor, c: Tensor, **options: Any) -> BitsPerDim:
    generator = torch.Generator().manual_seed(5)
    return bits_per_dim(exact, SCHEDULER, [(x_0, {"c": c})], generator=generator, **options)


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    c, noise = torch.randn(2, EXAMPLES, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    return c * SHARED**0.5 + noise * OWN**0.5, c * SHARED**0.5


@pytest.fixture(scope="module")
def found(data: tuple[Tensor, Tensor]) -> Information:
    x_0, c = data
    return information_of(bound(x_0, torch.full_like(c, math.nan)), bound(x_0, c), DIMENSIONS)


def expected_per_timestep() -> Tensor:
    """The expected difference of every term: the posterior variances differ, weighted as in Eq. 8 and 13."""
    noise = -torch.expm1(LOG_ABAR)
    beta, before, after = -torch.expm1(LOG_ABAR.diff()), noise[:-1], noise[1:]
    variance = beta * before / after
    variance[0] = variance[1]  # of the decoder
    weight = LOG_ABAR[:-1].exp() * (beta / after) ** 2 / (2 * variance)
    abar = LOG_ABAR[1:].exp()
    left = [v * after / (abar * v + after) for v in (SHARED + OWN, OWN)]
    return DIMENSIONS * weight * (left[0] - left[1]) / math.log(2)


def test_the_bits_that_conditioning_saves_are_the_mutual_information(found: Information) -> None:
    mutual = DIMENSIONS * 0.5 * math.log2(1 + SHARED / OWN)
    assert mutual == 4.0
    assert abs(found.bits - mutual) < 4 * found.standard_error
    # Of one example it is ½ log₂ 4 + ½ (x²/0.04 − noise²/0.01) / ln 2 per dimension; x and noise have correlation ½.
    deviation = math.sqrt(DIMENSIONS * (2 + 2 - 2 * 2 * OWN / (SHARED + OWN)) / 4) / math.log(2)
    least = deviation / math.sqrt(EXAMPLES)
    assert least < found.standard_error < 1.5 * least  # the noise of the estimate adds a little


def test_every_noise_level_has_its_share(found: Information) -> None:
    expected = expected_per_timestep()
    assert expected.sum().item() == pytest.approx(4.0, rel=0.05)  # the discretisation of 400 steps
    assert abs(found.bits - expected.sum().item()) < 4 * found.standard_error
    assert found.timesteps == list(range(400)) and sum(found.per_timestep) == pytest.approx(found.bits, abs=1e-6)
    thirds = [(torch.tensor(found.per_timestep)[part].sum(), expected[part].sum()) for part in parts_of(400)]
    for share, wanted in thirds:
        assert share.item() == pytest.approx(wanted.item(), abs=0.25)


def parts_of(count: int) -> list[slice]:
    return [slice(0, count // 3), slice(count // 3, 2 * count // 3), slice(2 * count // 3, count)]


def test_an_estimate_by_few_calls_agrees(data: tuple[Tensor, Tensor], found: Information) -> None:
    x_0, c = data
    calls = {"num_evaluations": 40}
    few = information_of(bound(x_0, torch.full_like(c, math.nan), **calls), bound(x_0, c, **calls), DIMENSIONS)
    assert abs(few.bits - found.bits) < 4 * few.standard_error


def test_the_wrong_conditioning_costs_bits(data: tuple[Tensor, Tensor]) -> None:
    """For c of another example: E[log p(x | c') − log p(x)] = ½ log(4) − ½ (E(x − c')²/0.01 − 1), per dimension."""
    x_0, c = data
    lost = information_of(bound(x_0, torch.full_like(c, math.nan)), bound(x_0, c.roll(1, 0)), DIMENSIONS)
    expected = DIMENSIONS * 0.5 * (math.log2(4) - ((2 * SHARED + OWN) / OWN - 1) / math.log(2))
    assert abs(lost.bits - expected) < 4 * lost.standard_error


# --- standard errors -------------------------------------------------------------------------------------------------


def by_hand(values: np.ndarray, groups: list[Any]) -> float:
    """Cluster-robust, of a regression on a constant (Liang & Zeger 1986; Cameron & Miller 2015, Eq. 11)."""
    residuals, names = values - values.mean(), sorted(set(groups))
    meat = sum(residuals[[group == name for group in groups]].sum() ** 2 for name in names)
    bread = 1 / len(values)
    return math.sqrt(len(names) / (len(names) - 1) * bread * meat * bread)


def test_it_is_the_cluster_robust_one() -> None:
    generator = np.random.default_rng(0)
    values, groups = generator.normal(size=60), generator.integers(0, 9, 60).tolist()
    names = [f"group {k}" for k in groups]
    found = grouped_standard_error(torch.tensor(values), names)
    assert found == pytest.approx(by_hand(values, names), rel=1e-12)


def test_groups_of_one_are_independent_examples() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = values.std().item() / math.sqrt(50)
    assert grouped_standard_error(values, range(50)) == pytest.approx(plain, rel=1e-12)
    assert grouped_standard_error(values) == pytest.approx(plain, rel=1e-12)


def test_the_same_example_again_adds_nothing() -> None:
    values = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    repeated = grouped_standard_error(values.repeat_interleave(3), [k // 3 for k in range(60)])
    assert repeated == pytest.approx(grouped_standard_error(values), rel=1e-12)
    assert grouped_standard_error(values.repeat_interleave(3)) < 0.6 * repeated


def test_it_is_the_spread_of_the_mean_over_other_groups() -> None:
    generator = np.random.default_rng(1)
    sizes = [1, 1, 2, 5, 5, 10] * 5
    groups = [k for k, size in enumerate(sizes) for _ in range(size)]
    means, errors = [], []
    for _ in range(400):
        values = generator.normal(size=len(sizes))[groups] + 0.5 * generator.normal(size=len(groups))
        means.append(values.mean())
        errors.append(grouped_standard_error(torch.tensor(values), groups) ** 2)
    assert math.sqrt(np.mean(errors)) == pytest.approx(np.std(means), rel=0.15)


def test_one_group_has_no_standard_error() -> None:
    assert grouped_standard_error(torch.tensor([1.0, 2.0]), ["a", "a"]) == math.inf
    assert grouped_standard_error(torch.tensor([1.0])) == math.inf


def test_information_takes_its_groups(data: tuple[Tensor, Tensor]) -> None:
    x_0, c = (each[:32].repeat(2, 1) for each in data)
    calls = {"num_evaluations": 2}
    bounds = bound(x_0, torch.full_like(c, math.nan), **calls), bound(x_0, c, **calls)
    plain = information_of(*bounds, DIMENSIONS)
    grouped = information_of(*bounds, DIMENSIONS, [k % 32 for k in range(64)])
    assert grouped.bits == plain.bits and grouped.per_example == plain.per_example
    assert grouped.standard_error == pytest.approx(by_hand(np.array(plain.per_example), [k % 32 for k in range(64)]))


# --- the result, and what is refused ---------------------------------------------------------------------------------


def test_it_prints_one_line(found: Information) -> None:
    assert str(found) == f"{found.bits:.2f} bits per example ± {found.standard_error:.2f}, on 1024 examples"
    assert found.to_dict() == dataclasses.asdict(found)


def test_bounds_that_do_not_belong_together_are_refused(data: tuple[Tensor, Tensor]) -> None:
    x_0, c = data[0][:4], data[1][:4]
    calls = {"num_evaluations": 2}
    one = bound(x_0, c, **calls)
    with pytest.raises(ValueError, match="Both bounds must be of the same examples, along the same timesteps"):
        information_of(one, bound(x_0[:3], c[:3], **calls), DIMENSIONS)
    with pytest.raises(ValueError, match="Both bounds must be of the same examples, along the same timesteps"):
        information_of(one, dataclasses.replace(one, timesteps=one.timesteps[1:]), DIMENSIONS)
    with pytest.raises(ValueError, match="`groups` must have one for each of 4 examples, but has 3"):
        information_of(one, one, DIMENSIONS, "abc")
