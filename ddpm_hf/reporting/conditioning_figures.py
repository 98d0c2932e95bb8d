# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Figures on conditioning: what it is worth by noise level, and the bound of guided chains by the scale."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from ..likelihood.information import Information
from ..runtime.output_folder import write_file
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .style import BLUE, VERMILION


def save_worth(own: Information, others: Information, name: str, scheduler: DDPMPaperScheduler, path: Path) -> None:
    """Draw the bits that conditioning saves up to each noise level, from the highest on.

    Args:
        own: what the examples' own conditioning saves.
        others: what another example's saves.
        name: of the conditioning, such as "caption".
    """
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for label, colour, found in ((f"its own {name}", BLUE, own), (f"another image's {name}", VERMILION, others)):
        log_snr = scheduler.schedule.log_snr[[t + 1 for t in found.timesteps]].tolist()
        saved = list(itertools.accumulate(reversed(found.per_timestep)))
        text = f"{label}: {found.bits:.2f} ± {found.standard_error:.2f} bits"
        axis.plot(log_snr[::-1], saved, color=colour, label=text)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(
        title=f"What a {name} is worth, on {len(own.per_example)} images",
        xlabel="log signal-to-noise ratio (left: pure noise; right: the image)",
        ylabel="bits per image saved up to here",
    )
    axis.grid(alpha=0.3)
    axis.legend()
    write_file(path, lambda partial: figure.savefig(partial, dpi=110))
    plt.close(figure)


def save_guided_bounds(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the bound of the guided chain against the guidance scale, from the rows of `guided_report`."""
    names = ("guidance_scale", "bits_per_dim", "excess_bits_per_dim_standard_error")
    rows = sorted(rows, key=lambda row: row[names[0]])
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axis.errorbar(*([row[name] for row in rows] for name in names), color=BLUE, marker="o", capsize=3)
    axis.set(
        title="The bound of the guided chain",
        xlabel="guidance scale (0: no conditioning; 1: no guidance)",
        ylabel="bits/dim (error bars: of the difference to scale 1)",
    )
    axis.grid(alpha=0.3)
    write_file(path, lambda partial: figure.savefig(partial, dpi=110))
    plt.close(figure)
