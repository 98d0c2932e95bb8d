# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""How figures are drawn: without a screen, in colours that a colour-blind reader tells apart, with plain ticks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator


matplotlib.use("Agg")  # needs no screen


# Okabe & Ito (2008), without the yellow, which is too faint for lines on white.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "osD^vP*X<>ph"
DASHES = ("-", "--", ":")
MOST_TICKS = 6


def line_styles() -> Iterator[dict[str, Any]]:
    """Colour, marker and dashes of one line after another: no two of the first 21 look alike, even without colours."""
    for k in itertools.count():
        dashes = DASHES[k // len(COLOURS) % len(DASHES)]
        yield {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)], "linestyle": dashes}


def ticks_at(axis: Axis, values: list[int]) -> None:
    """Ticks at exactly these numbers."""
    axis.set_major_locator(FixedLocator(values))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def plain_log_ticks(axis: Axis) -> None:
    """Decimals on a logarithmic axis, at 1, 2 and 5 times powers of ten, or at finer ones on a short axis."""
    low, high = sorted(axis.get_view_interval())
    for steps in ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)):
        locator = LogLocator(subs=steps, numticks=99)
        if sum(low <= tick <= high for tick in locator.tick_values(low, high)) >= MOST_TICKS // 2:
            break
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.8f}".rstrip("0").rstrip(".")))
    axis.set_minor_formatter(NullFormatter())
