# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Seconds per sample of saved models of the same images, as ratios to the first of them.

    python benchmarks/sampling_speed.py runs/latent runs/openmoji32

Every repetition draws a batch from each model, one directly after the other, so that other work on the machine affects
all of them. A ratio is the median over repetitions, with its quartiles. Everything runs on the CPU.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
from report import parse, parser_of, spread, write_report

from ddpm_hf.pipelines.loading import load_pipeline
from ddpm_hf.pipelines.sampling_pipeline import SamplingPipeline


def seconds_of_batches(
    pipelines: list[SamplingPipeline], steps: int, batch_size: int, count: int
) -> list[list[float]]:
    """Seconds that each model takes for a batch, by repetition; the first repetition, which warms up, is left out."""
    found: list[list[float]] = []
    for repetition in range(count + 1):
        generator = torch.Generator().manual_seed(repetition)
        found.append([_seconds(each, steps, batch_size, generator) for each in pipelines])
    return found[1:]


def _seconds(pipeline: SamplingPipeline, steps: int, batch_size: int, generator: torch.Generator) -> float:
    start = time.perf_counter()
    pipeline(batch_size=batch_size, num_inference_steps=steps, generator=generator, output_type="pt")
    return time.perf_counter() - start


def summaries(names: list[str], seconds: list[list[float]], batch_size: int) -> dict[str, dict[str, Any]]:
    """Seconds per sample of each model, and its time over that of the first one."""
    return {
        name: {
            "seconds per sample": spread([row[k] / batch_size for row in seconds]),
            f"time over {names[0]}": spread([row[k] / row[0] for row in seconds]),
        }
        for k, name in enumerate(names)
    }


def main() -> None:
    parser = parser_of(__doc__, "sampling_speed")
    parser.add_argument("models", nargs="+", help="folders of models, or names on the Hub")
    parser.add_argument("--steps", type=int, default=50, help="of a chain (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="samples in a batch (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="at least 2 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    arguments = parse(parser)
    if arguments.repetitions < 2:
        sys.exit("--repetitions must be at least 2.")
    torch.set_num_threads(arguments.threads)
    pipelines = [load_pipeline(model) for model in arguments.models]
    if len({tuple(each.image_shape) for each in pipelines}) > 1:
        sys.exit("The models must draw images of one size.")
    for each in pipelines:
        each.set_progress_bar_config(disable=True)
    names = [Path(model).name for model in arguments.models]
    seconds = seconds_of_batches(pipelines, arguments.steps, arguments.batch_size, arguments.repetitions)
    results = summaries(names, seconds, arguments.batch_size)
    for name, found in results.items():
        for label, value in found.items():
            quartiles = f"[{value['lower quartile']:.3g}, {value['upper quartile']:.3g}]"
            print(f"{name:20} {label:25} {value['median']:.3g}  {quartiles}")
    settings = {"steps": arguments.steps, "batch_size": arguments.batch_size, "threads": arguments.threads}
    write_report(arguments.output, results, diffusers, **settings)


if __name__ == "__main__":
    main()
