# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Figures of a run during training: on the screen, and through Accelerate in tensorboard, wandb or trackio."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm


PROJECT = "ddpm_hf"
NOISE_LEVELS = 10  # equal parts of the timesteps; the mean loss of each is logged
RESULTS = ("test/bits_per_dim", "test/frechet_distance_pixels")  # tensorboard compares runs by these


def tell(text: str) -> None:
    """Print a line for the user, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def tell_passed_over(count: int, sentence: str) -> None:
    """Print a line on the `count`th image that cannot be read."""
    tell(f"Passed over, {count} so far: {sentence}")


def check_logger(name: str) -> None:
    """Raise ValueError unless the tracker is installed."""
    if name == "none":
        return
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:  # nothing, or a mere folder of that name
        raise ValueError(f"`logger` {name} is not installed; `pip install {name}`, or pass --logger none.")


class Trackers:
    """The trackers that the user chose; only the main process logs to them.

    A resumed run repeats the steps after its checkpoint, which may have been logged before it was stopped. Each step
    is shown once: tensorboard replaces the old figures, and the other trackers keep them.

    Args:
        accelerator: Accelerate's object, made with the names of the trackers.
        folder: the run's folder; its name is the name of the run.
        settings: settings of the run, logged at the start.
        run_id: an identifier that a resumed run keeps.
        step: the step that the run starts from.

    Raises:
        ValueError: if a tracker does not start.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, settings: dict[str, Any], run_id: str, step: int):
        self._all: list[GeneralTracker] = []
        if not accelerator.log_with or not accelerator.is_main_process:
            return
        names = [name if isinstance(name, str) else name.value for name in accelerator.log_with]
        logs, run = Path(accelerator.logging_dir), folder.resolve().name
        for variable in ("WANDB_DIR", "TRACKIO_DIR"):
            os.environ.setdefault(variable, str(logs))
        options = {
            "tensorboard": {"purge_step": step + 1},
            "wandb": {"id": run_id, "name": run, "resume": "allow"},
            "trackio": {"name": f"{run}-{run_id}", "resume": "allow"},
        }
        is_new = not logs.exists()
        logs.mkdir(parents=True, exist_ok=True)
        try:
            accelerator.init_trackers(PROJECT, init_kwargs={name: options[name] for name in names})
        except Exception as error:  # whatever a library raises that finds no key or no server
            if is_new:
                shutil.rmtree(logs, ignore_errors=True)
            raise ValueError(f"`logger` {', '.join(names)} does not start: {error}") from error
        self._all = accelerator.trackers
        self._first = {tracker.name: _first_unlogged(tracker) for tracker in self._all} if step else {}
        self._tell_settings(settings, step + 1)

    def _tell_settings(self, settings: dict[str, Any], step: int) -> None:
        plain = {
            name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in settings.items()
        }
        for tracker in self._all:
            if tracker.name != "tensorboard":
                tracker.store_init_configuration(plain)
                continue
            # Accelerate would write them as another run at every start, without any figures.
            from torch.utils.tensorboard.summary import hparams

            for summary in hparams(plain, dict.fromkeys(RESULTS)):
                tracker.writer.file_writer.add_summary(summary)
            rows = "".join(f"\n| {name} | {value} |" for name, value in plain.items())
            tracker.writer.add_text("settings", f"| setting | value |\n| --- | --- |{rows}", step)

    def _listening(self, step: int) -> list[GeneralTracker]:
        return [tracker for tracker in self._all if step >= self._first.get(tracker.name, 0)]

    def log(self, figures: dict[str, float], step: int) -> None:
        """Log the finite numbers among `figures`."""
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        for tracker in self._listening(step):
            tracker.log(figures, step)

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Log a picture."""
        for tracker in self._listening(step):
            if tracker.name == "tensorboard":
                pixels = np.asarray(picture)
                tracker.log_images({name: pixels}, step, dataformats="HWC"[: pixels.ndim])
                tracker.writer.flush()
            elif tracker.name == "wandb":
                tracker.log_images({name: [picture]}, step)
            else:
                import trackio

                tracker.log({name: trackio.Image(picture)}, step)

    def close(self) -> None:
        """Let the trackers write everything, and close them."""
        for tracker in self._all:
            try:
                tracker.finish()
            except Exception as error:  # whatever a library raises: the run is finished and complete
                tell(f"`logger` {tracker.name} may lack the end of the run: {error}")


def _first_unlogged(tracker: GeneralTracker) -> int:
    """The first step that a tracker has no figures of."""
    if tracker.name == "wandb":
        return tracker.run.step
    return getattr(tracker.run, "_next_step", 0) if tracker.name == "trackio" else 0


class StepFigures:
    """Losses and gradient norms of the last steps, kept on the device until all of them are read at once.

    Args:
        device: the device of the losses.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._start()

    def _start(self) -> None:
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []

    def _keep(self, loss: Tensor, norm: Tensor | float | None) -> None:
        """Add a step: its loss, a number, and the norm of the gradient."""
        self.losses.append(loss)
        if hasattr(norm, "full_tensor"):  # the model is divided among processes
            norm = norm.full_tensor()
        self.norms.append(torch.as_tensor(0.0 if norm is None else norm, device=self.device).float())

    def __len__(self) -> int:
        return len(self.losses)

    def read(self) -> tuple[list[float], list[float], dict[str, float]]:
        """Losses and norms of each step since the last call, and further figures by name."""
        count = len(self.losses)
        numbers = torch.cat([torch.stack(self.losses), torch.stack(self.norms), self._further()]).tolist()
        figures = self._named(numbers[2 * count :])
        self._start()
        return numbers[:count], numbers[count : 2 * count], figures

    def _further(self) -> Tensor:
        """Further numbers, `[K]`, which are read together with the losses."""
        return torch.empty(0, device=self.device)

    def _named(self, numbers: list[float]) -> dict[str, float]:
        """The figures that these numbers make."""
        return {}


class Progress(StepFigures):
    """The steps of a diffusion model, with the mean loss of every noise level.

    Args:
        num_timesteps: number of timesteps of the chain, T.
        device: the device of the losses.
    """

    def __init__(self, num_timesteps: int, device: torch.device):
        self.num_timesteps = num_timesteps
        super().__init__(device)

    def _start(self) -> None:
        super()._start()
        self.levels = torch.zeros(2, NOISE_LEVELS, device=self.device)  # sums and numbers of losses

    def add(self, t: Tensor, losses: Tensor, weights: Tensor | float, norm: Tensor | float | None) -> None:
        """Add a step: timesteps, losses and weights of all processes `[B]`, and the norm of the gradient."""
        self._keep((weights * losses).mean(), norm)
        level = t * NOISE_LEVELS // self.num_timesteps
        self.levels.index_add_(1, level, torch.stack([losses.float(), torch.ones_like(losses, dtype=torch.float32)]))

    def _further(self) -> Tensor:
        return self.levels.flatten()

    def _named(self, numbers: list[float]) -> dict[str, float]:
        sums, counts = numbers[:NOISE_LEVELS], numbers[NOISE_LEVELS:]
        edges = [self.num_timesteps * k // NOISE_LEVELS for k in range(NOISE_LEVELS)]
        names = [f"loss_by_noise/t_{edge:04d}" for edge in edges]
        return {name: s / n for name, s, n in zip(names, sums, counts, strict=True) if n}
