# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The CPU cores that a script uses. Import this before torch, whose threads read the environment only once."""

from __future__ import annotations

import os


# Threads that spin for a long time while they wait for each other make a step thirty times slower if another program
# uses the same core. A short spin is as fast on an idle machine.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch


def use_all_cores(device: torch.device) -> None:
    """Divide the cores among the processes on this machine; launchers would give each process a single one."""
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
