# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`sample`: its animation shows the images of the grid, whatever chain and guidance they are drawn with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import run
from PIL import Image, ImageSequence
from tiny_models import tiny_unet
from torch import Tensor

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler
from ddpm_hf.conditioning.classes import with_null_class
from ddpm_hf.reporting.animation import GAP, SMALLEST_CELL, TITLE_HEIGHT, images_shown
from ddpm_hf.reporting.figures import SMALLEST_CELL as GRID_CELL
from ddpm_hf.runtime.randomness import Use, generator_of


T, SIDE, MARGIN = 30, 4, 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained, class-conditional model with a null class, which can be guided."""
    folder = tmp_path_factory.mktemp("model")
    unet = tiny_unet(sample_size=SIDE, num_class_embeds=4)
    unet.register_to_config(**with_null_class(3))
    DDPMPaperPipeline(unet, DDPMPaperScheduler(num_train_timesteps=T, beta_end=0.3)).save_pretrained(folder)
    return folder


def sampled(model: Path, folder: Path, *arguments: object) -> tuple[np.ndarray, list[Image.Image]]:
    """The grid, and the frames of the animation."""
    output, gif = folder / "grid.png", folder / "way.gif"
    common = ["--model_name_or_path", model, "--output", output, "--gif", gif, "--num_images", 5]
    done = run("sample.py", *common, *arguments)
    assert done.code == 0, done.output
    with Image.open(gif) as picture:
        frames = [frame.copy() for frame in ImageSequence.Iterator(picture)]
    return np.asarray(Image.open(output)), frames


def cells(grid: np.ndarray, cell: int, columns: int = 3, count: int = 5) -> np.ndarray:
    """The images of a grid in their own size, `[N, H, W]`."""
    factor, step = cell // SIDE, cell + MARGIN
    places = [(MARGIN + k // columns * step, MARGIN + k % columns * step) for k in range(count)]
    return np.stack([grid[top : top + cell : factor, left : left + cell : factor] for top, left in places])


def sides(frame: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The images of x_t and of the predicted x_0."""
    grid = np.asarray(frame.convert("L"))[TITLE_HEIGHT:].astype(int)
    width = (grid.shape[1] - GAP) // 2
    return cells(grid[:, :width], SMALLEST_CELL), cells(grid[:, width + GAP :], SMALLEST_CELL)


def samples_in(frame: Image.Image) -> np.ndarray:
    """The images of the last frame, whose only grid is in the middle."""
    pixels = np.asarray(frame.convert("RGB"))[TITLE_HEIGHT:].astype(int)
    width = (pixels.shape[1] - GAP) // 2
    left = (pixels.shape[1] - width) // 2
    beside = np.concatenate([pixels[:, :left], pixels[:, left + width :]], axis=1)
    assert (beside == 255).all()
    return cells(pixels[:, left : left + width], SMALLEST_CELL)


@pytest.mark.parametrize(
    ("arguments", "frames"),
    [
        ([], 25),  # of 30 steps 24, and the samples
        (["--num_inference_steps", 4], 5),
        (["--num_inference_steps", 7, "--eta", 0], 8),
        (["--num_inference_steps", 7, "--eta", 0, "--solver_order", 2, "--timestep_spacing", "trailing"], 8),
        (["--num_inference_steps", 3, "--class_labels", 2, 0, "--batch_size", 2], 4),
        (["--num_inference_steps", 3, "--guidance_scale", 2], 4),
    ],
    ids=["all", "strided", "ddim", "second order", "classes", "guided"],
)
def test_an_animation_ends_in_the_samples(model: Path, tmp_path: Path, arguments: list, frames: int) -> None:
    grid, way = sampled(model, tmp_path, *arguments)
    assert len(way) == frames
    samples = cells(grid, GRID_CELL).astype(int)
    assert np.abs(samples_in(way[-1]) - samples[..., None]).max() <= 1  # of 255
    held = [frame.info["duration"] for frame in way]
    assert held[-1] >= 10 * max(held[:-1])
    noise, _ = sides(way[0])
    assert np.abs(noise - samples).mean() > 10


def test_a_frame_is_a_step_of_the_chain(model: Path, tmp_path: Path) -> None:
    _, way = sampled(model, tmp_path, "--num_inference_steps", 3, "--eta", 0, "--class_labels", 1)
    pipeline = DDPMPaperPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    seen = {}
    for k in range(5):
        generators = [generator_of(Use.SAMPLING, 0, k)]
        for i, step in enumerate(pipeline.iterate(1, generators, 3, eta=0, class_labels=1)):
            seen[k, i] = step
    for i in range(3):
        x_t, x_0 = sides(way[i])
        for k in range(5):
            for shown, state in ((x_t[k], seen[k, i].sample), (x_0[k], seen[k, i].pred_original_sample)):
                assert np.abs(shown - levels(state)).max() <= 8  # 64 colours a frame


def levels(state: Tensor) -> np.ndarray:
    return ((state[0, 0] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.int).numpy()


def test_the_animation_does_not_change_the_samples(model: Path, tmp_path: Path) -> None:
    grid, _ = sampled(model, tmp_path, "--num_inference_steps", 4)
    alone = tmp_path / "alone.png"
    run("sample.py", "--model_name_or_path", model, "--output", alone, "--num_images", 5, "--num_inference_steps", 4)
    assert np.abs(grid.astype(int) - np.asarray(Image.open(alone)).astype(int)).max() <= 1


def test_many_or_large_images_are_not_all_animated() -> None:
    assert images_shown(500, (1, 8, 8)) == 36
    assert images_shown(5, (1, 8, 8)) == 5
    assert images_shown(36, (3, 64, 64)) == 16
    assert images_shown(36, (3, 512, 512)) == 1


def test_colours_and_transparency_are_animated(tmp_path: Path) -> None:
    for channels in (3, 4):
        model = tmp_path / f"model{channels}"
        scheduler = DDPMPaperScheduler(num_train_timesteps=5, beta_end=0.5)
        DDPMPaperPipeline(tiny_unet(channels, sample_size=SIDE), scheduler).save_pretrained(model)
        (tmp_path / str(channels)).mkdir()
        grid, way = sampled(model, tmp_path / str(channels))
        assert len(way) == 6
        if channels == 3:
            shown = samples_in(way[-1])
            assert np.abs(shown - cells(grid, GRID_CELL).astype(int)).max() <= 24  # 256 colours


@pytest.mark.parametrize("name", ["way.png", "way"])
def test_another_ending_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    code, output = run("sample.py", "--model_name_or_path", "nowhere", "--gif", tmp_path / "new" / name)
    assert code == 2 and "must end in .gif" in output
    assert not any(tmp_path.iterdir())


def test_a_file_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "way.gif").write_bytes(b"kept")
    output = tmp_path / "out.gif"
    for gif, sentence in ((tmp_path / "way.gif", "already exists"), (output, "must be another file")):
        code, said = run("sample.py", "--model_name_or_path", "nowhere", "--gif", gif, "--output", output)
        assert code == 2 and "`gif`" in said and sentence in said
    assert (tmp_path / "way.gif").read_bytes() == b"kept"
