# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The processor cores that a script computes on. Import this before torch, whose threads read the environment once."""

from __future__ import annotations

import os


# On a core that something else uses too, threads that spin for long while they wait for each other slow a step down
# thirtyfold; a short spin keeps the speed of a free machine.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch


def use_all_cores(device: torch.device) -> None:
    """Share the cores there are among the processes on this machine: launchers leave each process one."""
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
