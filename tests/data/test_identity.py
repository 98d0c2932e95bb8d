# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A run resumes only on the images that it was trained on, identified by their names and sizes."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from PIL import Image
from training_runs import LATEST, TINY, refused, train

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.identity import Identity
from ddpm_hf.data.loading import load_images


RUN = [*TINY, "--resolution", 4, "--train_batch_size", 2, "--max_train_steps", 2, "--checkpointing_steps", 1]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of eight pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(8):
        Image.new("L", (4, 4), 20 * k).save(folder / f"{k}.png")
    return folder


def identity(folder: Path, **arguments: object) -> Identity | None:
    return load_images(DataArguments(train_data_dir=str(folder), **arguments)).identity


def test_images_are_told_from_others_by_names_and_sizes(images: Path) -> None:
    known = identity(images)
    assert identity(images) == known == identity(images, streaming=True, test_fraction=0.0)
    moved = images.rename(images.with_name("elsewhere"))
    assert identity(moved) == known
    (moved / "3.png").rename(moved / "33.png")
    renamed = identity(moved)
    (moved / "33.png").rename(moved / "3.png")
    Image.effect_noise((4, 4), 50).save(moved / "3.png")
    changed = identity(moved)
    assert len({known, renamed, changed}) == 3 and changed.names == known.names != renamed.names
    assert identity(moved, skip_bad_images=True) == (known.names, None)  # whose size may change when it breaks


def test_data_that_are_no_folder_have_no_names() -> None:
    assert load_images(DataArguments()).identity is None


def test_a_run_is_not_resumed_on_other_images_of_the_same_number(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, *RUN, "--train_data_dir", images, digits=nullcontext())
    shutil.rmtree(run / "checkpoint-2")
    Image.effect_noise((4, 4), 50).save(images / "3.png")
    sentence = refused(run, *RUN, "--train_data_dir", images, *LATEST)
    assert "checkpoint-1 cannot be gone on from: its training images are others, by their names or sizes." in sentence
    Image.new("L", (4, 4), 60).save(images / "3.png")
    assert "Going on from" in train(run, *RUN, "--train_data_dir", images, *LATEST, digits=nullcontext())
    record = json.loads((run / "checkpoint-2" / "training.json").read_text())
    assert record["fingerprint"]["names of the images"] and record["fingerprint"]["sizes of the images"]
