# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""reverse_process: every prediction type with every variance type gives the distribution of its formula."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from oracles import double
from torch import Tensor

from ddpm_hf.diffusion.constraints import clip_sample, dynamic_threshold
from ddpm_hf.diffusion.denoising_errors import DenoisingErrors
from ddpm_hf.diffusion.gaussian_process import PREDICTION_TYPES
from ddpm_hf.diffusion.noise_schedule import NoiseSchedule
from ddpm_hf.diffusion.reverse_process import ReverseProcess, ReverseStep, check_times
from ddpm_hf.diffusion.reverse_variances import FIXED_VARIANCE_TYPES, VARIANCE_TYPES


SCHEDULE = NoiseSchedule.linear(10, 0.05, 0.3)
TIMES = [1, 3, 4, 8, 10]  # visited; the pairs are (0, 1), (1, 3), (3, 4), (4, 8), (8, 10)
LEARNED = ("learned", "learned_range")
ERRORS = DenoisingErrors(SCHEDULE.log_snr[1:].tolist(), [0.01 * t for t in range(1, 11)])
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@dataclasses.dataclass(frozen=True)
class Pair:
    """The textbook's coefficients of one pair of times, from ᾱ alone (Ho et al. 2020, Eq. 6, 7)."""

    s: int
    t: int
    schedule: NoiseSchedule = SCHEDULE

    def __post_init__(self) -> None:
        abar = self.schedule.alphas_cumprod.tolist()
        abar_s, abar_t = abar[self.s], abar[self.t]
        beta = 1 - abar_t / abar_s
        values = {
            "abar": abar_t,
            "abar_before": abar[self.t - 1],
            "beta": beta,
            "c1": math.sqrt(abar_s) * beta / (1 - abar_t),
            "c2": math.sqrt(abar_t / abar_s) * (1 - abar_s) / (1 - abar_t),
            "posterior": beta * (1 - abar_s) / (1 - abar_t),
        }
        self.__dict__.update(values)

    def x_t(self, x_0: Tensor, noise: Tensor) -> Tensor:
        return math.sqrt(self.abar) * x_0 + math.sqrt(1 - self.abar) * noise

    def output(self, kind: str, x_0: Tensor, x_t: Tensor) -> Tensor:
        """What a model that means x_0 puts out."""
        noise = (x_t - math.sqrt(self.abar) * x_0) / math.sqrt(1 - self.abar)
        return {
            "epsilon": noise,
            "sample": x_0,
            "v_prediction": math.sqrt(self.abar) * noise - math.sqrt(1 - self.abar) * x_0,
            "score": -noise / math.sqrt(1 - self.abar),
            "mean": self.mean_of_neighbours(x_0, x_t),
        }[kind]

    def mean_of_neighbours(self, x_0: Tensor, x_t: Tensor) -> Tensor:
        """The posterior mean of the time before t, on which models are trained, whichever is visited."""
        abar_s = self.abar_before
        alpha = self.abar / abar_s
        return (math.sqrt(abar_s) * (1 - alpha) * x_0 + math.sqrt(alpha) * (1 - abar_s) * x_t) / (1 - self.abar)


PAIRS = [Pair(s, t) for s, t in zip([0, *TIMES[:-1]], TIMES, strict=True)]


def log_variances(kind: str, k: int, channels: Tensor) -> Tensor:
    """log σ² of pair k, first_variance at its default: β̃ of the second pair, or β of the first."""
    small = math.log(PAIRS[max(k, 1)].posterior)
    large = math.log(PAIRS[k].beta)
    if kind == "learned":
        return channels
    if kind == "optimal":  # of the first pair it is the error itself
        return torch.full_like(channels, math.log(PAIRS[k].posterior + PAIRS[k].c1 ** 2 * 0.01 * PAIRS[k].t))
    if kind == "learned_range":
        nu = (channels + 1) / 2
        return nu * large + (1 - nu) * small
    return torch.full_like(channels, small if kind.startswith("fixed_small") else large)


def process(prediction_type: str = "epsilon", variance_type: str = "fixed_small", **kwargs: object) -> ReverseProcess:
    return ReverseProcess(SCHEDULE, TIMES, prediction_type, variance_type, denoising_errors=ERRORS, **kwargs)


def moments(step: ReverseStep) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All four, broadcast to the shape of the mean."""
    shape = step.mean.shape
    return step.mean, step.variance.expand(shape), step.log_variance.expand(shape), step.pred_original_sample


@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_mean_is_the_posteriors_and_the_variance_the_formulas(prediction_type: str, variance_type: str):
    p = process(prediction_type, variance_type)
    for shape in ([5], [5, 2], [5, 2, 3], [5, 2, 3, 3], [5, 2, 2, 2, 2]):
        if p.learns_variance and len(shape) == 1:
            continue  # there are no channels to hold it
        x_0, noise, channels = (randn(*shape, seed=seed) for seed in range(3))
        x_t = torch.stack([pair.x_t(x_0[k], noise[k]) for k, pair in enumerate(PAIRS)])
        output = torch.stack([pair.output(prediction_type, x_0[k], x_t[k]) for k, pair in enumerate(PAIRS)])
        if p.learns_variance:
            output = torch.cat([output, channels], dim=1)
        batched = moments(p.p_mean_variance(output, x_t, torch.arange(5)))
        for k, pair in enumerate(PAIRS):
            log_variance = log_variances(variance_type, k, channels[k])
            expected = pair.c1 * x_0[k] + pair.c2 * x_t[k], log_variance.exp(), log_variance, x_0[k]
            by_int = moments(p.p_mean_variance(output, x_t, k))
            by_scalar = moments(p.p_mean_variance(output, x_t, torch.tensor(k)))
            for value, *same in zip(expected, batched, by_int, by_scalar, strict=True):
                for actual in same:
                    assert actual.shape == x_t.shape
                    torch.testing.assert_close(actual[k], value, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_an_int_index_and_a_tensor_index_mean_the_same(prediction_type: str, variance_type: str):
    p = process(prediction_type, variance_type, constrain=clip_sample(1.0))
    x_t, output = randn(4, 2, 3), randn(4, 4 if p.learns_variance else 2, 3, seed=1)
    for k in range(len(TIMES)):
        by_int = moments(p.p_mean_variance(output, x_t, k))
        by_tensor = moments(p.p_mean_variance(output, x_t, torch.full((4,), k)))
        for one, other in zip(by_int, by_tensor, strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint8], ids=str)
def test_an_index_may_be_an_integer_of_any_width(dtype: torch.dtype):
    x_t, output, index = randn(5, 2), randn(5, 2, seed=1), torch.tensor([1, 0, 1, 4, 1])
    expected = process().p_mean_variance(output, x_t, index)
    for one, other in zip(process().p_mean_variance(output, x_t, index.to(dtype)), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_every_dtype_gives_finite_moments_that_are_right(prediction_type: str, variance_type: str, dtype: torch.dtype):
    schedule = NoiseSchedule.linear(1000)
    p = ReverseProcess(schedule, range(1, 1001), prediction_type, variance_type, denoising_errors=ERRORS)
    index = torch.tensor([0, 1, 2, 30, 500, 998, 999])
    x_t = randn(7, 2, 4, dtype=dtype)
    output = randn(7, 4 if p.learns_variance else 2, 4, seed=1, dtype=dtype)
    exact = p.p_mean_variance(output.double(), x_t.double(), index)
    step = p.p_mean_variance(output, x_t, index)
    rounding = 2.0**-22 if dtype != torch.float64 else 2.0**-50
    # Every term of x̂_0 = a·output + b·x_t and μ = c₁x̂_0 + c₂x_t is rounded, and so is every log-variance, within 20.
    row = p.coefficients(index).map(lambda column: column.reshape(-1, 1, 1).abs())
    x_0_scale = row.x0_coef_output * output[:, :2].double().abs() + row.x0_coef_xt * x_t.double().abs()
    scales = (
        row.mean_coef_x0 * x_0_scale + row.mean_coef_xt * x_t.double().abs(),
        20 * exact.variance,
        20,
        x_0_scale,
    )
    for actual, expected, scale in zip(step, exact, scales, strict=True):
        assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert actual.isfinite().all()
        assert ((actual.double() - expected).abs() <= 4 * rounding * scale).all()
    for k, time in enumerate(index.tolist()):
        by_int = p.p_mean_variance(output, x_t, time)
        assert all(moment.isfinite().all() for moment in by_int)
        assert by_int.mean.dtype == step.mean.dtype
        assert ((by_int.mean[k].double() - exact.mean[k]).abs() <= 4 * rounding * scales[0][k]).all()


# --- variances --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["small", "large"])
def test_log_in_the_name_of_a_variance_changes_nothing(kind: str):
    one, other = process(variance_type=f"fixed_{kind}"), process(variance_type=f"fixed_{kind}_log")
    x = randn(5, 2)
    for a, b in zip(*(p.p_mean_variance(x, x, torch.arange(5)) for p in (one, other)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("channel", "fixed"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
def test_a_learned_range_ends_at_the_two_fixed_variances(channel: float, fixed: str):
    x = randn(5, 2)
    output = torch.cat([x, torch.full_like(x, channel)], dim=1)
    learned = process(variance_type="learned_range").p_mean_variance(output, x, torch.arange(5))
    torch.testing.assert_close(
        learned.log_variance,
        process(variance_type=fixed).p_mean_variance(x, x, torch.arange(5)).log_variance.expand(5, 2),
        rtol=1e-15,
        atol=1e-15,
    )


def test_a_learned_range_is_geometric_in_between():
    x = randn(5, 2)
    step = process(variance_type="learned_range").p_mean_variance(torch.cat([x, 0 * x], dim=1), x, 3)
    middle = math.sqrt(PAIRS[3].beta * PAIRS[3].posterior)
    torch.testing.assert_close(step.variance, torch.full((5, 2), middle, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("variance_type", "choice", "expected"),
    [
        ("fixed_small", None, PAIRS[1].posterior),
        ("fixed_small", "posterior", PAIRS[1].posterior),
        ("fixed_small", "beta", PAIRS[0].beta),
        ("fixed_large", None, PAIRS[0].beta),
        ("fixed_large", "posterior", PAIRS[1].posterior),
        ("fixed_large", "beta", PAIRS[0].beta),
        ("fixed_small", 0.0123, 0.0123),
        ("fixed_large", 0.0123, 0.0123),
        ("fixed_small_log", 1, 1.0),
        ("fixed_large_log", 1, 1.0),
    ],
)
@pytest.mark.parametrize("index", [0, torch.tensor([0, 0])], ids=["int", "tensor"])
def test_the_first_variance_is_a_choice(
    variance_type: str, choice: str | float | None, expected: float, index: int | Tensor
):
    x = randn(2, 3)
    p = process(variance_type=variance_type, first_variance=choice)
    variance = p.p_mean_variance(x, x, index).variance
    torch.testing.assert_close(variance.expand_as(x), torch.full_like(x, expected), rtol=1e-12, atol=0)
    later = process(variance_type=variance_type).p_mean_variance(x, x, 1).variance
    assert torch.equal(p.p_mean_variance(x, x, 1).variance, later), "only the first entry is a choice"


@pytest.mark.parametrize(
    ("choice", "low", "high"),
    [
        (None, PAIRS[1].posterior, PAIRS[0].beta),
        ("posterior", PAIRS[1].posterior, PAIRS[1].posterior),
        ("beta", PAIRS[0].beta, PAIRS[0].beta),
        (0.02, 0.02, 0.02),
    ],
)
def test_the_first_range_lies_between_the_two_choices(choice: str | float | None, low: float, high: float):
    x = randn(2, 1)
    p = process(variance_type="learned_range", first_variance=choice)
    variance = p.p_mean_variance(torch.cat([x, double([[-1.0], [1.0]])], dim=1), x, 0).variance
    assert variance.flatten().tolist() == pytest.approx([low, high], rel=1e-12, abs=0)


def test_the_decoder_that_was_measured_is_that_of_the_first_time():
    log_snr = SCHEDULE.log_snr[1:].tolist()
    errors = DenoisingErrors(
        log_snr, [0.1] * len(log_snr), [0.01 * t for t in range(1, len(log_snr) + 1)], [1.0] * len(log_snr)
    )
    x = randn(2, 3)
    for first in (1, 4):
        for variance_type in ("fixed_small", "fixed_large", "optimal"):
            p = ReverseProcess(SCHEDULE, [first, 7], "sample", variance_type, "measured", denoising_errors=errors)
            assert p.measures_decoder
            assert p.p_mean_variance(x, x, 0).variance.item() == pytest.approx(0.01 * first, rel=1e-12)
        # A learned range is closed; by default only where no decoder was learned, later than at time 1.
        outputs = torch.cat([x, randn(2, 3, seed=1)], dim=1)
        closed = ReverseProcess(SCHEDULE, [first, 7], "sample", "learned_range", "measured", denoising_errors=errors)
        expected = torch.full_like(x, 0.01 * first)
        torch.testing.assert_close(closed.p_mean_variance(outputs, x, 0).variance, expected, rtol=1e-12, atol=0)
        default = ReverseProcess(SCHEDULE, [first, 7], "sample", "learned_range", denoising_errors=errors)
        assert default.measures_decoder == (first > 1)
        unmeasured = ReverseProcess(SCHEDULE, [first, 7], "sample", "learned_range")
        later = [p.p_mean_variance(outputs, x, 1).variance for p in (closed, default, unmeasured)]
        assert torch.equal(later[0], later[2]) and torch.equal(later[1], later[2]), "only the first entry is a choice"
    assert not ReverseProcess(
        SCHEDULE, [4, 7], "sample", "learned", "measured", denoising_errors=errors
    ).measures_decoder
    with pytest.raises(ValueError, match="`first_variance` 'measured' needs `denoising_errors`"):
        ReverseProcess(SCHEDULE, [4, 7], "sample", first_variance="measured").p_mean_variance(x, x, 0)


@pytest.mark.parametrize("variance_type", FIXED_VARIANCE_TYPES)
@pytest.mark.parametrize(
    ("choice", "expected"),
    [(None, Pair(0, 7).beta), ("posterior", Pair(0, 7).beta), ("beta", Pair(0, 7).beta), (0.5, 0.5)],
)
def test_a_chain_of_one_step_has_beta_alone_to_choose_from(
    variance_type: str, choice: str | float | None, expected: float
):
    p = ReverseProcess(SCHEDULE, [7], "sample", variance_type, choice)
    x_0, x_t = randn(2, 3), randn(2, 3, seed=1)
    step = p.p_mean_variance(x_0, x_t, 0)
    assert step.variance.item() == pytest.approx(expected, rel=1e-12, abs=0)
    torch.testing.assert_close(step.mean, x_0, rtol=1e-12, atol=1e-12)


def test_a_full_chain_visits_consecutive_times():
    table = ReverseProcess(SCHEDULE, range(1, 11)).table
    expected = [Pair(t - 1, t).posterior for t in range(2, 11)]
    assert table.log_variance_small[1:].exp().tolist() == pytest.approx(expected, rel=1e-11, abs=0)
    assert table.posterior_log_variance[0] == -math.inf


# --- the predicted x_0 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("bound", [1.0, 0.5])
def test_clipping_acts_on_the_predicted_x0_and_through_it_on_the_mean(prediction_type: str, bound: float):
    x_0, x_t = 2 * randn(5, 4), randn(5, 4, seed=1)
    output = torch.stack([pair.output(prediction_type, x_0[k], x_t[k]) for k, pair in enumerate(PAIRS)])
    step = process(prediction_type, constrain=clip_sample(bound)).p_mean_variance(output, x_t, torch.arange(5))
    clipped = x_0.clamp(-bound, bound)
    assert (clipped != x_0).any()
    torch.testing.assert_close(step.pred_original_sample, clipped, rtol=1e-11, atol=1e-11)
    for k, pair in enumerate(PAIRS):
        torch.testing.assert_close(step.mean[k], pair.c1 * clipped[k] + pair.c2 * x_t[k], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [[6, 30], [6, 3, 4, 5]], ids=len)
@pytest.mark.parametrize("ratio", [0.3, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("max_value", [0.5, 1.0, 1.5, 10.0])
def test_dynamic_thresholds_are_quantiles_example_by_example(shape: list[int], ratio: float, max_value: float):
    x_0 = randn(*shape) * double([0.1, 0.5, 1, 2, 3, 100]).reshape(-1, *[1] * (len(shape) - 1))
    thresholded = dynamic_threshold(ratio, max_value)(x_0)
    assert thresholded.shape == x_0.shape
    for example, result in zip(x_0.numpy(), thresholded.numpy(), strict=True):
        s = min(max(np.quantile(np.abs(example), ratio), 1.0), max_value)
        np.testing.assert_allclose(result, np.clip(example, -s, s) / s, rtol=1e-13)


def test_dynamic_thresholding_takes_a_batch_of_scalars():
    thresholded = dynamic_threshold(0.9, 2.0)(double([-3.0, 0.5, 1.5]))
    torch.testing.assert_close(thresholded, double([-1.0, 0.5, 1.0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dynamic_thresholding_keeps_the_dtype(dtype: torch.dtype):
    thresholded = dynamic_threshold(0.9, 2.0)(3 * randn(2, 10, dtype=dtype))
    assert thresholded.dtype == dtype
    assert thresholded.abs().max() == 1


def test_thresholding_is_used_by_the_chain():
    x = 3 * randn(2, 20)
    step = process("sample", constrain=dynamic_threshold(0.9, 2.0)).p_mean_variance(x, x, 2)
    torch.testing.assert_close(step.pred_original_sample, dynamic_threshold(0.9, 2.0)(x))


def test_moments_are_differentiable():
    x_t, output = randn(5, 1, 2), randn(5, 2, 2, seed=1)
    for prediction_type in PREDICTION_TYPES:
        p = process(prediction_type, "learned_range")
        for index in (2, torch.arange(5)):
            assert torch.autograd.gradcheck(
                lambda output, x_t, p=p, index=index: tuple(p.p_mean_variance(output, x_t, index)),
                (output.requires_grad_(), x_t.requires_grad_()),
            )


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance_type", FIXED_VARIANCE_TYPES)
@pytest.mark.parametrize(
    "shape", [[2, 6, 4], [2, 2, 4], [2, 3], [2, 3, 5], [3, 3, 4], [2, 3, 4, 1], [2, 1, 4]], ids=str
)
def test_channels_that_do_not_fit_a_fixed_variance_are_refused(variance_type: str, shape: list[int]):
    with pytest.raises(ValueError, match="`model_output`"):
        process(variance_type=variance_type).p_mean_variance(torch.zeros(shape), torch.zeros(2, 3, 4), 1)


@pytest.mark.parametrize("variance_type", LEARNED)
@pytest.mark.parametrize(
    "shape", [[2, 3, 4], [2, 5, 4], [2, 7, 4], [2, 6], [2, 6, 5], [3, 6, 4], [2, 6, 4, 1]], ids=str
)
def test_channels_that_do_not_fit_a_learned_variance_are_refused(variance_type: str, shape: list[int]):
    with pytest.raises(ValueError, match="`model_output`"):
        process(variance_type=variance_type).p_mean_variance(torch.zeros(shape), torch.zeros(2, 3, 4), 1)


@pytest.mark.parametrize("variance_type", LEARNED)
def test_samples_without_channels_cannot_learn_a_variance(variance_type: str):
    with pytest.raises(ValueError, match="`model_output`"):
        process(variance_type=variance_type).p_mean_variance(torch.zeros(4), torch.zeros(2), 1)


def test_samples_that_are_not_floating_are_refused():
    pixels = torch.zeros(2, 3, dtype=torch.uint8)
    for output, x_t, name in ((pixels, torch.zeros(2, 3), "model_output"), (torch.zeros(2, 3), pixels, "sample")):
        with pytest.raises(ValueError, match=f"`{name}` must be a floating-point tensor"):
            process().p_mean_variance(output, x_t, 1)


def test_an_index_that_is_not_one_per_example_is_refused():
    for index in (torch.zeros(3, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="batch"):
            process().p_mean_variance(torch.zeros(2, 3), torch.zeros(2, 3), index)


@pytest.mark.parametrize("times", [[], [0], [0, 1], [11], [3, 2], [2, 2], [1.0], [True], ["1"], [-1, 3]], ids=str)
def test_times_that_do_not_ascend_within_the_schedule_are_refused(times: list[int]):
    with pytest.raises(ValueError, match="`times`"):
        ReverseProcess(SCHEDULE, times)
    with pytest.raises(ValueError, match="`times`"):
        check_times(times, 10)


@pytest.mark.parametrize("argument", ["prediction_type", "variance_type"])
@pytest.mark.parametrize("value", ["eps", "", None, 3])
def test_an_unknown_name_is_refused_with_those_allowed(argument: str, value: object):
    with pytest.raises(ValueError, match=rf"`{argument}` must be one of '.*', but is {value!r}"):
        ReverseProcess(SCHEDULE, TIMES, **{argument: value})


@pytest.mark.parametrize(
    "value", ["posteriors", "", 0, 0.0, -1.0, math.nan, math.inf, True, [0.1], {}, torch.tensor(0.25)], ids=str
)
def test_a_first_variance_that_is_neither_a_name_nor_a_positive_number_is_refused(value: object):
    with pytest.raises(ValueError, match="`first_variance`"):
        process(first_variance=value)


@pytest.mark.parametrize("value", [np.float32(0.25), np.float64(0.25), np.int64(2)], ids=repr)
def test_a_first_variance_of_another_number_type_is_that_number(value: object):
    p = process(first_variance=value)
    assert p.table.log_variance_small[0].item() == pytest.approx(math.log(float(value)))


@pytest.mark.parametrize(
    ("prediction_type", "times", "expected"),
    [
        ("epsilon", [1, 10], True),
        ("score", [1, 10], True),
        ("epsilon", [1, 9], False),
        ("v_prediction", [1, 10], False),
        ("sample", [10], False),
        ("mean", [1, 10], False),
    ],
)
def test_a_chain_knows_where_its_prediction_says_nothing(prediction_type: str, times: list[int], expected: bool):
    zero_terminal = SCHEDULE.rescale_zero_terminal_snr()
    assert ReverseProcess(zero_terminal, times, prediction_type).is_undetermined == expected
    assert not ReverseProcess(SCHEDULE, times, prediction_type).is_undetermined


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction", "mean"])
def test_at_zero_terminal_snr_the_moments_are_finite(prediction_type: str):
    p = ReverseProcess(SCHEDULE.rescale_zero_terminal_snr(), TIMES, prediction_type, "fixed_large")
    for dtype in DTYPES:
        step = p.p_mean_variance(randn(2, 3, dtype=dtype), randn(2, 3, seed=1, dtype=dtype), 4)
        assert all(moment.isfinite().all() for moment in step)
        assert step.variance.item() == pytest.approx(1.0)
