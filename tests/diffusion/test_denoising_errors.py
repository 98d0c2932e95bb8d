# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The optimal variance and the cost of a step under it, from denoising errors known in closed form."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from oracles import Mixture
from package_bound import package_bound
from torch import Tensor

from ddpm_hf import DDPMPaperScheduler
from ddpm_hf.diffusion.bound_terms import prior_kl, vlb_terms
from ddpm_hf.diffusion.denoising_errors import DenoisingErrors, optimal_log_variances, step_costs
from ddpm_hf.diffusion.gaussian_process import StepCoefficients
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.diffusion.numerics import LOG_2
from ddpm_hf.diffusion.reverse_process import ReverseProcess


LINEAR = NoiseSchedule.linear(1000)
SCHEDULES = {
    "linear-1000": LINEAR,
    "cosine-100": NoiseSchedule.cosine(100),
    "log-SNR-50": NoiseSchedule.linear_log_snr(50, 6.5, -9.0),
    "one step": NoiseSchedule.from_betas([0.9]),
}
GAUSSIAN = Mixture.gaussian(0.3, 0.25)
MIXTURE = Mixture.of((0.3, -0.6, 0.1), (0.7, 0.5, 0.2))


def errors_of(data: Mixture, schedule: NoiseSchedule, times: list[int] | None = None) -> DenoisingErrors:
    """Those of the optimal denoiser, at the given times or at all."""
    times = list(range(1, schedule.T + 1)) if times is None else times
    return DenoisingErrors(schedule.log_snr[times].tolist(), data.mmse(schedule.log_alphas_cumprod[times]).tolist())


def truth(schedule: NoiseSchedule, t: int, mean: float, variance: float) -> float:
    """Entropy of N(mean, variance) + KL(q(x_t) ‖ N(0, 1))."""
    abar = schedule.alphas_cumprod[t].item()
    v = abar * variance + 1 - abar
    return 0.5 * (math.log(2 * math.pi * math.e * variance) + v + abar * mean**2 - 1 - math.log(v))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("mean", "variance"), [(0.3, 0.25), (-1.0, 4.0)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_makes_the_bound_of_gaussian_data_exact(name: str, mean: float, variance: float, prediction_type: str):
    schedule, data = SCHEDULES[name], Mixture.gaussian(mean, variance)
    process = ReverseProcess(
        schedule,
        range(1, schedule.T + 1),
        prediction_type,
        "optimal",
        denoising_errors=errors_of(data, schedule),
    )
    assert package_bound(process, data).total == pytest.approx(truth(schedule, schedule.T, mean, variance), abs=1e-12)


@pytest.mark.parametrize("times", [[1000], [1, 1000], [1, 7, 50, 51, 900], list(range(3, 1000, 37))], ids=len)
def test_it_does_so_for_any_visited_times(times: list[int]):
    process = ReverseProcess(LINEAR, times, variance_type="optimal", denoising_errors=errors_of(GAUSSIAN, LINEAR))
    assert package_bound(process, GAUSSIAN).total == pytest.approx(truth(LINEAR, times[-1], 0.3, 0.25), abs=1e-12)


ELEMENTS = [(0.3, 0.25), (-0.5, 0.01), (0.0, 1.0)]  # mean and variance of each


def errors_of_elements(schedule: NoiseSchedule) -> DenoisingErrors:
    """Those of the optimal denoiser of independent Gaussian elements, in the shape [3, 1]."""
    of_each = [errors_of(Mixture.gaussian(*element), schedule) for element in ELEMENTS]
    errors = torch.tensor([each.errors for each in of_each], dtype=torch.float64).T[:, :, None]
    return DenoisingErrors(of_each[0].log_snr, errors)


def element_bound(process: ReverseProcess) -> float:
    """The bound of those elements together, nats per dimension, by Gauss–Hermite nodes in every element."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    nodes, weights = torch.tensor(nodes)[:, None], torch.tensor(weights / weights.sum())
    means, variances = (torch.tensor(column, dtype=torch.float64) for column in zip(*ELEMENTS, strict=True))
    log_abar = process.schedule.log_alphas_cumprod[list(process.times)]
    total = prior_kl(process.schedule, (means**2 + variances).sqrt()[None], process.times[-1]).item()
    for k, log_a in enumerate(log_abar):
        alpha, noise = (0.5 * log_a).exp(), -torch.expm1(log_a)
        x_t = alpha * means + (alpha**2 * variances + noise).sqrt() * nodes
        gain = alpha * variances / (alpha**2 * variances + noise)
        x_0 = means + gain * (x_t - alpha * means)
        spread = (variances * noise / (alpha**2 * variances + noise)).sqrt()
        output = (x_t - alpha * x_0) / noise.sqrt()
        index = torch.full((len(nodes),), k)
        for sign in (-1, 1):  # two values with the posterior's mean and variance: exact for a quadratic
            parts = (output, x_0 + sign * spread, x_t)
            terms = vlb_terms(process, *(part[..., None] for part in parts), index, None)
            total += 0.5 * LOG_2 * float((weights * terms).sum())
    return total


@pytest.mark.parametrize("times", [[1000], [1, 1000], [1, 7, 50, 51, 900], list(range(3, 1000, 37))], ids=len)
def test_a_variance_for_every_element_makes_the_bound_exact_where_the_elements_differ(times: list[int]):
    errors = errors_of_elements(LINEAR)
    process = ReverseProcess(LINEAR, times, variance_type="optimal", denoising_errors=errors)
    expected = sum(truth(LINEAR, times[-1], *element) for element in ELEMENTS) / len(ELEMENTS)
    assert element_bound(process) == pytest.approx(expected, abs=1e-12)
    together = DenoisingErrors(errors.log_snr, torch.tensor(errors.errors).flatten(1).mean(1))
    shared = ReverseProcess(LINEAR, times, variance_type="optimal", denoising_errors=together)
    assert element_bound(shared) > expected + 0.05


def test_what_steps_of_elements_cost_is_the_mean_of_what_each_costs():
    costs = step_costs(LINEAR, errors_of_elements(LINEAR))
    each = [step_costs(LINEAR, errors_of(Mixture.gaussian(*element), LINEAR)) for element in ELEMENTS]
    torch.testing.assert_close(costs, sum(each) / 3, rtol=1e-12, atol=0)


def test_a_few_levels_are_enough():
    # The bound is flat where it is least: an error in log e moves it by its square.
    levels = [1, *range(40, 1001, 40)]
    errors = errors_of(GAUSSIAN, LINEAR, levels)
    process = ReverseProcess(LINEAR, range(1, 1001), variance_type="optimal", denoising_errors=errors)
    excess = package_bound(process, GAUSSIAN).total - truth(LINEAR, 1000, 0.3, 0.25)
    assert 0 <= excess < 2e-3


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["Gaussian", "mixture"])
def test_no_other_variance_costs_less(data: Mixture):
    times = [1, 5, 20, 100, 101, 500, 1000]
    options = {"times": times, "denoising_errors": errors_of(data, LINEAR)}
    best = package_bound(ReverseProcess(LINEAR, variance_type="optimal", **options), data).terms
    for other in ("fixed_small", "fixed_large"):
        assert (
            best <= package_bound(ReverseProcess(LINEAR, variance_type=other, **options), data).terms + 1e-12
        ).all()


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["Gaussian", "mixture"])
@pytest.mark.parametrize("times", [[1, 2, 3, 4], [7, 50, 51, 900, 1000], [1000]], ids=len)
def test_steps_cost_what_the_bound_says(data: Mixture, times: list[int]):
    errors = errors_of(data, LINEAR)
    terms = package_bound(ReverseProcess(LINEAR, times, variance_type="optimal", denoising_errors=errors), data).terms
    costs = step_costs(LINEAR, errors)
    expected = [costs[s, t].item() for s, t in itertools.pairwise([0, *times])]
    assert terms.tolist() == pytest.approx(expected, rel=1e-10)


def test_costs_are_of_steps_towards_the_data_alone():
    costs = step_costs(LINEAR, errors_of(GAUSSIAN, LINEAR))
    ahead = torch.ones(1001, 1001, dtype=torch.bool).triu(1)
    assert costs[ahead].isfinite().all()
    assert costs[~ahead].isposinf().all()


def test_a_step_from_no_signal_at_all_costs_what_all_of_it_is_worth():
    # At SNR 0 the error is the variance of the data, and the step's cost ½ log(1 + SNR_s · variance).
    schedule = NoiseSchedule.linear(100).rescale_zero_terminal_snr()
    errors = DenoisingErrors([5.0, -40.0], [1e-3, 0.25])
    s = torch.tensor([1, 50, 99])
    expected = 0.5 * torch.log1p(schedule.log_snr[s].exp() * 0.25)
    torch.testing.assert_close(step_costs(schedule, errors)[s, 100], expected, rtol=1e-12, atol=0)


def test_between_and_beyond_the_levels():
    errors = DenoisingErrors([4.0, 0.0, -2.0], [0.01, 0.1, 0.4])
    log_error = errors.log_error(torch.tensor([4.0, 2.0, 0.0, -1.0, -2.0, -9.0, -math.inf, 6.0]))
    expected = [0.01, math.sqrt(1e-3), 0.1, 0.2, 0.4, 0.4, 0.4, 0.01 * math.exp(-2)]
    assert log_error.exp().tolist() == pytest.approx(expected, rel=1e-12)
    alone = DenoisingErrors([1.0], [0.3]).log_error(torch.tensor([0.0, 1.0, 3.0]))
    assert alone.exp().tolist() == pytest.approx([0.3, 0.3, 0.3 * math.exp(-2)], rel=1e-12)


def test_the_decoder_has_a_variance_of_its_own_for_data_of_levels():
    errors = DenoisingErrors([6.0, 0.0], [0.01, 0.2], [0.005, 0.3], [1.5, 3.5])
    schedule = NoiseSchedule.linear_log_snr(10, 6.0, 0.0)
    costs = step_costs(schedule, errors)
    assert costs[0, 1:].tolist() == pytest.approx(torch.linspace(1.5, 3.5, 10).tolist())
    for times, expected in (([1, 10], 0.005), ([10], 0.3)):
        process = ReverseProcess(schedule, times, variance_type="optimal", denoising_errors=errors)
        assert process.table.log_variance[0].exp().item() == pytest.approx(expected)
        chosen = ReverseProcess(schedule, times, variance_type="optimal", denoising_errors=errors, first_variance=0.07)
        assert chosen.table.log_variance[0].exp().item() == pytest.approx(0.07)
        torch.testing.assert_close(chosen.table.log_variance[1:], process.table.log_variance[1:])


def test_the_variance_is_the_posteriors_and_the_spread_of_what_is_not_known():
    s, t = torch.tensor([0, 1, 10, 500]), torch.tensor([1, 10, 500, 1000])
    steps = StepCoefficients.between(LINEAR, s, t)
    errors = errors_of(MIXTURE, LINEAR)
    expected = steps.posterior_variance + steps.posterior_coef_x0**2 * MIXTURE.mmse(LINEAR.log_alphas_cumprod[t])
    found = optimal_log_variances(errors, steps, LINEAR.log_snr[t]).exp()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_without_errors_there_is_no_optimal_variance():
    process = ReverseProcess(LINEAR, [1, 2], variance_type="optimal")
    with pytest.raises(ValueError, match="needs `denoising_errors`"):
        process.coefficients(0)


@pytest.mark.parametrize(
    "errors",
    [
        DenoisingErrors([1.0, 0.0], [0.1, 0.2]),
        DenoisingErrors([1.0, 0.0], [0.1, 0.2], [0.1, 0.3], [-1.0, 0.5]),
        DenoisingErrors(torch.tensor([1.0, 0.0]), (0.1, 0.2)),
        DenoisingErrors([1.0, 0.0], [[[0.1, 0.2]], [[0.3, 0.4]]], [1.5, 3.5], [0.5, 0.7]),
        DenoisingErrors([1.0, 0.0], [0.1, 0.2], [0.1, 0.3], [-1.0, 0.5], num_levels=17),
    ],
)
def test_they_travel_as_json(errors: DenoisingErrors):
    assert DenoisingErrors.from_dict(json.loads(json.dumps(errors.to_dict()))) == errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 1.0], [0.1, 0.2]), "descend"),
        (([1.0, 1.0], [0.1, 0.2]), "descend"),
        (([1.0, 0.0], [0.1]), "as many"),
        (([], []), "as many"),
        ((3.0, 2.0), "`log_snr` must be a list"),
        ((torch.tensor(3.0), 2.0), "`log_snr` must be a list"),
        (([1.0, 0.0], [0.1, 0.0]), "positive"),
        (([1.0, math.inf], [0.1, 0.2]), "finite"),
        (([1.0, 0.0], [0.1, math.nan]), "finite"),
        ((["one", "two"], [0.1, 0.2]), "list of numbers"),
        (([1.0], [0.1], [0.1]), "together"),
        (([1.0], [0.1], [-0.1], [1.0]), "positive"),
        (([1.0], [[0.1, 0.0]]), "positive"),
        (([1.0, 0.0], [[0.1, 0.2], [0.3]]), "list of numbers"),
        (([1.0], [[0.1, 0.2]], [[0.1, 0.2]], [1.0]), "as many"),
        (([1.0], [[0.1, 0.2]], [0.1], [[1.0, 1.0]]), "as many"),
        (([1.0], [0.1], None, None, 256), "`num_levels` describes the data of `decoder_costs`"),
        (([1.0], [0.1], [0.1], [1.0], 1), "`num_levels` must be an int >= 2"),
    ],
)
def test_what_is_no_list_of_errors_is_refused(arguments: tuple[Any, ...], message: str):
    with pytest.raises(ValueError, match=message):
        DenoisingErrors(*arguments)


@pytest.mark.parametrize("stored", [None, [], {"log_snr": [1.0]}, {"log_snr": [1.0], "errors": [1.0], "more": 1}])
def test_a_dictionary_of_something_else_is_refused(stored: Any):
    with pytest.raises(ValueError, match="must map"):
        DenoisingErrors.from_dict(stored)


def test_errors_of_other_levels_are_refused_where_they_are_known():
    known = DenoisingErrors([1.0, 0.0], [0.1, 0.2], [0.1, 0.3], [-1.0, 0.5], num_levels=17)
    options = {"variance_type": "optimal", "denoising_errors": known}
    assert DDPMPaperScheduler(num_levels=17, **options).denoising_errors == known
    for num_levels in (256, None):
        with pytest.raises(ValueError, match=f"on data of 17 levels, but `num_levels` is {num_levels}; measure them"):
            DDPMPaperScheduler(num_levels=num_levels, **options)
    stored = {name: value for name, value in known.to_dict().items() if name != "num_levels"}  # as it once was
    assert DDPMPaperScheduler(num_levels=256, denoising_errors=stored).denoising_errors.num_levels is None


def test_costs_do_not_cancel_between_neighbours():
    # SNR_s − SNR_t of neighbours on a schedule of many steps, against a difference taken with more digits.
    schedule = NoiseSchedule.linear_log_snr(2000, 12.0, -9.0)
    errors = DenoisingErrors([20.0, -20.0], [0.25, 0.25 * math.exp(40)])
    assert isinstance(errors.log_error(schedule.log_snr), Tensor)
    s = torch.arange(1, 2000)
    log_drop = schedule.log_snr[s] + torch.log(-torch.expm1(-21.0 / 1999 * torch.ones(1999, dtype=torch.float64)))
    expected = 0.5 * torch.log1p(torch.exp(log_drop + errors.log_error(schedule.log_snr[s + 1])))
    torch.testing.assert_close(step_costs(schedule, errors)[s, s + 1], expected, rtol=1e-10, atol=0)
