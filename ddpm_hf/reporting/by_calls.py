# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Bits/dim and the quality of samples, drawn by the number of model calls."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from ..results import FRECHET_DISTANCES
from ..runtime.output_folder import write_file
from .style import line_styles, plain_log_ticks, ticks_at


TILDE = ("β\u0303", r"$\tilde{\beta}$")  # as text, the tilde falls onto the letter

FIGURES = {
    "bits_per_dim": "bits/dim",
    "frechet_distance_pixels": "Fréchet distance, pixels",
    "frechet_distance_efficientnet_lite0": FRECHET_DISTANCES["efficientnet_lite0"],
    "frechet_distance_inception": "FID",
    "frechet_distance_features": "Fréchet distance, features",
    "agreement": "agreement",
}


def save_by_calls(
    results: Mapping[str, Mapping[int, Mapping[str, float]]], references: Mapping[str, float], path: Path
) -> None:
    """Plot the available `FIGURES` against the number of model calls, one line per method of sampling or scoring.

    Args:
        results: the figures, by the name of the method and the number of calls.
        references: horizontal lines for comparison: "bits_per_dim" of the whole chain, other figures of test images.
    """
    names = [name for name in FIGURES if any(name in each for calls in results.values() for each in calls.values())]
    calls_shown = sorted({calls for by_calls in results.values() for calls in by_calls})
    columns = min(2, len(names))
    shape = (-(-len(names) // columns), columns)
    size = (6 * shape[1], 4.5 * shape[0] + 0.18 * len(results))
    figure, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    for axis, name in itertools.zip_longest(axes.flat, names):
        if name is None:
            axis.remove()
            continue
        _plot_ways(axis, name, results)
        if name in references:
            label = "all steps" if name == "bits_per_dim" else "test images"
            axis.axhline(references[name], color="black", linewidth=0.8, linestyle=":", label=label)
        axis.set(xscale="log", xlabel="model calls per image", ylabel=FIGURES[name])
        ticks_at(axis.xaxis, calls_shown)
        if name != "agreement":
            axis.set_yscale("log")
            plain_log_ticks(axis.yaxis)
        axis.grid(alpha=0.3)
    labelled = {
        label: line for axis in figure.axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=2 * columns, fontsize=9)
    write_file(path, lambda partial: figure.savefig(partial, dpi=110))
    plt.close(figure)


def _plot_ways(axis: plt.Axes, name: str, results: Mapping[str, Mapping[int, Mapping[str, float]]]) -> None:
    """One figure of all ways, in lines that become thinner, so that one shows beneath another that covers it."""
    for k, (style, (way, by_calls)) in enumerate(zip(line_styles(), results.items(), strict=False)):
        points = [(calls, figures[name]) for calls, figures in by_calls.items() if name in figures]
        width = 1 - k / len(results)
        if points:
            size = {"linewidth": 1 + 2 * width, "markersize": 4 + 5 * width}
            axis.plot(*zip(*points, strict=True), label=way.replace(*TILDE), **size, **style)


def save_few_steps(rows: list[dict[str, Any]], references: Mapping[str, float], path: Path) -> None:
    """Plot the rows of evaluate.py, one for each sampler and number of steps."""
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
