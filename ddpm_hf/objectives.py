# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
r"""Training losses, one value per example, and the times they are evaluated at.

L_simple = E ‖ε − ε_θ(x_t, t)‖²                          (Ho et al. 2020, Eq. 14; here the mean over dimensions)
L_vlb    = E [K · L_{t−1}],  t uniform over K times      (Eq. 5, as an unbiased estimate from one time per example)
L_rate   = E [K · ½ (SNR_s − SNR_t) ‖x_0 − x̂_0‖²]        (Kingma et al. 2021, Eq. 13: what L_vlb is for σ² = β̃,
                                                          the decoder apart)
L_hybrid = L_simple + λ L_vlb                            (Nichol & Dhariwal 2021, Eq. 16: the mean learns from the one,
                                                          the variance from the other)

Any L_simple is a weighted error of x̂_0; `min_snr_weights` makes its weight min(SNR_t, γ) (Hang et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .gaussian_process import PREDICTION_TYPES, StepCoefficients, unknown
from .likelihood import vlb_terms
from .noise_schedule import NoiseSchedule
from .numerics import Times, expand_like, in_int64, log1mexp, mean_flat, nats_to_bits, promote, require_samples
from .reverse_process import ReverseProcess


def simple_loss(model_output: Tensor, target: Tensor) -> Tensor:
    """L_simple (Ho et al. 2020, Eq. 14) for any prediction type: the squared error per example, mean over dimensions.

    Args:
        model_output: `[B, C, …]`; of `[B, 2C, …]`, a learned variance, the first half is used.
        target: `[B, C, …]`, what the model should predict: the noise for "epsilon".

    Returns:
        `[B]`, at least float32.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if model_output.ndim == target.ndim > 1 and model_output.shape[1] == 2 * target.shape[1]:
        model_output = model_output[:, : target.shape[1]]
    require_samples(target=target, model_output=model_output)
    return mean_flat((promote(model_output) - promote(target)) ** 2)


def min_snr_weights(
    schedule: NoiseSchedule, t: Times, prediction_type: str, gamma: float = 5.0, s: Times | None = None
) -> Tensor:
    """The weight of each example's `simple_loss` under min-SNR-γ: min(SNR_t, γ) on ‖x_0 − x̂_0‖² (Hang et al. 2023).

    A prediction p x_0 + q x_t errs by p (x̂_0 − x_0), so that its squared error has the weight min(SNR_t, γ)/p²:
    min(SNR, γ) for "sample", min(1, γ/SNR) for "epsilon", min(SNR, γ)/(SNR + 1) for "v_prediction". Finite at every
    time, those of SNR 0 included.

    Args:
        schedule: on the device of `t`, as `schedule.to(device)` puts it there.
        t: paper's times 1 … T, an int or `[B]`.
        prediction_type: one of `PREDICTION_TYPES`.
        gamma: γ > 0; the authors' 5.
        s: the earlier time that "mean" refers to; t − 1 if not given.

    Returns:
        float64 in the shape of `t`, like all coefficients.

    Raises:
        ValueError: for a `gamma` that is not a positive number, an unknown name, or times out of range.
    """
    if not 0 < gamma < math.inf:
        raise ValueError(f"`gamma` must be a positive number, but is {gamma}.")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(unknown("prediction_type", prediction_type, PREDICTION_TYPES))
    log_abar = schedule.log_alpha_cumprod(t)
    log_var = log1mexp(log_abar)
    log_snr = log_abar - log_var
    # log p², and log SNR/p², written out where their difference would be ∞ − ∞ at SNR 0; SNR + 1 is 1/σ².
    if prediction_type == "epsilon":
        log_square, log_ratio = log_snr, torch.zeros_like(log_snr)
    elif prediction_type == "sample":
        log_square, log_ratio = torch.zeros_like(log_snr), log_snr
    elif prediction_type == "v_prediction":
        log_square, log_ratio = -log_var, log_abar
    elif prediction_type == "score":
        log_square, log_ratio = log_snr - log_var, log_var
    else:
        step = StepCoefficients.between(schedule, in_int64(t) - 1 if s is None else s, t)
        log_square = 2 * torch.log(step.posterior_coef_x0)
        log_ratio = log_snr - log_square
    return torch.exp(torch.minimum(log_ratio, math.log(gamma) - log_square))


def vlb_loss(
    process: ReverseProcess, model_output: Tensor, x_0: Tensor, x_t: Tensor, index: Tensor, num_levels: int | None
) -> Tensor:
    """L_vlb in bits/dim, `[B]`: K times the term of each example, so that the mean over uniform `index` is the bound.

    L_T, which nothing can be learned from, is left out. Arguments as in `vlb_terms`.
    """
    return len(process.times) * vlb_terms(process, model_output, x_0, x_t, index, num_levels)


def variance_loss(
    process: ReverseProcess,
    model_output: Tensor,
    x_0: Tensor,
    x_t: Tensor,
    index: Tensor,
    num_levels: int | None,
    stride: int = 1,
) -> Tensor:
    """L_vlb in bits/dim, `[B]`, from which a learned variance alone learns: the mean has no gradient.

    It goes with a loss that trains the mean, L_simple (`hybrid_loss`) or L_rate.

    Between neighbours of a long chain β̃ and β are nearly one: its bound hardly depends on where between them the
    variance lies, and teaches it little; in few steps it matters. With a `stride` the mean over uniform `index` is the
    mean bound of the shorter chains that visit every `stride`-th time (`ReverseProcess.pairs_apart`).

    Args:
        process, model_output, x_0, x_t, index, num_levels: as in `vlb_terms`.
        stride: number of chains, each of a `stride`-th of the times; for "learned" 1.

    Raises:
        ValueError: for a variance that is not learned, or a `stride` that does not fit.
    """
    if not process.learns_variance:
        raise ValueError(f"There is no variance to learn: the variance type is {process.variance_type!r}.")
    prediction, channels = process.split_output(model_output, x_t)
    stopped = torch.cat([prediction.detach(), channels], dim=1)
    losses = vlb_loss(process.pairs_apart(stride), stopped, x_0, x_t, index, num_levels)
    return torch.where(index.to(losses.device) == 0, losses, losses / stride)  # the first pair is in every chain


def hybrid_loss(
    process: ReverseProcess,
    model_output: Tensor,
    target: Tensor,
    x_0: Tensor,
    x_t: Tensor,
    index: Tensor,
    num_levels: int | None,
    vlb_weight: float = 0.001,
) -> Tensor:
    """L_hybrid = L_simple + λ L_vlb, `[B]`, for a learned variance (Nichol & Dhariwal 2021, Eq. 16).

    The prediction has no gradient from L_vlb: the mean is trained as by L_simple, the variance by the bound.

    Args:
        process: whose variance is learned.
        model_output: `[B, 2C, …]`.
        target: `[B, C, …]`, as for `simple_loss`.
        x_0, x_t, index, num_levels: as in `vlb_terms`.
        vlb_weight: λ ≥ 0, of L_vlb in bits/dim, the sum over the chain; the authors' 0.001.

    Raises:
        ValueError: for a variance that is not learned, or a negative `vlb_weight`.
    """
    if not vlb_weight >= 0:
        raise ValueError(f"`vlb_weight` must be at least 0, but is {vlb_weight}.")
    bound = variance_loss(process, model_output, x_0, x_t, index, num_levels)
    return simple_loss(model_output, target) + vlb_weight * bound.to(promote(model_output).dtype)


def rate_loss(process: ReverseProcess, model_output: Tensor, x_0: Tensor, x_t: Tensor, index: Tensor) -> Tensor:
    """L_rate in bits/dim, `[B]`: its mean over uniform `index` is the rate of the bound with variance β̃.

    It trains the mean; a learned variance has no part in it, and learns by `variance_loss`.

    The decoder's place, the first pair, is given to one more step of the same kind, as if the log-SNR went on in equal
    steps: L_0 has K times the weight of its neighbours, and as seldom a gradient. A chain of one pair has none.

    Args:
        process: a chain of at least two pairs.
        model_output, x_0, x_t, index: as in `vlb_terms`.

    Raises:
        ValueError: for a chain of one pair, or shapes that do not fit.
    """
    if len(process.times) < 2:
        raise ValueError("L_rate needs a chain of at least 2 timesteps, but there is 1; use L_vlb.")
    require_samples(noisy_samples=x_t, original_samples=x_0)
    row = process.coefficients(index)
    _, pred_original_sample, _ = process.predict(model_output, x_t, row)
    weight = 0.5 * expand_like(row.snr_drop, pred_original_sample)
    return len(process.times) * nats_to_bits(mean_flat(weight * (promote(x_0) - pred_original_sample) ** 2))


def _device_of(device: torch.device | str | None, generator: torch.Generator | None) -> torch.device | str:
    """Where indices are drawn: where the generator is, or on the given device, or on the CPU."""
    if generator is not None:
        return generator.device
    return "cpu" if device is None else device


def uniform_timesteps(
    batch_size: int,
    num_timesteps: int,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Independent uniform indices 0 … num_timesteps − 1, int64 `[batch_size]`: t ~ Uniform of Algorithm 1.

    They are on the device of the generator, or on `device`, or on the CPU if neither is given.
    """
    device = _device_of(device, generator)
    return torch.randint(num_timesteps, (batch_size,), generator=generator, device=device)


def stratified_timesteps(
    batch_size: int,
    num_timesteps: int,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniform indices 0 … num_timesteps − 1 spread evenly over the batch, int64 `[batch_size]`.

    Each is uniform by itself; together they share one random offset on the circle, which lowers the variance of the
    batch's loss (Kingma et al. 2021, appendix I.1). The device is that of `uniform_timesteps`.
    """
    device = _device_of(device, generator)
    offset = torch.rand((), generator=generator, device=device) * num_timesteps
    places = torch.arange(batch_size, device=device) * (num_timesteps / batch_size) + offset
    return places.long() % num_timesteps


class ImportanceTimesteps:
    """Indices drawn where the loss is large, and the weights that keep the mean loss what it is for uniform ones.

    The density is proportional to the root of the loss's second moment, which gives the mean its least variance
    (Nichol & Dhariwal 2021, Eq. 18), mixed with a uniform one; second moments are running means over bins of
    neighbouring indices. Until `warmup` updates have come in, indices are uniform. A batch covers the density evenly.

    Args:
        num_timesteps: indices are 0 … num_timesteps − 1.
        device: where indices are drawn; the CPU if not given.
        num_bins: of the running means, at most one per index.
        uniform_share: of the density, in (0, 1].
        decay: of the running mean, per loss that comes in.
        warmup: updates.
    """

    def __init__(
        self,
        num_timesteps: int,
        device: torch.device | str | None = None,
        num_bins: int = 40,
        uniform_share: float = 0.2,
        decay: float = 0.97,
        warmup: int = 50,
    ):
        if not 0 < uniform_share <= 1:
            raise ValueError(f"`uniform_share` must be in (0, 1], but is {uniform_share}.")
        if num_bins < 1 or not 0 < decay < 1:
            raise ValueError(f"`num_bins` must be >= 1 and `decay` in (0, 1), but they are {num_bins} and {decay}.")
        self.num_timesteps, self.num_bins = num_timesteps, min(num_bins, num_timesteps)
        self.uniform_share, self.decay, self.warmup = uniform_share, decay, warmup
        self.num_updates = 0
        device = _device_of(device, None)
        self.second_moments = torch.ones(self.num_bins, device=device)
        self.bins = torch.arange(num_timesteps, device=device) * self.num_bins // num_timesteps  # of every index

    @property
    def probabilities(self) -> Tensor:
        """The probability of every index, `[num_timesteps]`."""
        uniform = torch.full_like(self.second_moments[self.bins], 1 / self.num_timesteps)
        if self.num_updates < self.warmup:
            return uniform
        density = self.second_moments.sqrt()[self.bins]
        return self.uniform_share * uniform + (1 - self.uniform_share) * density / density.sum()

    def sample(self, batch_size: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Indices, int64 `[batch_size]`, and their weights 1/(num_timesteps · probability)."""
        probabilities = self.probabilities
        cumulative = torch.cumsum(probabilities, dim=0)
        device = cumulative.device
        offset = torch.rand((), generator=generator, device=device)
        u = (torch.arange(batch_size, device=device) / batch_size + offset) % 1
        index = torch.searchsorted(cumulative, u * cumulative[-1], right=True).clamp(max=self.num_timesteps - 1)
        return index, 1 / (self.num_timesteps * probabilities[index])

    @torch.no_grad()
    def update(self, index: Tensor, losses: Tensor) -> None:
        """Take in the losses `[B]` at the indices `[B]`, before the weights that `sample` gives."""
        bins, squares = self.bins[index.long()], losses.detach().float() ** 2
        # By a product, whose sums come in the same order every time: `index_add_` on a GPU has none.
        members = (bins[:, None] == torch.arange(self.num_bins, device=bins.device)).float()
        counts, sums = members.sum(dim=0), squares @ members
        kept = self.decay**counts  # where nothing came in, all of it
        self.second_moments = kept * self.second_moments + (1 - kept) * sums / counts.clamp(min=1)
        self.num_updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """All that `update` has changed, as tensors: `second_moments` `[num_bins]` and `num_updates` `[]`."""
        num_updates = torch.tensor(self.num_updates, dtype=torch.int64, device="cpu")
        return {"second_moments": self.second_moments.clone(), "num_updates": num_updates}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on, on this sampler's device, where another one's `state_dict` was taken.

        Raises:
            ValueError: if the state is not one of as many bins.
        """
        if set(state) != {"second_moments", "num_updates"}:
            raise ValueError(f"`state` must hold `second_moments` and `num_updates`, but holds {sorted(state)}.")
        second_moments = state["second_moments"]
        if second_moments.shape != self.second_moments.shape:
            raise ValueError(
                f"`state` must hold the second moments of {self.num_bins} bins, but theirs have the shape"
                f" {list(second_moments.shape)}; make the sampler with the same `num_timesteps` and `num_bins`."
            )
        self.second_moments = second_moments.to(self.second_moments, copy=True)
        self.num_updates = int(state["num_updates"])
