# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What all tests share: one thread, and examples drawn by hypothesis that are the same on every run."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
import torch


hypothesis.settings.register_profile("same_every_run", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("same_every_run")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small tensors run faster on one thread, and sums come out the same on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
