# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The paper's 35.7 M parameters on 32×32 images, on a GPU: turns as in training_overhead.py, by precision."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from our_recipe import OURS, ROOT, STOCK, alone, prepare_ours, quiet, stock_of
from stock_recipe import StockSettings
from training_overhead import Bare, Stopwatch, compare_steps, print_ratios, steps_needed

from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.tasks.images import ImageTask


PRECISIONS = {"float32": ("no", False), "float32 with TF32": ("no", True), "bf16": ("bf16", True)}


def measure_gpu(rounds: int) -> dict[str, Any]:
    """Measure each mode in its own process."""
    results: dict[str, Any] = {}
    for precision in PRECISIONS:
        for compiled in (False, True):
            name = f"{precision}, {'compiled' if compiled else 'eager'}"
            results[name] = alone(compare_on_paper_model, precision, compiled, rounds)
            print_ratios(f"gpu, {name}", results[name])
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
            stock = stock_of(state, settings, folder / STOCK)
        result = compare_steps(state, stock, Bare(state, mixed, compiled), rounds, Stopwatch())
        return result | {"parameters": sum(parameter.numel() for parameter in state.model.parameters())}
