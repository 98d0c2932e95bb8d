# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The number of threads on the CPU: the user's, or the share of the cores where a launcher may have set it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from ddpm_hf.runtime.threads import use_all_cores


CORES = 8
ACCELERATE = {"ACCELERATE_DYNAMO_BACKEND": "NO"}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of eight cores, without this one's launcher."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(CORES)), raising=False)
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", *ACCELERATE):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ({}, CORES),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "3,2"}, 3),
        ({"OMP_NUM_THREADS": ""}, CORES),
        ({"OMP_NUM_THREADS": "many"}, CORES),
        ({"LOCAL_WORLD_SIZE": "2"}, CORES // 2),
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}, CORES // 2),  # torchrun's own
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "3"}, 3),
        ({"LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}, 1),  # torchrun sets none for one process
        ({"OMP_NUM_THREADS": "1", **ACCELERATE}, CORES),
        ({"OMP_NUM_THREADS": "4", **ACCELERATE}, CORES),  # the physical cores, as the launcher counts them
        ({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "4", **ACCELERATE}, CORES // 2),
    ],
)
def test_threads_are_those_asked_for_or_the_share_of_a_process(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], threads: int
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    use_all_cores(torch.device("cpu"))
    assert torch.get_num_threads() == threads


def test_a_run_on_a_device_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    use_all_cores(torch.device("cuda"))
    assert torch.get_num_threads() == before
