# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The CPU cores that a script uses. Import this before torch, whose threads read the environment only once."""

from __future__ import annotations

import os


# Threads that spin for a long time while they wait for each other make a step thirty times slower if another program
# uses the same core. A short spin is as fast on an idle machine.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch


def use_all_cores(device: torch.device) -> None:
    """Use as many threads as the user asks for by OMP_NUM_THREADS, or else this process's share of the cores."""
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(_threads_asked_for(processes) or max(1, cores // processes))


def _threads_asked_for(processes: int) -> int | None:
    """The user's OMP_NUM_THREADS; None if there is none, or if a launcher may have set the value.

    `accelerate launch` always sets the variable, also where the user has not. torchrun sets it to 1 for several
    processes on a machine, unless the user has set it.
    """
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # "4,2" is for nested parallel regions
    threads = int(value) if value.isdecimal() else 0
    is_launchers = "ACCELERATE_DYNAMO_BACKEND" in os.environ or (threads == 1 and processes > 1)
    return None if threads == 0 or is_launchers else threads
