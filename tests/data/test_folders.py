# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Local folders: the files that are read, their splits and classes, and the notes on other files."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from image_folders import load, numbers, save, streamed
from PIL import Image
from training_runs import TINY, refused, train

from ddpm_hf.conditioning.classes import LABELS
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.folder_files import find_files
from ddpm_hf.data.folders import ImageFolder, as_stream, is_of_images
from ddpm_hf.tasks.images import load_labelled_images


RUN = [*TINY, *shlex.split("--train_batch_size 4 --max_train_steps 2 --num_quality_samples 0 --checkpointing_steps 0")]


def told(folder: Path, **arguments: object) -> str:
    return "\n".join(load(folder, **arguments).notes)


def all_numbers(folder: Path, **arguments: object) -> list[int]:
    data = load(folder, **arguments)
    return sorted([*numbers(data.train), *numbers(data.test)])


# --- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "TEST"), ("TRAIN", "Test")])
def test_folders_named_train_and_test_are_splits_in_any_case(tmp_path: Path, names: tuple[str, str]) -> None:
    files = [*(f"{names[0]}/{i}.png" for i in range(5)), *(f"{names[1]}/{i}.png" for i in range(3))]
    data = load(save(tmp_path / "data", files))
    assert numbers(data.train) == [0, 1, 2, 3, 4] and numbers(data.test) == [5, 6, 7]
    assert data.notes[0] == "Images of data: 5 to train on, 3 to test with."


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "VALIDATION"])
def test_a_folder_of_validation_images(tmp_path: Path, name: str) -> None:
    data = load(save(tmp_path / "data", ["train/0.png", "train/1.png", f"{name}/2.png", "test/3.png", "test/4.png"]))
    assert [numbers(part) for part in (data.train, data.validation, data.test)] == [[0, 1], [2], [3, 4]]
    assert data.notes[0] == "Images of data: 2 to train on, 1 to validate with, 2 to test with."
    only = load(save(tmp_path / "only", ["train/0.png", "train/1.png", f"{name}/2.png"]))
    assert numbers(only.test) == [2] and only.validation is only.test


@pytest.mark.parametrize(
    "name", ["training", "testing", "dev", "eval", "evaluation", "train2017", "my test", "test_1", "latest", "train_x"]
)
def test_no_other_name_of_a_folder_makes_a_split(tmp_path: Path, name: str) -> None:
    files = [*(f"bus/{i}.png" for i in range(4)), *(f"{name}/{i}.png" for i in range(4))]
    data = load(save(tmp_path / "data", files))
    assert len(data.train) == 7 and len(data.test) == 1
    assert all_numbers(tmp_path / "data") == list(range(8))
    assert f"2 classes, by folder: {', '.join(sorted(['bus', name]))}." in data.notes


@pytest.mark.parametrize(
    "names",
    [
        [f"cat {i}.png" for i in range(8)] + ["a train.png", "b train.png"],
        ["train.png", "test.png", "validation-1.png", "dev.png", "x_eval_2.png"],
        ["train-00000-of-00001.png", "test-00000-of-00001.png", "a.png"],
        ["data/train-00000-of-00001.png", "data/b.png", "data/c.png"],
        ["a.png", "b.png", "c.png", "train.csv", "how to test.md", "instruction.md", "task.toml", "x.eval"],
        ["deep/train/a.png", "deep/test/b.png", "deep/c.png"],
    ],
)
def test_no_name_of_a_file_decides_anything(tmp_path: Path, names: list[str]) -> None:
    count = sum(name.endswith(".png") for name in names)
    assert all_numbers(save(tmp_path / "data", names)) == list(range(count))


def test_class_folders_one_of_which_is_called_train(tmp_path: Path) -> None:
    files = [f"{name}/{i}.png" for name in ("bus", "car", "train") for i in range(4)]
    data = load(save(tmp_path / "data", files), test_fraction=0.25)
    assert len(data.train) == 9 and len(data.test) == 3
    for images in (data.train, data.test):
        assert images.columns[LABELS].tolist() == [number // 4 for number in numbers(images)]
    assert "3 classes, by folder: bus, car, train." in data.notes
    said = "The folder train is not a split here but one of several folders of images (train, bus, car)."
    assert said in data.notes


def test_what_lies_beside_the_folders_of_the_splits_is_left_out_and_told(tmp_path: Path) -> None:
    files = ["train/0.png", "train/1.png", "test/2.png", "extra/3.png", "loose.png"]
    data = load(save(tmp_path / "data", files))
    assert numbers(data.train) == [0, 1] and numbers(data.test) == [2]
    assert "Left out: 2 images next to the folders of the splits (extra/3.png, loose.png)." in data.notes


def test_a_folder_beside_the_splits_without_images_changes_nothing(tmp_path: Path) -> None:
    files = ["train/0.png", "train/1.png", "annotations/x.json", "empty/notes.txt"]
    data = load(save(tmp_path / "data", files), test_fraction=0.5)
    assert len(data.train) == len(data.test) == 1 and LABELS not in data.train.columns
    assert "no split" not in "".join(data.notes)


def test_splits_without_one_to_train_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no training images \(split 'train'\); it has \['test'\]"):
        load(save(tmp_path / "data", ["test/0.png", "test/1.png"]))


def test_folders_named_by_dataset_name_follow_the_same_rules(tmp_path: Path) -> None:
    files = [*(f"{name}/{i}.png" for name in ("bus", "train") for i in range(4)), "train.csv", "how to test.md"]
    folder = save(tmp_path / "data", files)
    data = load_labelled_images(DataArguments(dataset_name=str(folder)))
    assert sorted([*numbers(data.train), *numbers(data.test)]) == list(range(8)) and data.name == "data"
    assert data.train.columns[LABELS].tolist() == [number // 4 for number in numbers(data.train)]
    assert is_of_images(find_files(folder))
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: bus/*.png\n---\n")
    assert not is_of_images(find_files(folder))
    assert len(load_labelled_images(DataArguments(dataset_name=str(folder), test_fraction=0)).train) == 4


# --- classes --------------------------------------------------------------------------------------------------------


def test_classes_and_order_are_those_of_datasets(tmp_path: Path) -> None:
    names = ["b", "a b", "a", "B", "10", "9"]
    files = [f"{split}/{name}/{i} {i}.png" for split in ("train", "test") for name in names for i in (10, 9, 1)]
    folder = save(tmp_path / "data", files)
    ours = ImageFolder(find_files(folder)).splits
    theirs = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    for split in ("train", "test"):
        paths = theirs[split].cast_column("image", datasets.Image(decode=False))["image"]
        assert [entry["path"] for entry in ours[split]["image"]] == [entry["path"] for entry in paths]
        assert list(ours[split]["label"]) == list(theirs[split]["label"])
        assert ours[split].features["label"] == theirs[split].features["label"]


def test_a_stream_has_the_state_of_one_of_datasets(tmp_path: Path) -> None:
    """Checkpoints of earlier versions, which streamed folders through `datasets`, are gone on from."""
    folder, states = save(tmp_path / "data", [f"{i % 3}/{i:02d}.png" for i in range(15)]), []
    theirs = datasets.load_dataset("imagefolder", data_dir=str(folder), streaming=True)["train"]
    for stream in (theirs, as_stream(ImageFolder(find_files(folder)).splits["train"])):
        stream = stream.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
        entries = stream.iter(batch_size=1)
        paths = [next(entries)["image"][0]["path"] for _ in range(4)]
        states.append((stream.num_shards, paths, stream.state_dict()))
    assert states[0] == states[1]


@pytest.mark.parametrize("names", [("train", "test"), ("train2017", "val2017"), ("deep/train", "deep/test")])
@pytest.mark.parametrize("streaming", [False, True])
def test_names_of_splits_are_no_classes(tmp_path: Path, names: tuple[str, str], streaming: bool) -> None:
    folder = save(tmp_path / "data", [f"{name}/{i}.png" for name in names for i in range(6)])
    data = load(folder, streaming=streaming, test_fraction=0.3)
    assert LABELS not in data.test.columns
    if streaming:
        count = 6 if names[0] == "train" else 12 - len(data.test)
        read = streamed(data, count)
        assert sorted(read | set(numbers(data.test))) == list(range(12)) and not data.train.columns
    else:
        assert sorted([*numbers(data.train), *numbers(data.test)]) == list(range(12))
    is_told = any("are neither classes nor splits" in note for note in data.notes)
    assert is_told == (names[0] != "train")


@pytest.mark.parametrize("streaming", [False, True])
def test_classes_within_splits(tmp_path: Path, streaming: bool) -> None:
    files = [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in "xyz" for i in range(4)]
    data = load(save(tmp_path / "data", files), streaming=streaming)
    assert numbers(data.test) == list(range(12, 24)) or sorted(numbers(data.test)) == list(range(12, 24))
    assert data.test.columns[LABELS].tolist() == [number % 12 // 4 for number in numbers(data.test)]
    if not streaming:
        assert data.train.columns[LABELS].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_test_images_without_the_class_folders_of_the_training_images(tmp_path: Path) -> None:
    files = [*(f"train/{name}/{i}.png" for name in "xy" for i in range(3)), "test/a.png", "test/b.png"]
    for streaming in (False, True):
        data = load(save(tmp_path / "data", files), streaming=streaming)
        assert sorted(numbers(data.test)) == [6, 7] and LABELS not in data.test.columns
        assert "Not all images for test lie in class folders like those for training." in data.notes


# --- files ----------------------------------------------------------------------------------------------------------


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    elsewhere = save(tmp_path / "elsewhere", ["0.png", "1.png", "2.png"])
    folder = save(tmp_path / "data", ["dogs/a.png"])
    (folder / "cats").symlink_to(elsewhere, target_is_directory=True)
    (folder / "dogs" / "b.png").symlink_to(elsewhere / "2.png")
    data = load(folder, test_fraction=0.2)
    assert all_numbers(folder) == [0, 0, 1, 2, 2]
    assert "2 classes, by folder: cats, dogs." in data.notes


def test_links_that_lead_nowhere_or_round_are_told(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", ["a/0.png", "a/1.png"])
    (folder / "a" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (folder / "cats").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    (folder / "a" / "round").symlink_to(folder, target_is_directory=True)
    (folder / "itself.png").symlink_to(folder / "itself.png")
    os.mkfifo(folder / "pipe.png")
    assert all_numbers(folder) == [0, 1]
    said = told(folder)
    assert "3 broken links (a/gone.png, cats, itself.png)" in said and "not an image (pipe.png)" in said
    assert "1 link to a parent folder (a/round/)" in said


@pytest.mark.parametrize("name", ["data[1]", "data*", "data?", "{data}", "a::b", "**", "[!d]ata"])
@pytest.mark.parametrize("streaming", [False, True])
def test_names_are_no_patterns_or_addresses(tmp_path: Path, name: str, streaming: bool) -> None:
    save(tmp_path / "data1", ["other.png"] * 3)
    folder = save(tmp_path / name, ["x[1].png", "x1.png", "a::b.png", "100%.png", "#1.png", "weiß ü.png"])
    data = load(folder, streaming=streaming, test_fraction=0.3)
    read = streamed(data, 6 - len(data.test)) if streaming else set(numbers(data.train))
    assert read | set(numbers(data.test)) == set(range(6))


def test_tables_in_a_folder_whose_name_is_a_pattern_are_not_those_of_its_neighbour(tmp_path: Path) -> None:
    for name in ("data1", "data[1]"):
        (tmp_path / name).mkdir()
        datasets.Dataset.from_dict({"text": [name]}).to_parquet(str(tmp_path / name / "train.parquet"))
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"`dataset_name` .*data\[1\] holds .* a pattern. Rename the folder"):
            load_labelled_images(DataArguments(dataset_name=str(tmp_path / "data[1]"), streaming=streaming))


def test_every_format_that_pillow_reads_is_read(tmp_path: Path) -> None:
    folder, suffixes = tmp_path / "data", (".png", ".bmp", ".gif", ".tiff", ".PGM", ".JPG", ".webp", ".tga", ".qoi")
    folder.mkdir()
    suffixes += (".avif",) if ".avif" in Image.registered_extensions() else ()
    for i, suffix in enumerate(suffixes):
        grey = Image.new("L", (8, 8), 20 * i)
        image = grey.convert("RGB") if suffix == ".qoi" else grey
        image.save(folder / f"{i}{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    data = load(folder, channels=1)
    assert len(data.train) + len(data.test) == len(suffixes) and len(data.notes) == 1
    assert all(min(number % 20, -number % 20) <= 3 for number in numbers(data.train))  # some formats lose a little


def test_what_is_left_out_is_counted_and_named_by_reason(tmp_path: Path) -> None:
    files = ["a.png", "b.png", "c.png", "x.heic", "y.dng", "z.cr2", "n.txt", "labels.csv", ".hidden.png", ".git/x.png"]
    folder = save(tmp_path / "data", [*files, "__MACOSX/a.png", "notes.md", "movie.mpg", ".DS_Store"])
    said = told(folder)
    assert all_numbers(folder) == [0, 1, 2]
    assert "3 images in formats that this Pillow does not read (x.heic, y.dng, z.cr2)" in said
    assert "4 files that are not images (labels.csv, movie.mpg, n.txt, …)" in said
    assert "3 hidden files and folders (.git/, .hidden.png, __MACOSX/)" in said and "DS_Store" not in said


def test_a_name_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", ["a.png", "b.png"])
    shutil.copy(folder / "a.png", os.fsencode(folder) + b"/caf\xe9.png")
    with pytest.raises(ValueError, match=r"The name of the file b'.*/caf\\xe9.png' is not UTF-8; rename it\.$"):
        load(folder)
    os.rename(os.fsencode(folder) + b"/caf\xe9.png", os.fsencode(folder) + b"/caf\xe9.txt")
    assert r"1 file that is not an image (caf\udce9.txt)" in told(folder)


def test_a_folder_without_images_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data holds no images\. Left out: 1 file that is not an image \(a.txt\)\."):
        load(save(tmp_path / "data", ["a.txt"]))


# --- runs within the data folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        {"samples.png": None, "metrics.json": '{"bits_per_dim": 1.5, "train_seconds": 3}', "model_index.json": "{}"},
        {"samples.png": None, "metrics.json": "{}"},
        {"grid.png": None, "metrics.json": '{"train_steps": 3}'},
        {"checkpoint-10/training.json": "{}", "samples/step_0000010.png": None},
        {"samples/step_0000010.png": None},
        {"model_index.json": "{}", "unet/a.png": None},
        {"evaluation.json": "{}", "evaluation.png": None},
    ],
)
def test_runs_within_the_data_are_left_out(tmp_path: Path, files: dict[str, str | None]) -> None:
    folder = save(tmp_path / "data", [f"{name}/{i}.png" for name in ("bus", "train") for i in range(4)])
    for place in ("run", "bus/run", "runs/deep/run"):
        for name, text in files.items():
            save(folder / place, [name])
            if text is not None:
                (folder / place / name).write_text(text)
    assert all_numbers(folder) == list(range(8))
    said = told(folder)
    assert "3 folders of saved models, runs and evaluations (bus/run/, run/, runs/deep/run/)" in said
    assert "2 classes, by folder: bus, train." in said


def test_a_folder_with_figures_of_its_own_is_no_run(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", ["bus/0.png", "bus/1.png", "car/2.png"])
    (folder / "bus" / "metrics.json").write_text('{"width": 4}')
    (folder / "bus" / "README.md").write_text("buses")
    assert all_numbers(folder) == [0, 1, 2]


def test_a_model_saved_among_the_images(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", ["a.png", "b.png", "c.png", "samples.png", "samples/x.png", "unet/y.png"])
    (folder / "model_index.json").write_text("{}")
    assert all_numbers(folder) == [0, 1, 2]
    assert "4 files and folders of the run that is saved here (model_index.json, samples.png, samples/, …)" in told(
        folder
    )


def test_a_second_run_reads_what_the_first_one_did_though_it_lies_within_the_data(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", [f"{i}.png" for i in range(12)])
    arguments = [*RUN, "--train_data_dir", folder]
    first = train(folder / "run", *arguments)
    assert "Images of data: 10 to train on, 2 to test with." in first and "Left out" not in first
    second = train(folder / "again", *arguments)
    assert "Images of data: 10 to train on, 2 to test with." in second
    assert "Left out: 1 folder of a saved model, a run or an evaluation (run/)." in second
    assert json.loads((folder / "again" / "metrics.json").read_text())["train_images"] == 10


# --- metadata -------------------------------------------------------------------------------------------------------


def with_metadata(folder: Path, text: str, name: str = "metadata.csv") -> Path:
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_columns_come_from_metadata(tmp_path: Path, kind: str, streaming: bool) -> None:
    folder, order = save(tmp_path / "data", [f"{i}.png" for i in range(8)]), [5, 2, 7, 0, 1, 3, 4, 6]
    rows = [{"file_name": f"{i}.png", "kind": i % 3, "text": f"no. {i}"} for i in order]
    data = datasets.Dataset.from_list(rows)
    path = str(folder / f"metadata.{kind}")
    {"csv": data.to_csv, "jsonl": data.to_json, "parquet": data.to_parquet}[kind](path)
    assert [Path(entry["path"]).stem for entry in ImageFolder(find_files(folder)).splits["train"]["image"]] == list(
        map(str, order)
    )
    loaded = load(folder, label_column="kind", streaming=streaming, test_fraction=0.4)
    assert loaded.test.columns[LABELS].tolist() == [number % 3 for number in numbers(loaded.test)]


def test_images_that_the_metadata_do_not_name_are_told(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", [f"{i}.png" for i in range(5)])
    with_metadata(folder, "file_name,kind\n1.png,0\n./3.png,1\n4.png,1\n")
    assert all_numbers(folder, label_column="kind") == [1, 3, 4]
    assert "Left out: 2 images that the metadata do not name (0.png, 2.png)." in told(folder)


def test_metadata_of_splits_lie_in_them_or_above(tmp_path: Path) -> None:
    for where in ("above", "within"):
        folder = save(tmp_path / where, ["train/0.png", "train/1.png", "test/2.png"])
        if where == "above":
            with_metadata(folder, "file_name,kind\ntrain/0.png,1\ntrain/1.png,0\ntest/2.png,1\n")
        else:
            with_metadata(folder / "train", "file_name,kind\n0.png,1\n1.png,0\n")
            with_metadata(folder / "test", "file_name,kind\n2.png,1\n")
        data = load(folder, label_column="kind")
        assert numbers(data.train) == [0, 1] and data.train.columns[LABELS].tolist() == [1, 0]
        assert numbers(data.test) == [2] and data.test.columns[LABELS].tolist() == [1]


def test_cells_of_a_table(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", ["0001.png", "2.png", "3.png", "a, b.png"])
    text = '\ufefffile_name,kind,text\n0001.png,null,"two\nlines"\n2.png,NA,\n3.png,"",x\n"a, b.png",true,y\n'
    (folder / "metadata.csv").write_text(text, "utf-8")
    data = ImageFolder(find_files(folder)).splits["train"]
    assert list(data["kind"]) == ["null", "NA", None, "true"] and data["text"][0] == "two\nlines"
    assert [Path(entry["path"]).name for entry in data["image"]] == ["0001.png", "2.png", "3.png", "a, b.png"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,kind\n0.png,0\n", r"metadata.csv has no column `file_name` that names the images; it has \['name'"),
        ("file_name,kind\n0.png,0\n,1\n", "Row 1 of metadata.csv names no image: its file name is None"),
        ("file_name\n../secret.png\n", "Row 0 of metadata.csv names '../secret.png'; it must be a path within"),
        ("file_name\n/etc/passwd\n", "Row 0 of metadata.csv names '/etc/passwd'; it must be a path within"),
        ("file_name\nfile:///etc/passwd\n", "Row 0 of metadata.csv names 'file:///etc/passwd'; it must be a path"),
        ("", "metadata.csv cannot be read: Empty CSV file"),
    ],
)
def test_metadata_that_make_no_sense(tmp_path: Path, text: str, sentence: str) -> None:
    folder = save(tmp_path / "data", ["0.png", "1.png"])
    save(tmp_path, ["secret.png"])
    with pytest.raises(ValueError, match=sentence):
        load(with_metadata(folder, text))


def test_metadata_that_name_a_missing_image(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", [f"{i}.png" for i in range(5)])
    with_metadata(folder, "file_name\n0.png\n1.png\n2.png\ngone.png\n3.png\n4.png\n")
    with pytest.raises(OSError, match=r"gone.png is not an image that can be read: .*No such file"):
        load(folder, test_fraction=0)
    data = load(folder, test_fraction=0, skip_bad_images=True)
    assert numbers(data.train) == [0, 1, 2, 3, 4] and len(data.bad_images) == 1


# --- streams and processes -------------------------------------------------------------------------------------------


def test_a_stream_of_a_folder_can_be_sent_to_another_process_and_needs_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "no folder"))
    folder = save(tmp_path / "data", [f"{i}.png" for i in range(9)])
    (tmp_path / "no folder").write_text("")
    for streaming in (False, True):
        data = load(folder, streaming=streaming, test_fraction=0.4, cache_dir=str(tmp_path / "no folder"))
        assert pickle.loads(pickle.dumps(data.train)).shape == (1, 4, 4)


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_training_tells_of_the_data_at_the_start(tmp_path: Path, streaming: list[str]) -> None:
    files = [f"{split}/{i}.png" for split in ("train", "test") for i in range(6)]
    folder = save(tmp_path / "data", [*files, "how to test.md"])
    output = train(tmp_path / "run", *RUN, "--train_data_dir", folder, *streaming)
    told = "a stream of 6 to train on" if streaming else "6 to train on"
    assert f"Images of data: {told}, 6 to test with.\n" in output
    assert "Left out: 1 file that is not an image (how to test.md)." in output


def test_a_stream_that_holds_out_images_says_so(tmp_path: Path) -> None:
    data = load(save(tmp_path / "data", [f"{i}.png" for i in range(12)]), streaming=True, test_fraction=0.4)
    told = "Images of data: a stream of 12 to train on, without the held-out share"
    assert data.notes[0] == f"{told}, {len(data.test)} to test with."


def test_a_mistake_in_the_background_is_one_sentence(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", ["0.png", "1.png", "2.png"])
    sentence = refused(tmp_path / "run", *RUN, "--train_data_dir", folder, "--background", "snowy")
    assert sentence.endswith(
        "`background` must be a colour that Pillow knows, such as white, #80c0ff or rgb(0, 0, 0), but is 'snowy'."
    )
    assert "`background` must be a colour without transparency, but is '#ffffff80'." in refused(
        tmp_path / "run", *RUN, "--train_data_dir", folder, "--background", "#ffffff80"
    )


def test_black_on_white_of_a_test_split(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    folder = save(tmp_path / "data", ["train/0.png", "train/1.png"])
    (folder / "test").mkdir()
    Image.fromarray(pixels).save(folder / "test" / "2.png")
    data = load(folder, channels=1)
    assert numbers(data.test) == [255]
