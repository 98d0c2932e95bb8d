# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Data that cannot be read: the message names the cause and the remedy."""

from __future__ import annotations

import errno
import io
import os
import re
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from image_folders import load, numbers, save
from PIL import Image

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.level_images import ImageData
from ddpm_hf.tasks.images import load_labelled_images


def opened(path: Path, **arguments: object) -> ImageData:
    return load_labelled_images(DataArguments(dataset_name=str(path), **arguments))


def parquet(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"image": {"bytes": encoded(np.full((4, 4), i, np.uint8)), "path": None}} for i in range(8)]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    return folder


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def zipped(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, encoded(np.full((4, 4), i, np.uint8)) if "broken" not in name else b"no image")
    return folder


# --- the cache ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_wrapped: bool) -> None:
    def full(**_: object) -> None:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not is_wrapped:
            raise full
        raise datasets.exceptions.DatasetGenerationError("An error occurred while generating the dataset") from full

    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(ValueError) as caught:
        opened(parquet(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    assert str(caught.value) == (
        f"The disk of the cache {tmp_path / 'cache'} is full; free some of it, or pass --cache_dir with a writable"
        " folder, or set HF_HOME ([Errno 28] No space left on device)."
    )


def test_a_cache_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.builder.has_sufficient_disk_space", lambda *_, **__: False)
    with pytest.raises(ValueError, match=r"The disk of the cache .*/cache is full; .*--cache_dir.*Not enough disk"):
        opened(parquet(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    for place in (tmp_path / "cache", tmp_path / "cache" / "below"):
        with pytest.raises(ValueError) as caught:
            opened(parquet(tmp_path / f"data {place.name}"), cache_dir=str(place))
        assert re.match(
            rf"The cache {place} cannot be written: .*; pass --cache_dir with a writable", str(caught.value)
        )


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home" / "datasets")
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(tmp_path / "home"))
    data = parquet(tmp_path / "data")
    with pytest.raises(ValueError, match=rf"^The cache {tmp_path}/home/datasets cannot be written: .*--cache_dir"):
        opened(data)
    assert len(opened(data, cache_dir=str(tmp_path / "cache")).train) == 7
    assert len(load(save(tmp_path / "images", [f"{i}.png" for i in range(8)])).train) == 7  # needs no cache


def test_what_is_not_of_the_cache_is_told_by_its_cause(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ValueError) as caught:
        opened(tmp_path / "data", cache_dir=str(tmp_path / "cache"))
    sentence = str(caught.value)
    assert sentence.startswith(f"{tmp_path / 'data'} holds no images that can be read: ")
    assert "An error occurred while generating" not in sentence and "\n" not in sentence


# --- archives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_an_archive_without_folders_is_read(tmp_path: Path, streaming: bool) -> None:
    folder = zipped(tmp_path / "data", [f"{i}.png" for i in range(8)])
    more = {"streaming": streaming, "test_fraction": 0.4, "cache_dir": str(tmp_path / "cache")}
    for data in (load(folder, **more), opened(folder, **more)):
        assert 0 < len(data.test) < 8 and set(numbers(data.test)) <= set(range(8))


@pytest.mark.parametrize("streaming", [False, True])
def test_an_archive_with_class_folders_is_told(tmp_path: Path, streaming: bool) -> None:
    folder = zipped(tmp_path / "data", [f"{name}/{i}.png" for name in ("bus", "car") for i in range(4)])
    for arguments in ({"train_data_dir": str(folder)}, {"dataset_name": str(folder)}):
        with pytest.raises(ValueError) as caught:
            load_labelled_images(DataArguments(streaming=streaming, cache_dir=str(tmp_path / "cache"), **arguments))
        assert str(caught.value) == (
            f"{folder} holds an archive with class folders, which `datasets` does not read; unpack it, and name the"
            " folder by --train_data_dir."
        )


def test_nothing_of_a_streamed_archive_is_told_by_its_address_in_memory(tmp_path: Path) -> None:
    folder = zipped(tmp_path / "data", [*(f"{i}.png" for i in range(8)), "broken.png"])
    with pytest.raises(OSError) as caught:
        load(folder, streaming=True, test_fraction=0.99)
    sentence = str(caught.value)
    assert "zip://broken.png::" in sentence and "object at" not in sentence and "0x" not in sentence
    (folder / "images.zip").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"data/images.zip is not a readable zip file\.$"):
        load(folder, streaming=True)
    for streaming in (False, True):
        with pytest.raises(ValueError, match="data holds no images that can be read: File is not a zip file"):
            opened(folder, streaming=streaming, cache_dir=str(tmp_path / "cache"))


def test_archives_beside_images_are_told(tmp_path: Path) -> None:
    folder = zipped(tmp_path / "data", ["x.png"])
    data = load(save(folder, [f"{i}.png" for i in range(4)]))
    assert len(data.train) == 3 and "Left out: 1 archive next to the images (images.zip)." in data.notes


# --- modes ----------------------------------------------------------------------------------------------------------


def deep_among_others(folder: Path, deep: tuple[int, ...], count: int = 10) -> Path:
    save(folder, [f"{i}.png" for i in range(count)])
    for i in deep:
        Image.fromarray(np.full((4, 4), 1000 * i, np.uint16)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_of_more_than_8_bits_is_named(tmp_path: Path, streaming: bool) -> None:
    folder = deep_among_others(tmp_path / "data", (0, 1, 2, 3, 4, 5, 6, 7, 8, 9))
    with pytest.raises(ValueError) as caught:
        load(folder, test_fraction=0, streaming=streaming)
    assert str(caught.value) == (
        "Images of mode I;16 have more than 8 bits; pass --preserve_input_precision to keep them. The first of them is"
        f" {folder / '0.png'}."
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_images_of_more_than_8_bits_are_passed_over_if_bad_ones_are(tmp_path: Path, streaming: bool) -> None:
    folder = deep_among_others(tmp_path / "data", (0, 7))
    with pytest.raises((ValueError, OSError), match=r"[07]\.png"):
        load(folder, test_fraction=0.99 if streaming else 0, streaming=streaming)
    data = load(folder, test_fraction=0.99 if streaming else 0, streaming=streaming, skip_bad_images=True)
    read = set(numbers(data.test)) if streaming else set(numbers(data.train))
    assert read and not read & {0, 7} and (streaming or len(read) == 8)
    first = f"{folder / '0.png'} cannot be used: images of mode I;16 have more than 8 bits; pass"
    assert any(sentence.startswith(first) for sentence in data.bad_images)


def test_nothing_but_images_of_more_than_8_bits_is_refused(tmp_path: Path) -> None:
    folder = deep_among_others(tmp_path / "data", (0, 1, 2, 3), count=4)
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"can be read.* .*0\.png cannot be used: images of mode I;16 have more"):
            load(folder, skip_bad_images=True, streaming=streaming, test_fraction=0)


def test_other_modes_are_named_too(tmp_path: Path) -> None:
    save(tmp_path, ["a.png", "b.png", "c.png"])
    Image.new("CMYK", (4, 4)).save(tmp_path / "d.tiff")
    with pytest.raises(
        ValueError, match=r"are of mode CMYK; pass --channels 1, 3 or 4 to .*The first of them is .*d.t"
    ):
        load(tmp_path, test_fraction=0)
    assert numbers(load(tmp_path, test_fraction=0, skip_bad_images=True).train) == [0, 1, 2]


def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "data", ["a/0.png", "b/1.png"])
    scandir = os.scandir

    def refuse(path: os.PathLike) -> object:
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"^The folder .*/data/b/? cannot be read: Permission denied\.$"):
        load(tmp_path / "data")
