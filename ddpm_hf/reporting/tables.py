# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Tables for the screen."""

from __future__ import annotations

from typing import Any

from ..results import FRECHET_DISTANCES


COLUMNS = {
    "bits_per_dim": "bits/dim",
    "by paths": "by paths",
    "flow_bits_per_dim": "by the ODE",
    "frechet_distance_pixels": "Fréchet distance: pixels",
    "frechet_distance_efficientnet_lite0": FRECHET_DISTANCES["efficientnet_lite0"],
    "frechet_distance_inception": "FID",
    "frechet_distance_features": "features",
    "agreement": "agreement",
}


def few_steps_table(rows: list[dict[str, Any]]) -> str:
    """A table with one line per chain and one column per available figure."""
    figures = [row | {"by paths": row.get("importance_weighted", {}).get("bits_per_dim")} for row in rows]
    columns = {name: title for name, title in COLUMNS.items() if any(row.get(name) is not None for row in figures)}
    lines = [["sampler", "steps", "times", *columns.values()]]
    for row in figures:
        cells = ["–" if row.get(name) is None else f"{row[name]:.4f}" for name in columns]
        lines.append([row["sampler"], str(row["steps"]), row.get("timestep_spacing", "log_snr"), *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
