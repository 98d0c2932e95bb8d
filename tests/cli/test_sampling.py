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


# --- images to start from -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two grey pictures, and a mask that leaves their left half as it is."""
    folder, draws = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / name for name in ("a.png", "b.png", "mask.png")]
    for path in paths[:2]:
        Image.fromarray(draws.integers(0, 256, (SIDE, SIDE), np.uint8)).save(path)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, SIDE // 2 :] = 255
    Image.fromarray(mask).save(paths[2])
    return paths


def made_from(model: Path, folder: Path, count: int, *arguments: object) -> np.ndarray:
    """The images of a grid, `[N, H, W]`."""
    output = folder / "grid.png"
    done = run("sample.py", "--model_name_or_path", model, "--output", output, "--num_images", count, *arguments)
    assert done.code == 0, done.output
    columns = int(np.ceil(np.sqrt(count)))
    grid = np.asarray(Image.open(output).convert("L"))
    return cells(grid, GRID_CELL, columns, count)


def test_inpainted_images_keep_what_the_mask_leaves(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    a, b, mask = pictures
    flags = ["--image", a, b, "--mask_image", mask, "--jump_length", 2, "--jump_n_sample", 2]
    found = made_from(model, tmp_path, 4, *flags, "--num_inference_steps", 6, "--class_labels", 1)
    for k, image in enumerate(found):
        given = np.asarray(Image.open((a, b)[k % 2]))
        assert np.array_equal(image[:, : SIDE // 2], given[:, : SIDE // 2])
        assert not np.array_equal(image, given)


def test_little_strength_leaves_an_image_nearly_as_it_is(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    given = np.asarray(Image.open(pictures[0])).astype(float)
    off = []
    for strength in (0.1, 1.0):
        flags = ["--image", pictures[0], "--strength", strength, "--num_inference_steps", 10]
        (found,) = made_from(model, tmp_path / str(strength), 1, *flags)
        off.append(abs(found - given).mean())
    assert off[0] < off[1] / 2


def test_between_two_images_the_ends_are_the_images(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    flags = ["--interpolate", *pictures[:2], "--num_inference_steps", T, "--class_labels", 2]
    found = made_from(model, tmp_path, 4, *flags)
    ends = [np.asarray(Image.open(path)).astype(int) for path in pictures[:2]]
    off = [[abs(image.astype(int) - end).mean() for end in ends] for image in found]
    assert off[0][0] < 0.5 * off[0][1] and off[3][1] < 0.5 * off[3][0]
    assert off[0][0] < off[1][0] < off[3][0] and off[3][1] < off[2][1] < off[0][1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--strength", 0.5], "`strength` needs the files of `image`."),
        (["--mask_image", "{mask}"], "`mask_image` needs the files of `image`."),
        (["--image", "{a}", "--mask_image", "{mask}", "--gif", "way.gif"], "`gif` must be left out with `mask_image`"),
        (["--image", "{a}", "--strength", 2], "`strength` must lie in (0, 1], but is 2.0."),
        (["--interpolate", "{a}"], "`interpolate` must be two files"),
        (["--interpolate", "{a}", "{b}", "--num_images", 1], "`num_images` must be at least 2 with `interpolate`"),
        (["--interpolate", "{a}", "{b}", "--image", "{a}"], "`image` must be left out with `interpolate`."),
    ],
)
def test_what_does_not_go_together_is_told(
    model: Path, pictures: list[Path], tmp_path: Path, flags: list[object], message: str
) -> None:
    names = dict(zip(("a", "b", "mask"), pictures, strict=True))
    given = [flag.format(**names) if isinstance(flag, str) else flag for flag in flags]
    done = run("sample.py", "--model_name_or_path", model, "--output", tmp_path / "grid.png", *given)
    assert done.code == 2 and message in done.output, done.output
