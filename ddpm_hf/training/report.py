# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads and reports the losses, and stops the run if they are not finite."""

from __future__ import annotations

import math

import torch

from ..runtime.errors import RunStopped
from .run_state import RunState
from .tracking import StepFigures


TICK = 1e-3  # seconds: the least time between reports, since a coarse clock may show none
MOST_SKIPPED = 50  # steps in a row; by then the loss scale of fp16 has been halved 50 times
START_ANEW = "The checkpoints before it are good, but lead to it again; start anew with a lower learning rate, say."


def report(state: RunState, progress: StepFigures, since: float) -> tuple[float, str]:
    """Report the steps since the last report.

    Args:
        since: seconds of training before the last report.

    Returns:
        The seconds of training so far, and a note on the steps for the progress bar.

    Raises:
        RunStopped: if a loss or a gradient is not finite.
    """
    count = len(progress)
    losses, norms, levels = progress.read()  # waits for the device
    now = state.seconds
    _check_finite(state, losses, norms)
    speed = count * state.shard.total / max(now - since, TICK)
    loss = sum(losses) / count
    state.trackers.log(_figures(state, loss, norms[-1], speed) | levels, state.step)
    return now, f"loss {loss:.4f}, {speed:.3g} images/s"


def _check_finite(state: RunState, losses: list[float], norms: list[float]) -> None:
    """Raise RunStopped for the first step whose loss or gradient is not finite."""
    is_scaled = state.accelerator.scaler is not None  # for fp16, which skips steps whose gradient overflows
    first = state.step - len(losses) + 1
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), first):
        state.skipped_steps = 0 if math.isfinite(norm) else state.skipped_steps + 1
        if state.skipped_steps == MOST_SKIPPED:
            what = f"The gradients of the last {state.skipped_steps} steps are not finite, at any scale."
            raise RunStopped(f"{what} {START_ANEW}")
        if not math.isfinite(loss) or not (is_scaled or math.isfinite(norm)):
            what = f"The loss of step {step} is {loss}, the norm of its gradient {norm}."
            raise RunStopped(f"{what} {START_ANEW}")


def _figures(state: RunState, loss: float, norm: float, speed: float) -> dict[str, float]:
    figures = {
        "loss": loss,
        "gradient_norm": norm,
        "learning_rate": state.lr_scheduler.get_last_lr()[0],
        "images_per_second": speed,
        "epoch": state.epochs_made(state.step),
    }
    if state.average is not None:
        figures["ema_decay"] = state.average.decay
    if state.accelerator.device.type == "cuda":
        figures["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return figures
