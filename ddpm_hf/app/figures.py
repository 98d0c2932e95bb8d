# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Where the bits of a picture are, drawn so that it can be read on a telephone too."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..reporting.figures import plot_parts, plot_timesteps
from .scoring import Score


WIDTH, OF_MAP, DPI = 5.0, 3.6, 160  # inches, and pixels per inch


def bits_figure(score: Score, pixels: Tensor | None = None) -> Image.Image:
    """The bits of every timestep, below them the parts of the bound, and the bits of every pixel.

    Args:
        pixels: `[H, W]`, if they are known.
    """
    heights = (3.4, 2.2) if pixels is None else (3.4, 2.2, OF_MAP)
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")  # pyplot's figures are for one thread
    by_timestep, parts, *others = figure.subplots(len(heights), 1, height_ratios=heights)
    plot_timesteps(by_timestep, score.result)
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}
    by_timestep.legend(**above, fontsize="small")  # beside the marks there is no room for it
    plot_parts(parts, score.result)
    for axis in others:
        shown = axis.imshow(pixels.numpy(), cmap="viridis")
        axis.set_title(f"bits of each pixel, by {score.calls} steps")
        axis.axis("off")
        figure.colorbar(shown, ax=axis)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Image.open(buffer)
