# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Guided denoisers against closed forms, exact identities and stock diffusers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DiTPipeline, DiTTransformer2DModel, UNet2DModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from oracles import LOG_2, Mixture, double, model_output
from scipy.integrate import quad
from torch import Tensor

from ddpm_hf import DDPMPaperScheduler, NoiseSchedule, bits_per_dim, ode_log_likelihood
from ddpm_hf.diffusion.gaussian_process import PREDICTION_TYPES, convert_prediction, ddim_coefficients
from ddpm_hf.diffusion.guidance import autoguidance, classifier_free_guidance, timestep_interval


SCALES = (0, 0.5, 1, 1.5, 2, 3, 5)
LINEAR = NoiseSchedule.linear(20, 0.005, 0.5)

# x_0 | c ~ N(c, CONDITIONAL) and c ~ N(MEAN, 0.4), so that both denoisers are linear in x_t. One class is CLASS_MEAN.
MEAN, CLASS_MEAN, CONDITIONAL, UNCONDITIONAL = 0.3, 0.9, 0.25, 0.65
NULL = {"mean": MEAN, "variance": UNCONDITIONAL}


def scheduler_of(schedule: NoiseSchedule = LINEAR, **options: Any) -> DDPMPaperScheduler:
    return DDPMPaperScheduler.from_schedule(schedule, **{"clip_sample": False, "num_levels": None, **options})


def log_abar_at(schedule: NoiseSchedule, timesteps: float | Tensor, x_t: Tensor) -> Tensor:
    """log ᾱ at diffusers' timesteps, whole or real, ready to meet x_t."""
    log_abar = schedule.continuous.log_alpha_cumprod(torch.as_tensor(timesteps).double() + 1)
    return log_abar.reshape(-1, *[1] * (x_t.ndim - 1))


def gaussian_denoiser(schedule: NoiseSchedule = LINEAR, prediction_type: str = "epsilon") -> Callable[..., Tensor]:
    """denoise(x_t, timesteps, mean, variance): the optimal one for x_0 ~ N(mean, variance), `[B]` each."""

    def denoise(x_t: Tensor, timesteps: float | Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        log_abar = log_abar_at(schedule, timesteps, x_t)
        mean, variance = (value.reshape(-1, *[1] * (x_t.ndim - 1)) for value in (mean, variance))
        abar = log_abar.exp()
        gain = abar.sqrt() * variance / (abar * variance + 1 - abar)
        x_0 = mean + gain * (x_t - abar.sqrt() * mean)
        return model_output(prediction_type, x_0, x_t, log_abar)

    return denoise


def full(size: int, value: float) -> Tensor:
    return torch.full((size,), value, dtype=torch.float64)


def gaussian_conditioning(size: int) -> dict[str, Tensor]:
    return {"mean": full(size, CLASS_MEAN), "variance": full(size, CONDITIONAL)}


def linear_x0(abar: Any, w: float) -> tuple[Any, Any]:
    """(gain, offset) of the guided x̂_0 = gain x_t + offset, whatever kind of numbers `abar` is made of."""
    parts = []
    for mean, variance in ((CLASS_MEAN, CONDITIONAL), (MEAN, UNCONDITIONAL)):
        gain = abar**0.5 * variance / (abar * variance + 1 - abar)
        parts.append((gain, mean - gain * abar**0.5 * mean))
    (gain_c, offset_c), (gain_u, offset_u) = parts
    return gain_u + w * (gain_c - gain_u), offset_u + w * (offset_c - offset_u)


class Counted:
    """A denoiser that records how many examples each call had."""

    def __init__(self, denoise: Callable[..., Tensor]):
        self.denoise, self.sizes = denoise, []

    def __call__(self, x_t: Tensor, timesteps: float | Tensor, **conditioning: Any) -> Tensor:
        self.sizes.append(len(x_t))
        return self.denoise(x_t, timesteps, **conditioning)


def toy(x_t: Tensor, timesteps: float | Tensor, class_labels: Tensor) -> Tensor:
    """Smooth, and different for each class."""
    labels = class_labels.to(x_t.dtype).reshape(-1, *[1] * (x_t.ndim - 1))
    return torch.sin(x_t * (1 + labels)) + 0.1 * labels


def toy_with_variance(x_t: Tensor, timesteps: float | Tensor, class_labels: Tensor) -> Tensor:
    return torch.cat([toy(x_t, timesteps, class_labels), toy(-x_t, timesteps, class_labels)], dim=1)


def weak_toy(x_t: Tensor, timesteps: float | Tensor, class_labels: Tensor) -> Tensor:
    return 0.5 * toy(x_t, timesteps, class_labels)


def echo(x_t: Tensor, timesteps: float | Tensor, **conditioning: Any) -> Tensor:
    return x_t


def echo_twice(x_t: Tensor, timesteps: float | Tensor, **conditioning: Any) -> Tensor:
    return torch.cat([x_t, x_t], dim=1)


def silent(x_t: Tensor, timesteps: float | Tensor, **conditioning: Any) -> Tensor:
    return 0 * x_t


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X = randn(4, 2, 3, 3)
LABELS, NULL_LABELS = torch.tensor([0, 1, 2, 0]), torch.full((4,), 3)


# --- what is guided -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(PREDICTION_TYPES, 2)))
@pytest.mark.parametrize("w", [0.5, 3])
def test_guidance_is_the_same_in_every_prediction(source: str, target: str, w: float):
    x_t, conditional, unconditional, t = randn(6, 5), randn(6, 5, seed=1), randn(6, 5, seed=2), torch.arange(2, 20, 3)

    def converted(prediction: Tensor) -> Tensor:
        return convert_prediction(prediction, x_t, source, target, LINEAR, t)

    def guided(of: Callable[[Tensor], Tensor]) -> Tensor:
        def denoise(x_t: Tensor, timesteps: Tensor, known: bool) -> Tensor:
            return of(conditional if known else unconditional)

        both = classifier_free_guidance(denoise, {"known": False}, guidance_scale=w, batched=False)
        return both(x_t, t - 1, known=True)

    torch.testing.assert_close(converted(guided(lambda x: x)), guided(converted), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction", "score"])
def test_for_classes_of_one_variance_the_guided_mean_is_extrapolated(prediction_type: str):
    # N(m_u, v) and N(m_c, v): at every time the guided denoiser is the optimal one of N(m_u + w (m_c − m_u), v).
    denoise = gaussian_denoiser(prediction_type=prediction_type)
    guided = classifier_free_guidance(denoise, {"mean": MEAN}, guidance_scale=3)
    timesteps, x_t, variance = torch.arange(20), randn(20, 4), full(20, CONDITIONAL)
    found = guided(x_t, timesteps, mean=full(20, CLASS_MEAN), variance=variance)
    extrapolated = full(20, MEAN + 3 * (CLASS_MEAN - MEAN))
    torch.testing.assert_close(found, denoise(x_t, timesteps, extrapolated, variance), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batched", [True, False])
def test_the_formula(batched: bool, dtype: torch.dtype):
    x_t = X.to(dtype)
    guided = classifier_free_guidance(toy, {"class_labels": 3}, guidance_scale=2.5, batched=batched)
    found = guided(x_t, 7, class_labels=LABELS)
    conditional, unconditional = (toy(x_t, 7, labels).double() for labels in (LABELS, NULL_LABELS))
    expected = unconditional + 2.5 * (conditional - unconditional)
    assert found.dtype == dtype
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_autoguidance_is_the_formula_with_a_weaker_model():
    strong, weak = Counted(toy), Counted(weak_toy)
    found = autoguidance(strong, weak, guidance_scale=2)(X, 7, class_labels=LABELS)
    torch.testing.assert_close(found, 1.5 * toy(X, 7, LABELS), rtol=1e-14, atol=1e-14)
    assert strong.sizes == weak.sizes == [4]


def test_guided_denoisers_can_be_guided():
    # Classifier-free guidance of each, then autoguidance of the one by the other.
    null = {"class_labels": 3}
    guided = [classifier_free_guidance(each, null, guidance_scale=2) for each in (toy, weak_toy)]
    found = autoguidance(*guided, guidance_scale=1.5)(X, 7, class_labels=LABELS)
    strong, weak = (each(X, 7, class_labels=LABELS) for each in guided)
    torch.testing.assert_close(found, weak + 1.5 * (strong - weak), rtol=0, atol=0)
    # Classifier-free guidance of an autoguided model is affine in all four outputs too: the order does not matter.
    swapped = classifier_free_guidance(autoguidance(toy, weak_toy, guidance_scale=1.5), null, guidance_scale=2)
    torch.testing.assert_close(swapped(X, 7, class_labels=LABELS), found, rtol=1e-12, atol=1e-12)


# --- calls of the model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("w", "interval", "timestep", "batched", "sizes"),
    [
        (2, None, 7, True, [8]),
        (2, None, 7, False, [4, 4]),
        (1, None, 7, True, [4]),
        (0, None, 7, True, [4]),
        (2, (3, 9), 7, True, [8]),
        (2, (3, 9), 10, True, [4]),
        (0, (3, 9), 7, True, [4]),
        (0, (3, 9), 10, True, [4]),
        (2, (3, 9), 2.75, True, [4]),
        (2, (3, 9), torch.tensor(10), True, [4]),
        (2, (3, 9), torch.tensor([3, 9, 5, 5]), True, [8]),
        (2, (3, 9), torch.tensor([2, 10, 2, 2]), True, [4]),
        (2, (3, 9), torch.tensor([2, 3, 9, 10]), True, [8]),
        (0, (3, 9), torch.tensor([2, 3, 9, 10]), False, [4, 4]),
    ],
)
def test_no_call_of_the_model_is_wasted(
    w: float, interval: tuple | None, timestep: Any, batched: bool, sizes: list[int]
):
    model = Counted(toy)
    guided = classifier_free_guidance(
        model, {"class_labels": 3}, guidance_scale=w, guidance_interval=interval, batched=batched
    )
    found = guided(X, timestep, class_labels=LABELS)
    assert model.sizes == sizes
    conditional, unconditional = toy(X, 0, LABELS), toy(X, 0, NULL_LABELS)
    times = torch.as_tensor(timestep).double().expand(4)
    inside = torch.ones(4, dtype=torch.bool) if interval is None else (times >= 3) & (times <= 9)
    weight = torch.where(inside, float(w), 1.0)[:, None, None, None]
    expected = unconditional + weight * (conditional - unconditional)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("w", [0, 1, 2])
@pytest.mark.parametrize("interval", [None, (3, 9)])
def test_nothing_waits_for_a_device(w: float, interval: tuple | None):
    # A tensor on the meta device has no values: whatever looks at one raises.
    model = Counted(toy)
    guided = classifier_free_guidance(
        model, {"class_labels": 3}, guidance_scale=w, guidance_interval=interval, guidance_rescale=0.5
    )
    x_t, timesteps, labels = (x.to("meta") for x in (X, torch.tensor([2, 3, 9, 10]), LABELS))
    for times in (timesteps, timesteps[0]):
        output = guided(x_t, times, class_labels=labels)
        assert output.device.type == "meta" and output.shape == X.shape
    is_single = w == 1 or (w == 0 and interval is None)
    assert model.sizes == [4 if is_single else 8] * 2


def test_what_is_per_example_is_stacked_and_what_is_shared_is_not():
    seen: dict[str, Any] = {}

    def denoise(x_t: Tensor, timesteps: Any, **conditioning: Any) -> Tensor:
        seen.update(conditioning, timesteps=timesteps)
        return x_t

    null = {"text": torch.tensor([5.0, 6.0]), "added": {"size": torch.zeros_like}}
    guided = classifier_free_guidance(denoise, null, guidance_scale=2)
    given = {
        "text": torch.ones(4, 3, 2),
        "added": {"size": torch.ones(4, 1), "low_resolution": torch.arange(4.0)},
        "shared": torch.arange(7.0),
        "mode": "fast",
    }
    guided(X, torch.arange(4), **given)
    assert seen["text"][:4].eq(1).all() and seen["text"][4:].eq(torch.tensor([5.0, 6.0])).all()
    assert seen["text"].shape == (8, 3, 2)
    assert seen["added"]["size"].flatten().tolist() == [1] * 4 + [0] * 4
    assert seen["added"]["low_resolution"].tolist() == [0, 1, 2, 3] * 2 == seen["timesteps"].tolist()
    assert seen["shared"] is given["shared"] and seen["mode"] == "fast"
    assert given["added"]["size"].eq(1).all()


def test_the_null_conditioning_can_be_a_function_and_differ_in_shape():
    def denoise(x_t: Tensor, timesteps: Any, text: Tensor | None) -> Tensor:
        return torch.zeros_like(x_t) if text is None else x_t + text.sum(1).reshape(-1, 1, 1, 1)

    conditioning = {"text": torch.ones(4, 5, dtype=torch.float64)}
    for null, nothing in (
        (lambda given: {"text": given["text"][:, :2]}, X + 2),
        ({"text": None}, 0 * X),
        ({"text": lambda text: text[:, :1]}, X + 1),
    ):
        with pytest.raises(ValueError, match="`batched` must be False here: the conditioning 'text'"):
            classifier_free_guidance(denoise, null, guidance_scale=2)(X, 7, **conditioning)
        guided = classifier_free_guidance(denoise, null, guidance_scale=2, batched=False)
        expected = nothing + 2 * (X + 5 - nothing)
        torch.testing.assert_close(guided(X, 7, **conditioning), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3), (4, 2, 2, 3, 3)])
def test_examples_have_any_shape(shape: tuple[int, ...]):
    x_t = randn(*shape)
    guided = classifier_free_guidance(toy, {"class_labels": 3}, guidance_scale=2, guidance_interval=(3, 9))
    found = guided(x_t, torch.tensor([2, 3, 9, 10]), class_labels=LABELS)
    conditional, unconditional = toy(x_t, 0, LABELS), toy(x_t, 0, NULL_LABELS)
    for k, weight in enumerate([1, 2, 2, 1]):
        torch.testing.assert_close(found[k], unconditional[k] + weight * (conditional - unconditional)[k])


# --- learned variances ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [True, False])
def test_a_learned_variance_is_the_conditional_models(batched: bool):
    def guided(w: float, interval: tuple | None = None) -> Tensor:
        both = classifier_free_guidance(
            toy_with_variance, {"class_labels": 3}, guidance_scale=w, guidance_interval=interval, batched=batched
        )
        return both(X, torch.tensor([2, 3, 9, 10]), class_labels=LABELS)

    conditional, unconditional = (toy_with_variance(X, 0, labels) for labels in (LABELS, NULL_LABELS))
    found = guided(2.5)
    extrapolated = unconditional + 2.5 * (conditional - unconditional)
    torch.testing.assert_close(found[:, :2], extrapolated[:, :2], rtol=1e-14, atol=1e-14)
    assert torch.equal(found[:, 2:], conditional[:, 2:])
    # A scale of 0 is the unconditional model, variance and all; outside the interval it is the conditional one.
    assert torch.equal(guided(0), unconditional)
    mixed = guided(0, (3, 9))
    assert torch.equal(mixed[1:3], unconditional[1:3]) and torch.equal(mixed[[0, 3]], conditional[[0, 3]])


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
def test_the_guided_reverse_step_has_the_conditional_variance(variance_type: str):
    scheduler = scheduler_of(variance_type=variance_type)
    guided = classifier_free_guidance(toy_with_variance, {"class_labels": 3}, guidance_scale=3)
    found = scheduler.p_mean_variance(guided(X, 7, class_labels=LABELS), X, 7)
    conditional = scheduler.p_mean_variance(toy_with_variance(X, 7, LABELS), X, 7)
    unconditional = scheduler.p_mean_variance(toy_with_variance(X, 7, NULL_LABELS), X, 7)
    assert torch.equal(found.variance, conditional.variance)
    expected = unconditional.mean + 3 * (conditional.mean - unconditional.mean)
    torch.testing.assert_close(found.mean, expected, rtol=1e-12, atol=1e-12)


# --- the bound ------------------------------------------------------------------------------------------------------


def weight_at(t: int, w: float, interval: tuple[float, float] | None) -> float:
    """The scale at the paper's time t."""
    return w if interval is None or interval[0] <= t - 1 <= interval[1] else 1


def exact_guided_chain(
    schedule: NoiseSchedule, w: float, interval: tuple[float, float] | None = None
) -> tuple[mpmath.mpf, mpmath.mpf]:
    """The bound, and the cross-entropy that it bounds, of the guided chain with σ² = β on its own class; nats.

    Both paths x_0 … x_T are Gaussian vectors. With their means and covariances, written out in 50 digits, the bound is
    KL(q(x_0 … x_T) ‖ p(x_0 … x_T)) plus the entropy of q(x_0), with no decomposition into terms.
    """
    with mpmath.workdps(50):
        abar = [mpmath.exp(mpmath.mpf(x)) for x in schedule.log_alphas_cumprod.tolist()]
        T = schedule.T
        # Each path is an affine map of T + 1 independent standard normal numbers: rows of a matrix, and means.
        q, q_mean = mpmath.zeros(T + 1, T + 1), mpmath.zeros(T + 1, 1)
        q[0, 0], q_mean[0] = mpmath.sqrt(CONDITIONAL), mpmath.mpf(CLASS_MEAN)
        for t in range(1, T + 1):
            alpha = abar[t] / abar[t - 1]
            q[t, :], q_mean[t] = mpmath.sqrt(alpha) * q[t - 1, :], mpmath.sqrt(alpha) * q_mean[t - 1]
            q[t, t] = mpmath.sqrt(1 - alpha)
        p, p_mean = mpmath.zeros(T + 1, T + 1), mpmath.zeros(T + 1, 1)
        p[T, T] = 1
        for t in range(T, 0, -1):
            beta = 1 - abar[t] / abar[t - 1]
            c_1 = mpmath.sqrt(abar[t - 1]) * beta / (1 - abar[t])
            c_2 = mpmath.sqrt(1 - beta) * (1 - abar[t - 1]) / (1 - abar[t])
            gain, offset = linear_x0(abar[t], weight_at(t, w, interval))
            p[t - 1, :] = (c_1 * gain + c_2) * p[t, :]
            p_mean[t - 1] = (c_1 * gain + c_2) * p_mean[t] + c_1 * offset
            p[t - 1, t - 1] = mpmath.sqrt(beta)
        q_cov, p_cov, shift = q * q.T, p * p.T, p_mean - q_mean
        inverse, product = mpmath.inverse(p_cov), mpmath.inverse(p_cov) * q_cov
        kl = sum(product[k, k] for k in range(T + 1)) - (T + 1) + (shift.T * inverse * shift)[0]
        kl = (kl + mpmath.log(mpmath.det(p_cov) / mpmath.det(q_cov))) / 2
        entropy = mpmath.log(2 * mpmath.pi * mpmath.e * CONDITIONAL) / 2
        spread = (CONDITIONAL + shift[0] ** 2) / p_cov[0, 0]
        return kl + entropy, (mpmath.log(2 * mpmath.pi * p_cov[0, 0]) + spread) / 2


def gauss_hermite() -> tuple[Tensor, Tensor]:
    """Nodes `[9, 2]` and weights `[9]` of two independent standard normal numbers, exact up to the fifth power."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    pairs = double(list(itertools.product(nodes, nodes)))
    return pairs, double([a * b for a, b in itertools.product(weights / weights.sum(), repeat=2)])


def quadrature_bound(scheduler: DDPMPaperScheduler, denoise: Callable[..., Tensor]) -> float:
    """The bound of a chain on N(CLASS_MEAN, CONDITIONAL), nats; exact for terms quadratic in x_0 and the noise."""
    nodes, weights = gauss_hermite()
    T = len(scheduler.timesteps)
    x_0 = (CLASS_MEAN + CONDITIONAL**0.5 * nodes[:, :1]).repeat(T, 1)
    timesteps = torch.arange(T).repeat_interleave(9)
    x_t = scheduler.add_noise(x_0, nodes[:, 1:].repeat(T, 1), timesteps)
    output = denoise(x_t, timesteps, **gaussian_conditioning(len(x_t)))
    terms = scheduler.vlb_loss(output, x_0, x_t, timesteps).view(T, 9) @ weights
    return LOG_2 * (terms.sum() + scheduler.prior_loss(x_0[:9]) @ weights).item()


SHORT = NoiseSchedule.linear(8, 0.02, 0.6)


@pytest.mark.parametrize("interval", [None, (2, 5)])
@pytest.mark.parametrize("w", SCALES)
def test_the_bound_of_a_guided_gaussian_chain_is_exact(w: float, interval: tuple | None):
    bound, cross_entropy = (float(x) for x in exact_guided_chain(SHORT, w, interval))
    for prediction_type in ("epsilon", "sample", "v_prediction"):
        scheduler = scheduler_of(SHORT, variance_type="fixed_large", prediction_type=prediction_type)
        denoise = gaussian_denoiser(SHORT, prediction_type)
        guided = classifier_free_guidance(denoise, NULL, guidance_scale=w, guidance_interval=interval)
        assert quadrature_bound(scheduler, guided) == pytest.approx(bound, abs=1e-11)
    assert bound > cross_entropy  # what is bounded: the likelihood of the guided chain


@pytest.mark.parametrize("interval", [None, (2, 5)])
@pytest.mark.parametrize("w", [0.5, 2, 5])
def test_bits_per_dim_of_a_guided_chain(w: float, interval: tuple | None, generator: torch.Generator):
    scheduler = scheduler_of(SHORT, variance_type="fixed_large")
    guided = classifier_free_guidance(gaussian_denoiser(SHORT), NULL, guidance_scale=w, guidance_interval=interval)
    x = torch.randn(64, 1000, generator=generator, dtype=torch.float64)
    batch = (CLASS_MEAN + CONDITIONAL**0.5 * x, gaussian_conditioning(64))
    bound = float(exact_guided_chain(SHORT, w, interval)[0]) / LOG_2
    full = bits_per_dim(guided, scheduler, [batch], generator=generator)
    assert 0 < full.standard_error < 0.01 * bound
    assert abs(full.total - bound) < 5 * full.standard_error
    # Times that differ between examples: the interval is decided by example.
    estimate = bits_per_dim(guided, scheduler, [batch] * 8, num_evaluations=3, generator=generator)
    assert estimate.standard_error < 0.03 * bound
    assert abs(estimate.total - bound) < 5 * estimate.standard_error


def test_the_scales_1_and_0_are_the_conditional_and_the_unconditional_bound():
    scheduler = scheduler_of(SHORT, variance_type="learned_range")
    denoise = gaussian_denoiser(SHORT)
    x, given = randn(16, 2), gaussian_conditioning(16)
    null = {"mean": full(16, MEAN), "variance": full(16, UNCONDITIONAL)}

    def model(x_t: Tensor, timesteps: Tensor, **given: Tensor) -> Tensor:
        return torch.cat([denoise(x_t, timesteps, **given), given["variance"][:, None] - 0.5 * x_t], dim=1)

    def bound(denoise: Callable[..., Tensor], conditioning: dict[str, Tensor]) -> list[float]:
        found = bits_per_dim(denoise, scheduler, [(x, conditioning)], generator=torch.Generator().manual_seed(0))
        return found.per_example

    for w, expected in ((1, given), (0, null)):
        guided = classifier_free_guidance(model, NULL, guidance_scale=w, guidance_rescale=0.7)
        assert bound(guided, given) == bound(model, expected)
    assert bound(model, given) != bound(model, null)


# --- what guidance costs --------------------------------------------------------------------------------------------

CLASSES = Mixture.of((0.3, -0.6, 0.1), (0.7, 0.5, 0.2))


def class_denoiser(schedule: NoiseSchedule) -> Callable[..., Tensor]:
    """denoise(x_t, timesteps, class_labels) of the mixture's components, and of the mixture for class 2; says x_0."""
    parts = [Mixture.gaussian(m.item(), v.item()) for m, v in zip(CLASSES.means, CLASSES.variances, strict=True)]

    def denoise(x_t: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        log_abar = log_abar_at(schedule, timesteps, x_t)[:, 0]
        known = torch.stack([data.denoise(x_t[:, 0], log_abar) for data in (*parts, CLASSES)])
        return known.gather(0, class_labels[None])[0][:, None]

    return denoise


def class_bounds(schedule: NoiseSchedule, scales: tuple[float, ...]) -> list[float]:
    """The bound of the guided chain of β̃, with β at the first pair, over data and classes, for each scale; nats."""
    scheduler = scheduler_of(schedule, prediction_type="sample", first_variance="beta")
    denoise = class_denoiser(schedule)
    totals = [0.0] * len(scales)
    for label, (share, mean, variance) in enumerate(
        zip(CLASSES.weights.tolist(), CLASSES.means.tolist(), CLASSES.variances.tolist(), strict=True)
    ):
        # A Gaussian's nodes by the trapezoidal rule: the mixture's posterior mean is not polynomial in x_t.
        z = torch.linspace(-8.5, 8.5, 401, dtype=torch.float64)
        weight = torch.exp(-0.5 * z**2) / torch.exp(-0.5 * z**2).sum()
        T = schedule.T
        timesteps = torch.arange(T).repeat_interleave(len(z))
        abar = schedule.alphas_cumprod[1:].repeat_interleave(len(z))
        marginal = abar * variance + 1 - abar
        x_t = (abar.sqrt() * mean + marginal.sqrt() * z.repeat(T))[:, None]
        log_abar = schedule.log_alphas_cumprod[1:].repeat_interleave(len(z))
        _, centre, spread = Mixture.gaussian(mean, variance).posterior(x_t[:, 0], log_abar)
        labels = torch.full((len(x_t),), label)
        for k, w in enumerate(scales):
            output = classifier_free_guidance(denoise, {"class_labels": 2}, guidance_scale=w)(
                x_t, timesteps, class_labels=labels
            )
            for sign in (1, -1):  # two values of x_0 given x_t are exact for terms quadratic in x_0
                x_0 = (centre + sign * spread.sqrt())[:, None]
                terms = scheduler.vlb_loss(output, x_0, x_t, timesteps).view(T, len(z)) @ weight
                totals[k] += share * LOG_2 * terms.sum().item() / 2
    return totals


def test_the_bound_is_a_parabola_in_the_scale():
    # For optimal denoisers E‖x̂_0 − x_0‖² = mmse(c) + (w − 1)² E‖x̂_0(c) − x̂_0()‖² at every time.
    at = dict(zip(SCALES, class_bounds(LINEAR, SCALES), strict=True))
    for w in SCALES:
        assert at[w] - at[1] == pytest.approx((w - 1) ** 2 * (at[0] - at[1]), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("T", [50, 200])
def test_its_height_is_the_information_of_the_class(T: int):
    # The bound at 0 less that at 1 is Σ ½ (SNR_s − SNR_t) E‖x̂_0(c) − x̂_0()‖². With equal steps δ of the log-SNR it is
    # (e^δ − 1)/δ times its integral, I(x_0; c) = h(x_0) − h(x_0 | c) (Guo, Shamai & Verdú 2005), but for the ends.
    schedule = NoiseSchedule.linear_log_snr(T, 14.0, -14.0)
    without, given = class_bounds(schedule, (0, 1))
    entropy = 0.21202310348  # of the mixture, by quadrature
    entropies = 0.5 * torch.log(2 * math.pi * math.e * CLASSES.variances)
    information = entropy - (CLASSES.weights * entropies).sum().item()
    step = 28 / (T - 1)
    assert without - given == pytest.approx(information * math.expm1(step) / step, rel=1e-4)


# --- samples --------------------------------------------------------------------------------------------------------


def guided_moments(schedule: NoiseSchedule, w: float, interval: tuple | None) -> tuple[float, float]:
    """Mean and variance of x_0 from ancestral sampling with σ² = β and no noise in the last step."""
    abar = schedule.alphas_cumprod.tolist()
    mean, variance = 0.0, 1.0
    for t in range(schedule.T, 0, -1):
        beta = 1 - abar[t] / abar[t - 1]
        c_1 = math.sqrt(abar[t - 1]) * beta / (1 - abar[t])
        c_2 = math.sqrt(1 - beta) * (1 - abar[t - 1]) / (1 - abar[t])
        gain, offset = linear_x0(abar[t], weight_at(t, w, interval))
        slope = c_1 * gain + c_2
        mean, variance = slope * mean + c_1 * offset, slope**2 * variance + (beta if t > 1 else 0)
    return mean, variance


@pytest.mark.parametrize("interval", [None, (4, 12)])
@pytest.mark.parametrize("w", [0, 1, 3])
def test_ancestral_samples_have_the_mean_and_variance_of_the_recursion(
    w: float, interval: tuple | None, generator: torch.Generator
):
    n = 40000
    scheduler = scheduler_of(variance_type="fixed_large")
    guided = classifier_free_guidance(gaussian_denoiser(), NULL, guidance_scale=w, guidance_interval=interval)
    x, given = torch.randn(n, 1, generator=generator, dtype=torch.float64), gaussian_conditioning(n)
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(guided(x, t, **given), t, x, generator=generator).prev_sample
    mean, variance = guided_moments(LINEAR, w, interval)
    assert abs(x.mean().item() - mean) < 5 * math.sqrt(variance / n)
    assert abs(x.var().item() / variance - 1) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("interval", [None, (4, 12)])
def test_ddim_samples_are_the_recursion(interval: tuple | None):
    scheduler = scheduler_of()
    guided = classifier_free_guidance(gaussian_denoiser(), NULL, guidance_scale=3, guidance_interval=interval)
    x_T, given = randn(10, 1), gaussian_conditioning(10)
    x = x_T
    for t in range(LINEAR.T, 0, -1):
        output = guided(x, t - 1, **given)
        x_0 = scheduler.p_mean_variance(output, x, t - 1).pred_original_sample
        a, b, _ = ddim_coefficients(LINEAR, t, t - 1)
        x = a * x_0 + b * x
    # In x/√ᾱ and its noise s̄ DDIM is Euler's method: the slope is ε = (x_t − √ᾱ x̂_0)/√(1 − ᾱ).
    abar = LINEAR.alphas_cumprod.tolist()
    expected = x_T.numpy() / math.sqrt(abar[-1])
    for t in range(LINEAR.T, 0, -1):
        gain, offset = linear_x0(abar[t], weight_at(t, 3, interval))
        x_t = math.sqrt(abar[t]) * expected
        slope = (x_t - math.sqrt(abar[t]) * (gain * x_t + offset)) / math.sqrt(1 - abar[t])
        noise = [math.sqrt((1 - abar[k]) / abar[k]) for k in (t, t - 1)]
        expected = expected + slope * (noise[1] - noise[0])
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-11, atol=1e-11)


# --- the probability flow -------------------------------------------------------------------------------------------


def guided_flow(x: Tensor, levels: list[float], weights: list[float]) -> tuple[Tensor, float]:
    """x̄ at the last of the noise levels s̄, and the log of what stretched it, from x at the first.

    dx̄/ds̄ = Σ_k w_k s̄ (x̄ − m_k)/(v_k + s̄²) is linear, so x̄ = φ(s̄) (x/φ(s̄_1) − ∫ Σ_k w_k s̄ m_k/((v_k + s̄²) φ) ds̄) with
    φ = Π_k (v_k + s̄²)^(w_k/2). `weights` are the scales on the pieces between the levels.
    """
    log_stretch = 0.0
    for (start, end), scale in zip(itertools.pairwise(levels), weights, strict=True):
        parts = [(scale, CLASS_MEAN, CONDITIONAL), (1 - scale, MEAN, UNCONDITIONAL)]

        def phi(s: float, parts: list = parts) -> float:
            return math.prod((v + s**2) ** (weight / 2) for weight, _, v in parts)

        def pull(s: float, parts: list = parts, phi: Callable[[float], float] = phi) -> float:
            return sum(weight * s * m / (v + s**2) for weight, m, v in parts) / phi(s)

        integral, _ = quad(pull, start, end, epsabs=1e-13, epsrel=1e-13)
        x = phi(end) * (x / phi(start) - integral)
        log_stretch += math.log(phi(end) / phi(start))
    return x, log_stretch


def check_guided_likelihood(w: float, cuts: tuple[float, ...], rtol: float, tolerance: float) -> None:
    """Against the closed form: guided by w at all noise levels, or between two of them."""
    first, last = (math.exp(-0.5 * LINEAR.log_snr[t].item()) for t in (1, LINEAR.T))
    guided = classifier_free_guidance(
        gaussian_denoiser(),
        NULL,
        guidance_scale=w,
        guidance_interval=timestep_interval(LINEAR, sigma=cuts) if cuts else None,
    )
    x = torch.linspace(-1, 2, 5, dtype=torch.float64)[:, None]
    solver = {"trace": "exact", "method": "dopri8", "rtol": rtol, "atol": rtol}
    found = ode_log_likelihood(guided, scheduler_of(), x, gaussian_conditioning(5), **solver)
    x_bar, log_stretch = guided_flow(x, [first, *cuts, last], [1, w, 1] if cuts else [w])
    alpha = LINEAR.alphas_cumprod[-1].sqrt()
    log_prior = -0.5 * ((alpha * x_bar) ** 2 + math.log(2 * math.pi))[:, 0]
    torch.testing.assert_close(found.latents, alpha * x_bar, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.log_density, log_prior + alpha.log() + log_stretch, rtol=0, atol=tolerance)


@pytest.mark.parametrize("w", [0, 0.5, 1, 3])
def test_the_likelihood_of_the_guided_flow_is_exact(w: float):
    check_guided_likelihood(w, (), rtol=1e-11, tolerance=1e-9)


def test_the_likelihood_of_a_flow_guided_in_an_interval_is_exact():
    check_guided_likelihood(3, (0.3, 1.5), rtol=1e-6, tolerance=1e-4)  # the field jumps at both ends


@pytest.mark.parametrize("interval", [None, (3, 9)])
@pytest.mark.parametrize("rescale", [0, 0.7])
def test_gradients_pass_through(rescale: float, interval: tuple | None):
    guided = classifier_free_guidance(
        toy, {"class_labels": 3}, guidance_scale=2, guidance_interval=interval, guidance_rescale=rescale
    )
    x_t = X.clone().requires_grad_()
    times = torch.tensor([2, 3, 9, 10])
    assert torch.autograd.gradcheck(lambda x: guided(x, times, class_labels=LABELS), [x_t])


# --- rescaling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
def test_the_rescale_is_that_of_diffusers(phi: float):
    guided = classifier_free_guidance(toy, {"class_labels": 3}, guidance_scale=7.5, guidance_rescale=phi)
    conditional, unconditional = toy(X, 7, LABELS), toy(X, 7, NULL_LABELS)
    expected = rescale_noise_cfg(unconditional + 7.5 * (conditional - unconditional), conditional, phi)
    found = guided(X, 7, class_labels=LABELS)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    if phi == 1:
        torch.testing.assert_close(found.flatten(1).std(1), conditional.flatten(1).std(1))


def test_a_constant_prediction_keeps_its_scale():
    # A network whose last layer starts at zero says 0 everywhere: diffusers' formula has 0/0 there.
    x_t = X.clone().requires_grad_()
    guided = classifier_free_guidance(silent, {"class_labels": 3}, guidance_scale=3, guidance_rescale=0.7)
    output = guided(x_t, 7, class_labels=LABELS)
    (gradient,) = torch.autograd.grad(output.sum(), x_t)
    assert torch.equal(output, torch.zeros_like(X)) and torch.equal(gradient, torch.zeros_like(X))


def test_the_rescale_leaves_the_learned_variance_alone():
    scales = {"guidance_scale": 7.5, "guidance_rescale": 0.7}
    found = classifier_free_guidance(toy_with_variance, {"class_labels": 3}, **scales)(X, 7, class_labels=LABELS)
    alone = classifier_free_guidance(toy, {"class_labels": 3}, **scales)(X, 7, class_labels=LABELS)
    assert torch.equal(found, torch.cat([alone, toy(-X, 7, LABELS)], dim=1))


# --- intervals of noise levels --------------------------------------------------------------------------------------

SCHEDULES = {
    "linear": NoiseSchedule.linear(1000),
    "one step": NoiseSchedule.from_betas([0.9]),
    "cosine": NoiseSchedule.cosine(50),
    "log-SNR": NoiseSchedule.linear_log_snr(30, 9.0, -9.0),
    "zero terminal SNR": LINEAR.rescale_zero_terminal_snr(),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_interval_has_the_timesteps_of_its_levels(name: str):
    schedule = SCHEDULES[name]
    log_snr = schedule.log_snr[1:]
    some = log_snr[torch.linspace(0, schedule.T - 1, 8).long()].tolist()
    timesteps = torch.arange(schedule.T)
    levels = sorted({-math.inf, *some, -20.0, 0.3, 1.7, 20.0, math.inf})
    for low, high in itertools.combinations_with_replacement(levels, 2):
        wanted = ((log_snr >= low) & (log_snr <= high)).tolist()
        sigma = (math.exp(-high / 2) if high < math.inf else 0.0, math.exp(-low / 2) if low > -math.inf else math.inf)
        for ends in (
            timestep_interval(schedule, log_snr=(low, high)),
            timestep_interval(schedule, sigma=sigma),
        ):
            assert ((timesteps >= ends[0]) & (timesteps <= ends[1])).tolist() == wanted


def test_between_the_chains_levels_an_interval_is_real():
    schedule = SCHEDULES["linear"]
    low, high = timestep_interval(schedule, sigma=(0.28, 2.9))
    for timestep, sigma in ((low, 0.28), (high, 2.9)):
        log_snr = schedule.continuous.log_snr(timestep + 1).item()
        assert math.exp(-0.5 * log_snr) == pytest.approx(sigma, rel=1e-12)


# --- stock diffusers ------------------------------------------------------------------------------------------------


def class_conditional_unet() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        layers_per_block=1,
        num_class_embeds=4,  # three classes and the null class
    ).eval()


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("phi", [0.0, 0.7])
@torch.no_grad()
def test_guided_samples_are_those_of_stock_diffusers(phi: float, batched: bool):
    unet = class_conditional_unet()
    labels = torch.tensor([0, 1, 2])
    x_T = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    stock, generator, x = DDPMScheduler(), torch.Generator().manual_seed(2), x_T
    stock.set_timesteps(25)
    for t in stock.timesteps:  # the loop of StableDiffusionPipeline, which stacks the unconditional half first
        inputs, classes = torch.cat([x] * 2), torch.cat([torch.full_like(labels, 3), labels])
        noise_uncond, noise_cond = unet(inputs, t, classes).sample.chunk(2)
        noise = noise_uncond + 4.0 * (noise_cond - noise_uncond)
        noise = rescale_noise_cfg(noise, noise_cond, phi) if phi > 0 else noise
        x = stock.step(noise, t, x, generator=generator).prev_sample

    ours, generator, y = DDPMPaperScheduler(), torch.Generator().manual_seed(2), x_T
    ours.set_timesteps(25)

    def denoise(x_t: Tensor, timesteps: int, class_labels: Tensor) -> Tensor:
        return unet(x_t, timesteps, class_labels, return_dict=False)[0]

    guided = classifier_free_guidance(
        denoise, {"class_labels": 3}, guidance_scale=4.0, guidance_rescale=phi, batched=batched
    )
    for t in ours.timesteps.tolist():
        y = ours.step(guided(y, t, class_labels=labels), t, y, generator=generator).prev_sample
    torch.testing.assert_close(y, x, rtol=0, atol=2e-5)  # float32 tables
    unguided = x_T
    for t in ours.timesteps.tolist():
        unguided = ours.step(denoise(unguided, t, labels), t, unguided).prev_sample
    assert (unguided - x).abs().max() > 0.1


def tiny_dit() -> DiTPipeline:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        norm_num_groups=1,
        num_embeds_ada_norm=1000,
    )
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=1, sample_size=4)
    return DiTPipeline(transformer.eval(), vae.eval(), DDIMScheduler(clip_sample=False))


@torch.no_grad()
def test_guidance_is_that_of_the_dit_pipeline():
    pipeline, labels = tiny_dit(), [3, 7]
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(labels, 4.0, torch.Generator().manual_seed(1), 5, output_type="pt").images

    def denoise(x_t: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        return pipeline.transformer(x_t, timesteps.expand(len(x_t)), class_labels).sample

    guided = classifier_free_guidance(denoise, {"class_labels": 1000}, guidance_scale=4.0)
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    pipeline.scheduler.set_timesteps(5)
    for t in pipeline.scheduler.timesteps:
        output = guided(x, t, class_labels=torch.tensor(labels))
        assert output.shape == (2, 8, 4, 4)
        x = pipeline.scheduler.step(output[:, :4], t, x).prev_sample
    images = (pipeline.vae.decode(x / pipeline.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guidance_scale": -1}, "`guidance_scale` must be a finite number >= 0, but is -1"),
        ({"guidance_scale": math.nan}, "`guidance_scale` must be a finite number >= 0, but is nan"),
        ({"guidance_scale": math.inf}, "`guidance_scale` must be a finite number >= 0, but is inf"),
        ({"guidance_scale": "3"}, "`guidance_scale` must be a finite number >= 0, but is '3'"),
        ({"guidance_scale": True}, "`guidance_scale` must be a finite number >= 0, but is True"),
        ({"guidance_rescale": 1.5}, r"`guidance_rescale` must be a number in \[0, 1\], but is 1.5"),
        ({"guidance_rescale": -0.1}, r"`guidance_rescale` must be a number in \[0, 1\], but is -0.1"),
        ({"guidance_rescale": math.nan}, r"`guidance_rescale` must be a number in \[0, 1\], but is nan"),
        ({"guidance_interval": (9, 3)}, r"`guidance_interval` must be two numbers .* but is \(9, 3\)"),
        ({"guidance_interval": (math.nan, 3)}, "`guidance_interval` must be two numbers"),
        ({"guidance_interval": 3}, "`guidance_interval` must be two numbers"),
        ({"guidance_interval": (1, 2, 3)}, "`guidance_interval` must be two numbers"),
    ],
)
def test_impossible_guidance_is_refused(arguments: dict[str, Any], message: str):
    arguments = {"guidance_scale": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        classifier_free_guidance(toy, {"class_labels": 3}, **arguments)
    with pytest.raises(ValueError, match=message):
        autoguidance(toy, toy, **arguments)


@pytest.mark.parametrize("null", [{}, None, 3, [3]])
def test_a_null_value_must_be_given(null: Any):
    with pytest.raises(ValueError, match="`null` must be a mapping with the null value of at least one argument"):
        classifier_free_guidance(toy, null, guidance_scale=2)


@pytest.mark.parametrize("w", [0, 2])
@pytest.mark.parametrize(
    ("null", "given", "message"),
    [
        ({"class_labels": 3}, {}, "The conditioning must have 'class_labels', since `null` has a null value for it"),
        ({"added": {"text": 0}}, {"added": {}}, "The conditioning 'added' must have 'text'"),
        ({"added": {"text": 0}}, {"added": X}, "The conditioning 'added' must have 'text'"),
        ({"class_labels": 2.5}, {"class_labels": LABELS}, "must fit its dtype torch.int64, but is torch.float32"),
        (
            {"text": torch.zeros(3)},
            {"text": torch.zeros(4, 2)},
            r"The null value of the conditioning 'text' must broadcast to its shape \[4, 2\], but has \[3\]",
        ),
        ({"text": torch.zeros(1, 4, 2)}, {"text": torch.zeros(4, 2)}, r"must broadcast .* but has \[1, 4, 2\]"),
    ],
)
def test_conditioning_that_does_not_fit_its_null_value_is_refused(
    w: float, null: dict[str, Any], given: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        classifier_free_guidance(echo, null, guidance_scale=w)(X, 7, **given)


@pytest.mark.parametrize(
    ("denoise", "message"),
    [
        (
            lambda x_t, timesteps: torch.cat([x_t] * 3, dim=1),
            r"\[4, 2, 3, 3\], or twice its channels, .* \[4, 6, 3, 3\]",
        ),
        (lambda x_t, timesteps: x_t[:, :1], r"Both outputs must have the shape of `x_t`"),
        (lambda x_t, timesteps: x_t[:1], "`denoise` must return a tensor of 4 examples, .* has shape"),
        (lambda x_t, timesteps: "x_t", "`denoise` must return a tensor, or an output with a `sample`"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(denoise: Callable[..., Any], message: str):
    with pytest.raises(ValueError, match=message):
        autoguidance(denoise, denoise, guidance_scale=2)(X, 7)


def test_outputs_that_differ_in_shape_are_refused():
    with pytest.raises(ValueError, match="Both outputs must have the shape of `x_t`"):
        autoguidance(echo_twice, echo, guidance_scale=0, guidance_interval=(3, 9))(X, torch.tensor([2, 3, 9, 10]))


def test_a_model_that_ignores_the_stacked_batch_is_refused():
    with pytest.raises(ValueError, match="`denoise` must return a tensor of 8 examples"):
        classifier_free_guidance(lambda x_t, *_, **__: x_t[:4], {"class_labels": 3}, guidance_scale=2)(
            X, 7, class_labels=LABELS
        )


def test_examples_of_one_element_have_no_scale():
    guided = classifier_free_guidance(toy, {"class_labels": 3}, guidance_scale=2, guidance_rescale=0.5)
    with pytest.raises(ValueError, match="`guidance_rescale` must be 0 for examples of one element"):
        guided(randn(4, 1), 7, class_labels=LABELS)


def test_timesteps_of_another_batch_are_refused():
    guided = classifier_free_guidance(toy, {"class_labels": 3}, guidance_scale=2, guidance_interval=(3, 9))
    with pytest.raises(ValueError, match="`timesteps` must be one for all or one per example"):
        guided(X, torch.tensor([2, 3, 9]), class_labels=LABELS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Exactly one of `log_snr` and `sigma` must be given"),
        ({"log_snr": (0, 1), "sigma": (0, 1)}, "Exactly one of `log_snr` and `sigma` must be given"),
        ({"log_snr": (1, 0)}, r"`log_snr` must be two numbers .* but is \(1, 0\)"),
        ({"log_snr": (math.nan, 0)}, "`log_snr` must be two numbers"),
        ({"sigma": (2, 1)}, r"`sigma` must be two numbers .* but is \(2, 1\)"),
        ({"sigma": (-1, 1)}, r"`sigma` must be two numbers >= 0, but is \(-1, 1\)"),
        ({"sigma": "12"}, "`sigma` must be two numbers"),
    ],
)
def test_impossible_levels_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        timestep_interval(LINEAR, **arguments)
