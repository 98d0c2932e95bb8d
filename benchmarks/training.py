# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training, ours against the recipe of diffusers' train_unconditional.py: what a step costs, what equal seconds reach.

    python benchmarks/training.py --output results.json

overhead: the bare forward and backward pass, our step and stock's take turns of ten steps in one process.
quality:  each recipe trains alone for the same seconds, one after the other; then bits/dim of the test images, the
          pixel Fréchet distance of samples, and the peak memory.
gpu:      the paper's 35.7 M parameters on 32x32 images, turns as in `overhead`, eager and compiled, by precision.

Ours is examples/train.py itself: its `prepare`, `train` and `finish`, as they are, at their default settings with
checkpoints; sample grids and validation along the way are off, as they are on stock's side, whose recipe is in
stock_recipe.py. Both get the same data and batch, and the same UNet, but that ours has dropout and a second output,
the variance, in `quality`, as it has by default.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import diffusers
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from report import parse as parse_benchmark
from report import parser_of, spread, write_report
from stock_recipe import (
    STEPS_BETWEEN_CHECKPOINTS,
    STEPS_WITHOUT_END,
    STOCK_RATE,
    STOCK_WARMUP,
    TUNED_RATE,
    Stock,
    StockSettings,
    prepare_stock,
)
from torch import Tensor
from torch.nn.functional import mse_loss

from ddpm_hf import BitsPerDim, DDPMPaperScheduler
from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.conditioning.denoiser import ConditionalDenoiser
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.batches import Batch, TrainingBatches
from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.data.loading import load_images
from ddpm_hf.evaluation.frechet_distance import quality_of
from ddpm_hf.evaluation.measuring import measured_errors, with_errors
from ddpm_hf.evaluation.scoring import score
from ddpm_hf.pipelines.denoisers import denoiser_of
from ddpm_hf.tasks.arguments import DiffusionArguments, ModelArguments
from ddpm_hf.tasks.building import build_unet
from ddpm_hf.tasks.images import ImageTask
from ddpm_hf.training import loop as ours
from ddpm_hf.training import step
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.due import save
from ddpm_hf.training.finish import finish
from ddpm_hf.training.state import TrainState


ROOT = Path(__file__).resolve().parents[1]
BLOCK = 10  # steps in a turn; our training reads its losses once in as many
FIRST_ROUNDS = 6  # left out: caches fill, and our timesteps are uniform for 50 steps
BARE, OURS, STOCK = "bare", "ours", "stock"


# --- ours ------------------------------------------------------------------------------------------------------------


def prepare_ours(folder: Path, *flags: str, config: Path | None = None) -> TrainState:
    """The run of examples/train.py with these flags; what is done along the way is left out but for checkpoints."""
    argv = [] if config is None else [str(config)]
    argv += ["--output_dir", str(folder), "--validation_steps", "0", "--save_images_epochs", "0"]
    argv += ["--num_paths", "0", *flags]
    return prepare_run(parse("training.py", *run_arguments(), argv=argv))


def train_ours(state: TrainState, batches: Any) -> None:
    """examples/train.py's own loop, with something in the place of the run's batches that gives the same ones."""
    given, state.batches = state.batches, batches
    ours.train(state, SimpleNamespace(caught=None))  # Ctrl-C ends the benchmark, and is not waited for
    state.batches = given


# --- overhead --------------------------------------------------------------------------------------------------------


class Bare:
    """Forward and backward pass alone: noisy images, times and noise lie ready; the last gradients are let go."""

    def __init__(self, state: TrainState, precision: str, compiled: bool, count: int = 16):
        self.unet = UNet2DModel.from_config(state.model.config).to(state.accelerator.device).train()
        self.model = torch.compile(self.unet) if compiled else self.unet
        self.parameters = list(self.unet.parameters())
        self.autocast = partial(
            torch.autocast, state.accelerator.device.type, torch.bfloat16, enabled=precision == "bf16"
        )
        self.inputs = itertools.cycle([self._input(state) for _ in range(count)])

    @staticmethod
    def _input(state: TrainState) -> tuple[Tensor, Tensor, Tensor]:
        device, size = state.accelerator.device, state.shard.batch_size
        noise = torch.randn(size, *state.data.train.shape, device=device)
        t = torch.randint(len(state.scheduler), (size,), device=device)
        x_0 = torch.rand_like(noise) * 2 - 1
        return state.scheduler.add_noise(x_0, noise, t), t, noise

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        with self.autocast():
            return self.model(x_t, t, return_dict=False)[0]

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def take_step(self) -> None:
        x_t, t, noise = next(self.inputs)
        output = self.forward(x_t, t)[:, : noise.shape[1]]  # which may have a variance beside
        self.backward(mse_loss(output.float(), noise))
        for parameter in self.parameters:
            parameter.grad = None


class Stopwatch:
    """Seconds spent in functions, by name, turn by turn; it takes under a microsecond of each call."""

    def __init__(self) -> None:
        self.turns: list[Counter[str]] = []
        self._seconds: Counter[str] = Counter()

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Put a function that is timed in the place of an owner's."""
        setattr(owner, name, self.timed(getattr(owner, name), label))

    def timed(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._seconds[label] += time.perf_counter() - start

        return call

    def end_turn(self) -> None:
        self.turns.append(self._seconds)
        self._seconds = Counter()


def watch_parts(watch: Stopwatch, state: TrainState) -> None:
    """Time the parts of our step. What is not named here is in "the rest"."""
    accelerator = state.accelerator
    parts = [
        (step, "draw_timesteps", "timesteps"),
        (step, "noise_like", "noise"),
        (state, "seed_dropout", "seed of the dropout"),
        (state.scheduler, "add_noise", "add_noise"),
        (state.prepared, "forward", "forward"),
        (step, f"{state.diffusion.objective}_loss", "loss"),
        (step, "variance_loss", "loss of a learned variance"),
        (accelerator, "backward", "backward"),
        *([] if state.flat is None else [(state.flat, "take_gradients", "gradients put together")]),
        (accelerator, "clip_grad_norm_", "clipping"),
        (state.optimizer, "step", "optimizer"),
        (state.optimizer, "zero_grad", "optimizer"),
        (state.lr_scheduler, "step", "learning rate"),
        (accelerator, "gather", "gathering"),
        *([] if state.importance is None else [(state.importance, "update", "importance")]),
        *((average, "update", "average of the weights") for average in state.averages),
        (ours.Progress, "add", "progress"),
        (ours, "report", "report"),
        (ours, "what_is_due", "along the way"),
    ]
    for owner, name, label in parts:
        watch.watch(owner, name, label)


class InPlaceOfBatches:
    """What stands in the place of a run's batches, and is asked for all that these are."""

    def __init__(self, batches: TrainingBatches):
        self.batches = batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)


class Turns(InPlaceOfBatches):
    """In the place of a run's batches: the others take their turns before each of ours, `BLOCK` steps each.

    So our training runs through its own loop, which asks for its next batch when its turn is over.
    """

    def __init__(self, batches: TrainingBatches, others: dict[str, Callable[[], None]], watch: Stopwatch):
        super().__init__(batches)
        self.others, self.watch = others, watch
        self.seconds: dict[str, list[float]] = {name: [] for name in (OURS, *others)}
        self.memory: dict[str, list[int]] = {name: [] for name in (OURS, *others)}  # of a GPU

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.batches)
        read, begun = self.watch.timed(lambda: next(batches, None), "data"), None
        for k in itertools.count():
            if k % BLOCK == 0:
                if begun is not None:
                    self._end(OURS, begun)
                    self.watch.end_turn()
                for name, other in self.others.items():
                    begun = self._begin()
                    for _ in range(BLOCK):
                        other()
                    self._end(name, begun)
                begun = self._begin()
            batch = read()
            if batch is None:
                return
            yield batch

    def _begin(self) -> float:
        start = now()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return start

    def _end(self, name: str, begun: float) -> None:
        self.seconds[name].append(now() - begun)
        if torch.cuda.is_available():
            self.memory[name].append(torch.cuda.max_memory_allocated())


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def steps_needed(rounds: int) -> int:
    """Optimisation steps of ours; the last one ends the last turn."""
    return (FIRST_ROUNDS + rounds) * BLOCK + 1


def compare_steps(state: TrainState, stock: Stock, bare: Bare, rounds: int, watch: Stopwatch) -> dict[str, Any]:
    """What a step costs on each side, as ratios of turns one right after the other."""
    turns = Turns(state.batches, {BARE: bare.take_step, STOCK: partial(next, stock.train())}, watch)
    with quiet():
        train_ours(state, turns)
    counted = slice(FIRST_ROUNDS, FIRST_ROUNDS + rounds)
    taken = {side: seconds[counted] for side, seconds in turns.seconds.items()}
    pairs = {"ours over bare": (OURS, BARE), "stock over bare": (STOCK, BARE), "ours over stock": (OURS, STOCK)}
    result: dict[str, Any] = {
        name: {
            **spread([a / b for a, b in zip(taken[over], taken[under], strict=True)]),
            "of all turns together": sum(taken[over]) / sum(taken[under]),
        }
        for name, (over, under) in pairs.items()
    }
    result["steps per second"] = {side: BLOCK / statistics.median(seconds) for side, seconds in taken.items()}
    result["milliseconds of a step"] = {side: 1e3 / rate for side, rate in result["steps per second"].items()}
    if torch.cuda.is_available():
        result["peak GiB of the GPU in a turn, all three sides' weights in it"] = {
            side: max(values) / 2**30 for side, values in turns.memory.items()
        }
    if "forward" in watch.turns[0]:
        result["our step"] = breakdown(watch.turns[counted], taken)
    return result


def breakdown(turns: list[Counter[str]], taken: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Where our step spends what it takes beyond the bare one: milliseconds, and percent of the bare step.

    Every figure is a median over turns, so that they add up to the whole only about.
    """
    spent: dict[str, list[tuple[float, float]]] = {}
    for turn, mine, bare in zip(turns, taken[OURS], taken[BARE], strict=True):
        theirs = {name: turn[f"bare {name}"] for name in ("forward", "backward")}
        parts = {name: seconds for name, seconds in turn.items() if not name.startswith("bare ")}
        parts["the rest"] = mine - sum(parts.values())
        parts |= {name: parts[name] - seconds for name, seconds in theirs.items()}
        parts["loss of the bare pass, and letting its gradients go"] = sum(theirs.values()) - bare
        for name, seconds in parts.items():
            label = f"{name}, beyond the bare one" if name in theirs else name
            spent.setdefault(label, []).append((1e3 * seconds / BLOCK, 100 * seconds / bare))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in spent.items()}
    return {
        name: {"milliseconds": milliseconds, "percent of bare": percent}
        for name, (milliseconds, percent) in sorted(medians.items(), key=lambda item: -item[1][0])
    }


def measure_overhead(batch_size: int, rounds: int) -> dict[str, Any]:
    """Digits, the default model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quiet():
            flags = ["--train_batch_size", str(batch_size), "--max_train_steps", str(steps_needed(rounds))]
            state = prepare_ours(folder / OURS, *flags)
            stock = _stock_of(state, StockSettings(batch_size), folder / STOCK)
        bare, watch = Bare(state, "no", compiled=False), Stopwatch()
        if state.accelerator.device.type == "cpu":  # elsewhere the host's clock tells little
            watch_parts(watch, state)
            watch.watch(bare, "forward", "bare forward")
            watch.watch(bare, "backward", "bare backward")
        result = compare_steps(state, stock, bare, rounds, watch)
        with quiet():
            checkpoints = {OURS: seconds_of(partial(save, state)), STOCK: seconds_of(stock.save)}
        result["milliseconds of a checkpoint"] = {side: 1e3 * value for side, value in checkpoints.items()}
        result[f"percent of bare for a checkpoint every {STEPS_BETWEEN_CHECKPOINTS} steps"] = {
            side: 100 * value / STEPS_BETWEEN_CHECKPOINTS * result["steps per second"][BARE]
            for side, value in checkpoints.items()
        }
        return result


def _stock_of(state: TrainState, settings: StockSettings, folder: Path) -> Stock:
    """Stock's recipe for the run's images, so many of them that every step has a whole batch, and its UNet."""
    images = state.data.train
    pixels = images.pixels[: len(images) // settings.batch_size * settings.batch_size]
    return prepare_stock(pixels, images.num_levels, state.model.config, settings, folder)


def seconds_of(action: Callable[[], object], calls: int = 5) -> float:
    """Median seconds of a call, the first one left out."""

    def once() -> float:
        start = now()
        action()
        return now() - start

    return statistics.median([once() for _ in range(calls + 1)][1:])


# --- quality ---------------------------------------------------------------------------------------------------------


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
        self.state, self.clock = state, clock

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            if self.clock.is_over_after(self.state.step):
                self.state.steps = self.state.step + 1
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


# --- gpu -------------------------------------------------------------------------------------------------------------

PRECISIONS = {"float32": ("no", False), "float32 with TF32": ("no", True), "bf16": ("bf16", True)}


def measure_gpu(rounds: int) -> dict[str, Any]:
    """Each mode in a process of its own."""
    results: dict[str, Any] = {}
    for precision in PRECISIONS:
        for compiled in (False, True):
            name = f"{precision}, {'compiled' if compiled else 'eager'}"
            results[name] = alone(compare_on_paper_model, precision, compiled, rounds)
            _print_ratios(f"gpu, {name}", results[name])
        mine = results[f"{precision}, compiled"]["steps per second"][OURS]
        theirs = results[f"{precision}, eager"]["steps per second"][STOCK]
        results[f"{precision}, compiled"]["our steps per second over stock's eager ones"] = mine / theirs
        print(f"gpu, {precision}: ours compiled over stock eager {mine / theirs:.3f}", flush=True)
    return results


def compare_on_paper_model(
    precision: str, compiled: bool, rounds: int, batch_size: int = 128, images: int = 50_000
) -> dict[str, Any]:
    """The paper's model on random 8-bit images, as many as CIFAR-10 has."""
    mixed, tf32 = PRECISIONS[precision]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    pixels = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = LevelImages.in_memory(pixels, 256)
    ImageTask.load_data = lambda self: ImageData("random levels", data, data, data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quiet():
            flags = ["--train_batch_size", str(batch_size), "--max_train_steps", str(steps_needed(rounds))]
            flags += ["--mixed_precision", mixed, "--checkpointing_steps", "0"]
            flags += ["--torch_compile", "true"] if compiled else []
            config = ROOT / "examples" / "configs" / "cifar10.yaml"
            state = prepare_ours(folder / OURS, *flags, config=config)
            settings = StockSettings(batch_size, precision=mixed, compiled=compiled, num_workers=4, random_flip=True)
            stock = _stock_of(state, settings, folder / STOCK)
        result = compare_steps(state, stock, Bare(state, mixed, compiled), rounds, Stopwatch())
        return result | {"parameters": sum(parameter.numel() for parameter in state.model.parameters())}


# --- all of it -------------------------------------------------------------------------------------------------------


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, bars and tables are drawn as ever, into nothing."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _print_ratios(name: str, result: dict[str, Any]) -> None:
    for label in ("ours over bare", "stock over bare", "ours over stock"):
        r = result[label]
        quartiles = f"[{r['lower quartile']:.4f}, {r['upper quartile']:.4f}]"
        print(f"{name:32} {label:16} {r['median']:.4f}  {quartiles}", flush=True)
    rates = ", ".join(f"{side} {rate:.2f}" for side, rate in result["steps per second"].items())
    print(f"{name:32} steps per second {rates}", flush=True)


def _print_parts(result: dict[str, Any]) -> None:
    for name, part in result.get("our step", {}).items():
        print(f"    {name:54} {part['milliseconds']:8.3f} ms  {part['percent of bare']:6.2f} % of bare")
    shares = next(shares for name, shares in result.items() if name.startswith("percent of bare"))
    told = ", ".join(f"{side} {share:.2f}" for side, share in shares.items())
    print(
        f"    a checkpoint every {STEPS_BETWEEN_CHECKPOINTS} steps, not among these, in % of bare: {told}", flush=True
    )


def _print_against(against: dict[str, Any]) -> None:
    for name, found in against.items():
        rates = ", ".join(f"{ratio:.3f}" for ratio in found["images per second, ratio"])
        better = ", ".join(f"{figure} {is_better}" for figure, is_better in found["better on every run"].items())
        print(f"quality, {name}: images per second {rates}; better on every run: {better}", flush=True)


def run_sections(arguments: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if "overhead" in arguments.sections:
        results["overhead"] = {}
        for size in arguments.batch_sizes:
            results["overhead"][f"batch {size}"] = found = alone(measure_overhead, size, arguments.rounds)
            _print_ratios(f"overhead, batch {size}", found)
            _print_parts(found)
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
    arguments = parse_benchmark(parser)
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
