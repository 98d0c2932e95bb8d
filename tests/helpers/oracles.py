# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
r"""Data whose optimal denoiser is known in closed form, with exact expectations under q(x_0, x_t) by quadrature.

`Mixture` has one dimension: Gaussian data (one component), mixtures, and levels (components of variance 0). Its
denoiser is the posterior mean

    E[x_0 | x_t] = Σ_k w_k(x_t) (m_k + √ᾱ s_k² (x_t − √ᾱ m_k) / v_k),   v_k = ᾱ s_k² + 1 − ᾱ.

`Points` is a finite data set of tensors and `GaussianVectors` has a full covariance.

Independent of ddpm_hf: this module does not import it. The oracles take log ᾱ_t of its schedule, which has its own
tests. `package_bound` passes the oracles to the package's functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


LOG_2 = math.log(2.0)


def double(values: Iterable[float] | float) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


class Grid(NamedTuple):
    """Quadrature nodes of q(x_t) at several times, with the posterior of x_0 at each node; all `[N]`."""

    index: Tensor  # which of the times
    log_abar: Tensor  # its log ᾱ
    x_t: Tensor
    weight: Tensor  # of each time they sum to one
    mean: Tensor  # E[x_0 | x_t]
    variance: Tensor  # Var(x_0 | x_t)

    def sum_per_time(self, values: Tensor) -> Tensor:
        """E values at every time, `[T]`."""
        return torch.zeros(int(self.index[-1]) + 1, dtype=torch.float64).index_add(0, self.index, self.weight * values)


@dataclass(frozen=True, eq=False)
class Mixture:
    """x_0 ~ Σ_k w_k N(m_k, s_k²), one-dimensional."""

    weights: Tensor  # [K]
    means: Tensor  # [K]
    variances: Tensor  # [K]

    @classmethod
    def gaussian(cls, mean: float, variance: float) -> Mixture:
        return cls(double([1.0]), double([mean]), double([variance]))

    @classmethod
    def of(cls, *components: tuple[float, float, float]) -> Mixture:
        """Components as (weight, mean, standard deviation)."""
        weights, means, deviations = (double(column) for column in zip(*components, strict=True))
        return cls(weights, means, deviations**2)

    @classmethod
    def of_levels(cls, levels: Tensor, weights: Tensor, num_levels: int) -> Mixture:
        """Data of `num_levels` levels in [−1, 1], given by their numbers."""
        return cls(weights, 2 * levels / (num_levels - 1) - 1, torch.zeros_like(weights))

    # --- given x_t ---

    def components(self, x_t: Tensor, log_abar: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log q_t(x_t), `[N]`; and every component's posterior weight, mean and variance of x_0, `[N, K]`.

        Args:
            x_t: `[N]`; log_abar: `[]` or `[N]`.
        """
        x_t, log_abar = x_t[:, None], log_abar.reshape(-1, 1)
        abar, noise = log_abar.exp(), -torch.expm1(log_abar)
        v = abar * self.variances + noise
        residual = x_t - abar.sqrt() * self.means
        log_joint = self.weights.log() - 0.5 * (residual**2 / v + v.log() + math.log(2 * math.pi))
        log_q = torch.logsumexp(log_joint, dim=1)
        mean = self.means + abar.sqrt() * self.variances / v * residual
        return log_q, (log_joint - log_q[:, None]).exp(), mean, self.variances * noise / v

    def posterior(self, x_t: Tensor, log_abar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log q_t(x_t), E[x_0 | x_t] and Var(x_0 | x_t), `[N]` each."""
        rows = max(1, 2**16 // len(self.means))  # at a time, so that all of it stays in the cache
        chunks = []
        for x, log_a in zip(x_t.split(rows), log_abar.expand_as(x_t).split(rows), strict=True):
            log_q, weight, means, variances = self.components(x, log_a)
            mean = (weight * means).sum(1)
            chunks.append((log_q, mean, (weight * (variances + (means - mean[:, None]) ** 2)).sum(1)))
        log_q, mean, variance = (torch.cat(column) for column in zip(*chunks, strict=True))
        return log_q, mean, variance

    def denoise(self, x_t: Tensor, log_abar: Tensor) -> Tensor:
        """E[x_0 | x_t], `[N]`."""
        if len(self.means) == 1:  # Gaussian data, which most tests have: a tenth of the work
            alpha, abar = (0.5 * log_abar).exp(), log_abar.exp()
            gain = alpha * self.variances / (abar * self.variances - torch.expm1(log_abar))
            return self.means + gain * (x_t - alpha * self.means)
        return self.posterior(x_t, log_abar)[1]

    def log_density(self, x_t: Tensor, log_abar: Tensor) -> Tensor:
        """log q_t(x_t), `[N]`."""
        return self.posterior(x_t, log_abar)[0]

    # --- expectations ---

    def grid(self, log_abar: Tensor) -> Grid:
        """Quadrature nodes of q(x_t) at every time of `log_abar`, `[T]`.

        Gauss–Hermite for Gaussian data, where all integrands are polynomials; else the trapezoidal rule, which
        converges exponentially on a density that is analytic and vanishes at both ends.
        """
        alpha, noise = (0.5 * log_abar[:, None]).exp(), -torch.expm1(log_abar[:, None])
        centres, deviations = alpha * self.means, (alpha**2 * self.variances + noise).sqrt()
        if len(self.means) == 1:
            nodes, weights = np.polynomial.hermite_e.hermegauss(3)
            index = torch.arange(len(log_abar)).repeat_interleave(len(nodes))
            x_t = (centres + deviations * double(nodes)).flatten()
            _, mean, variance = self.posterior(x_t, log_abar[index])
            weight = double(weights / weights.sum()).repeat(len(log_abar))
            return Grid(index, log_abar[index], x_t, weight, mean, variance)
        low, high = (centres - 8.5 * deviations).amin(1), (centres + 8.5 * deviations).amax(1)
        per_deviation = 4 if len(self.means) > 16 else 16  # few components far apart: their posteriors switch sharply
        count = ((high - low) / deviations.amin(1) * per_deviation).ceil().int()
        lines = zip(low.tolist(), high.tolist(), count.tolist(), strict=True)
        x_t = torch.cat([torch.linspace(*line, dtype=torch.float64) for line in lines])
        index = torch.arange(len(log_abar)).repeat_interleave(count)
        log_q, mean, variance = self.posterior(x_t, log_abar[index])
        weight = log_q.exp() * ((high - low) / (count - 1))[index]
        return Grid(index, log_abar[index], x_t, weight, mean, variance)

    def mmse(self, log_abar: Tensor) -> Tensor:
        """E Var(x_0 | x_t) at every time, `[T]`."""
        grid = self.grid(log_abar)
        return grid.sum_per_time(grid.variance)


def optimal_log_variance(log_abar: Tensor, mmse: Tensor) -> Tensor:
    """log σ*² = log(β̃ + c₁² mmse) of every pair of neighbours in `log_abar` (`[K + 1]`, time 0 first), `[K]`."""
    beta, noise_s, noise_t = (-torch.expm1(v) for v in (log_abar.diff(), log_abar[:-1], log_abar[1:]))
    return (beta * noise_s / noise_t + log_abar[:-1].exp() * (beta / noise_t) ** 2 * mmse).log()


def fixed_log_variances(log_abar: Tensor) -> tuple[Tensor, Tensor]:
    """log β̃ and log β of those pairs, `[K]`; β̃ of the first pair is 0 and is replaced by that of the second."""
    beta, noise_s, noise_t = (-torch.expm1(v) for v in (log_abar.diff(), log_abar[:-1], log_abar[1:]))
    small = beta * noise_s / noise_t
    return torch.cat([small[1:2], small[1:]]).log(), beta.log()


def model_output(kind: str, x_0: Tensor, x_t: Tensor, log_abar: Tensor) -> Tensor:
    """The output of a model of that prediction type for a predicted x_0; not for "mean", which needs two times."""
    alpha, sigma = (0.5 * log_abar).exp(), (-torch.expm1(log_abar)).sqrt()
    noise = (x_t - alpha * x_0) / sigma
    outputs = {"sample": x_0, "epsilon": noise, "v_prediction": alpha * noise - sigma * x_0, "score": -noise / sigma}
    return outputs[kind]


class Bound(NamedTuple):
    """The variational bound in nats: L_T, and the terms of the visited pairs, the decoder's first."""

    prior: float
    terms: Tensor  # [K]

    @property
    def total(self) -> float:
        return self.prior + math.fsum(self.terms.tolist())


def exact_bound(data: Mixture, log_abar: Tensor, log_variance: Tensor, num_levels: int | None = None) -> Bound:
    """The bound of the optimal denoiser by Eq. 5, 7, 8 and 13 of Ho et al., x_0 | x_t integrated in closed form.

    Args:
        log_abar: log ᾱ of time 0 and of the visited times, `[K + 1]`.
        log_variance: log σ² of the visited pairs, `[K]`.
    """
    beta, noise_s, noise_t = (-torch.expm1(v) for v in (log_abar.diff(), log_abar[:-1], log_abar[1:]))
    c1_squared, variance = log_abar[:-1].exp() * (beta / noise_t) ** 2, log_variance.exp()
    grid = data.grid(log_abar[1:])
    spread = c1_squared * grid.sum_per_time(grid.variance) / (2 * variance)  # of what the posterior leaves open
    ratio = beta * noise_s / noise_t / variance
    terms = 0.5 * (ratio - 1 - ratio.log()) + spread
    terms[0] = spread[0] + 0.5 * (math.log(2 * math.pi) + log_variance[0])
    if num_levels is not None:
        terms[0] = _decoder_of_levels(data, grid, log_variance[0], num_levels)
    second_moment = float((data.weights * (data.means**2 + data.variances)).sum())
    abar, log_noise = log_abar[-1].exp().item(), noise_t[-1].log().item()
    return Bound(0.5 * (abar * second_moment - abar - log_noise), terms)


def _decoder_of_levels(data: Mixture, grid: Grid, log_variance: Tensor, num_levels: int) -> Tensor:
    """−E log P(x_0's bin), the bins' edges half way between levels and the outer ones open (Eq. 13)."""
    first = grid.index == 0
    posterior = data.components(grid.x_t[first], grid.log_abar[first])[1]
    centred = (data.means - grid.mean[first, None]).abs()  # N is symmetric: the bin's upper edge lies in the tail
    half, deviation = 1 / (num_levels - 1), (0.5 * log_variance).exp()
    near, far = (torch.special.log_ndtr(-(centred + side) / deviation) for side in (-half, half))
    inner = near + torch.log1p(-(far - near).exp())
    below, above = (data.means <= half - 1), (data.means >= 1 - half)  # the edge bins
    upper = torch.special.log_ndtr((grid.mean[first, None] - data.means + half) / deviation)  # P(x > its lower edge)
    lower = torch.special.log_ndtr((data.means + half - grid.mean[first, None]) / deviation)  # P(x < its upper edge)
    log_probability = torch.where(below, lower, torch.where(above, upper, inner))
    return -(grid.weight[first, None] * posterior * log_probability).sum()


@dataclass(frozen=True, eq=False)
class Points:
    """A finite data set: points of any shape with probabilities."""

    values: Tensor  # [K, *anything]
    weights: Tensor  # [K]

    def _log_joint(self, x_t: Tensor, log_abar: Tensor) -> Tensor:
        """log w_k N(x_t; √ᾱ x_k, (1 − ᾱ) I), `[N, K]`, for `x_t` [N, *anything] and `log_abar` [N]."""
        alpha, noise = (0.5 * log_abar).exp(), -torch.expm1(log_abar)
        points = self.values.flatten(1)
        distance = ((x_t.flatten(1)[:, None] - alpha[:, None, None] * points) ** 2).sum(2)
        constant = points.shape[1] * (2 * math.pi * noise).log()
        return self.weights.log() - 0.5 * (distance / noise[:, None] + constant[:, None])

    def log_density(self, x_t: Tensor, log_abar: Tensor) -> Tensor:
        return torch.logsumexp(self._log_joint(x_t, log_abar), dim=1)

    def posterior_weights(self, x_t: Tensor, log_abar: Tensor) -> Tensor:
        """The probability of every point given x_t, `[N, K]`."""
        return self._log_joint(x_t, log_abar).softmax(dim=1)

    def denoise(self, x_t: Tensor, log_abar: Tensor) -> Tensor:
        """E[x_0 | x_t], in the shape of x_t."""
        return torch.tensordot(self.posterior_weights(x_t, log_abar), self.values, dims=1)


@dataclass(frozen=True, eq=False)
class GaussianVectors:
    """x_0 ~ N(mean, covariance)."""

    mean: Tensor  # [D]
    covariance: Tensor  # [D, D]

    def denoiser(self, log_abar: Tensor) -> tuple[Tensor, Tensor]:
        """(gain, offset) of E[x_0 | x_t] = gain x_t + offset: `[D, D]` and `[D]`."""
        alpha, noise = (0.5 * log_abar).exp(), -torch.expm1(log_abar)
        marginal = alpha**2 * self.covariance + noise * torch.eye(len(self.mean), dtype=torch.float64)
        gain = alpha * torch.linalg.solve(marginal, self.covariance).T  # both are symmetric
        return gain, self.mean - alpha * gain @ self.mean
