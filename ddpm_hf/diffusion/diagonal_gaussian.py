# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A Gaussian with independent elements, such as the posterior q(z | x) of an autoencoder (Kingma & Welling 2014)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .numerics import require_samples, to_float64


LOG_2_PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """N(mean, e^log_variance) for B examples of any shape; everything is differentiable in its two tensors.

    Attributes:
        mean: `[B, *anything]`, the channels first.
        log_variance: the logarithm of the variance of each element, in the same shape.

    Raises:
        ValueError: if the two are not floating tensors of one shape.
    """

    mean: Tensor
    log_variance: Tensor

    def __post_init__(self) -> None:
        require_samples(mean=self.mean, log_variance=self.log_variance)

    def sample(self, noise: Tensor) -> Tensor:
        """z = mean + σ ε for standard normal noise ε, in the shape and dtype of `mean`."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def entropy(self) -> Tensor:
        """½ Σ (log 2πe + log σ²), nats per example, float64 `[B]`; it may be negative, as a density's entropy is."""
        return 0.5 * _sum_flat(1 + LOG_2_PI + to_float64(self.log_variance))

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z; mean, σ²), nats per example, float64 `[B]`.

        Args:
            z: in the shape of `mean`.
        """
        mean, log_variance = to_float64(self.mean), to_float64(self.log_variance)
        off = (to_float64(z) - mean) * torch.exp(-0.5 * log_variance)
        return -0.5 * _sum_flat(off**2 + log_variance + LOG_2_PI)

    def kl_by_channel(self) -> Tensor:
        """KL(N(mean, σ²) ‖ N(0, 1)) of each example, summed over all elements of a channel; nats, float64 `[B, C]`."""
        mean, log_variance = to_float64(self.mean), to_float64(self.log_variance)
        kl = 0.5 * (mean**2 + torch.expm1(log_variance) - log_variance)
        return kl.flatten(start_dim=2).sum(dim=2) if kl.ndim > 2 else kl


def _sum_flat(x: Tensor) -> Tensor:
    return x.flatten(start_dim=1).sum(dim=1) if x.ndim > 1 else x
