# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The results of each recipe in equal time: bits/dim, the pixel Fréchet distance of samples, and peak memory."""

from __future__ import annotations

import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from our_recipe import OURS, STOCK, InPlaceOfBatches, alone, now, prepare_ours, quiet, train_ours
from stock_recipe import STEPS_WITHOUT_END, STOCK_RATE, STOCK_WARMUP, TUNED_RATE, Stock, StockSettings, prepare_stock

from ddpm_hf import BitsPerDim, DDPMPaperScheduler
from ddpm_hf.conditioning.denoiser import ConditionalDenoiser
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.batches import Batch
from ddpm_hf.data.level_images import ImageData
from ddpm_hf.data.loading import load_images
from ddpm_hf.diffusion.denoiser import denoiser_of
from ddpm_hf.evaluation.frechet_distance import quality_of
from ddpm_hf.evaluation.measuring import measured_errors, with_errors
from ddpm_hf.evaluation.scoring import score
from ddpm_hf.tasks.arguments import DiffusionArguments, ModelArguments
from ddpm_hf.tasks.building import build_unet
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.finish import finish
from ddpm_hf.training.state import TrainState


class Clock:
    """Seconds of a budget, counted from now on.

    Learning rates follow it: the number of steps that a cosine decays over is what the budget allows for at the rate
    of the steps so far. So each recipe's ends at its last step, however fast the machine is just then.
    """

    def __init__(self, budget: float):
        self.budget = budget
        self._start, self._processor_start = now(), time.process_time()

    @property
    def seconds(self) -> float:
        return now() - self._start

    @property
    def processor_seconds(self) -> float:
        """Of all cores together: where they are far fewer than the budget has, something else was at work too."""
        return time.process_time() - self._processor_start

    def is_over_after(self, step: int) -> bool:
        """Whether the time is up when the next step is made, after so many."""
        return step > 0 and self.seconds * (step + 1) / step >= self.budget

    def lead(self, lr_scheduler: Any, warmup: int) -> None:
        """Have a cosine with a warm-up, as Accelerate prepared it, follow the clock."""

        def factor(step: int) -> float:
            if step < warmup:
                return step / warmup
            total = step * self.budget / self.seconds
            progress = (step - warmup) / max(total - warmup, 1)
            return 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))

        lr_scheduler.scheduler.lr_lambdas = [factor]


class UntilTimeIsUp(InPlaceOfBatches):
    """In the place of a run's batches: the same ones; the run ends with the last step that the clock allows."""

    def __init__(self, state: TrainState, clock: Clock):
        super().__init__(state.batches)
        self.run, self.clock = state, clock  # `state` is an attribute of the batches

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            if self.clock.is_over_after(self.run.step):
                self.run.steps = self.run.step + 1
            yield batch


def run_ours(seed: int, budget: float) -> dict[str, Any]:
    """Our training for so many seconds, and its own end: samples, bits/dim, a saved model."""
    with tempfile.TemporaryDirectory() as name, quiet():
        folder = Path(name) / OURS
        state = prepare_ours(folder, "--seed", str(seed), "--max_train_steps", str(STEPS_WITHOUT_END))
        before, clock = resident_mib(), Clock(budget)
        clock.lead(state.lr_scheduler, state.training.lr_warmup_steps)
        train_ours(state, UntilTimeIsUp(state, clock))
        trained = _training_figures(clock, state.step, state.step * state.shard.total, before)
        finish(state)
        metrics = json.loads((folder / "metrics.json").read_text())
    names = ("bits_per_dim", "bits_per_dim_standard_error", "frechet_distance_pixels")
    return trained | {key: metrics[key] for key in names}


def run_stock(seed: int, budget: float, learning_rate: float, dropout: float) -> dict[str, Any]:
    """Stock's recipe for so many seconds, scored as ours is."""
    with tempfile.TemporaryDirectory() as name, quiet():
        torch.manual_seed(seed)
        images, defaults = load_images(DataArguments()), TrainingArguments()
        settings = StockSettings(defaults.train_batch_size, learning_rate)
        config = _default_unet_config(images) | {"dropout": dropout}
        stock = prepare_stock(images.train.pixels, images.train.num_levels, config, settings, Path(name))
        before, seen, clock = resident_mib(), 0, Clock(budget)
        clock.lead(stock.lr_scheduler, STOCK_WARMUP)
        for _ in stock.train():
            seen = stock.step * len(images.train) // len(stock.loader)  # the last batch of an epoch is a smaller one
            if clock.is_over_after(stock.step):
                break
        trained = _training_figures(clock, stock.step, seen, before)
        return trained | _judge_stock(stock, images, seed)


def _default_unet_config(images: ImageData) -> dict[str, Any]:
    config = dict(build_unet(ModelArguments(), DiffusionArguments(), images.train).config)
    return config | {"out_channels": images.train.shape[0]}  # stock's script trains no variance


def _training_figures(clock: Clock, steps: int, images: int, resident_before: float) -> dict[str, float]:
    seconds = clock.seconds
    figures = {
        "seconds": seconds,
        "processor seconds": clock.processor_seconds,
        "steps": steps,
        "steps per second": steps / seconds,
        "images per second": images / seconds,
        "peak resident MiB": resident_mib(),
        "resident MiB that the training added": resident_mib() - resident_before,
    }
    if torch.cuda.is_available():
        figures["peak GiB of the GPU"] = torch.cuda.max_memory_allocated() / 2**30
    return figures


def resident_mib() -> float:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / (1024 if sys.platform == "darwin" else 1)


def _judge_stock(stock: Stock, images: ImageData, seed: int) -> dict[str, Any]:
    """With its averages, x_0 clipped, the decoder fitted as ours; the better figure of both fixed variances."""
    unet = stock.accelerator.unwrap_model(stock.model)
    stock.ema.copy_to(unet.parameters())
    unet.eval()
    bits, distances = {}, {}
    for variance_type in ("fixed_small", "fixed_large"):
        bits[variance_type] = _bits_of_stock(stock, unet, images, variance_type, seed)
        distances[variance_type] = _distance_of_stock(stock, unet, images, variance_type, seed)
    best = min(bits.values(), key=lambda result: result.total)
    return {
        "bits_per_dim": best.total,
        "bits_per_dim_standard_error": best.standard_error,
        "frechet_distance_pixels": min(distances.values()),
        "bits_per_dim by variance": {name: result.total for name, result in bits.items()},
        "frechet_distance_pixels by variance": distances,
    }


def _bits_of_stock(stock: Stock, unet: UNet2DModel, images: ImageData, variance_type: str, seed: int) -> BitsPerDim:
    accelerator, defaults = stock.accelerator, TrainingArguments()
    options = {"variance_type": variance_type, "num_levels": images.test.num_levels}
    scheduler = DDPMPaperScheduler.from_config(stock.noise_scheduler.config, **options)
    some = images.train.batches_with_columns(256, defaults.max_measured_images)
    count = min(len(images.train), defaults.max_measured_images)
    denoiser, shape = ConditionalDenoiser(denoiser_of(unet)), images.train.shape
    errors = measured_errors(denoiser, scheduler, some, count, shape, seed, accelerator.device, per_element=False)
    scheduler = with_errors(scheduler, errors, keeps_variance=True)
    size, evaluations = defaults.scoring_batch_size, defaults.num_evaluations
    return score(denoiser, scheduler, images.test, accelerator, size, evaluations, seed)


def _distance_of_stock(stock: Stock, unet: UNet2DModel, images: ImageData, variance_type: str, seed: int) -> float:
    """Of samples that diffusers' own pipeline draws."""
    defaults, steps = TrainingArguments(), 100
    scheduler = DDPMScheduler.from_config(stock.noise_scheduler.config, variance_type=variance_type)
    pipeline = DDPMPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator(stock.accelerator.device).manual_seed(seed)
    drawn, count = [], defaults.num_quality_samples
    for first in range(0, count, defaults.train_batch_size):
        size = min(defaults.train_batch_size, count - first)
        drawn.append(pipeline(size, generator, steps, output_type="np").images)
    samples = torch.cat([torch.from_numpy(part) for part in drawn]).permute(0, 3, 1, 2)
    train, test = (torch.cat(list(part.batches(256))) for part in (images.train, images.test))
    return quality_of(samples, steps, train, test)["frechet_distance_pixels"]


def measure_quality(seeds: list[int], budget: float, dropout: float) -> dict[str, Any]:
    """Every recipe with every seed, each in a process of its own, and what stock's reach over what ours does."""
    recipes: dict[str, Callable[[int, float], dict[str, Any]]] = {OURS: run_ours}
    for rate in (STOCK_RATE, TUNED_RATE):
        recipes[f"{STOCK}, learning rate {rate:g}"] = partial(run_stock, learning_rate=rate, dropout=dropout)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in recipes}
    for seed in seeds:
        for name, run in recipes.items():
            runs[name].append({"seed": seed, **alone(run, seed, budget)})
            print(f"quality, seed {seed}, {name:27} {_told(runs[name][-1])}", flush=True)
    against = {f"ours against {name}": _against(runs[OURS], runs[name]) for name in runs if name != OURS}
    _print_against(against)
    return {"runs": runs, **against}


def _against(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """Seed by seed: ratios of speed and memory, how much lower the figures are, and whether they are every time."""
    pairs = list(zip(mine, theirs, strict=True))

    def ratios(name: str) -> list[float]:
        return [a[name] / b[name] for a, b in pairs]

    lower = {name: [b[name] - a[name] for a, b in pairs] for name in ("bits_per_dim", "frechet_distance_pixels")}
    return {
        "images per second, ratio": ratios("images per second"),
        "steps per second, ratio": ratios("steps per second"),
        "peak resident memory, ratio": ratios("peak resident MiB"),
        "resident memory that the training added, ratio": ratios("resident MiB that the training added"),
        **{f"{name}, lower by": values for name, values in lower.items()},
        "better on every run": {name: min(values) > 0 for name, values in lower.items()},
    }


def _told(run: dict[str, Any]) -> str:
    return (
        f"{run['bits_per_dim']:.4f} bits/dim, Fréchet {run['frechet_distance_pixels']:.4f}, {run['steps']} steps in"
        f" {run['seconds']:.1f} s, {run['steps per second']:.2f} a second, {run['peak resident MiB']:.0f} MiB"
    )


def _print_against(against: dict[str, Any]) -> None:
    for name, found in against.items():
        rates = ", ".join(f"{ratio:.3f}" for ratio in found["images per second, ratio"])
        better = ", ".join(f"{figure} {is_better}" for figure, is_better in found["better on every run"].items())
        print(f"quality, {name}: images per second {rates}; better on every run: {better}", flush=True)
