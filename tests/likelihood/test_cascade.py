# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The bound of a cascade on a distribution that is known: pairs of levels of a correlated Gaussian.

x is two pixels of a few levels, low(x) the mean of both, rounded. All probabilities, and the denoisers that are
optimal for them, follow by summing over all pairs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from ddpm_hf import DDPMPaperScheduler, NoiseSchedule, bits_per_dim, cascade_bits_per_dim
from ddpm_hf.conditioning.box_means import box_mean
from ddpm_hf.conditioning.low_resolution import noised, standard_noising
from ddpm_hf.likelihood.variational import BitsPerDim


LEVELS, T = 5, 1000
SCHEDULE = NoiseSchedule.linear_log_snr(T, 9.0, -9.0)
NOISING = standard_noising()
VALUES = torch.linspace(-1, 1, LEVELS, dtype=torch.float64)
PAIRS = torch.tensor(list(itertools.product(range(LEVELS), repeat=2)))  # [25, 2]
X = VALUES[PAIRS].reshape(-1, 1, 1, 2)
LOW = box_mean(PAIRS.reshape(-1, 1, 1, 2).repeat_interleave(2, dim=2), 2).reshape(-1)  # the mean of both pixels
LOW_X = VALUES[LOW].reshape(-1, 1, 1, 1)


def probabilities() -> Tensor:
    """Of the pairs: a Gaussian with correlation 0.8, at the levels."""
    precision = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64).mul(0.4).inverse()
    flat = X.reshape(-1, 2)
    return torch.softmax(-0.5 * torch.einsum("ni,ij,nj->n", flat, precision, flat), dim=0)


P = probabilities()
P_LOW = torch.zeros(LEVELS, dtype=torch.float64).index_add(0, LOW, P)


def scheduler() -> DDPMPaperScheduler:
    kinds = {"prediction_type": "sample", "variance_type": "fixed_small", "clip_sample": False, "num_levels": LEVELS}
    return DDPMPaperScheduler.from_schedule(SCHEDULE, **kinds)


def log_density(seen: Tensor, clean: Tensor, alpha: Tensor, variance: Tensor) -> Tensor:
    """log N(seen; alpha · clean, variance) but for a constant, `[B, N]`, of seen `[B, …]` and clean `[N, …]`."""
    distance = (seen[:, None] - alpha.reshape(-1, *(1,) * clean.ndim) * clean).flatten(2).square().sum(dim=2)
    return -distance / (2 * variance[:, None])


def optimal(clean: Tensor, prior: Tensor):
    """The optimal denoiser of x_t for data `clean` `[N, …]` with probabilities `prior`.

    Its conditioning is `log_weights` `[B, N]`, the log-likelihood of what else is known given each of the data.
    """

    def denoise(x_t: Tensor, timesteps: Tensor, log_weights: Tensor | None = None) -> Tensor:
        alpha_bar = SCHEDULE.log_alphas_cumprod[timesteps + 1].exp()
        log_p = prior.log() + log_density(x_t.double(), clean, alpha_bar.sqrt(), 1 - alpha_bar)
        weights = torch.softmax(log_p if log_weights is None else log_p + log_weights, dim=1)
        return torch.einsum("bn,n...->b...", weights, clean)

    return denoise


def knowing(low: Tensor, level: int) -> Tensor:
    """The log-likelihood of low-resolution images that are seen with noise of this level, given each of the pairs."""
    if level == 0:
        return torch.where(torch.isclose(low.reshape(-1, 1), LOW_X.reshape(1, -1)), 0.0, -torch.inf)
    alpha_bar = NOISING.schedule.log_alphas_cumprod[level + 1].exp().expand(len(low))
    return log_density(low, LOW_X, alpha_bar.sqrt(), 1 - alpha_bar)


def of_stages(index: Tensor, level: int) -> list[BitsPerDim]:
    """The bounds of the two stages, both with the optimal denoiser, of the pairs with these numbers."""
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(len(index), 1, 1, 1, generator=draws, dtype=torch.float64)
    low = noised(LOW_X[index], noise, torch.full((len(index),), level), NOISING)
    first = optimal(VALUES.reshape(-1, 1, 1, 1), P_LOW)
    calls = {"num_evaluations": 200, "generator": draws}
    second = (X[index], {"log_weights": knowing(low, level)})
    return [
        bits_per_dim(first, scheduler(), [LOW_X[index]], **calls),
        bits_per_dim(optimal(X, P), scheduler(), [second], **calls),
    ]


def drawn(count: int) -> Tensor:
    return torch.multinomial(P, count, replacement=True, generator=torch.Generator().manual_seed(1))


def test_optimal_stages_have_the_bits_of_the_images() -> None:
    """By the chain rule P(x) = P(low(x)) P(x | low(x)); the chain's own error of a thousand steps is what remains."""
    index = drawn(4000)
    first, second = of_stages(index, level=0)
    result = cascade_bits_per_dim([first, second], [1, 2])
    truth = -P[index].log2() / 2
    assert math.isclose(result.total, sum(stage.total for stage in result.stages), rel_tol=1e-12)
    expected = (-P_LOW[LOW[index]].log2() / 2, -(P[index] / P_LOW[LOW[index]]).log2() / 2)
    for stage, bits in zip(result.stages, expected, strict=True):
        assert abs(stage.total - bits.mean()) < 0.02
    assert abs(result.total - truth.mean()) < 0.03
    assert result.total > truth.mean() - 4 * result.estimation_error  # a bound
    assert abs(result.standard_error / (truth.std() / math.sqrt(len(truth))) - 1) < 0.1


@pytest.mark.parametrize("level", [150, 500])
def test_a_stage_that_is_given_noise_costs_what_the_noise_hides(level: int) -> None:
    """Its bits are E[−log₂ P(x | low(x) with noise)], here by a fine grid of noise; still an upper bound."""
    index = drawn(4000)
    result = cascade_bits_per_dim(of_stages(index, level), [1, 2])
    grid = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    weights = torch.softmax(-grid.square() / 2, dim=0)
    hidden = []
    for k in range(len(X)):
        low = noised(LOW_X[k].expand(len(grid), 1, 1, 1), grid.reshape(-1, 1, 1, 1), torch.tensor([level]), NOISING)
        posterior = torch.log_softmax(P.log() + knowing(low, level), dim=1)[:, k]
        hidden.append(-(weights * posterior).sum() / math.log(2) / 2)
    truth = (-P_LOW[LOW].log2() / 2 + torch.stack(hidden))[index].mean()
    assert truth > (-P.log2() / 2)[index].mean() + 0.01  # more than without noise
    assert abs(result.total - truth) < 0.05 + 4 * result.standard_error / 10
    assert result.total > (-P.log2() / 2)[index].mean()


# --- arithmetic -----------------------------------------------------------------------------------------------------


def stage_of(bits: list[float], calls: int = 3) -> BitsPerDim:
    mean = sum(bits) / len(bits)
    return BitsPerDim(mean, 0.0, mean, 0.0, 0.0, 0.1, bits, [mean], [0], len(bits), calls * len(bits))


def test_stages_are_weighed_by_their_dimensions() -> None:
    results = [stage_of([4.0, 8.0, 6.0]), stage_of([2.0, 1.0, 3.0]), stage_of([1.0, 1.5, 0.5])]
    total = cascade_bits_per_dim(results, [3, 12, 48])
    expected = torch.tensor([4.0, 8.0, 6.0]) / 16 + torch.tensor([2.0, 1.0, 3.0]) / 4 + torch.tensor([1.0, 1.5, 0.5])
    torch.testing.assert_close(torch.tensor(total.per_example), expected)
    assert math.isclose(total.total, expected.mean(), rel_tol=1e-6)
    assert math.isclose(total.standard_error, expected.std() / math.sqrt(3), rel_tol=1e-6)
    assert [stage.own for stage in total.stages] == [6.0, 2.0, 1.0]
    assert math.isclose(total.estimation_error, 0.1 * math.sqrt(1 / 256 + 1 / 16 + 1), rel_tol=1e-12)
    assert (total.num_examples, total.num_model_evaluations) == (3, 27)
    assert "of stage 3" in str(total) and total.to_dict()["total"] == total.total
    # All bits in all dimensions are those of the stages in theirs.
    bits = sum(size * result.total for size, result in zip([3, 12, 48], results, strict=True))
    assert math.isclose(48 * total.total, bits, rel_tol=1e-12)


def test_images_of_one_group_are_not_independent() -> None:
    results = [stage_of([4.0, 4.0, 6.0, 6.0]), stage_of([1.0, 1.0, 2.0, 2.0])]
    grouped = cascade_bits_per_dim(results, [1, 4], groups=["a", "a", "b", "b"])
    pairs = cascade_bits_per_dim([stage_of([4.0, 6.0]), stage_of([1.0, 2.0])], [1, 4])
    assert math.isclose(grouped.standard_error, pairs.standard_error, rel_tol=1e-9)
    assert grouped.standard_error > cascade_bits_per_dim(results, [1, 4]).standard_error


@pytest.mark.parametrize(
    ("counts", "dimensions", "message"),
    [
        ([], [], "at least one"),
        ([2, 2], [4], "1 are given for 2"),
        ([2, 2], [4, 4], r"`dimensions` must grow from stage to stage, but are \[4, 4\]"),
        ([2, 2], [8, 4], r"`dimensions` must grow from stage to stage, but are \[8, 4\]"),
        ([2, 2], [0, 4], "must grow"),
        ([2, 3], [1, 4], r"`results` must be of the same examples, but are of \[2, 3\]"),
    ],
)
def test_stages_that_do_not_fit_are_refused(counts: list[int], dimensions: list[int], message: str) -> None:
    results = [dataclasses.replace(stage_of([1.0] * count)) for count in counts]
    with pytest.raises(ValueError, match=message):
        cascade_bits_per_dim(results, dimensions)
