# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The choice of the image column and of the class column, with classes by number or name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from image_folders import load, numbers, save
from PIL import Image
from training_runs import TINY, refused, train

from ddpm_hf.conditioning.classes import LABELS
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.level_images import ImageData
from ddpm_hf.tasks.images import load_labelled_images


def image(number: int) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), number, np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def table(folder: Path, columns: dict[str, Any], count: int = 20, split: str = "train") -> Path:
    """A parquet file of columns; those that are numbers are of images, which begin with them."""
    folder.mkdir(exist_ok=True)
    rows = {
        name: [image(values + i) for i in range(count)] if isinstance(values, int) else values
        for name, values in columns.items()
    }
    features = {name: datasets.Image() for name, values in columns.items() if isinstance(values, int)}
    data = datasets.Dataset.from_dict(rows)
    for name, feature in features.items():
        data = data.cast_column(name, feature)
    data.to_parquet(folder / f"{split}.parquet")
    return folder


def opened(folder: Path, **arguments: object) -> ImageData:
    return load_labelled_images(DataArguments(dataset_name=str(folder), **arguments))


def seen(data: ImageData) -> set[int]:
    return set(numbers(data.test)) | ({*numbers(data.train)} if hasattr(data.train, "pixels") else set())


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_the_column_named_image_is_trained_on(tmp_path: Path, streaming: bool) -> None:
    folder = table(tmp_path / "data", {"conditioning_image": 100, "image": 0, "mask": 200})
    data = opened(folder, streaming=streaming, test_fraction=0.5)
    assert seen(data) and max(seen(data)) < 20
    asked = opened(folder, streaming=streaming, test_fraction=0.5, image_column="conditioning_image")
    assert seen(asked) and min(seen(asked)) >= 100


def test_the_only_column_of_images_may_have_any_name(tmp_path: Path) -> None:
    folder = table(tmp_path / "data", {"img": 50, "text": ["x"] * 20})
    assert seen(opened(folder)) == set(range(50, 70))


@pytest.mark.parametrize(
    ("columns", "asked", "sentence"),
    [
        ({"a": 0, "b": 50}, None, r"has several columns of images, \['a', 'b'\]; pass --image_column with one of"),
        (
            {"image": 0, "b": 50},
            "c",
            r"`image_column` c is not a column of .*; its columns of .* are \['image', 'b'",
        ),
        ({"image": 0, "text": ["x"] * 20}, "text", r"`image_column` text is not a column of images of .*\['image'\]"),
        ({"text": ["x"] * 20}, None, r"has no column of images; its columns are \['text'\]"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_of_images_that_is_not_clear(
    tmp_path: Path, columns: dict[str, Any], asked: str | None, sentence: str, streaming: bool
) -> None:
    folder = table(tmp_path / "data", columns)
    with pytest.raises(ValueError, match=sentence):
        opened(folder, streaming=streaming, image_column=asked)


def test_columns_of_images_in_metadata(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", [f"{i}.png" for i in range(8)])
    rows = "".join(f"{i}.png,{7 - i}.png\n" for i in range(4))
    (folder / "metadata.csv").write_text(f"depth_file_name,file_name\n{rows}")
    assert seen(load(folder)) == {4, 5, 6, 7} and seen(load(folder, image_column="depth")) == {0, 1, 2, 3}


# --- classes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["table", "csv"])
def test_names_of_classes_are_numbered_in_sorted_order(tmp_path: Path, source: str) -> None:
    names = ["zebra", "Ant", "bee", "NA", "10"]
    kinds = [names[i % 5] for i in range(20)]
    if source == "table":
        data = opened(table(tmp_path / "data", {"image": 0, "kind": kinds}), label_column="kind", test_fraction=0.5)
    else:
        folder = save(tmp_path / "data", [f"{i:02d}.png" for i in range(20)])
        rows = "".join(f"{i:02d}.png,{kinds[i]}\n" for i in range(20))
        (folder / "metadata.csv").write_text(f"file_name,kind\n{rows}")
        data = load(folder, label_column="kind", test_fraction=0.5)
    for images in (data.train, data.test):
        assert images.columns[LABELS].tolist() == [sorted(names).index(kinds[number]) for number in numbers(images)]
    said = "5 classes, by `label_column` kind, sorted and numbered from 0: 10, Ant, NA, bee, zebra."
    assert said in data.notes


def test_splits_share_their_numbers(tmp_path: Path) -> None:
    folder = table(tmp_path / "data", {"image": 0, "kind": ["b", "c"] * 10})
    table(folder, {"image": 100, "kind": ["c", "a"] * 10}, split="test")
    data = opened(folder, label_column="kind")
    assert data.train.columns[LABELS].tolist() == [1, 2] * 10 and data.test.columns[LABELS].tolist() == [2, 0] * 10


def test_names_of_classes_in_a_stream(tmp_path: Path) -> None:
    folder = table(tmp_path / "table", {"image": 0, "kind": ["b", "c"] * 10})
    with pytest.raises(
        ValueError, match=r"`label_column` kind of .* holds strings, which a stream cannot number befo"
    ):
        opened(folder, label_column="kind", streaming=True)
    folder = save(tmp_path / "data", [f"{i:02d}.png" for i in range(20)])
    rows = "".join(f"{i:02d}.png,{'bc'[i % 2]}\n" for i in range(20))
    (folder / "metadata.csv").write_text(f"file_name,kind\n{rows}")
    data = load(folder, label_column="kind", streaming=True, test_fraction=0.5)
    assert data.test.columns[LABELS].tolist() == [number % 2 for number in numbers(data.test)]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["a", None] * 10, "`label_column` kind of .* has no value for 10 of the images"),
        ([0.5, 1.0] * 10, "`label_column` kind cannot be used: an image has the class 0.5, which is not an integer"),
        ([0, -1] * 10, "`label_column` kind cannot be used: an image has the class -1, which is not an integer"),
        ([0, None] * 10, "`label_column` kind cannot be used: an image has the class None, which is not an integer"),
        ([[1], [2]] * 10, r"`label_column` kind cannot be used: an image has the class \[\d\], which is not an int"),
        (
            [True, False] * 10,
            "`label_column` kind cannot be used: an image has the class (True|False), which is not an int",
        ),
    ],
)
def test_a_column_asked_for_that_gives_no_classes(tmp_path: Path, values: list[Any], sentence: str) -> None:
    folder = table(tmp_path / "data", {"image": 0, "kind": values})
    with pytest.raises(ValueError, match=sentence):
        opened(folder, label_column="kind")


def test_a_column_that_was_not_asked_for_may_be_of_no_use(tmp_path: Path) -> None:
    folder = table(tmp_path / "data", {"image": 0, "label": ["a", None] * 10})
    assert LABELS not in opened(folder).train.columns


def test_a_model_of_classes_by_their_names(tmp_path: Path) -> None:
    folder = table(tmp_path / "data", {"image": 0, "kind": ["cat", "dog"] * 10})
    arguments = [*TINY, "--dataset_name", folder, "--label_column", "kind", "--max_train_steps", 2]
    arguments += ["--train_batch_size", 4, "--num_quality_samples", 0, "--checkpointing_steps", 0]
    output = train(tmp_path / "run", *arguments, "--num_class_embeds", 2)
    assert "2 classes, by `label_column` kind, sorted and numbered from 0: cat, dog." in output
    sentence = refused(tmp_path / "streamed", *arguments, "--num_class_embeds", 2, "--streaming")
    assert "holds strings, which a stream cannot number before it has seen all of them; omit --streaming" in sentence
