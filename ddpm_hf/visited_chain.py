# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A reverse process looked up by diffusers' timesteps.

diffusers counts timesteps 0 … T − 1, the paper times 1 … T; this module converts. The chain of visited times has an
index too, 0 … K − 1, ascending: entry k leads from the (k + 1)-th visited time to the k-th, entry 0 to the data.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .noise_schedule import NoiseSchedule
from .reverse_process import UNDETERMINED, ReverseProcess


class VisitedChain:
    """A reverse process over its visited times, looked up by diffusers' timesteps.

    Args:
        process: over the visited times.
    """

    def __init__(self, process: ReverseProcess):
        self.process = process
        self.is_undetermined = process.is_undetermined
        # Index of every training timestep in the chain; K, which no table has, for those not visited.
        self._index_list = [len(process.times)] * process.schedule.T
        for k, t in enumerate(process.times):
            self._index_list[t - 1] = k
        self._index_tables: dict[torch.device, Tensor] = {}
        self._times_table = torch.tensor([0, *process.times], device="cpu")
        self._schedules: dict[torch.device, NoiseSchedule] = {}

    def times(self, timesteps: int | Tensor) -> int | Tensor:
        """The paper's times of diffusers' timesteps, validated where that needs no look at another device.

        Raises:
            ValueError: for timesteps outside 0 … T − 1.
        """
        T = self.process.schedule.T
        # In int64 before anything is added: 255 + 1 is 0 in uint8.
        t = timesteps.reshape(-1).long() if isinstance(timesteps, Tensor) else as_int(timesteps)
        in_reach = not isinstance(t, Tensor) or (t.device.type == "cpu" and t.numel() > 0)
        if in_reach:
            low, high = (int(t.min()), int(t.max())) if isinstance(t, Tensor) else (t, t)
            if not 0 <= low <= high < T:
                raise ValueError(f"`timesteps` must lie in 0 ... {T - 1}, but {low if low < 0 else high} was given.")
        return t + 1

    def index(self, timestep: int | Tensor, determined: bool = False) -> int | Tensor:
        """The chain's index of visited timesteps: an int for one on the CPU, else a tensor `[B]`.

        Raises:
            ValueError: for timesteps that are not visited, and, if they are to determine x_0, for those that do not.
        """
        if isinstance(timestep, Tensor) and (timestep.device.type != "cpu" or timestep.numel() != 1):
            return self._index_tensor(timestep, determined)
        t = as_int(timestep)
        index = self._index_list[t] if 0 <= t < len(self._index_list) else len(self.process.times)
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
                    self._check_index(len(self.process.times), t, determined)
            index = self._index_tables[device].take(timesteps)
            last = int(index.argmax())
            self._check_index(int(index[last]), int(timesteps[last]), determined)
            return index
        if determined and self.is_undetermined:  # to tell the timesteps apart would mean to wait for the device
            raise ValueError(UNDETERMINED)
        return self._index_tables[device].take(timesteps)

    def _check_index(self, index: int, timestep: int, determined: bool) -> None:
        K = len(self.process.times)
        if index == K:
            raise ValueError(
                f"Timestep {timestep} is not among the {K} that the chain visits, within 0 ..."
                f" {len(self._index_list) - 1}; see `set_timesteps`."
            )
        if determined and self.is_undetermined and index == K - 1:
            raise ValueError(UNDETERMINED)

    def pair(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        """The paper's times (s, t) of each index, on its device."""
        index = as_index(index)
        times = self._times_table.to(index.device, non_blocking=True)
        return times.take(index), times.take(index + 1)

    def schedule_for(self, t: int | Tensor) -> NoiseSchedule:
        """The schedule with its table on the device of `t`, moved there once."""
        if not isinstance(t, Tensor) or t.device.type == "cpu":
            return self.process.schedule
        if t.device not in self._schedules:
            self._schedules[t.device] = self.process.schedule.to(t.device)
        return self._schedules[t.device]


def as_index(index: int | Tensor) -> Tensor:
    """An index as a tensor, on the CPU if it is an int."""
    return index if isinstance(index, Tensor) else torch.tensor(index, device="cpu")


def as_int(value: Any, argument: str = "timesteps") -> int:
    """A Python int of anything integral.

    Raises:
        ValueError: for anything else, naming the argument.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"`{argument}` must be an int, but is {value!r}.")
    return int(value)
