# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The figure of a rate-distortion curve, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from ..likelihood.distortion import RateDistortion
from ..runtime.output_folder import write_file
from .style import BLUE


PIXELS = 127.5  # 8-bit values for a distance of 1 in [−1, 1]


def curve_report(curve: RateDistortion) -> dict[str, Any]:
    """The curve for JSON, from pure noise to the image."""
    columns = zip(curve.timesteps, curve.rates, curve.distortions, curve.psnr, strict=True)
    names = ("timestep", "bits_per_dim", "mean_squared_error", "psnr")
    return {
        "curve": [dict(zip(names, row, strict=True)) for row in columns],
        "lossless_bits_per_dim": curve.total,
        "images": curve.num_examples,
    }


def save_curve(curve: RateDistortion, path: Path) -> None:
    """Draw the root mean squared error of x̂_0, in 8-bit values, against the bits so far."""
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    roots = [PIXELS * error**0.5 for error in curve.distortions]
    axis.plot(curve.rates, roots, color=BLUE, marker=".", label="the chain, step by step")
    axis.axvline(curve.total, color="black", linewidth=0.8, linestyle="--", label=f"lossless: {curve.total:.3f}")
    axis.set(
        title=f"Rate and distortion, on {curve.num_examples} images",
        xlabel="bits/dim sent so far",
        ylabel="root mean squared error (0 to 255)",
    )
    axis.grid(alpha=0.3)
    axis.legend()
    write_file(path, lambda partial: figure.savefig(partial, dpi=110))
    plt.close(figure)
