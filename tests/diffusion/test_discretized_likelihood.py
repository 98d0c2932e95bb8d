# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The decoder: bins against 60-digit arithmetic, the discrete normal law against its definition and Bayes' rule."""

from __future__ import annotations

import dataclasses
import functools
import math

import mpmath
import numpy as np
import pytest
import torch
from oracles import double
from torch import Tensor
from torch.distributions import Normal

from ddpm_hf.diffusion.discretized_likelihood import (
    EDGE,
    MAX_PRECISION,
    decoder_nll,
    discrete_normal_log_likelihood,
    discretized_gaussian_log_likelihood,
    gaussian_log_density,
)
from ddpm_hf.diffusion.numerics import check_num_levels
from ddpm_hf.diffusion.reverse_process import ReverseStep


LEVELS = [2, 17, 256, 65536]
SIGMAS = [1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]

mp = mpmath.mp.clone()
mp.dps = 60
short = mpmath.mp.clone()
short.dps = 25


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- bins -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Bin:
    """A level's bin under a Gaussian, with 60 digits: the probability of (a, b) in units of σ, from one tail."""

    level: int
    num_levels: int
    mean: float
    log_variance: float

    @property
    def sigma(self) -> mpmath.mpf:
        return mp.exp(mp.mpf(self.log_variance) / 2)

    def edge(self, side: int) -> mpmath.mpf | None:
        """The lower (−1) or upper (1) edge, None where it is infinite."""
        intervals = self.num_levels - 1
        if self.level == (0 if side < 0 else intervals):
            return None
        return (mp.mpf(2 * self.level - intervals + side) / intervals - mp.mpf(self.mean)) / self.sigma

    @property
    def probability(self) -> mpmath.mpf:
        a, b = self.edge(-1), self.edge(1)
        if (a is None or a < 0) and (b is not None and b < 0):
            a, b = -b, None if a is None else -a  # reflected to the upper tail, where erfc has relative precision

        def upper(x: mpmath.mpf | None) -> mpmath.mpf:
            return mp.zero if x is None else mp.erfc(x / mp.sqrt(2)) / 2

        return (mp.one if a is None else upper(a)) - upper(b)

    @property
    def log_probability(self) -> mpmath.mpf:
        outside = [self.edge(-1), self.edge(1)]
        missing = sum(mp.erfc(abs(x) / mp.sqrt(2)) / 2 for x in outside if x is not None)
        inside = all(x is None or x * side > 0 for x, side in zip(outside, (-1, 1), strict=True))
        return mp.log1p(-missing) if inside else mp.log(self.probability)

    @property
    def gradient(self) -> tuple[mpmath.mpf, mpmath.mpf]:
        """d log P/d mean and d log P/d log σ²."""
        density = {side: mp.zero if self.edge(side) is None else mp.npdf(self.edge(side)) for side in (-1, 1)}
        moment = {side: density[side] * (self.edge(side) or 0) for side in (-1, 1)}
        P = self.probability
        return (density[-1] - density[1]) / (self.sigma * P), (moment[-1] - moment[1]) / (2 * P)


def bins() -> list[Bin]:
    """Both edge bins, their neighbours and two in the middle; means in the bin, on its edge and far off."""
    cases = []
    for num_levels in LEVELS:
        last = num_levels - 1
        for level in sorted({0, 1, last // 2, last // 3, last - 1, last} & set(range(num_levels))):
            centre = 2 * level / last - 1
            for sigma in SIGMAS:
                log_variance = 2 * math.log(sigma)
                means = {-1.0, 0.1, 1.0, centre, centre + 1 / last, centre - 0.3 / last}
                means |= {centre + edge / last + z * sigma for edge in (-1, 0, 1) for z in (-38, -6, -0.7, 1e-3, 3)}
                cases += [Bin(level, num_levels, mean, log_variance) for mean in sorted(means)]
    return cases


@functools.cache
def bin_batch(num_levels: int) -> tuple[list[Bin], Tensor, Tensor, Tensor]:
    cases = [case for case in bins() if case.num_levels == num_levels]
    x_0 = double([2 * case.level / (num_levels - 1) - 1 for case in cases])
    return cases, x_0, double([case.mean for case in cases]), double([case.log_variance for case in cases])


@pytest.mark.parametrize("num_levels", LEVELS)
def test_the_decoder_has_twelve_digits_wherever_the_level_lies(num_levels: int):
    cases, *arguments = bin_batch(num_levels)
    actual = discretized_gaussian_log_likelihood(*arguments, num_levels)
    for case, value in zip(cases, actual.tolist(), strict=True):
        error = abs(mp.mpf(value) - case.log_probability)
        assert error <= 1e-13 or error <= 1e-12 * abs(case.log_probability), case


@pytest.mark.parametrize("num_levels", LEVELS)
def test_the_decoders_gradient_is_the_exact_derivative(num_levels: int):
    cases, x_0, mean, log_variance = bin_batch(num_levels)
    mean, log_variance = mean.clone().requires_grad_(), log_variance.clone().requires_grad_()
    discretized_gaussian_log_likelihood(x_0, mean, log_variance, num_levels).sum().backward()
    for case, *actual in zip(cases, mean.grad.tolist(), log_variance.grad.tolist(), strict=True):
        in_sigmas = actual[0] * case.sigma, actual[1]  # d/d(mean/σ), so that both are of one size
        expected = case.gradient[0] * case.sigma, case.gradient[1]
        for value, exact in zip(in_sigmas, expected, strict=True):
            assert math.isfinite(value), case
            # torch's own derivative of log Φ loses digits as log P grows; 1e-9 is left at −1e6 nats.
            assert abs(value - exact) <= (1e-10 + 1e-15 * abs(case.log_probability)) * abs(exact) + 1e-10, case


def test_the_decoders_gradient_is_that_of_finite_differences():
    x_0 = double([-1, -1 / 255, 3 / 255, 1])
    mean, log_variance = (
        double([-0.9, 0.0, 0.3, 0.7]).requires_grad_(),
        double([-4.0, -9.0, -3.0, -2.0]).requires_grad_(),
    )
    assert torch.autograd.gradcheck(
        lambda *gaussian: discretized_gaussian_log_likelihood(x_0, *gaussian, 256), (mean, log_variance)
    )


@pytest.mark.parametrize("num_levels", LEVELS)
def test_the_bins_sum_to_one(num_levels: int):
    x_0 = 2 * torch.arange(num_levels, dtype=torch.float64)[:, None] / (num_levels - 1) - 1
    mean = double([-1.3, -0.2, 1 / 255, 1]).repeat(len(SIGMAS))
    log_variance = 2 * double(SIGMAS).log().repeat_interleave(4)
    total = discretized_gaussian_log_likelihood(x_0, mean, log_variance, num_levels).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def test_the_loss_is_not_capped_in_the_tail():
    # The farthest level of 256 under σ = .01: a clamp of the probability at 1e-12 would say −27.6.
    case = Bin(255, 256, -1.0, 2 * math.log(0.01))
    actual = discretized_gaussian_log_likelihood(double(1.0), double(-1.0), double(case.log_variance), 256).item()
    assert round(actual) == -19928
    assert actual == pytest.approx(float(case.log_probability), rel=1e-12, abs=0)
    mirrored = discretized_gaussian_log_likelihood(double(-1.0), double(1.0), double(case.log_variance), 256).item()
    assert mirrored == actual


def test_the_decoder_is_symmetric():
    x_0 = 2 * double(range(17)) / 16 - 1
    mean, log_variance = randn(17), randn(17, seed=1)
    torch.testing.assert_close(
        discretized_gaussian_log_likelihood(x_0, mean, log_variance, 17),
        discretized_gaussian_log_likelihood(-x_0, -mean, log_variance, 17),
        rtol=1e-14,
        atol=1e-14,
    )


def test_a_value_between_levels_counts_as_the_nearest():
    exact = discretized_gaussian_log_likelihood(double(1 / 255), double(0.0), double(-4.0), 256)
    near = discretized_gaussian_log_likelihood(double(1.4 / 255), double(0.0), double(-4.0), 256)
    beyond = discretized_gaussian_log_likelihood(double(1.01), double(0.0), double(-4.0), 256)
    assert near == exact
    assert beyond == discretized_gaussian_log_likelihood(double(1.0), double(0.0), double(-4.0), 256)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_decoder_computes_in_float64_whatever_it_is_given(dtype: torch.dtype):
    x_0, mean = torch.tensor([-1.0, 1 / 16, 1.0], dtype=dtype), torch.tensor([0.5, 0.25, -0.5], dtype=dtype)
    log_variance = torch.tensor(-3.0, dtype=dtype)
    actual = discretized_gaussian_log_likelihood(x_0, mean, log_variance, 33)
    assert actual.dtype == torch.float64
    assert torch.equal(
        actual, discretized_gaussian_log_likelihood(x_0.double(), mean.double(), log_variance.double(), 33)
    )


def test_the_density_is_that_of_torch_distributions():
    x_0, mean, log_variance = randn(5, 3), randn(5, 3, seed=1), randn(5, 1, seed=2)
    expected = Normal(mean, (0.5 * log_variance).exp().expand(5, 3)).log_prob(x_0)
    torch.testing.assert_close(gaussian_log_density(x_0, mean, log_variance), expected, rtol=1e-13, atol=1e-13)


def test_narrow_bins_tend_to_the_density():
    mean, log_variance = double([-0.3, 0.2, 0.9]), double([-2.0, -1.0, 0.0])
    x_0 = double([1 / 65535, -1 / 65535, 3 / 65535])
    probability = discretized_gaussian_log_likelihood(x_0, mean, log_variance, 65536)
    density = gaussian_log_density(x_0, mean, log_variance) + math.log(2 / 65535)
    torch.testing.assert_close(probability, density, rtol=0, atol=1e-8)


# --- the discrete normal law ------------------------------------------------------------------------------------


def levels_of(num_levels: int) -> Tensor:
    return torch.linspace(-1, 1, num_levels, dtype=torch.float64)


def law(means: Tensor, sigma: float, num_levels: int) -> Tensor:
    """log P of every level for every mean, `[means, levels]`."""
    levels = levels_of(num_levels).expand(len(means), num_levels)
    return discrete_normal_log_likelihood(levels, means[:, None], double(2 * math.log(sigma)), num_levels)


@pytest.mark.parametrize("sigma", [1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_the_law_has_its_mean_and_is_log_quadratic(num_levels: int, sigma: float):
    levels, distance = levels_of(num_levels), 2 / (num_levels - 1)
    some = levels[:: 1 + num_levels // 20]
    means = torch.cat([some, some + 0.37 * distance, double([-1, -0.9997, 0.1234, 0.99, 1])]).clamp(-1, 1)
    log_p = law(means, sigma, num_levels)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(len(means)).double(), rtol=0, atol=1e-9)
    inside = means.clamp(-1 + EDGE * distance, 1 - EDGE * distance)
    torch.testing.assert_close(log_p.exp() @ levels, inside, rtol=0, atol=1e-9)
    # log P is of second degree with the curvature −1/v: with the mean, that is the law.
    curvature = log_p[:, 2:] - 2 * log_p[:, 1:-1] + log_p[:, :-2]
    expected = torch.full_like(curvature, -min(distance**2 / sigma**2, MAX_PRECISION))
    torch.testing.assert_close(curvature, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("tilt", [-3.0, 0.0, 8.0])
@pytest.mark.parametrize("bend", [-2.0, 0.0, 5.0])
@pytest.mark.parametrize("snr", [4.0, 100.0, 2000.0])
def test_the_law_is_the_posterior_of_a_level_seen_in_noise(snr: float, bend: float, tilt: float):
    levels = levels_of(17)
    log_prior = tilt * levels - 0.5 * bend * levels**2
    seen = levels[:, None] + randn(17, 5) / math.sqrt(snr)  # x_t/√ᾱ
    posterior = torch.log_softmax(log_prior - 0.5 * snr * (seen[..., None] - levels) ** 2, dim=-1)  # Bayes' rule
    guess = posterior.exp() @ levels
    actual = discrete_normal_log_likelihood(
        levels.expand_as(posterior), guess[..., None], double(-math.log(snr + bend)), 17
    )
    seen_often = (guess.abs() < 1 - 2 * EDGE / 8)[..., None].expand_as(posterior)  # EDGE moves no other mean
    assert seen_often.float().mean() > 0.5
    torch.testing.assert_close(actual[seen_often], posterior[seen_often], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.05, 0.15, 0.4])
def test_no_decoder_costs_less_than_the_conditional_entropy_and_the_law_costs_just_that(sigma: float):
    # Uniform levels in noise: E[−log p(x_0 | x_t)] ≥ H(x_0 | x_t), by quadrature over x_t given each level.
    levels = levels_of(17).numpy()
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    weights = weights / weights.sum()
    seen = levels[:, None] + sigma * nodes  # [levels, nodes]
    log_joint = -0.5 * ((seen[..., None] - levels) / sigma) ** 2
    posterior = log_joint - np.logaddexp.reduce(log_joint, axis=-1, keepdims=True)
    entropy = -(posterior[np.arange(17), :, np.arange(17)] * weights).sum(1).mean()
    guess = double((np.exp(posterior) * levels).sum(-1))
    spread = double((np.exp(posterior) * levels**2).sum(-1)) - guess**2

    def cost(log_p: Tensor) -> float:
        return -(log_p.numpy() * weights).sum(1).mean()

    x_0 = double(levels)[:, None].expand_as(guess)
    mine = cost(discrete_normal_log_likelihood(x_0, guess, double(2 * math.log(sigma)), 17))
    assert mine == pytest.approx(entropy, abs=2e-4)  # what EDGE costs at the outer levels
    # Bins of a Gaussian with the posterior's own variance, and with the best one for all.
    bins = [cost(discretized_gaussian_log_likelihood(x_0, guess, spread.clamp(min=1e-9).log(), 17))]
    bins += [cost(discretized_gaussian_log_likelihood(x_0, guess, v, 17)) for v in torch.linspace(-12, 0, 60).double()]
    assert min(bins) > mine + 0.005


def test_close_levels_tend_to_the_density():
    mean, log_variance = double([-0.3, 0.2, 0.5]), double([-5.0, -6.0, -7.0])
    x_0 = levels_of(256)[[97, 147, 202]]
    probability = discrete_normal_log_likelihood(x_0, mean, log_variance, 256)
    density = gaussian_log_density(x_0, mean, log_variance)
    torch.testing.assert_close(probability, density + math.log(2 / 255), rtol=0, atol=1e-8)


@dataclasses.dataclass(frozen=True)
class Law:
    """The discrete normal law with 25 digits, by bisection."""

    mean: float
    log_variance: float
    num_levels: int

    @functools.cached_property
    def log_probabilities(self) -> list[mpmath.mpf]:
        mp = short
        intervals = self.num_levels - 1
        precision = min(4 * mp.exp(-mp.mpf(self.log_variance)) / intervals**2, mp.mpf(MAX_PRECISION))
        place = (mp.mpf(self.mean) + 1) * intervals / 2  # in levels from the lowest
        place = min(max(place, mp.mpf(EDGE)), intervals - mp.mpf(EDGE))
        nearest = int(mp.nint(place))
        levels = [mp.mpf(level - nearest) for level in range(self.num_levels)]

        def weights(tilt: mpmath.mpf) -> list[mpmath.mpf]:
            return [mp.exp(tilt * j - precision * j**2 / 2) for j in levels]

        def off(tilt: mpmath.mpf) -> mpmath.mpf:
            return mp.fsum((j + nearest - place) * w for j, w in zip(levels, weights(tilt), strict=True))

        low, high = -precision - 30, precision + 30
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if off(middle) < 0 else (low, middle)
        return [mp.log(w / mp.fsum(weights(low))) for w in weights(low)]


@pytest.mark.parametrize("sigma", [1e-4, 1e-2, 0.1, 1.0])
@pytest.mark.parametrize("num_levels", [2, 3, 17])
def test_every_level_of_the_law_has_twelve_digits(num_levels: int, sigma: float):
    log_variance, distance = 2 * math.log(sigma), 2 / (num_levels - 1)
    levels = levels_of(num_levels)
    for level in (num_levels // 3, num_levels - 1):
        for away in (0.0, 1e-13, 1e-10, -1e-5, -0.3 * distance, 0.5 * distance):
            mean = levels[level].item() + away
            expected = Law(mean, log_variance, num_levels).log_probabilities
            actual = discrete_normal_log_likelihood(levels, double(mean), double(log_variance), num_levels)
            for value, exact in zip(actual.tolist(), expected, strict=True):
                assert abs(value - exact) <= 1e-12 * abs(exact) + 1e-13, (mean, exact)


def test_a_level_next_to_the_mean_is_likely_however_narrow_the_law():
    # Mean and level 10⁻¹⁰ apart, σ = 10⁻⁴: a mean found to 10⁻⁹ of a level only made this −3150.
    x_0, mean, log_variance = double(0.125), double(0.125 + 1e-10), double(math.log(1e-8))
    assert discrete_normal_log_likelihood(x_0, mean, log_variance, 17).item() == pytest.approx(-8e-10, rel=1e-5)


def test_of_a_law_without_spread_the_two_nearest_levels_are_left():
    log_p = law(double([0.25 / 8, -0.9 / 8, 0.6]), 1e-4, 17).exp()
    expected = torch.zeros_like(log_p)
    expected[0, 8:10], expected[1, 7:9], expected[2, 12:14] = (
        double([0.75, 0.25]),
        double([0.9, 0.1]),
        double([0.2, 0.8]),
    )
    torch.testing.assert_close(log_p, expected, rtol=0, atol=1e-9)


def test_a_mean_at_an_outer_level_or_beyond_leaves_every_level_possible():
    log_p = law(double([-1.0, -1.7, 1.0, 9.0]), 0.05, 17)
    assert bool(log_p.isfinite().all())
    for same in (log_p[1], log_p[2].flip(0), log_p[3].flip(0)):
        torch.testing.assert_close(same, log_p[0], rtol=1e-6, atol=1e-9)
    assert log_p[0, 0].exp().item() == pytest.approx(1 - EDGE, abs=EDGE / 100)


def test_the_laws_gradient_is_that_of_finite_differences():
    x_0 = double([-1, -1 / 8, 3 / 8, 1, 1, -1])
    mean = double([-0.9, 0.03, 0.3, 0.7, 0.999, -0.95]).requires_grad_()
    log_variance = double([-4.0, -9.0, -3.0, -2.0, -5.0, -6.0]).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: discrete_normal_log_likelihood(x_0, *x, 17), (mean, log_variance))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_law_is_computed_in_float64_whatever_it_is_given(dtype: torch.dtype):
    x_0, mean = torch.tensor([-1.0, 1 / 16, 1.0], dtype=dtype), torch.tensor([0.5, 0.25, -0.5], dtype=dtype)
    log_variance = torch.tensor(-3.0, dtype=dtype)
    actual = discrete_normal_log_likelihood(x_0, mean, log_variance, 33)
    assert torch.equal(actual, discrete_normal_log_likelihood(x_0.double(), mean.double(), log_variance.double(), 33))


def test_many_elements_are_computed_as_one_by_one(monkeypatch: pytest.MonkeyPatch):
    x_0, mean = levels_of(17)[torch.arange(60).reshape(3, 4, 5) % 17], randn(3, 4, 5).clamp(-1.2, 1.2)
    log_variance = -4 + randn(3, 4, 5, seed=1)
    together = discrete_normal_log_likelihood(x_0, mean, log_variance, 17)
    alone = [
        discrete_normal_log_likelihood(*each, 17)
        for each in zip(x_0.flatten(), mean.flatten(), log_variance.flatten(), strict=True)
    ]
    torch.testing.assert_close(together.flatten(), torch.stack(alone), rtol=1e-9, atol=1e-9)
    monkeypatch.setattr("ddpm_hf.diffusion.discretized_likelihood.NUMBERS_AT_ONCE", 100)
    torch.testing.assert_close(
        discrete_normal_log_likelihood(x_0, mean, log_variance, 17), together, rtol=1e-9, atol=0
    )


# --- the term -----------------------------------------------------------------------------------------------------


def test_the_term_is_the_mean_of_what_it_is_told_to_be():
    x_0, mean = levels_of(17)[torch.arange(12).reshape(2, 6)], 0.3 * randn(2, 6)
    log_variance = double(-4.0)
    p = ReverseStep(mean, log_variance.exp(), log_variance, mean)
    for is_law, function in ((False, discretized_gaussian_log_likelihood), (True, discrete_normal_log_likelihood)):
        expected = -function(x_0, mean, log_variance, 17).mean(1)
        assert torch.equal(decoder_nll(p, x_0, 17, is_law), expected)
        density = -gaussian_log_density(x_0, mean, log_variance).mean(1)
        assert torch.equal(decoder_nll(p, x_0, None, is_law), density)


@pytest.mark.parametrize("num_levels", [0, 1, -5, 256.0, True, "256"])
def test_levels_that_are_not_an_int_of_at_least_2_are_refused(num_levels: object):
    with pytest.raises(ValueError, match="`num_levels` must be an int >= 2"):
        check_num_levels(num_levels)
    with pytest.raises(ValueError, match="`num_levels`"):
        discretized_gaussian_log_likelihood(double(0.0), double(0.0), double(0.0), num_levels)
    with pytest.raises(ValueError, match="`num_levels`"):
        discrete_normal_log_likelihood(double(0.0), double(0.0), double(0.0), num_levels)
