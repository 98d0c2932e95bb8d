# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Time of a training step: the bare forward and backward pass, our step and stock's, in turns in one process."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from our_recipe import BARE, OURS, STOCK, InPlaceOfBatches, now, prepare_ours, quiet, stock_of, train_ours
from report import spread
from stock_recipe import STEPS_BETWEEN_CHECKPOINTS, Stock, StockSettings
from torch import Tensor
from torch.nn.functional import mse_loss

from ddpm_hf.data.batches import Batch, TrainingBatches
from ddpm_hf.training import loop as ours
from ddpm_hf.training import step, tracking
from ddpm_hf.training.due import save
from ddpm_hf.training.state import TrainState


BLOCK = 10  # steps in a turn; our training reads its losses once per 10 steps
FIRST_ROUNDS = 6  # left out: caches fill, and our timesteps are uniform for 50 steps


class Bare:
    """Only the forward and backward pass: noisy images, times and noise are prepared; old gradients are released."""

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
        (tracking.Progress, "add", "progress"),
        (ours, "report", "report"),
        (ours, "what_is_due", "along the way"),
    ]
    for owner, name, label in parts:
        watch.watch(owner, name, label)


class Turns(InPlaceOfBatches):
    """A replacement for a run's batches: the other sides take their turns of `BLOCK` steps before each of ours.

    So our training runs in its own loop, which requests its next batch at the end of its turn.
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


def steps_needed(rounds: int) -> int:
    """Optimisation steps of ours; the last one ends the last turn."""
    return (FIRST_ROUNDS + rounds) * BLOCK + 1


def compare_steps(state: TrainState, stock: Stock, bare: Bare, rounds: int, watch: Stopwatch) -> dict[str, Any]:
    """The time of a step on each side, as ratios of consecutive turns."""
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
    """The parts of our step's time beyond the bare step: milliseconds, and percent of the bare step.

    Every figure is a median over turns, so they add up to the whole only approximately.
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
            stock = stock_of(state, StockSettings(batch_size), folder / STOCK)
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


def seconds_of(action: Callable[[], object], calls: int = 5) -> float:
    """Median seconds of a call, the first one left out."""

    def once() -> float:
        start = now()
        action()
        return now() - start

    return statistics.median([once() for _ in range(calls + 1)][1:])


def print_ratios(name: str, result: dict[str, Any]) -> None:
    for label in ("ours over bare", "stock over bare", "ours over stock"):
        r = result[label]
        quartiles = f"[{r['lower quartile']:.4f}, {r['upper quartile']:.4f}]"
        print(f"{name:32} {label:16} {r['median']:.4f}  {quartiles}", flush=True)
    rates = ", ".join(f"{side} {rate:.2f}" for side, rate in result["steps per second"].items())
    print(f"{name:32} steps per second {rates}", flush=True)


def print_parts(result: dict[str, Any]) -> None:
    for name, part in result.get("our step", {}).items():
        print(f"    {name:54} {part['milliseconds']:8.3f} ms  {part['percent of bare']:6.2f} % of bare")
    shares = next(shares for name, shares in result.items() if name.startswith("percent of bare"))
    told = ", ".join(f"{side} {share:.2f}" for side, share in shares.items())
    print(
        f"    a checkpoint every {STEPS_BETWEEN_CHECKPOINTS} steps, not among these, in % of bare: {told}", flush=True
    )
