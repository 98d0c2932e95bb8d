# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Where the bits of a picture are, drawn so that it can be read on a telephone too."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from PIL import Image

from ..reporting.figures import plot_parts, plot_timesteps
from .scoring import Score


WIDTH, HEIGHT, DPI = 5.0, 5.6, 160  # inches, inches, pixels per inch


def bits_figure(score: Score) -> Image.Image:
    """The bits of every timestep, and below them the parts of the bound."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")  # pyplot's figures are for one thread
    by_timestep, parts = figure.subplots(2, 1, height_ratios=(3, 2))
    plot_timesteps(by_timestep, score.result)
    plot_parts(parts, score.result)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Image.open(buffer)
