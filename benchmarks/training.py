# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training, ours against the recipe of diffusers' train_unconditional.py: time per step, and quality in equal time.

    python benchmarks/training.py --output results.json

overhead: the bare forward and backward pass, our step and stock's take turns of ten steps in one process.
quality:  each recipe trains alone for the same seconds, one after the other; then bits/dim of the test images, the
          pixel Fréchet distance of samples, and the peak memory.
gpu:      the paper's 35.7 M parameters on 32x32 images, turns as in `overhead`, eager and compiled, by precision.

Ours is examples/train.py itself: its `prepare`, `train` and `finish`, unchanged, at their default settings with
checkpoints. Sample grids and validation during training are off on both sides. Stock's recipe is in stock_recipe.py.
Both get the same data, batch size and UNet, except that in `quality` ours has its default dropout and a second output,
the variance.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from typing import Any

import accelerate
import diffusers
import torch
from our_recipe import alone
from report import parse, parser_of, write_report
from training_gpu import measure_gpu
from training_overhead import BLOCK, measure_overhead, print_parts, print_ratios
from training_quality import measure_quality

from ddpm_hf.training.arguments import TrainingArguments


def run_sections(arguments: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if "overhead" in arguments.sections:
        results["overhead"] = {}
        for size in arguments.batch_sizes:
            results["overhead"][f"batch {size}"] = found = alone(measure_overhead, size, arguments.rounds)
            print_ratios(f"overhead, batch {size}", found)
            print_parts(found)
    if "quality" in arguments.sections:
        results["quality"] = measure_quality(arguments.seeds, arguments.budget, arguments.stock_dropout)
    if "gpu" in arguments.sections:
        if torch.cuda.is_available():
            results["gpu"] = measure_gpu(min(arguments.rounds, 20))
        else:
            results["gpu"] = "skipped: there is no GPU"
            print("gpu: skipped, there is no GPU")
    return results


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "training")
    sections = ("overhead", "quality", "gpu")
    parser.add_argument("--sections", nargs="+", choices=sections, default=list(sections), help="what is measured")
    parser.add_argument("--rounds", type=int, default=60, help="of turns, at least 2; at most 20 on a GPU")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128], help="of the overhead's training")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds of a training for quality")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings for quality")
    parser.add_argument("--stock-dropout", type=float, default=0.0, help="UNet2DModel's default (default: 0)")
    arguments = parse(parser)
    if arguments.rounds < 2 or arguments.budget <= 0 or min(arguments.batch_sizes) < 1:
        sys.exit("--rounds must be at least 2, --budget above 0, --batch-sizes at least 1.")
    return arguments


def main() -> None:
    arguments = _arguments()
    results = run_sections(arguments)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({platform.machine()})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    settings = {
        "sections": arguments.sections,
        "rounds": arguments.rounds,
        "steps in a turn": BLOCK,
        "budget": arguments.budget,
        "seeds": arguments.seeds,
        "batch size for quality": TrainingArguments().train_batch_size,
        "dropout of stock's recipe for quality": arguments.stock_dropout,
    }
    write_report(arguments.output, results, diffusers, accelerate, device=device, cores=cores, settings=settings)


if __name__ == "__main__":
    main()
