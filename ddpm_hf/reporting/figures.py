# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Figures: a grid of samples, the bits of each timestep, and the forward process next to the reverse process."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..conditioning.columns import Columns, chosen
from ..likelihood.variational import BitsPerDim
from ..pipelines.guidance import Guidance
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..runtime.output_folder import write_file
from ..runtime.randomness import Use, generator_of
from ..runtime.words import plural
from .style import BLUE, GREEN, VERMILION, plain_log_ticks


GAP, FONT_SIZE, LINE_HEIGHT = 6, 13, 16  # pixels, of captions
SMALLEST_CELL = 64  # pixels: smaller images are enlarged by a whole factor


def check_picture(path: Path, channels: int) -> None:
    """Raise ValueError unless a grid of images with `channels` channels can be saved under this name."""
    kinds = {suffix: kind for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    suffix = path.suffix.lower()
    if suffix not in kinds:
        raise ValueError(f"`output` {path} must end in the suffix of an image format, such as .png or .webp.")
    try:
        Image.new({3: "RGB", 4: "RGBA"}.get(channels, "L"), (1, 1)).save(io.BytesIO(), kinds[suffix])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"`output` {path} cannot hold images of {channels} channels ({error}); use .png.") from error


def save_grid(
    images: Tensor, path: Path, columns: int | None = None, margin: int = 2, captions: Sequence[str] | None = None
) -> Image.Image:
    """Save images `[N, C, H, W]` in [0, 1] in rows on a white background, and return the picture.

    Args:
        captions: what is written below each image.
    """
    if captions is None:
        picture = grid_picture(images, columns, margin)
    else:
        picture = captioned_grid(images, captions, columns=columns)
    write_file(path, picture.save)
    return picture


def grid_picture(
    images: Tensor, columns: int | None = None, margin: int = 2, smallest_cell: int = SMALLEST_CELL
) -> Image.Image:
    """Images `[N, C, H, W]` in [0, 1] in rows on white; those smaller than `smallest_cell` pixels are enlarged."""
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


def captioned_grid(
    images: Tensor, captions: Sequence[str], cell: int = 128, columns: int | None = None
) -> Image.Image:
    """Images `[N, C, H, W]` in [0, 1] in rows on white, each with its caption below it.

    Args:
        cell: the least width of an image, pixels; smaller images are enlarged by a whole factor.
        columns: images in a row; as many as rows if None.
    """
    width = images.shape[3] * max(1, cell // max(images.shape[2:]))
    height = images.shape[2] * width // images.shape[3]
    font = ImageFont.load_default(FONT_SIZE)
    wrapped = [_wrapped(caption, font, width) for caption in captions]
    text_height = max(len(lines) for lines in wrapped) * LINE_HEIGHT
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    cell_w, cell_h = width + 2 * GAP, height + text_height + 2 * GAP
    grid = Image.new("RGB", (columns * cell_w, rows * cell_h), "white")
    pen = ImageDraw.Draw(grid)
    for k, (image, lines) in enumerate(zip(images, wrapped, strict=True)):
        left, top = k % columns * cell_w + GAP, k // columns * cell_h + GAP
        picture = grid_picture(image[None], margin=0, smallest_cell=cell)
        grid.paste(picture.convert("RGBA").convert("RGB"), (left, top))
        for n, line in enumerate(lines):
            place = (left + width / 2, top + height + GAP + n * LINE_HEIGHT)
            pen.text(place, line, fill="black", font=font, anchor="ma")
    return grid


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The lines of a text, each at most so many pixels wide unless a word is wider."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@torch.no_grad()
def save_evaluation(
    result: BitsPerDim,
    pipeline: SamplingPipeline,
    originals: Tensor,
    columns: Columns,
    path: Path,
    seed: int,
    guidance: Guidance | None = None,
) -> None:
    """Draw the bits of every visited timestep, and below them x_t of the forward and of the reverse process.

    Args:
        originals: images `[N, C, H, W]` in [−1, 1] for the forward process.
        columns: columns of the originals; the samples take their conditioning from them.
    """
    rows, states_shown = min(3, len(originals)), 10
    timesteps = sorted(pipeline.scheduler.timesteps.tolist())
    shown = [timesteps[round(k * (len(timesteps) - 1) / (states_shown - 1))] for k in range(states_shown)]
    generator = torch.Generator().manual_seed(seed)
    x_0 = pipeline.examples_of(originals[:rows].to(pipeline.device), generator).cpu()
    noise = torch.randn(x_0.shape, generator=generator)
    forward = [x_0] + [pipeline.scheduler.add_noise(x_0, noise, t) for t in shown]
    generators = [generator_of(Use.SAMPLING, seed, k) for k in range(rows)]  # the first ones of `draw_images`
    states = {}
    known = pipeline.conditioners.completed(originals[:rows], chosen(columns, slice(rows)))
    asked = dict(pipeline.conditioners.read(known)) | (guidance or Guidance()).options
    for step in pipeline.iterate(batch_size=rows, generator=generators, timesteps=timesteps[::-1], **asked):
        if step.timestep in shown:
            states[step.timestep] = step.sample
    reverse = [step.prev_sample] + [states[t] for t in shown]

    def images_of(state: Tensor) -> Tensor:
        return pipeline.images_of(state.to(pipeline.device))

    figure = plt.figure(figsize=(11, 9), layout="constrained")
    top, left, right = figure.subfigures(3, 1, height_ratios=(3, 2, 2))
    plot_bits(top, result)
    for part, title, states, first in (
        (left, "forward process q: an image becomes noise", forward, "x₀"),
        (right, "reverse process p: noise becomes an image", reverse, "sample"),
    ):
        _plot_chain(part, title, states, [first] + [f"t = {t}" for t in shown], images_of)
    write_file(path, lambda partial: figure.savefig(partial, dpi=110))
    plt.close(figure)


def save_overview(samples: Tensor, steps: int, result: BitsPerDim, path: Path) -> None:
    """Samples beside where the bits go, 1600 pixels wide and 500 high.

    Args:
        samples: images `[N, C, H, W]` in [0, 1], of so many steps.
        result: the bound on test images.
    """
    figure = plt.figure(figsize=(16, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.2))
    axis = left.subplots()
    picture = grid_picture(samples)
    axis.imshow(picture, cmap="gray" if picture.mode == "L" else None)
    axis.set_title(f"{len(samples)} samples, {steps} model calls each")
    axis.axis("off")
    plot_bits(right, result)
    write_file(path, lambda partial: figure.savefig(partial, dpi=100))
    plt.close(figure)


def plot_bits(figure: plt.Figure, result: BitsPerDim) -> None:
    """The bits of every timestep, and beside them the three parts of the bound, which add up to it."""
    examples = plural(result.num_examples, "image")
    figure.suptitle(f"Where the bits go: {result.total:.3f} ± {result.standard_error:.3f} bits/dim on {examples}")
    by_timestep, parts = figure.subplots(1, 2, width_ratios=(3, 1))
    plot_timesteps(by_timestep, result)
    plot_parts(parts, result)


def plot_timesteps(axis: plt.Axes, result: BitsPerDim) -> None:
    """Each step's bits; of an estimate, which knows the mean of a stratum alone, a mark as wide as the stratum."""
    decoder = {"color": VERMILION, "markeredgecolor": "black", "label": f"decoder, at timestep {result.timesteps[0]}"}
    axis.plot(result.timesteps[:1], result.per_timestep[:1], "D", **decoder)
    strata = strata_of(result)
    if len(strata) == len(result.timesteps) - 1:
        timesteps, bits = result.timesteps[1:], result.per_timestep[1:]
        axis.plot(timesteps, bits, ".-", color=BLUE, markersize=4, linewidth=0.8, label="rate of each step")
    else:
        first, last, bits = zip(*strata, strict=True)
        label = f"rate of each step, mean over a stratum ({len(strata)} strata)"
        axis.hlines(bits, first, last, color=BLUE, linewidth=3, label=label)
        alone = [(start, value) for start, end, value in strata if start == end]
        axis.plot(*(zip(*alone, strict=True) if alone else ([], [])), "s", color=BLUE, markersize=3)
    axis.set(xlabel="timestep (0: least noise)", ylabel="bits/dim of a step", yscale="log")
    plain_log_ticks(axis.yaxis)
    axis.legend(loc="upper right")
    axis.grid(alpha=0.3)


def strata_of(result: BitsPerDim) -> list[tuple[int, int, float]]:
    """The first and the last timestep of each stratum of the rate, and the bits of each of its steps.

    Neighbours of the same mean, to the last digit, are of one stratum; with all terms each is a stratum.
    """
    terms = zip(result.timesteps[1:], result.per_timestep[1:], strict=True)
    groups = [list(group) for _, group in itertools.groupby(terms, key=lambda term: term[1])]
    return [(group[0][0], group[-1][0], group[0][1]) for group in groups]


def plot_parts(axis: plt.Axes, result: BitsPerDim) -> None:
    """The parts of the bound, such as prior, rate and decoder, as bars with their numbers."""
    names, values = [name.replace(" ", "\n") for name in result.parts], list(result.parts.values())
    bars = axis.bar(names, values, color=(GREEN, BLUE, VERMILION))
    axis.bar_label(bars, list(map(_in_short, values)), padding=2)
    axis.set(ylabel="bits/dim")
    axis.margins(y=0.12)
    axis.spines[["top", "right"]].set_visible(False)


def _in_short(bits: float) -> str:
    if abs(bits) < 0.0001:
        return "< 0.0001"
    return f"{bits:.4f}" if abs(bits) < 0.01 else f"{bits:.3f}"


def _plot_chain(
    figure: plt.Figure,
    title: str,
    states: list[Tensor],
    labels: list[str],
    images_of: Callable[[Tensor], Tensor],
) -> None:
    figure.suptitle(title)
    axes = figure.subplots(len(states[0]), len(states), squeeze=False)
    for column, (state, label) in enumerate(zip(states, labels, strict=True)):
        images = (images_of(state).float().cpu() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        for row, image in enumerate(images):
            axis = axes[row][column]
            axis.imshow(image if image.shape[-1] in (3, 4) else image[..., 0], cmap="gray", vmin=0, vmax=1)
            axis.axis("off")
            if row == 0:
                axis.set_title(label, fontsize=8)
