# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Figures: what is drawn is what was measured, in plain numbers and in lines that everyone tells apart."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colors
from matplotlib import pyplot as plt
from PIL import Image

from ddpm_hf import BitsPerDim
from ddpm_hf.reporting import by_calls, figures
from ddpm_hf.reporting.style import COLOURS, line_styles, plain_log_ticks, ticks_at


# Linear RGB as a deuteranope and a protanope see it (Viénot, Brettel & Mollon 1999).
BLINDNESS = {
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
}


def result_of(per_timestep: list[float], timesteps: list[int] | None = None) -> BitsPerDim:
    rate, decoder = sum(per_timestep[1:]), per_timestep[0]
    timesteps = list(range(len(per_timestep))) if timesteps is None else timesteps
    total = 0.001 + rate + decoder
    return BitsPerDim(total, 0.001, rate, decoder, 0.02, 0.01, [total], per_timestep, timesteps, 1, len(timesteps))


def test_strata_are_drawn_as_wide_as_they_are() -> None:
    result = result_of([0.5, 0.2, 0.2, 0.2, 0.1, 0.01, 0.01], [0, 10, 20, 30, 40, 50, 60])
    assert figures.strata_of(result) == [(10, 30, 0.2), (40, 40, 0.1), (50, 60, 0.01)]
    figure = plt.figure()
    figures.plot_bits(figure, result)
    by_timestep, parts = figure.axes
    (marks,) = by_timestep.collections
    drawn = [(*segment[:, 0], segment[0, 1]) for segment in marks.get_segments()]
    assert drawn == [pytest.approx(stratum) for stratum in figures.strata_of(result)]
    assert all(len(set(segment[:, 1])) == 1 for segment in marks.get_segments())  # level: no cliffs between them
    labels = by_timestep.get_legend_handles_labels()[1]
    assert "decoder, at timestep 0" in labels and "rate of each step, mean over a stratum (3 strata)" in labels
    assert [bar.get_height() for bar in parts.patches] == pytest.approx([0.001, result.rate, result.decoder])
    assert "0.720" not in figure.get_suptitle() and f"{result.total:.3f} ± 0.020" in figure.get_suptitle()
    plt.close(figure)


def test_all_terms_are_drawn_one_by_one() -> None:
    result = result_of([0.5, 0.3, 0.2, 0.1])
    figure = plt.figure()
    figures.plot_bits(figure, result)
    line = next(line for line in figure.axes[0].lines if line.get_label() == "rate of each step")
    assert line.get_xydata().tolist() == [[1, 0.3], [2, 0.2], [3, 0.1]]
    plt.close(figure)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_overview_is_a_wide_picture(tmp_path: Path, channels: int) -> None:
    samples = torch.rand(9, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    figures.save_overview(samples, 10, result_of([0.5, 0.2, 0.1]), tmp_path / "overview.png")
    with Image.open(tmp_path / "overview.png") as picture:
        assert picture.size == (1600, 500)
    assert (tmp_path / "overview.png").stat().st_size < 150_000


def test_lines_differ_without_colours_too() -> None:
    styles = list(itertools.islice(line_styles(), 21))
    assert len({(style["marker"], style["linestyle"]) for style in styles}) == 21


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_are_told_apart_by_the_colour_blind(kind: str) -> None:
    def least_difference(palette: Iterable[object]) -> float:
        seen = np.array([colors.to_rgb(colour) for colour in palette]) ** 2.2 @ np.array(BLINDNESS[kind]).T
        seen = seen.clip(0, 1) ** (1 / 2.2)
        return min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))

    assert least_difference(COLOURS) > 0.14 > least_difference(plt.get_cmap("tab10").colors)  # matplotlib's default


@pytest.mark.parametrize(("low", "high"), [(1.6, 10), (0.37, 6), (1.7, 1.9), (0.00001, 0.5), (0.9, 900)])
def test_logarithmic_axes_have_plain_ticks(low: float, high: float) -> None:
    figure, axis = plt.subplots()
    axis.plot([5, 10, 100], [low, (low * high) ** 0.5, high])
    axis.set(xscale="log", yscale="log")
    ticks_at(axis.xaxis, [5, 10, 100])
    plain_log_ticks(axis.yaxis)
    figure.canvas.draw()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["5", "10", "100"]
    bottom, top = axis.get_ylim()
    shown = [label.get_text() for label in axis.get_yticklabels() if bottom <= label.get_position()[1] <= top]
    assert 3 <= len(shown) <= 12
    for text in shown:
        assert set(text) <= set("0123456789.")
        float(text)
    assert not any(label.get_text() for label in axis.get_yticklabels(minor=True))
    plt.close(figure)


def test_few_steps_are_drawn_with_the_figures_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(by_calls.plt, "close", drawn.append)
    rows = [
        {"sampler": "ancestral", "steps": steps, "timestep_spacing": "linspace", "bits_per_dim": 10 / steps}
        for steps in (5, 10)
    ]
    by_calls.save_few_steps(rows, {"bits_per_dim": 0.9, "agreement": 1.0}, tmp_path / "few_steps.png")
    (figure,) = drawn
    (axis,) = figure.axes  # of agreement there is nothing but the reference
    line, reference = axis.lines
    assert line.get_xydata().tolist() == [[5, 2], [10, 1]]
    assert reference.get_label() == "all steps" and set(reference.get_ydata()) == {0.9}
    monkeypatch.undo()
    plt.close(figure)


def test_the_results_of_the_benchmark_can_be_drawn(tmp_path: Path) -> None:
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "few_steps.json"
    ways = json.loads(results.read_text())["results"]
    results = {way: {int(calls): row for calls, row in rows.items()} for way, rows in ways.items()}
    by_calls.save_by_calls(results, {}, tmp_path / "few_steps.png")
    assert Image.open(tmp_path / "few_steps.png").width > 1000
