# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Looks up the times and indices of a diffusion's chain by diffusers' timesteps.

diffusers counts timesteps 0 … T − 1, the paper counts times 1 … T; this module converts. The pairs of the chain have
an index 0 … K − 1, ascending: pair 0 leads from the first visited time to the data, pair k from the (k + 1)-th visited
time to the k-th.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.numerics import require_samples
from ..diffusion.reverse_process import UNDETERMINED
from ..diffusion.timestep_spacing import custom_times


class VisitedChain:
    """A diffusion over its visited times, looked up by diffusers' timesteps.

    Args:
        diffusion: the diffusion over the visited times.
    """

    def __init__(self, diffusion: GaussianDiffusion):
        self.diffusion = diffusion
        self.is_undetermined = diffusion.is_undetermined
        # Index of every training timestep in the chain; K, which is out of range, for those not visited.
        self._size = len(diffusion.times)
        self._least_doubtful = self._size - self.is_undetermined  # smaller indices need no check
        self._index_list = [self._size] * diffusion.schedule.T
        for k, t in enumerate(diffusion.times):
            self._index_list[t - 1] = k
        self._index_tables: dict[torch.device, Tensor] = {}

    def times(self, timesteps: int | Tensor) -> int | Tensor:
        """The paper's times of diffusers' timesteps; they are checked if they are on the CPU.

        Raises:
            ValueError: for timesteps outside 0 … T − 1.
        """
        T = self.diffusion.schedule.T
        # int64 before the addition: 255 + 1 is 0 in uint8.
        t = timesteps.reshape(-1).long() if isinstance(timesteps, Tensor) else as_int(timesteps)
        in_reach = not isinstance(t, Tensor) or (t.device.type == "cpu" and t.numel() > 0)
        if in_reach:
            low, high = (int(t.min()), int(t.max())) if isinstance(t, Tensor) else (t, t)
            if not 0 <= low <= high < T:
                raise ValueError(f"`timesteps` must lie in 0 ... {T - 1}, but {low if low < 0 else high} was given.")
        return t + 1

    def index(self, timestep: int | Tensor, determined: bool = False) -> int | Tensor:
        """The index of visited timesteps in the chain: an int for a single timestep on the CPU, else a tensor `[B]`.

        Args:
            timestep: visited timesteps.
            determined: whether the model's output must determine x_0 at these timesteps.

        Raises:
            ValueError: for timesteps that are not visited, or at which x_0 is not determined although it must be.
        """
        if isinstance(timestep, Tensor) and (timestep.device.type != "cpu" or timestep.numel() != 1):
            return self._index_tensor(timestep, determined)
        t = as_int(timestep)
        index = self._index_list[t] if 0 <= t < len(self._index_list) else self._size
        if index >= self._least_doubtful:
            self._check_index(index, t, determined)
        return index

    def _index_tensor(self, timesteps: Tensor, determined: bool) -> Tensor:
        device, timesteps = timesteps.device, timesteps.reshape(-1).long()
        if device not in self._index_tables:
            self._index_tables[device] = torch.tensor(self._index_list, device="cpu").to(device, non_blocking=True)
        if timesteps.numel() == 0:
            return timesteps
        if device.type == "cpu":
            for t in {int(timesteps.min()), int(timesteps.max())}:
                if not 0 <= t < len(self._index_list):
                    self._check_index(self._size, t, determined)
            index = self._index_tables[device].take(timesteps)
            last = int(index.argmax())
            self._check_index(int(index[last]), int(timesteps[last]), determined)
            return index
        if determined and self.is_undetermined:  # checking the values would synchronise with the device
            raise ValueError(UNDETERMINED)
        return self._index_tables[device].take(timesteps)

    def _check_index(self, index: int, timestep: int, determined: bool) -> None:
        if index == self._size:
            raise ValueError(
                f"Timestep {timestep} is not among the {self._size} that the chain visits, within 0 ..."
                f" {len(self._index_list) - 1}; see `set_timesteps`."
            )
        if determined and self.is_undetermined and index == self._size - 1:
            raise ValueError(UNDETERMINED)


def as_int(value: Any, argument: str = "timesteps") -> int:
    """A Python int from any integer type.

    Raises:
        ValueError: for anything else; the message names the argument.
    """
    if type(value) is int:  # the usual case; this check is twice as fast
        return value
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"`{argument}` must be an int, but is {value!r}.")
    return int(value)


def check_arguments(timesteps: Any, **samples: Tensor) -> None:
    """Raise ValueError unless the named samples are floating and of one shape, and the timesteps fit them."""
    require_samples(**samples)
    batch_size = len(next(iter(samples.values())))
    if not isinstance(timesteps, Tensor):
        return
    is_integer = not (timesteps.is_floating_point() or timesteps.is_complex() or timesteps.dtype == torch.bool)
    if not is_integer or timesteps.ndim > 1 or timesteps.numel() not in (1, batch_size):
        raise ValueError(
            f"`timesteps` must be integers, one for all or one for each of the {batch_size} examples, but are"
            f" {timesteps.dtype} {list(timesteps.shape)}."
        )


def times_of(timesteps: Any, T: int) -> list[int]:
    """The paper's times, ascending, of descending timesteps.

    Raises:
        ValueError: unless `timesteps` is a list of descending ints in 0 … T − 1.
    """
    is_array = isinstance(timesteps, (np.ndarray, Tensor))
    if not isinstance(timesteps, Sequence) and not (is_array and timesteps.ndim == 1):
        raise ValueError(f"`timesteps` must be a list of timesteps, but is {timesteps!r}.")
    return custom_times([as_int(t) + 1 for t in (timesteps.tolist() if is_array else timesteps)], T)


@torch.inference_mode(False)  # tensors made in inference mode have no version counter
def timesteps_of(times: Sequence[int], device: str | torch.device | None = None) -> Tensor:
    """diffusers' timesteps, descending, of the paper's times."""
    return torch.tensor([t - 1 for t in reversed(times)], device="cpu" if device is None else device)
