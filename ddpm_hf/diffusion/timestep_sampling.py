# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Sampling of the timesteps at which a training step evaluates the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .denoiser import check_generator


def _device_of(device: torch.device | str | None, generator: torch.Generator | None) -> torch.device | str:
    """The device on which indices are drawn: the generator's, else the given one, else the CPU."""
    check_generator(generator)
    if generator is not None:
        return generator.device
    return "cpu" if device is None else device


def uniform_timesteps(
    batch_size: int,
    num_timesteps: int,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Independent uniform indices 0 … num_timesteps − 1, int64 `[batch_size]` (Ho et al. 2020, Algorithm 1).

    They are on the device of the generator, or else on `device`, or else on the CPU.
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

    Each index is uniform; together they are evenly spaced with one random offset, which lowers the variance of the
    batch's loss (Kingma et al. 2021, appendix I.1). The device is chosen as in `uniform_timesteps`.
    """
    device = _device_of(device, generator)
    offset = torch.rand((), generator=generator, device=device) * num_timesteps
    places = torch.arange(batch_size, device=device) * (num_timesteps / batch_size) + offset
    return places.long() % num_timesteps


class ImportanceTimesteps:
    """Importance sampling of indices: large losses are drawn more often, and weights keep the mean loss unbiased.

    The probabilities are proportional to the root of the loss's second moment, which minimises the variance of the
    mean (Nichol & Dhariwal 2021, Eq. 18), mixed with uniform ones. Second moments are running means over bins of
    neighbouring indices. The first `warmup` updates draw uniform indices. A batch is spread evenly over the
    distribution.

    Args:
        num_timesteps: indices are 0 … num_timesteps − 1.
        device: where indices are drawn; the CPU if not given.
        num_bins: number of bins of the running means, at most one per index.
        uniform_share: share of the uniform distribution in the mixture, in (0, 1].
        decay: decay of the running mean per loss, in (0, 1).
        warmup: number of updates before the importance sampling starts.

    Raises:
        ValueError: for a `uniform_share`, `num_bins` or `decay` out of range.
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
        device = _device_of(device, None)
        self.num_timesteps, self.num_bins = num_timesteps, min(num_bins, num_timesteps)
        self.uniform_share, self.decay, self.warmup = uniform_share, decay, warmup
        self.num_updates = 0
        self.second_moments = torch.ones(self.num_bins, device=device)
        self.bins = torch.arange(num_timesteps, device=device) * self.num_bins // num_timesteps  # of every index

    @property
    def probabilities(self) -> Tensor:
        """The probability of every index, float32 `[num_timesteps]`."""
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
        """Update the second moments with the losses `[B]` at the indices `[B]`; the losses must be unweighted."""
        bins, squares = self.bins[index.long()], losses.detach().float() ** 2
        # A matrix product sums in a fixed order; `index_add_` on a GPU does not.
        members = (bins[:, None] == torch.arange(self.num_bins, device=bins.device)).float()
        counts, sums = members.sum(dim=0), squares @ members
        kept = self.decay**counts  # 1 for bins without a new loss
        self.second_moments = kept * self.second_moments + (1 - kept) * sums / counts.clamp(min=1)
        self.num_updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The state that `update` changes, as tensors: `second_moments` `[num_bins]` and `num_updates` `[]`."""
        num_updates = torch.tensor(self.num_updates, dtype=torch.int64, device="cpu")
        return {"second_moments": self.second_moments.clone(), "num_updates": num_updates}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the `state_dict` of another sampler onto this sampler's device.

        Raises:
            ValueError: if the state has other keys or another number of bins.
        """
        if set(state) != {"second_moments", "num_updates"}:
            raise ValueError(f"`state` must hold `second_moments` and `num_updates`, but holds {sorted(state)}.")
        second_moments = state["second_moments"]
        if second_moments.shape != self.second_moments.shape:
            raise ValueError(
                f"`state` must hold the second moments of {self.num_bins} bins, but their shape is"
                f" {list(second_moments.shape)}; make the sampler with the same `num_timesteps` and `num_bins`."
            )
        self.second_moments = second_moments.to(self.second_moments, copy=True)
        self.num_updates = int(state["num_updates"])
