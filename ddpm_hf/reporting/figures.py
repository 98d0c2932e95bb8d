# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures: a grid of samples, where the bits are spent, the forward process next to the reverse."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image
from torch import Tensor

from ..conditioning.columns import Columns, chosen
from ..likelihood.variational import BitsPerDim
from ..pipelines.guidance import Guidance
from ..pipelines.pipeline_ddpm_paper import DDPMPaperPipeline
from ..runtime.output_folder import write_file
from ..runtime.randomness import Use, generator_of


matplotlib.use("Agg")


SMALLEST_CELL = 64  # pixels: smaller images are enlarged, each pixel to a square


def check_picture(path: Path, channels: int) -> None:
    """Raise ValueError unless a grid of images of so many channels can be saved under this name."""
    kinds = {suffix: kind for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    suffix = path.suffix.lower()
    if suffix not in kinds:
        raise ValueError(f"`output` {path} must end in the name of a kind of picture, such as .png or .webp.")
    try:
        Image.new({3: "RGB", 4: "RGBA"}.get(channels, "L"), (1, 1)).save(io.BytesIO(), kinds[suffix])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"`output` {path} cannot hold images of {channels} channels ({error}); take .png.") from error


def save_grid(images: Tensor, path: Path, columns: int | None = None, margin: int = 2) -> Image.Image:
    """Images `[N, C, H, W]` in [0, 1], side by side in rows on white; the picture in the file is returned too."""
    picture = grid_picture(images, columns, margin)
    write_file(path, picture.save)
    return picture


def grid_picture(
    images: Tensor, columns: int | None = None, margin: int = 2, smallest_cell: int = SMALLEST_CELL
) -> Image.Image:
    """Images `[N, C, H, W]` in [0, 1], side by side in rows on white; those below `smallest_cell` pixels enlarged."""
    images = images.detach().float().cpu().clamp(0, 1)
    count, channels, height, width = images.shape
    if channels not in (1, 3, 4):
        images, channels = images[:, :1], 1
    factor = max(1, smallest_cell // max(height, width))
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cell_h, cell_w = height * factor + margin, width * factor + margin
    canvas = np.full((rows * cell_h + margin, columns * cell_w + margin, channels), 255, dtype=np.uint8)
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for k, image in enumerate(pixels.repeat(factor, axis=1).repeat(factor, axis=2)):
        top, left = margin + k // columns * cell_h, margin + k % columns * cell_w
        canvas[top : top + height * factor, left : left + width * factor] = image
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


@torch.no_grad()
def save_evaluation(
    result: BitsPerDim,
    pipeline: DDPMPaperPipeline,
    originals: Tensor,
    columns: Columns,
    path: Path,
    seed: int,
    guidance: Guidance | None = None,
) -> None:
    """Bits per visited timestep, and below it x_t on the way to noise next to x_t on the way back.

    Args:
        originals: images `[N, C, H, W]` in [−1, 1] for the forward process.
        columns: theirs, with what the samples are conditional on.
    """
    rows, states_shown = min(3, len(originals)), 10
    timesteps = sorted(pipeline.scheduler.timesteps.tolist())
    shown = [timesteps[round(k * (len(timesteps) - 1) / (states_shown - 1))] for k in range(states_shown)]
    generator = torch.Generator().manual_seed(seed)
    x_0 = originals[:rows].cpu()
    noise = torch.randn(x_0.shape, generator=generator)
    forward = [x_0] + [pipeline.scheduler.add_noise(x_0, noise, t) for t in shown]
    generators = [generator_of(Use.SAMPLING, seed, k) for k in range(rows)]  # the first that `draw_images` has
    states = {}
    asked = chosen(pipeline.conditioners.read(columns), slice(rows)) | (guidance or Guidance()).options
    for step in pipeline.iterate(rows, generators, timesteps=timesteps[::-1], **asked):
        if step.timestep in shown:
            states[step.timestep] = step.sample
    reverse = [step.prev_sample] + [states[t] for t in shown]

    figure = plt.figure(figsize=(11, 9), layout="constrained")
    top, left, right = figure.subfigures(3, 1, height_ratios=(3, 2, 2))
    _plot_bits(top.subplots(), result)
    _plot_chain(left, "forward process q: an image becomes noise", forward, ["x₀"] + [f"t = {t}" for t in shown])
    _plot_chain(right, "reverse process p: noise becomes an image", reverse, ["sample"] + [f"t = {t}" for t in shown])
    write_file(path, lambda partial: figure.savefig(partial, dpi=110))
    plt.close(figure)


FIGURES = {
    "bits_per_dim": "bits/dim",
    "frechet_distance_pixels": "Fréchet distance, pixels",
    "frechet_distance_features": "Fréchet distance, features",
    "agreement": "agreement",
}


def save_by_calls(
    results: Mapping[str, Mapping[int, Mapping[str, float]]], references: Mapping[str, float], path: Path
) -> None:
    """Those of `FIGURES` that there are, by the number of model calls, a line for every way to sample or to score.

    Args:
        results: by the name of the way and the number of calls.
        references: what lines are compared with: "bits_per_dim" of the whole chain, the others of test images.
    """
    names = [name for name in FIGURES if any(name in each for calls in results.values() for each in calls.values())]
    columns = min(2, len(names))
    shape = (-(-len(names) // columns), columns)
    size = (6 * shape[1], 4.5 * shape[0] + 0.18 * len(results))
    figure, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    for axis, name in itertools.zip_longest(axes.flat, names):
        if name is None:
            axis.remove()
            continue
        for k, (way, by_calls) in enumerate(results.items()):
            points = [(calls, figures[name]) for calls, figures in by_calls.items() if name in figures]
            if points:
                style = {"linestyle": "-" if k < 10 else "--", "color": plt.get_cmap("tab10")(k % 10)}
                axis.plot(*zip(*points, strict=True), label=way, marker="ov^s"[k % 4], markersize=4, **style)
        if name in references:
            label = "all steps" if name == "bits_per_dim" else "test images"
            axis.axhline(references[name], color="black", linewidth=0.8, linestyle=":", label=label)
        axis.set(xscale="log", xlabel="model calls", ylabel=FIGURES[name])
        if name != "agreement":
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    labelled = {
        label: line for axis in figure.axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=2 * columns, fontsize=8)
    write_file(path, lambda partial: figure.savefig(partial, dpi=110))
    plt.close(figure)


def save_few_steps(rows: list[dict[str, Any]], references: Mapping[str, float], path: Path) -> None:
    """The rows of evaluate.py, one for each sampler and number of steps."""
    results: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        way = f"{row['sampler']}, {row['timestep_spacing']}" if "timestep_spacing" in row else row["sampler"]
        figures = {name: row[name] for name in FIGURES if row.get(name) is not None}
        if "flow_bits_per_dim" in row:
            figures["bits_per_dim"] = row["flow_bits_per_dim"]
        results.setdefault(way, {})[row["steps"]] = figures
        if "importance_weighted" in row:
            weighted = row["importance_weighted"]
            by_paths = results.setdefault(f"{way}, by {weighted['paths']} paths", {})
            by_paths[row["steps"]] = {"bits_per_dim": weighted["bits_per_dim"]}
    save_by_calls(results, references, path)


def _plot_bits(axis: plt.Axes, result: BitsPerDim) -> None:
    total = f"{result.total:.3f} ± {result.standard_error:.3f} bits/dim"
    parts = f"prior {result.prior:.2g} + rate {result.rate:.3f} + decoder {result.decoder:.3f}"
    axis.step(result.timesteps[1:], result.per_timestep[1:], where="mid", color="tab:blue", label="rate")
    axis.plot(result.timesteps[:1], result.per_timestep[:1], "o", color="tab:red", label="decoder, at the first")
    axis.set(xlabel="timestep", ylabel="bits/dim", yscale="log", title=f"{total} = {parts}")
    axis.legend()
    axis.grid(alpha=0.3)


def _plot_chain(figure: plt.Figure, title: str, states: list[Tensor], labels: list[str]) -> None:
    figure.suptitle(title)
    axes = figure.subplots(len(states[0]), len(states), squeeze=False)
    for column, (state, label) in enumerate(zip(states, labels, strict=True)):
        images = (state.float().cpu() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        for row, image in enumerate(images):
            axis = axes[row][column]
            axis.imshow(image if image.shape[-1] in (3, 4) else image[..., 0], cmap="gray", vmin=0, vmax=1)
            axis.axis("off")
            if row == 0:
                axis.set_title(label, fontsize=8)
