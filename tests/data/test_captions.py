# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Captions of images: their column, images without one, and several captions of one image."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from image_folders import numbers, save
from PIL import Image
from torch import Tensor

from ddpm_hf.conditioning.captions import PROMPT, caption_fault
from ddpm_hf.conditioning.columns import Alternatives, Columns, with_first, with_one_each
from ddpm_hf.conditioning.conditioner import Conditioner, Conditioners
from ddpm_hf.data.arguments import CaptionedDataArguments, DataArguments
from ddpm_hf.data.batches import Batch, BatchShard, TrainingBatches
from ddpm_hf.data.image_files import BadImage
from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.data.loading import load_images
from ddpm_hf.tasks.captioned_images import load_captioned_images


pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than cores
    pytest.mark.processes(2),
]

COUNT = 24
Captions = Sequence[Any]


class Text(Conditioner):
    """Takes one caption of each image."""

    columns = (PROMPT,)
    arguments = ()
    has_null = False

    def fault(self, column: str, value: Any) -> str | None:
        return f"has several captions, {value!r}" if isinstance(value, (list, tuple)) else caption_fault(value)

    def check(self, columns: Columns) -> None:
        faults = [self.fault(PROMPT, value) for value in columns[PROMPT]]
        if any(faults):
            raise ValueError(f"An image {next(filter(None, faults))}.")

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        return {}

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        return {}

    def variety(self) -> Columns:
        return {}


SIX = BatchShard(6)
TEXT = Conditioners((Text(),))


# --- data of every kind; the pixels of an image tell its number -----------------------------------------------------


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), number, np.uint8)).save(file, "PNG")
    return file.getvalue()


def parquet(folder: Path, captions: Captions, column: str = "text") -> Path:
    folder.mkdir()
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(len(captions))], column: list(captions)}
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    data.to_parquet(folder / "train.parquet")
    return folder


def jsonl(folder: Path, captions: Captions, column: str = "text") -> Path:
    save(folder, [f"{i:02d}.png" for i in range(len(captions))])
    rows = ({"file_name": f"{i:02d}.png", column: caption} for i, caption in enumerate(captions))
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def table(folder: Path, captions: Captions, column: str = "text") -> Path:
    save(folder, [f"{i:02d}.png" for i in range(len(captions))])
    with open(folder / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file_name", column), *((f"{i:02d}.png", c) for i, c in enumerate(captions))])
    return folder


def tar(folder: Path, captions: Captions, column: str = "txt") -> Path:
    folder.mkdir()
    with tarfile.open(folder / "train-0.tar", "w") as archive:
        for i, caption in enumerate(captions):
            files = {"png": png(i)} | ({} if caption is None else {column: caption.encode()})
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{i:03d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder


KINDS = (parquet, jsonl, table, tar)
Make = Callable[..., Path]


def opened(folder: Path, **arguments: Any) -> ImageData:
    """The data, without a cache that other tests use."""
    cache = str(folder.with_name(f"{folder.name} cache"))
    return load_captioned_images(CaptionedDataArguments(dataset_name=str(folder), cache_dir=cache, **arguments))


def number_of(caption: str) -> int:
    return int(caption.split()[1])


def plain(count: int = COUNT) -> list[str]:
    return [f"number {i}" for i in range(count)]


def several(count: int = COUNT) -> list[list[str]]:
    """One caption of image 0, two of image 1, three of image 2, one of image 3 …"""
    return [[f"number {i} caption {k}" for k in range(1 + i % 3)] for i in range(count)]


def batches_of(data: ImageData, shard: BatchShard = SIX, steps: int = 12, **options: Any) -> list[Batch]:
    batches = TrainingBatches(data.reading(TEXT).train, shard, 0, steps, seed=5, **options)
    with closing(iter(batches)) as iterator:
        return list(islice(iterator, steps * shard.accumulation))


def numbers_in(batch: Batch) -> list[int]:
    return ((batch.x_0[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()


# --- one caption ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("a cat", None),
        (" a ", None),
        (["a cat"], None),
        (["a cat", "two cats"], None),
        (("a cat", "two cats"), None),
        (None, "has no caption"),
        ([], "has no caption"),
        ([None], "has no caption"),
        ("", "has an empty caption"),
        (" \t\n", "has an empty caption"),
        (["a cat", ""], "has an empty caption"),
        (3, "has the caption 3, which is not a string"),
        (["a cat", 3.5], "has the caption 3.5, which is not a string"),
        (b"cat", "has the caption b'cat', which is not a string"),
        ({"a": 1}, "has the caption {'a': 1}, which is not a string"),
    ],
)
def test_the_caption_of_an_image_is_judged(value: Any, fault: str | None) -> None:
    assert caption_fault(value) == fault


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("streaming", [False, True])
def test_images_come_with_their_captions(tmp_path: Path, make: Make, streaming: bool) -> None:
    data = opened(make(tmp_path / "data", plain()), streaming=streaming, test_fraction=0.3)
    assert 0 < len(data.test) < COUNT
    images, columns = data.test.batch(0, len(data.test))
    assert list(map(number_of, columns[PROMPT])) == numbers_in(Batch(images, {}, []))
    seen = set()
    for batch in batches_of(data):
        assert list(map(number_of, batch.columns[PROMPT])) == numbers_in(batch)
        seen |= set(numbers_in(batch))
    assert seen == set(range(COUNT)) - set(numbers(data.test))
    assert not any("captions" in note for note in data.notes)


@pytest.mark.parametrize("name", ["text", "caption", "captions", "prompt", "txt"])
def test_the_usual_names_are_found(tmp_path: Path, name: str) -> None:
    assert opened(parquet(tmp_path / "data", plain(), name)).train.columns.keys() == {PROMPT}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_of_captions_can_be_named(tmp_path: Path, streaming: bool) -> None:
    folder = tmp_path / "data"
    save(folder, [f"{i}.png" for i in range(8)])
    rows = [{"file_name": f"{i}.png", "text": "wrong", "alt": f"number {i}", "kind": i} for i in range(8)]
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = opened(folder, streaming=streaming, caption_column="alt", test_fraction=0.5)
    assert list(map(number_of, data.test.columns[PROMPT])) == numbers(data.test)
    for asked, sentence in (
        ("none", r"`caption_column` none is not a column of .*; its columns of text are \['text', 'alt'\], of \["),
        ("kind", r"`caption_column` kind is not a column of text of .*; its columns of text are \['text', 'alt'\]"),
    ):
        with pytest.raises(ValueError, match=sentence):
            opened(folder, streaming=streaming, caption_column=asked)


@pytest.mark.parametrize("streaming", [False, True])
def test_data_without_captions_are_refused(tmp_path: Path, streaming: bool) -> None:
    folder = save(tmp_path / "images", [f"{i}.png" for i in range(8)])
    with pytest.raises(ValueError) as told:
        opened(folder, streaming=streaming)
    assert str(told.value) == (
        f"{folder} has no column of captions; its columns are ['image'], none of which holds text."
    )
    sentence = r"has no column of captions; its columns are \['image', 'text'\], none of which holds text\.$"
    with pytest.raises(ValueError, match=sentence):
        opened(parquet(tmp_path / "numbers", list(range(8))), streaming=streaming)
    sentence = r"its columns are \['image', 'alt'\]\. Pass --caption_column with one of them that holds text\.$"
    with pytest.raises(ValueError, match=sentence):
        opened(parquet(tmp_path / "others", plain(), "alt"), streaming=streaming)


# --- images without a caption ---------------------------------------------------------------------------------------

MISSING = {6: None, 10: "", 17: " \n"}


def without_some(make: Make, folder: Path) -> tuple[Path, dict[int, str]]:
    """Data in which some images have no good caption, and what is wrong with each of these."""
    missing = {i: value for i, value in MISSING.items() if make is not table or i != 10}  # in a CSV file it is None
    told = {i: "has no caption" if value is None else "has an empty caption" for i, value in missing.items()}
    return make(folder, [missing.get(i, caption) for i, caption in enumerate(plain())]), told


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("part", ["train", "test"])
def test_an_image_without_a_caption_is_named(tmp_path: Path, make: Make, streaming: bool, part: str) -> None:
    folder, told = without_some(make, tmp_path / "data")
    options = {"streaming": streaming, "test_fraction": 0.0 if part == "train" else 0.9}
    if streaming and part == "train":  # the images of a stream are read later
        (sentence, *_) = [sentence for batch in batches_of(opened(folder, **options)) for sentence in batch.bad]
    else:
        with pytest.raises(BadImage, match=r"\. Pass --skip_bad_images to skip such images, or remove it") as caught:
            opened(folder, **options)
        sentence = str(caught.value).split(" Pass")[0]
    begin = {i: f"{folder / f'{i:02d}.png'}" if make in (jsonl, table) else f"Image {i} of " for i in told}
    assert any(sentence.startswith(begin[i]) and sentence.endswith(f" {fault}.") for i, fault in told.items())


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("cropped", [False, True])
def test_images_without_a_caption_are_skipped(tmp_path: Path, make: Make, streaming: bool, cropped: bool) -> None:
    folder, told = without_some(make, tmp_path / "data")
    options = {"resolution": 3} if cropped else {}  # cropped at random, so that images are read when needed
    data = opened(folder, streaming=streaming, test_fraction=0.3, skip_bad_images=True, **options)
    batches = batches_of(data)
    bad = {*data.bad_images, *(sentence for batch in batches for sentence in batch.bad)}
    assert len(bad) == len(told) and sorted(sentence.split(" has ")[1] for sentence in bad) == sorted(
        f"{fault.removeprefix('has ')}." for fault in told.values()
    )
    seen = {number for batch in batches for number in numbers_in(batch)} | set(numbers(data.test))
    assert seen == set(range(COUNT)) - told.keys()
    for batch in batches:
        assert list(map(number_of, batch.columns[PROMPT])) == numbers_in(batch)


def test_a_caption_that_is_no_string_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    save(folder, [f"{i}.png" for i in range(8)])
    captions = [3 if i == 5 else f"number {i}" for i in range(8)]
    rows = [{"image": {"bytes": None, "path": str(folder / f"{i}.png")}, "text": captions[i]} for i in range(8)]
    table = datasets.Dataset.from_list(
        [{**row, "text": json.dumps(row["text"])} for row in rows],
        features=datasets.Features({"image": datasets.Image(), "text": datasets.Json()}),
    )
    (tmp_path / "table").mkdir()
    table.to_parquet(tmp_path / "table" / "train.parquet")
    with pytest.raises(BadImage, match=r"has the caption 3, which is not a string\. Pass --skip_bad_images"):
        opened(tmp_path / "table", test_fraction=0)


@pytest.mark.parametrize("streaming", [False, True])
def test_no_caption_at_all_is_told(tmp_path: Path, streaming: bool) -> None:
    folder = jsonl(tmp_path / "data", [None] * 6)
    with pytest.raises(BadImage, match=r"\d\d\.png has no caption\. Pass --skip_bad_images"):
        opened(folder, streaming=streaming, test_fraction=0)
    with pytest.raises(ValueError, match=r"can be (used|read).* .*\d\d\.png has no caption\."):
        opened(folder, streaming=streaming, test_fraction=0, skip_bad_images=True)


def test_an_image_that_loses_its_caption_is_replaced_by_the_next_one(tmp_path: Path) -> None:
    folder = jsonl(tmp_path / "data", plain())
    before = [number for batch in batches_of(opened(folder)) for number in numbers_in(batch)]
    order = numbers(opened(folder).train)
    lost = order[4]
    rows = (folder / "metadata.jsonl").read_text().splitlines()
    rows[lost] = json.dumps({"file_name": f"{lost:02d}.png", "text": ""})
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    batches = batches_of(opened(folder, skip_bad_images=True))
    assert [number for batch in batches for number in numbers_in(batch)] == [
        order[5] if number == lost else number for number in before
    ]


def test_captions_matter_to_no_other_loader(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "data", [["a"], []] * 6)
    arguments = DataArguments(dataset_name=str(folder), cache_dir=str(tmp_path / "cache"))
    assert len(load_images(arguments).train) == 10


# --- several captions -----------------------------------------------------------------------------------------------


def test_a_number_chooses_among_alternatives() -> None:
    columns = {"a": [Alternatives("xyz"), "plain", Alternatives("u")], "b": torch.arange(3)}
    for draw, expected in ((0.0, "x"), (0.33, "x"), (0.34, "y"), (0.67, "z"), (0.99999997, "z")):
        found = with_one_each(columns, [draw] * 3)
        assert found["a"] == [expected, "plain", "u"] and torch.equal(found["b"], columns["b"])
    assert with_first(columns)["a"] == ["x", "plain", "u"]


@pytest.mark.parametrize("make", [parquet, jsonl])
@pytest.mark.parametrize("streaming", [False, True])
def test_training_draws_one_of_several_captions(tmp_path: Path, make: Make, streaming: bool) -> None:
    data = opened(make(tmp_path / "data", several()), streaming=streaming, test_fraction=0.4)
    assert data.reading(TEXT).test.batch(0, 99)[1][PROMPT] == [several()[i][0] for i in numbers(data.test)]
    drawn = Counter()
    for batch in batches_of(data, steps=400):
        assert [number_of(caption) for caption in batch.columns[PROMPT]] == numbers_in(batch)
        drawn.update(batch.columns[PROMPT])
    training = set(range(COUNT)) - set(numbers(data.test))
    assert set(drawn) == {caption for i in training for caption in several()[i]}
    for i in training:
        counts = [drawn[caption] for caption in several()[i]]
        n, k = sum(counts), len(counts)
        assert all(abs(count - n / k) < 5 * (n / k) ** 0.5 for count in counts)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_number_of_captions_is_noted(tmp_path: Path, streaming: bool) -> None:
    data = opened(jsonl(tmp_path / "data", several()), streaming=streaming, test_fraction=0.4)
    images, use = (data.test, "test with") if streaming else (data.train, "train on")
    count = sum(len(several()[i]) for i in numbers(images))
    assert data.notes[1] == (
        f"The {len(images)} images to {use} have {count} captions. Training draws one of an image's captions at random"
        " for each use; scores take the first."
    )


def captions_in(batches: Sequence[Batch]) -> list[str]:
    return [caption for batch in batches for caption in batch.columns[PROMPT]]


@pytest.fixture(scope="module")
def with_several(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return opened(jsonl(tmp_path_factory.mktemp("several") / "data", several()), test_fraction=0.2)


def test_who_reads_does_not_change_the_captions(with_several: ImageData) -> None:
    whole = captions_in(batches_of(with_several, BatchShard(12)))
    assert captions_in(batches_of(with_several, BatchShard(12), num_workers=2)) == whole
    for processes, accumulation in ((2, 1), (1, 3), (2, 2)):
        size = 12 // processes // accumulation
        shards = [BatchShard(size, accumulation, rank, processes) for rank in range(processes)]
        parts = zip(*(batches_of(with_several, shard) for shard in shards), strict=True)
        assert captions_in([batch for window in parts for batch in window]) == whole
    assert whole != captions_in(list(TrainingBatches(with_several.train, BatchShard(12), 0, 12, seed=6)))


def test_a_resumed_run_draws_the_same_captions(with_several: ImageData) -> None:
    whole = batches_of(with_several)
    for step in range(12):
        rest = list(TrainingBatches(with_several.train, BatchShard(6), step, 12, seed=5))
        assert captions_in(rest) == captions_in(whole[step:])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_draws_the_same_captions(tmp_path: Path, workers: int) -> None:
    folder = jsonl(tmp_path / "data", several())
    data = opened(folder, streaming=True, test_fraction=0.2, shuffle_buffer_size=8).reading(TEXT)
    batches = TrainingBatches(data.train, BatchShard(5), 0, 0, seed=5, num_workers=workers)
    read, states = [], []
    with closing(iter(batches)) as iterator:
        for batch in islice(iterator, 14):
            read.append(batch)
            states.append(json.loads(json.dumps(batches.state)))
    for step in (1, 4, 9):
        resumed = TrainingBatches(data.train, BatchShard(5), 0, 0, seed=5, num_workers=workers, state=states[step - 1])
        with closing(iter(resumed)) as iterator:
            assert captions_in(list(islice(iterator, 14 - step))) == captions_in(read[step:])


@pytest.mark.parametrize("streaming", [False, True])
def test_several_captions_draw_no_other_random_number(tmp_path: Path, streaming: bool) -> None:
    folder = jsonl(tmp_path / "data", several())
    options = {"streaming": streaming, "resolution": 3, "test_fraction": 0.2}
    captioned = batches_of(opened(folder, **options), random_flip=True)
    images = load_images(DataArguments(dataset_name=str(folder), **options)).train
    with closing(iter(TrainingBatches(images, BatchShard(6), 0, 12, seed=5, random_flip=True))) as batches:
        for one, other in zip(captioned, batches, strict=False):
            assert torch.equal(one.x_0, other.x_0)


def test_any_column_may_have_alternatives() -> None:
    pixels = torch.zeros(9, 1, 2, 2, dtype=torch.uint8)
    columns = {"one": [Alternatives((i, -i)) for i in range(9)], "other": [Alternatives("ab")] * 9}
    images = LevelImages.in_memory(pixels, 256, columns)
    batch = next(iter(TrainingBatches(images, BatchShard(90), 0, 1, seed=0)))
    signs = {(value >= 0, letter) for value, letter in zip(*batch.columns.values(), strict=True) if value}
    assert signs == {(True, "a"), (False, "b")}  # one draw chooses in all columns
    assert images.chosen(torch.tensor([8, 1])).batch(0, 2)[1]["one"] == [8, 1]
