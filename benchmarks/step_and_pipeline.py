# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Time of `step`, `add_noise` and whole pipelines, ours against stock diffusers, as ratios from one interleaved run.

    python benchmarks/step_and_pipeline.py --output results.json

Every repetition measures both sides directly one after the other, so that other work on the machine affects both. A
ratio is the median over repetitions, with its quartiles. A pipeline is compared with its own model calls, timed in the
same run. Everything runs on the CPU with one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import diffusers
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from report import parse, parser_of, spread, write_report

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler


class TimedModel(torch.nn.Module):
    """A model that adds up the seconds spent inside it."""

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet, self.config, self.dtype, self.device = unet, unet.config, unet.dtype, unet.device
        self.seconds = 0.0

    def forward(self, *args, **kwargs):
        start = time.perf_counter()
        output = self.unet(*args, **kwargs)
        self.seconds += time.perf_counter() - start
        return output


def seconds(action: Callable[[], object], calls: int = 1) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(calls):
        action()
    return (time.perf_counter() - start) / calls


def compare(ours: Callable[[], object], stock: Callable[[], object], repetitions: int) -> dict[str, dict]:
    """Our time over stock's, from alternating blocks of calls; the first pair fills tables and caches."""
    pairs = [(seconds(ours, calls=200), seconds(stock, calls=200)) for _ in range(repetitions + 1)][1:]
    return {
        "ours over stock": spread([mine / theirs for mine, theirs in pairs]),
        "least microseconds": {"ours": 1e6 * min(p[0] for p in pairs), "stock": 1e6 * min(p[1] for p in pairs)},
    }


def measure_schedulers(repetitions: int) -> dict[str, dict]:
    ours, stock = DDPMPaperScheduler(), DDPMScheduler()
    results = {}
    for chosen in ("before", "after"):
        if chosen == "after":
            ours.set_timesteps(50)
            stock.set_timesteps(50)
        x_t, output = torch.randn(2, 1, 3, 32, 32)
        arguments = {"timestep": 500, "sample": x_t, "generator": torch.Generator().manual_seed(0)}
        actions = [partial(scheduler.step, output, **arguments) for scheduler in (ours, stock)]
        results[f"step, [1, 3, 32, 32], {chosen} set_timesteps(50)"] = compare(*actions, repetitions)
    for shape in ([128, 1, 8, 8], [128, 3, 32, 32]):
        x_0, noise = torch.randn(2, *shape)
        t = torch.randint(1000, (128,))
        actions = [partial(scheduler.add_noise, x_0, noise, t) for scheduler in (ours, stock)]
        results[f"add_noise, {shape}"] = compare(*actions, repetitions)
    return results


def measure_pipelines(repetitions: int, steps: int, batch_sizes: list[int]) -> dict[str, dict]:
    """Time of a whole call over the time inside its model calls."""
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    ).eval()
    pipes = {"ours": DDPMPaperPipeline(unet, DDPMPaperScheduler()), "stock": DDPMPipeline(unet, DDPMScheduler())}
    for pipe in pipes.values():
        pipe.unet = TimedModel(unet)
        pipe.set_progress_bar_config(disable=True)
    results = {}
    for batch_size in batch_sizes:
        ratios: dict[str, list[float]] = {"ours": [], "stock": []}
        for _ in range(repetitions + 1):
            for name, pipe in pipes.items():
                pipe.unet.seconds = 0.0
                total = seconds(partial(pipe, batch_size, num_inference_steps=steps, output_type="pt"))
                ratios[name].append(total / pipe.unet.seconds)
        results[f"pipeline, batch {batch_size}, {steps} steps, {unet.num_parameters() / 1e6:.1f} M parameters"] = {
            f"{name} over model calls": spread(values[1:]) for name, values in ratios.items()
        }
    return results


def main() -> None:
    parser = parser_of(__doc__, "step_and_pipeline")
    parser.add_argument("--repetitions", type=int, default=25, help="of every comparison, at least 2")
    parser.add_argument("--steps", type=int, default=50, help="of a pipeline")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 64], help="of a pipeline")
    arguments = parse(parser)
    if arguments.repetitions < 2:
        sys.exit("--repetitions must be at least 2.")
    torch.set_num_threads(1)
    results = measure_schedulers(arguments.repetitions)
    results |= measure_pipelines(arguments.repetitions, arguments.steps, arguments.batch_sizes)
    for name, measured in results.items():
        for label, r in measured.items():
            if "median" in r:
                quartiles = f"[{r['lower quartile']:.4f}, {r['upper quartile']:.4f}]"
                print(f"{name:52} {label:23} {r['median']:.4f}  {quartiles}")
    write_report(arguments.output, results, diffusers, threads=1)


if __name__ == "__main__":
    main()
