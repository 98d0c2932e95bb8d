# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Randomness by address: the numbers of an example depend on the seed, the step and its place in the step's batch.

They do not depend on earlier draws or on the process. So a stopped run resumes exactly, and one process with a batch
of 128, two with 64 each, or one that accumulates two batches of 64 train on the same noise.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


BLOCK = 16  # number of examples whose noise is drawn by one call


class Use(enum.IntEnum):
    """The purpose of random numbers; each purpose gets different numbers at the same address."""

    ORDER = 0
    AUGMENTATION = 1
    TIMES = 2
    NOISE = 3
    DROPOUT = 4
    SCORING = 5
    MEASURING = 6
    SAMPLING = 7
    CONDITIONING = 8
    ALTERNATIVES = 9
    SHUFFLING = 10
    NOISE_LEVELS = 11
    CONDITIONING_NOISE = 12
    LATENTS = 13


class BatchAddress(NamedTuple):
    """Where the examples of a batch are in a training.

    Attributes:
        seed: the training's.
        step: the optimisation step.
        first: the place of the batch's first example in the step's batch.
        total: the number of examples in the step's batch.
    """

    seed: int
    step: int
    first: int
    total: int


def seed_of(use: Use, *address: int) -> int:
    """A seed in 0 … 2⁶³ − 1 that depends on the purpose and the whole address, and on nothing else."""
    # The length is included, so that trailing zeros make a different address.
    sequence = np.random.SeedSequence([use, len(address), *address])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_of(use: Use, *address: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by the purpose and the address."""
    return torch.Generator(device).manual_seed(seed_of(use, *address))


def noise_like(x_0: Tensor, first: int, seed: int, step: int, use: Use = Use.NOISE) -> Tensor:
    """Standard normal float32 noise for examples `[B, …]` at the places first … first + B − 1 of the step's batch."""
    blocks = range(first // BLOCK, -(-(first + len(x_0)) // BLOCK))
    drawn = [
        torch.randn(
            (BLOCK, *x_0.shape[1:]),
            generator=generator_of(use, seed, step, block, device=x_0.device),
            device=x_0.device,
        )
        for block in blocks
    ]
    start = first - blocks.start * BLOCK
    return torch.cat(drawn)[start : start + len(x_0)]


def seed_dropout(device: torch.device, *address: int) -> None:
    """Seed torch's own generator of the device, from which dropout is drawn, by the address."""
    seed = seed_of(Use.DROPOUT, *address)
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # faster than `torch.manual_seed`, which checks every kind of device
    else:
        torch.manual_seed(seed)
