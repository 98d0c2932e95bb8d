# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Files of images by a model, and in the usual formats: their lengths and their errors."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian_codec import SHAPE, codec, levels_of
from in_process import run
from PIL import Image
from tiny_models import tiny_unet

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler, DenoisingErrors
from ddpm_hf.compression import Images
from ddpm_hf.evaluation import file_formats
from ddpm_hf.evaluation.file_formats import JPEG, PNG, WEBP, FilePoint, points_of, squared_error
from ddpm_hf.evaluation.real_files import CODEC, RealFiles, code_images


def pictures(mode: str) -> list[Image.Image]:
    """Smooth pictures with a little noise, of 16x16 pixels."""
    rng, found = np.random.default_rng(0), []
    for _ in range(3):
        corners = Image.fromarray(rng.integers(0, 240, (2, 2, 4)).astype(np.uint8))
        smooth = np.asarray(corners.resize((16, 16), Image.Resampling.BILINEAR))
        found.append(Image.fromarray(smooth + rng.integers(0, 9, (16, 16, 4)).astype(np.uint8)).convert(mode))
    return found


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_files_in_the_usual_formats(mode: str) -> None:
    originals = pictures(mode)
    for each in (PNG, WEBP, JPEG):
        points = points_of(each, originals)
        if each is JPEG and mode == "RGBA":
            assert not points
            continue
        lossy = [point for point in points if point.setting != "lossless"]
        assert [point.bits_per_dim for point in lossy] == sorted(point.bits_per_dim for point in lossy)
        assert all(a.psnr < b.psnr for a, b in itertools.pairwise(lossy))
        if each is not JPEG:
            assert points[-1].setting == "lossless" and points[-1].mean_squared_error == 0
            assert points[-1].psnr == math.inf
    sizes = []
    for picture in originals:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        sizes.append(buffer.tell())
    (png,) = points_of(PNG, originals)
    assert list(png.sizes) == sizes
    assert png.bits_per_dim == pytest.approx(8 * sum(sizes) / (3 * 256 * len(mode)))


def test_jpeg_xl_is_there_where_its_plugin_is(monkeypatch: pytest.MonkeyPatch) -> None:
    is_there = importlib.util.find_spec(file_formats.JXL_PLUGIN) is not None
    assert ("JPEG XL" in [each.name for each in file_formats.file_formats()]) == is_there
    monkeypatch.setattr(file_formats, "JXL_PLUGIN", "json")  # a module that is there
    assert [each.name for each in file_formats.file_formats()] == ["PNG", "WebP", "JPEG XL", "JPEG"]


def test_errors_are_told_in_three_units() -> None:
    a, b = (Image.new("L", (4, 4), value) for value in (100, 103))
    point = FilePoint("quality 5", [10], [squared_error(a, b)], 16)
    assert point.rmse == pytest.approx(3) and point.bits_per_dim == 5
    assert point.mean_squared_error == pytest.approx((3 / 127.5) ** 2)
    assert point.psnr == pytest.approx(20 * math.log10(255 / 3))


def test_equal_lengths_are_compared_between_the_points_of_a_format() -> None:
    errors = [4 * 10 ** (-psnr / 10) for psnr in (20, 30)]
    points = [
        FilePoint(str(i), [size], [error], 8) for i, (size, error) in enumerate(zip((1, 3), errors, strict=True))
    ]
    files = RealFiles({"JPEG": [*points, FilePoint("lossless", [9], [0.0], 8)]}, 1)
    assert files.psnr_of("JPEG", 1.5) == pytest.approx(22.5)
    assert files.psnr_of("JPEG", 0.5) is None and files.psnr_of("JPEG", 4) is None


def test_the_points_of_the_codec_are_prefixes_of_its_files() -> None:
    chosen, levels = codec(), levels_of(10)
    files = code_images(chosen, levels, shares=(0, 0.4, 0.8, 1))
    assert {CODEC, "PNG", "WebP", "JPEG"} <= files.points.keys() and files.images == 10
    points = files.points[CODEC]
    contents = [chosen.compress(Images(each, ("0.png",)), "progressive").content for each in levels.split(1)]
    assert list(points[-1].sizes) == list(map(len, contents)) and points[-1].mean_squared_error == 0
    errors = [point.mean_squared_error for point in points]
    assert errors == sorted(errors, reverse=True) and len(set(errors)) == 4
    cut = [chosen.decompress(content, max_bytes=size) for content, size in zip(contents, points[1].sizes, strict=True)]
    distance = torch.cat([each.levels for each in cut]).double() - levels
    # Levels become bytes by rounding, which changes a distance by less than a byte's unit.
    assert points[1].rmse == pytest.approx(255 / 16 * distance.square().mean().sqrt().item(), abs=0.5)
    assert points[0].bits_per_dim == 8 * points[0].sizes[0] / math.prod(SHAPE)  # the header


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    e = DenoisingErrors([4.0, 0.0, -4.0], [0.01, 0.1, 0.2], [0.01, 0.1, 0.2], [3.0, 5.0, 6.0], 256)
    settings = {"num_train_timesteps": 30, "beta_end": 0.4, "num_levels": 256, "denoising_errors": e}
    DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler(variance_type="optimal", **settings)).save_pretrained(folder)
    return folder


def evaluated(model: Path, folder: Path, *more: object) -> tuple[dict, str]:
    images, random = folder / "images", np.random.default_rng(0)
    for split in ("train", "test"):
        (images / split).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(random.integers(0, 256, (4, 4)).astype(np.uint8)).save(images / split / f"{i}.png")
    data = ("--train_data_dir", images, "--output_dir", folder / "out", "--num_evaluations", 5)
    done = run("evaluate.py", "--model_name_or_path", model, *data, "--rate_distortion", *more)
    assert done.code == 0, done.output
    assert (folder / "out" / "rate_distortion.png").stat().st_size > 1000
    return json.loads((folder / "out" / "evaluation.json").read_text("utf-8"))["rate_distortion"], done.output


def test_evaluate_draws_the_curve_and_the_files(model: Path, tmp_path: Path) -> None:
    found, told = evaluated(model, tmp_path, "--num_coded_images", 2)
    files = found["files"]
    assert files["images"] == 2 and found["images"] == 3 and len(found["curve"]) == 30
    rows = files["formats"][CODEC]
    assert rows[-1]["setting"] == "lossless" and rows[-1]["psnr"] is None and rows[-1]["rmse"] == 0
    assert all(row["bits_per_dim"] == row["file_bytes"] * 8 / 16 for row in rows)
    assert {"PNG", "WebP", "JPEG"} <= files["formats"].keys()
    assert {"bits_per_dim", CODEC, "WebP", "JPEG"} <= files["psnr_at_equal_file_bytes"][0].keys()
    assert f"{CODEC} {rows[-1]['bits_per_dim']:.3f}" in told


def test_without_files_the_curve_is_drawn_alone(model: Path, tmp_path: Path) -> None:
    found, _ = evaluated(model, tmp_path / "none", "--num_coded_images", 0)
    assert found["no_files"] == "`num_coded_images` is 0." and "files" not in found
    unmeasured = tmp_path / "unmeasured"
    chain = DDPMPaperScheduler(num_train_timesteps=30, beta_end=0.4, num_levels=256)
    DDPMPaperPipeline(tiny_unet(), chain).save_pretrained(unmeasured)
    found, told = evaluated(unmeasured, tmp_path / "some")
    assert "`ddpm-hf measure` measures them" in found["no_files"] and found["curve"]
    assert "The rate-distortion curve comes without files." in told
