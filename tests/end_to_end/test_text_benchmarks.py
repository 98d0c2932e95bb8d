# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks of text to image: what they find in pictures whose answers are known."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from ddpm_hf.data.level_images import LevelImages


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RGB = {
    "red": (220, 20, 20), "orange": (240, 140, 20), "yellow": (240, 220, 40), "green": (40, 160, 60),
    "blue": (40, 90, 220), "purple": (140, 60, 180), "brown": (120, 70, 30), "black": (0, 0, 0),
    "white": (255, 255, 255),
}  # fmt: skip
SIDES = {"heart": 4, "circle": 6, "square": 8}  # of a square of the colour on white


@pytest.fixture
def colour_words(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("colour_words")


def images_of(captions: list[str]) -> LevelImages:
    pixels = torch.full((len(captions), 3, 8, 8), 250, dtype=torch.uint8)
    for picture, caption in zip(pixels, captions, strict=True):
        colour, shape = caption.split()[0], caption.split()[-1]
        picture[:, : SIDES[shape], : SIDES[shape]] = torch.tensor(RGB[colour], dtype=torch.uint8)[:, None, None]
    return LevelImages.in_memory(pixels, 256, {"prompt": captions})


def test_samples_are_told_apart_by_colour_and_shape(colour_words: ModuleType) -> None:
    held_out = ["white circle"]
    names = [f"{colour} {shape}" for colour in RGB for shape in SIDES]
    names = [colour_words.OTHER_NAMES.get(name, name) for name in names if name not in held_out]
    subjects = colour_words.subjects_of(images_of(names), images_of(held_out))
    assert [each.caption for each in subjects if not each.is_trained] == held_out
    assert {each.caption for each in subjects} == {*names, *held_out}
    right = colour_words.measured(torch.stack([each.picture for each in subjects]), subjects, subjects)
    for kind, count in (("trained", 26), ("held_out", 1)):
        assert right[kind]["samples"] == count
        assert right[kind]["nearest_the_colour"] == right[kind]["nearest_the_shape"] == 1
    hearts = [each for each in subjects if each.shape == "heart"]
    red = next(each.picture for each in hearts if each.colour == "red")
    always_red = colour_words.measured(torch.stack([red] * len(hearts)), hearts, subjects)["trained"]
    assert always_red["nearest_the_colour"] == pytest.approx(1 / 9) and always_red["nearest_the_shape"] == 1
    assert always_red["nearest_the_colour_by_colour"] == {colour: float(colour == "red") for colour in RGB}


def test_files_are_counted_whole_and_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    file_formats = importlib.import_module("file_formats")
    levels = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = LevelImages.in_memory(levels, 256)
    for name in ("PNG", "WebP"):
        bits = file_formats.bits_per_dim(images, name)
        for i, picture in enumerate(levels):
            file = file_formats.file_of(Image.fromarray(picture.permute(1, 2, 0).numpy()), name)
            assert bits[i] == 8 * len(file) / 192 and bits[i] > 8  # noise cannot be compressed, and headers count
            back = torch.tensor(list(Image.open(io.BytesIO(file)).convert("RGB").tobytes()), dtype=torch.uint8)
            assert torch.equal(back.view(8, 8, 3).permute(2, 0, 1), picture)
