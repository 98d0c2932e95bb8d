# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What a run tells of itself while it trains: on the screen, and through Accelerate to tensorboard, wandb, trackio."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm


PROJECT = "ddpm_hf"
NOISE_LEVELS = 10  # equal parts of the timesteps, whose losses are told apart


def tell(text: str) -> None:
    """A line for the user, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def check_logger(name: str) -> None:
    """Raise ValueError unless the tracker is installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise ValueError(f"`logger` {name} is not installed; `pip install {name}`, or pass --logger none.")


def start_trackers(accelerator: Accelerator, folder: Path, settings: dict[str, Any], run_id: str, step: int) -> None:
    """Open the trackers of a run, which goes on from this step, and tell them its settings."""
    os.environ.setdefault("TRACKIO_DIR", str(accelerator.logging_dir))
    options = {
        "tensorboard": {"purge_step": step or None},  # what was told after the checkpoint is told again
        "wandb": {"id": run_id, "name": folder.resolve().name, "resume": "allow", "dir": accelerator.logging_dir},
        "trackio": {"name": f"{folder.resolve().name}-{run_id}", "resume": "allow"},
    }
    plain = {name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in settings.items()}
    names = {tracker if isinstance(tracker, str) else tracker.value for tracker in accelerator.log_with}
    if names:
        Path(accelerator.logging_dir).mkdir(parents=True, exist_ok=True)
        accelerator.init_trackers(PROJECT, plain, {name: options[name] for name in names})


def log_images(accelerator: Accelerator, name: str, images: Tensor, step: int) -> None:
    """Give images `[N, C, H, W]` in [0, 1] to the trackers."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: pixels}, step, dataformats="NHWC")
        elif tracker.name == "wandb":
            tracker.log_images(
                {name: [image.squeeze(-1) if image.shape[-1] == 1 else image for image in pixels]}, step
            )
        else:
            import trackio

            shown = pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels
            tracker.log({f"{name}/{i}": trackio.Image(image) for i, image in enumerate(shown)}, step)


class Progress:
    """Losses and gradient norms of the last steps, kept on the device until they are read, once for all of them.

    Args:
        num_timesteps: of the chain.
        device: of the losses.
    """

    def __init__(self, num_timesteps: int, device: torch.device):
        self.num_timesteps, self.device = num_timesteps, device
        self._start()

    def _start(self) -> None:
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.levels = torch.zeros(2, NOISE_LEVELS, device=self.device)  # sums of losses, and how many

    def add(self, t: Tensor, losses: Tensor, weights: Tensor | float, norm: Tensor | float | None) -> None:
        """Take in a step: its timesteps, its losses of all processes `[B]`, their weights and the gradient's norm."""
        self.losses.append((weights * losses).mean())
        self.norms.append(torch.as_tensor(0.0 if norm is None else norm, device=self.device).float())
        level = t * NOISE_LEVELS // self.num_timesteps
        self.levels.index_add_(1, level, torch.stack([losses.float(), torch.ones_like(losses, dtype=torch.float32)]))

    def __len__(self) -> int:
        return len(self.losses)

    def read(self) -> tuple[list[float], list[float], dict[str, float]]:
        """The losses and the norms since the last reading, step by step, and the mean loss of every noise level."""
        count = len(self.losses)
        numbers = torch.cat([torch.stack(self.losses), torch.stack(self.norms), self.levels.flatten()]).tolist()
        sums, counts = numbers[2 * count : 2 * count + NOISE_LEVELS], numbers[2 * count + NOISE_LEVELS :]
        edges = [self.num_timesteps * k // NOISE_LEVELS for k in range(NOISE_LEVELS)]
        names = [f"loss_by_noise/t_{edge:04d}" for edge in edges]
        levels = {name: s / n for name, s, n in zip(names, sums, counts, strict=True) if n}
        self._start()
        return numbers[:count], numbers[count : 2 * count], levels
