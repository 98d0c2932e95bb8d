# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What each preset of examples/train.py costs: parameters, memory, and processor time of a training step.

Images are random: their content changes no figure. Each preset has a process of its own, since memory is measured as
the most that a process has ever had. Processor time, of all threads together, depends little on what else the machine
does.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
from our_recipe import alone, prepare_ours, quiet
from report import parse, parser_of, write_report

from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.tasks.images import ImageTask
from ddpm_hf.tasks.presets import PRESETS
from ddpm_hf.training.loop import take_step
from ddpm_hf.training.tracking import Progress


COLUMNS = "| preset | block_out_channels | parameters | images in a step | memory | processor time of a step | steps |"


class RandomImages(ImageTask):
    """As many random RGB images as two steps take, of the side that `--resolution` says."""

    def load_data(self) -> ImageData:
        side, generator = self.data_arguments.resolution, torch.Generator().manual_seed(0)
        if side == 8:
            return super().load_data()  # the digits
        pixels = torch.randint(256, (128, 3, side, side), generator=generator, dtype=torch.uint8)
        images = LevelImages.in_memory(pixels, 256)
        return ImageData("random images", images, images, images)


def measured(preset: str, steps: int) -> dict[str, Any]:
    """The figures of a preset, in this process."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        before = _memory()
        state = prepare_ours(Path(folder) / "run", "--resolution", preset, "--preset", preset, task=RandomImages)
        progress, batches = Progress(len(state.scheduler), state.accelerator.device), iter(state.batches)
        state.prepared.train()
        seconds = []
        for _ in range(steps):
            start = time.process_time()
            take_step(state, batches, progress)
            seconds.append(time.process_time() - start)
        of_training = _memory()
        _sample_one_step(state)
    return {
        "block_out_channels": list(state.model.config.block_out_channels),
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "images in a step": state.training.train_batch_size,
        "steps": state.steps,
        "GiB before the model is built": before,
        "GiB at most, training": of_training,
        "GiB at most, with sampling": _memory(),
        "processor seconds of a step": min(seconds[1:]),
        "threads": torch.get_num_threads(),
    }


@torch.no_grad()
def _sample_one_step(state: Any) -> None:
    """A model call of a batch of samples."""
    state.model.eval()
    noise = torch.randn(state.training.scoring_batch_size, *state.data.train.shape)
    state.denoise(noise, torch.zeros(len(noise), dtype=torch.long))


def _memory() -> float:
    """The most memory that the process has had, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def row(preset: str, figures: dict[str, Any]) -> str:
    cells = [
        preset,
        " ".join(map(str, figures["block_out_channels"])),
        f"{figures['parameters'] / 1e6:.1f} M",
        figures["images in a step"],
        f"{figures['GiB at most, with sampling']:.1f} GiB",
        f"{figures['processor seconds of a step']:.3g} s",
        f"{figures['steps']:,}".replace(",", " "),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = parser_of(__doc__, "presets")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--steps", type=int, default=3, help="at least 2; the first one is left out")
    arguments = parse(parser)
    results = {}
    for preset in arguments.presets:
        results[preset] = alone(measured, preset, arguments.steps)
        print(row(preset, results[preset]), flush=True)
    table = "\n".join([COLUMNS, "|" + " --- |" * 7, *(row(*each) for each in results.items())])
    arguments.output.with_suffix(".md").write_text(f"{table}\n")
    write_report(arguments.output, results, diffusers)


if __name__ == "__main__":
    main()
