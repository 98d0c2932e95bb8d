# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The figure of a rate-distortion curve and of files of the same images, and their report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from ..evaluation.file_formats import PEAK, FilePoint
from ..evaluation.real_files import CODEC, RealFiles
from ..likelihood.distortion import RateDistortion
from ..runtime.output_folder import write_file
from .style import BLACK, line_styles


def curve_report(curve: RateDistortion) -> dict[str, Any]:
    """The curve for JSON, from pure noise to the image."""
    columns = zip(curve.timesteps, curve.rates, curve.distortions, curve.psnr, strict=True)
    names = ("timestep", "bits_per_dim", "mean_squared_error", "psnr")
    return {
        "curve": [dict(zip(names, row, strict=True)) for row in columns],
        "lossless_bits_per_dim": curve.total,
        "images": curve.num_examples,
    }


def files_report(files: RealFiles) -> dict[str, Any]:
    """Files for JSON. Lengths are means and have all headers; errors are those of the decoded pictures.

    The `mean_squared_error` is for values in [−1, 1], the `rmse` for those of 0 … 255, the `psnr` in dB and null for
    lossless files.
    """
    others = [name for name, points in files.points.items() if name != CODEC and points[0].mean_squared_error]
    return {
        "images": files.images,
        "formats": {name: list(map(_row, points)) for name, points in files.points.items()},
        "psnr_at_equal_file_bytes": [
            {"bits_per_dim": point.bits_per_dim, CODEC: point.psnr}
            | {name: files.psnr_of(name, point.bits_per_dim) for name in others}
            for point in files.points[CODEC]
            if point.mean_squared_error
        ],
    }


def _row(point: FilePoint) -> dict[str, Any]:
    return {
        "setting": point.setting,
        "file_bytes": sum(point.sizes) / len(point.sizes),
        "bits_per_dim": point.bits_per_dim,
        "mean_squared_error": point.mean_squared_error,
        "rmse": point.rmse,
        "psnr": point.psnr if point.mean_squared_error else None,
    }


def files_lines(files: RealFiles) -> str:
    """The lossless files for the screen, and the PSNR of lossy ones of equal length."""
    lossless = [(name, points[-1]) for name, points in files.points.items() if not points[-1].mean_squared_error]
    lines = ["lossless files, bits/dim: " + ", ".join(f"{name} {each.bits_per_dim:.3f}" for name, each in lossless)]
    for row in files_report(files)["psnr_at_equal_file_bytes"]:
        found = [
            f"{name} {'–' if value is None else f'{value:.1f}'}"
            for name, value in row.items()
            if name != "bits_per_dim"
        ]
        lines.append(f"PSNR in dB of files of {row['bits_per_dim']:.3f} bits/dim: " + ", ".join(found))
    return "\n".join(lines)


def save_curve(curve: RateDistortion | None, files: RealFiles | None, path: Path) -> None:
    """Draw the root mean squared error, in 8-bit values, against the bits: of the chain in theory, and of files."""
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    if curve is not None:
        roots = [PEAK * error**0.5 for error in curve.distortions]
        label = f"the chain in theory, {curve.num_examples} images"
        axis.plot(curve.rates, roots, color=BLACK, linewidth=1, label=label)
        axis.axvline(curve.total, color=BLACK, linewidth=0.8, linestyle=":", label=f"its bound, {curve.total:.3f}")
    for style, (name, points) in zip(line_styles(), (files.points if files else {}).items(), strict=False):
        axis.plot([each.bits_per_dim for each in points], [each.rmse for each in points], label=_label(name), **style)
    of = f", on {files.images} images" if files else ""
    axis.set(
        title=f"Rate and distortion{of}",
        xlabel="bits/dim of a file with its header" if files else "bits/dim sent so far",
        ylabel="root mean squared error (0 to 255)",
        xlim=(0, None),
        ylim=(0, None),
    )
    axis.grid(alpha=0.3)
    axis.legend()
    write_file(path, lambda partial: figure.savefig(partial, dpi=110))
    plt.close(figure)


def _label(name: str) -> str:
    return "files of ddpm-hf, cut" if name == CODEC else name
