# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Streams of images: every image once per epoch for any readers, and exact resumption at any step."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
from hooks import signal_at
from PIL import Image
from safetensors.torch import load_file
from script_server import ScriptServer
from training_runs import GOES_ON, LATEST, TINY, assert_same, ended, start, start_together, train

from ddpm_hf.conditioning.classes import LABELS, ClassConditioner
from ddpm_hf.conditioning.conditioner import Conditioners
from ddpm_hf.data import image_streams
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.batches import Batch, BatchShard, TrainingBatches
from ddpm_hf.data.image_streams import ImageStream
from ddpm_hf.data.level_images import ImageData
from ddpm_hf.data.stream_parts import PartsByTurns
from ddpm_hf.runtime.errors import RunStopped
from ddpm_hf.tasks.images import load_labelled_images as load_images


pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than cores
    pytest.mark.processes(1),
]

FILES = (40, 30, 25, 41, 20)  # images in each, numbered through
TOTAL = sum(FILES)
RUN = [*TINY, *shlex.split("--train_batch_size 16 --num_quality_samples 0 --num_levels 16 --lr_warmup_steps 2")]


def png(number: int) -> bytes:
    """An image that tells its number, otherwise noise."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
    pixels[0, :2] = divmod(number, 256)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def numbers_of(batch: Batch) -> list[int]:
    levels = ((batch.x_0 + 1) * 127.5).round().long()
    return (levels[:, 0, 0, 0] * 256 + levels[:, 0, 0, 1]).tolist()


def class_of(number: int) -> int:
    return number % 5


def classes(count: int) -> Conditioners:
    return Conditioners((ClassConditioner(count),))


def numbered() -> Iterator[tuple[int, range]]:
    first = 0
    for file, size in enumerate(FILES):
        yield file, range(first, first + size)
        first += size


def write_parquet(folder: Path, contents: list[list[bytes]], row_group_size: int = 1000) -> Path:
    folder.mkdir()
    for file, images in enumerate(contents):
        rows = [{"picture": {"bytes": content, "path": None}, "kind": class_of(i)} for i, content in enumerate(images)]
        features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(num_classes=5)})
        data = datasets.Dataset.from_list(rows, features=features)
        pyarrow.parquet.write_table(
            data.data.table, folder / f"train-{file:05d}.parquet", row_group_size=row_group_size
        )
    total = sum(map(len, contents))
    counted = f"dataset_info:\n  splits:\n  - name: train\n    num_bytes: 0\n    num_examples: {total}\n"
    (folder / "README.md").write_text(f"---\n{counted}---\n")
    return folder


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    contents = [[png(number) for number in numbers] for _, numbers in numbered()]
    folder = write_parquet(tmp_path_factory.mktemp("data") / "parquet", contents)
    for file, numbers in numbered():  # classes by the number, not by the row
        path = folder / f"train-{file:05d}.parquet"
        table = pyarrow.parquet.read_table(path)
        kinds = pyarrow.array([class_of(number) for number in numbers], pyarrow.int64())
        pyarrow.parquet.write_table(table.set_column(1, "kind", kinds).cast(table.schema), path, row_group_size=8)
    return folder


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tars")
    for file, numbers in numbered():
        with tarfile.open(folder / f"train-{file:05d}.tar", "w") as tar:
            for number in numbers:
                for name, content in (("png", png(number)), ("cls", str(class_of(number)).encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    for number in range(TOTAL):
        (folder / str(class_of(number))).mkdir(exist_ok=True)
        (folder / str(class_of(number)) / f"{number:06d}.png").write_bytes(png(number))
    return folder


@pytest.fixture(params=["parquet", "tars", "folder"])
def source(request: pytest.FixtureRequest) -> dict[str, str]:
    """Arguments that name data of each kind."""
    path = str(request.getfixturevalue(request.param))
    return {"train_data_dir": path} if request.param == "folder" else {"dataset_name": path}


def slow(*values: object) -> Any:
    """A case for those who have time."""
    return pytest.param(*values, marks=pytest.mark.slow)


def open_data(buffer: int = 32, **arguments: object) -> ImageData:
    return load_images(DataArguments(streaming=True, shuffle_buffer_size=buffer, **arguments))


def numbers_of_test(data: ImageData) -> list[int]:
    return numbers_of(Batch(data.test.batch(0, len(data.test))[0], {}, []))


def one_by_one(stream: ImageStream, shard: BatchShard, workers: int, epochs: int) -> list[list[int]]:
    """The images that a process reads in each epoch."""
    read: list[list[int]] = [[] for _ in range(epochs)]
    batches = TrainingBatches(stream, shard, 0, 0, seed=3, num_workers=workers)
    with closing(iter(batches)) as iterator:
        for batch in iterator:
            if batches.state["epoch"] == epochs:
                return read
            read[batches.state["epoch"]] += numbers_of(batch)


# --- what is read ---------------------------------------------------------------------------------------------------


# Workers and processes divide the parts alike, one within the other: 3 processes of 2 workers are 6 readers.
@pytest.mark.parametrize(
    ("processes", "workers"),
    [(1, 0), (3, 2), *(slow(*each) for each in [(1, 2), (3, 0), (2, 0), (2, 2), (5, 0), (5, 2)])],
)
def test_every_image_is_read_once_in_an_epoch(source: dict[str, str], processes: int, workers: int) -> None:
    data = open_data(**source)
    held_out = numbers_of_test(data)
    expected = sorted(set(range(TOTAL)) - set(held_out))
    assert 5 <= len(held_out) < 40 and len(set(held_out)) == len(held_out)
    shards = [BatchShard(1, rank=rank, processes=processes) for rank in range(processes)]
    epochs = list(zip(*(one_by_one(data.train, shard, workers, 2) for shard in shards), strict=True))
    for parts in epochs:
        assert sorted(number for part in parts for number in part) == expected
        assert min(len(part) for part in parts) > 0
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_take_all_of_an_epoch_before_the_next_one(parquet: Path, workers: int) -> None:
    data = open_data(dataset_name=str(parquet))
    size = TOTAL - len(data.test)
    with closing(iter(TrainingBatches(data.train, BatchShard(16), 0, 0, seed=0, num_workers=workers))) as iterator:
        read = [number for batch in islice(iterator, 3 * size // 16) for number in numbers_of(batch)]
    for epoch in range(2):
        assert len(set(read[epoch * size : (epoch + 1) * size])) == size


def test_files_are_mixed_and_the_order_is_the_seeds(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_streams, "MANY_PARTS", 4)
    data = open_data(dataset_name=str(parquet))

    def first(seed: int) -> list[int]:
        with closing(iter(TrainingBatches(data.train, BatchShard(16), 0, 0, seed))) as iterator:
            return [number for batch in islice(iterator, 5) for number in numbers_of(batch)]

    read = first(0)
    file_of = {number: file for file, numbers in numbered() for number in numbers}
    assert {file_of[number] for number in read[:16]} == set(range(len(FILES)))
    assert read != sorted(read) and read != first(1) and read == first(0)


def test_flips_and_crops_follow_the_seed(tmp_path: Path) -> None:
    wide = io.BytesIO()
    Image.fromarray(np.arange(16, dtype=np.uint8)[None].repeat(8, 0)).save(wide, "PNG")
    path = write_parquet(tmp_path / "data", [[wide.getvalue()] * 40, [png(number) for number in range(4)]])
    stream = open_data(dataset_name=str(path), resolution=8, test_fraction=0.99).train
    stream = dataclasses.replace(stream, held_out=0.0, data=stream.data.shard(2, 0))

    def starts_and_ends(flip: bool) -> list[tuple[int, int]]:
        with closing(iter(TrainingBatches(stream, BatchShard(40), 0, 0, seed=0, random_flip=flip))) as iterator:
            images = ((next(iterator).x_0 + 1) * 127.5).round()
        return [(int(image[0, 0, 0]), int(image[0, 0, -1])) for image in images]

    plain, flipped = starts_and_ends(False), starts_and_ends(True)
    assert all(end == start + 7 for start, end in plain) and len(set(plain)) > 5 and plain == starts_and_ends(False)
    mirrored = [pair[::-1] == other for pair, other in zip(plain, flipped, strict=True)]
    assert 10 < sum(mirrored) < 30
    assert all(pair == other for pair, other, is_it in zip(plain, flipped, mirrored, strict=True) if not is_it)


def test_labels_arrive_with_their_images(source: dict[str, str]) -> None:
    data = open_data(**source)
    assert [column.name for column in data.train.columns] == [LABELS]
    held_out = numbers_of_test(data)
    assert data.test.columns[LABELS].tolist() == [class_of(number) for number in held_out]
    stream = data.train.reading(classes(5))
    with closing(iter(TrainingBatches(stream, BatchShard(16), 0, 0, seed=0, num_workers=2))) as iterator:
        for batch in islice(iterator, 15):
            assert (
                batch.columns[LABELS].tolist() == [class_of(number) for number in numbers_of(batch)] and not batch.bad
            )
    with closing(iter(TrainingBatches(data.train, BatchShard(16), 0, 0, seed=0))) as iterator:
        assert next(iterator).columns == {}  # nobody needs them


def test_a_class_that_the_model_does_not_know_is_told(parquet: Path) -> None:
    stream = open_data(dataset_name=str(parquet)).train.reading(classes(4))
    with closing(iter(TrainingBatches(stream, BatchShard(64), 0, 0, seed=0))) as iterator:
        batch = next(iterator)
    assert set(batch.columns[LABELS].tolist()) == {0, 1, 2, 3}
    assert all("is of class 4; the model knows 0 ... 3." in sentence for sentence in batch.bad) and batch.bad


def test_copies_of_an_image_are_all_on_one_side(tmp_path: Path) -> None:
    contents = [[png(number) for number in range(60)] for _ in range(3)]
    for data in (
        open_data(dataset_name=str(write_parquet(tmp_path / "parquet", contents)), test_fraction=0.3),
        open_data(train_data_dir=str(_copies_in_folders(tmp_path / "folder", contents)), test_fraction=0.3),
    ):
        held_out = Counter(numbers_of_test(data))
        assert set(held_out.values()) == {3} and 5 < len(held_out) < 35
        (read,) = one_by_one(data.train, BatchShard(1), 0, 1)
        assert Counter(read) == {number: 3 for number in range(60) if number not in held_out}


def _copies_in_folders(folder: Path, contents: list[list[bytes]]) -> Path:
    for copy, images in enumerate(contents):
        (folder / str(copy)).mkdir(parents=True)
        for number, content in enumerate(images):
            (folder / str(copy) / f"{copy}-{number}.png").write_bytes(content)
    return folder


def test_validation_images_are_others_than_test_images(parquet: Path) -> None:
    data = open_data(dataset_name=str(parquet), validation_fraction=0.2)
    validation = numbers_of(Batch(data.validation.batch(0, 500)[0], {}, []))
    (read,) = one_by_one(data.train, BatchShard(1), 0, 1)
    assert sorted([*read, *validation, *numbers_of_test(data)]) == list(range(TOTAL))
    few = open_data(dataset_name=str(parquet), validation_fraction=0.2, max_held_out_images=3)
    assert len(few.test) == len(few.validation) == 3
    assert len({file for file, numbers in numbered() for number in numbers_of_test(few) if number in numbers}) > 1


def test_a_file_of_many_row_groups_is_as_good_as_many_files(tmp_path: Path) -> None:
    contents = [[png(number) for number in range(100)]]
    stream = open_data(dataset_name=str(write_parquet(tmp_path / "data", contents, row_group_size=5))).train
    assert stream.num_parts == 20 and stream.num_workers(6, 4) == 5
    with closing(iter(TrainingBatches(stream, BatchShard(8), 0, 0, 0))) as iterator:
        read = numbers_of(next(iterator))
    assert len({number // 5 for number in read}) > 3 and max(read) - min(read) > 30


def test_a_worker_needs_a_part_of_its_own_or_a_listing(tars: Path, folder: Path) -> None:
    stream = open_data(dataset_name=str(tars)).train
    assert [stream.num_workers(asked, 1) for asked in (0, 3, 5, 9)] == [0, 3, 5, 5]
    assert [stream.num_workers(9, processes) for processes in (2, 5)] == [5, 1]
    assert open_data(train_data_dir=str(folder)).train.num_workers(9, 2) == 9


# --- going on -------------------------------------------------------------------------------------------------------


def read_with_states(stream: ImageStream, workers: int, count: int, size: int, **state: object) -> list[tuple]:
    batches = TrainingBatches(stream, BatchShard(size), 0, 0, 0, random_flip=True, num_workers=workers, **state)
    with closing(iter(batches)) as iterator:
        return [(batch, json.dumps(batches.state)) for batch in islice(iterator, count)]


def assert_same_batches(batches: list[tuple], expected: list[tuple], where: str) -> None:
    for (one, _), (other, _) in zip(batches, expected, strict=True):
        assert torch.equal(one.x_0, other.x_0), where
        assert one.columns.keys() == other.columns.keys() and one.bad == other.bad, where
        assert all(torch.equal(one.columns[name], other.columns[name]) for name in one.columns), where


def assert_goes_on(stream: ImageStream, workers: int, size: int, stops: list[int], count: int) -> None:
    """It is stopped once, after each of these numbers of batches, and then in one go after all of them.

    Workers are processes to start: they are stopped in one go alone, the first time in what was never stopped.
    """
    whole = read_with_states(stream, workers, count, size)
    for stop in stops if workers == 0 else ():
        last = min(stop + 6, count)
        again = read_with_states(stream, workers, last - stop, size, state=json.loads(whole[stop - 1][1]))
        assert_same_batches(again, whole[stop:last], f"after {stop} batches")
    state = None
    for first, last in itertools.pairwise([0, *stops, count]):
        part = read_with_states(stream, workers, last - first, size, state=state)
        assert_same_batches(part, whole[first:last], f"between {first} and {last} batches")
        state = json.loads(part[-1][1])


@pytest.mark.parametrize("stops", [[1, 4, 5, 16, 17, 18], slow([*range(1, 9), *range(14, 22), 35])])
def test_a_reader_goes_on_at_the_next_image_wherever_it_stopped(source: dict[str, str], stops: list[int]) -> None:
    # 139 images or so in blocks of 32, in batches of 8: it stops within and between blocks, and between epochs.
    stream = open_data(**source).train.reading(classes(5))
    assert_goes_on(stream, 0, 8, stops, stops[-1] + 2)


@pytest.mark.parametrize("stops", [[1, 5], slow(range(1, 12))], ids=["twice", "everywhere"])
@pytest.mark.parametrize(("size", "other"), [(32, 8), (8, 32), (24, 7), (29, 11)])
def test_a_reader_goes_on_in_batches_of_another_size(
    parquet: Path, size: int, other: int, stops: Sequence[int]
) -> None:
    stream = open_data(dataset_name=str(parquet)).train.reading(classes(5))

    def numbers(state: dict[str, Any] | None, size: int, count: int) -> tuple[list[int], dict[str, Any]]:
        found = read_with_states(stream, 0, count, size, state=state)
        return [number for batch, _ in found for number in numbers_of(batch)], json.loads(found[-1][1])

    whole, _ = numbers(None, size, stops[-1] + 5)
    for stop in stops:
        before, state = numbers(None, size, stop)
        after, state = numbers(state, other, 7)
        last, _ = numbers(state, size, 2)  # and back again
        found = before + after + last
        assert found[: len(whole)] == whole[: len(found)], f"stopped after {stop} batches"


def test_workers_go_on_in_batches_of_the_same_size_alone(parquet: Path) -> None:
    stream = open_data(dataset_name=str(parquet)).train
    _, state = read_with_states(stream, 2, 3, 8)[-1]
    with pytest.raises(ValueError, match="in turn, in batches of 8; it resumes only with such batches, not with"):
        TrainingBatches(stream, BatchShard(4), 0, 0, 0, num_workers=2, state=json.loads(state))


def test_workers_go_on_at_the_next_image_wherever_they_stopped(source: dict[str, str]) -> None:
    stream = open_data(**source).train.reading(classes(5))
    assert_goes_on(stream, 2, 8, [1, 9, 18], 20)


def test_three_workers_go_on_too_in_whole_files(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_streams, "MANY_PARTS", 4)
    assert_goes_on(open_data(dataset_name=str(parquet)).train, 3, 8, [2, 17], 22)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_larger_than_what_is_read_of_an_epoch_go_on_too(parquet: Path, workers: int) -> None:
    stream = open_data(dataset_name=str(parquet), test_fraction=0.5).train.reading(classes(5))
    assert_goes_on(stream, workers, 50, [1, 3], 4)
    assert_goes_on(stream, workers, 160, [1], 2)


@pytest.mark.parametrize(
    ("processes", "rank", "workers", "stops"), [(2, 1, 0, (2, 11, 17, 24)), (5, 3, 0, (5, 17)), (2, 1, 2, (5, 18))]
)
def test_one_process_of_several_goes_on(
    parquet: Path, processes: int, rank: int, workers: int, stops: tuple[int, ...]
) -> None:
    stream = open_data(dataset_name=str(parquet)).train
    shard = BatchShard(4, rank=rank, processes=processes)

    def read(count: int, state: dict[str, Any] | None = None) -> list[tuple[str, list[int]]]:
        batches = TrainingBatches(stream, shard, 0, 0, seed=0, num_workers=workers, state=state)
        with closing(iter(batches)) as iterator:
            return [(json.dumps(batches.state), numbers_of(batch)) for batch in islice(iterator, count)]

    whole = read(max(stops) + 6)
    for stop in stops:
        assert read(5, json.loads(whole[stop][0])) == whole[stop + 1 : stop + 6]


def test_the_state_is_small_and_of_these_parts_and_workers(parquet: Path) -> None:
    stream = open_data(dataset_name=str(parquet)).train
    _, state = read_with_states(stream, 2, 9, 8)[-1]
    assert len(state) < 4000
    with pytest.raises(
        ValueError, match="of a stream that 2 workers read, now there are 1; a stream resumes only with"
    ):
        TrainingBatches(stream, BatchShard(8), 0, 0, 0, state=json.loads(state))
    with pytest.raises(ValueError, match=f"of a stream of 7 parts, now there are {stream.num_parts}"):
        TrainingBatches(stream, BatchShard(8), 0, 0, 0, num_workers=2, state=json.loads(state) | {"parts": 7})


def test_parts_by_turns_go_on_after_any_entry(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_streams, "MANY_PARTS", 4)  # files, read by their row groups
    data = open_data(dataset_name=str(parquet)).train.data
    assert data.num_shards == len(FILES)
    whole = PartsByTurns(data, [3, 1, 4, 0, 2], "picture", at_once=2)
    states, names = [whole.state], []
    for _, name in whole:
        names.append(name)
        states.append(json.loads(json.dumps(whole.state)))
    first, other = (f"{parquet / f'train-{file:05d}.parquet'}" for file in (3, 1))
    assert len(set(names)) == TOTAL and names[:3] == [
        f"Image 0 of {first}",
        f"Image 0 of {other}",
        f"Image 1 of {first}",
    ]
    for k in range(0, TOTAL + 1, 3):
        again = PartsByTurns(data, [3, 1, 4, 0, 2], "picture", at_once=2, state=states[k])
        assert [name for _, name in islice(again, 12)] == names[k : k + 12]


def test_a_stream_can_be_sent_to_another_process(source: dict[str, str]) -> None:
    stream = open_data(**source).train
    sent = pickle.loads(pickle.dumps(stream))
    assert one_by_one(sent, BatchShard(1), 0, 1) == one_by_one(stream, BatchShard(1), 0, 1)


# --- what cannot be read --------------------------------------------------------------------------------------------


def damaged(count: int = 60, bad: tuple[int, ...] = (7, 23, 41)) -> list[bytes]:
    """Images of which some are cut off in the middle."""
    contents = [png(number) for number in range(count)]
    return [content[: len(content) // 2] if number in bad else content for number, content in enumerate(contents)]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_named_and_passed_over(tmp_path: Path, workers: int) -> None:
    path = write_parquet(tmp_path / "data", [damaged(), [png(number) for number in range(60, 90)]])
    data = open_data(dataset_name=str(path), skip_bad_images=True)
    held_out = [sentence for sentence in data.bad_images if "is not an image that can be read" in sentence]
    stream = dataclasses.replace(data.train, held_out=0.0)
    with closing(iter(TrainingBatches(stream, BatchShard(29), 0, 0, seed=0, num_workers=workers))) as iterator:
        batches = list(islice(iterator, 6))
    assert sorted(number for batch in batches for number in numbers_of(batch)) == sorted(
        2 * [number for number in range(90) if number not in (7, 23, 41)]
    )
    sentences = Counter(sentence for batch in batches for sentence in batch.bad)
    assert set(sentences.values()) == {2}  # in each of two epochs, in the same words
    first = f" of {path / 'train-00000.parquet'}, row group 0 is not an image that can be read: "
    named = sorted(sentence.split(first)[0] for sentence in sentences)
    assert named == ["Image 23", "Image 41", "Image 7"] and set(held_out) <= set(sentences)
    assert_goes_on(stream, workers, 8, [1, 5, 11], 14)


def test_a_held_out_image_that_is_bad_stops_unless_it_is_skipped(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data", [damaged()])
    with pytest.raises(OSError, match=r"Image \d+ of .*, row group 0 is not an image that can be read: .*\.$"):
        open_data(dataset_name=str(path), test_fraction=0.95)
    data = open_data(dataset_name=str(path), test_fraction=0.95, skip_bad_images=True)
    assert len(data.bad_images) == len(set(data.bad_images)) >= 2


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    odd = io.BytesIO()
    Image.fromarray(np.zeros((9, 8), dtype=np.uint8)).save(odd, "PNG")
    path = write_parquet(tmp_path / "data", [[*(png(number) for number in range(50)), odd.getvalue()]])
    stream = dataclasses.replace(open_data(dataset_name=str(path), skip_bad_images=True).train, held_out=0.0)
    with closing(iter(TrainingBatches(stream, BatchShard(50), 0, 0, seed=0))) as iterator:
        sentences = [sentence for batch in islice(iterator, 2) for sentence in batch.bad]
    file = f"{path / 'train-00000.parquet'}, row group 0"
    assert f"Image 50 of {file} has (8, 9) pixels, those before (8, 8); pass --resolution." in sentences


def test_a_process_that_finds_nothing_says_so(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data", [[png(number) for number in range(40)], damaged(20, tuple(range(20)))])
    data = open_data(dataset_name=str(path), skip_bad_images=True)
    told = []
    for rank in range(2):
        for workers in (0, 2):
            batches = TrainingBatches(data.train, BatchShard(4, rank=rank, processes=2), 0, 0, 0, num_workers=workers)
            with closing(iter(batches)) as iterator:
                try:
                    next(iterator)
                except RunStopped as stop:
                    told.append(str(stop))
    assert len(told) == 2 and told[0] == told[1]
    assert told[0].startswith(("Process 0 found no training images", "Process 1 found no training images"))
    assert "train-00001.parquet, row group 0 is not an image that can be read" in told[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_off_is_told_in_a_sentence(tmp_path: Path, tars: Path, workers: int) -> None:
    for path in tars.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = open_data(dataset_name=str(tmp_path), max_held_out_images=2)
    last = sorted(tmp_path.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:5000])
    with (
        closing(iter(TrainingBatches(data.train, BatchShard(8), 0, 0, 0, num_workers=workers))) as iterator,
        pytest.raises(RunStopped, match=rf"^The stream of images stopped: {last} cannot be read after \d+ images: "),
    ):
        list(islice(iterator, 40))


def test_a_file_that_is_gone_is_told_in_a_sentence(
    tmp_path: Path, parquet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_streams, "MANY_PARTS", 4)
    shutil.copytree(parquet, tmp_path / "data")
    data = open_data(dataset_name=str(tmp_path / "data"))
    (tmp_path / "data" / "train-00002.parquet").write_bytes(b"PAR1 no more PAR1")
    with (
        closing(iter(TrainingBatches(data.train, BatchShard(8), 0, 0, 0))) as iterator,
        pytest.raises(
            RunStopped,
            match=r"^The stream of images stopped: .*/train-00002.parquet cannot be read after 0 images: ",
        ),
    ):
        list(islice(iterator, 40))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"test_fraction": 0.6, "validation_fraction": 0.5}, "leave no images to train on"),
        ({"test_fraction": 1e-9}, "has no test images; pass a larger `test_fraction`"),
        ({"label_column": "colour"}, "`label_column` colour is not a column of"),
        ({"shuffle_buffer_size": 0}, "`shuffle_buffer_size` must be at least 1, but is 0"),
    ],
)
def test_what_cannot_be_streamed_is_refused(parquet: Path, arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_images(DataArguments(dataset_name=str(parquet), streaming=True, **arguments))


# --- train.py -------------------------------------------------------------------------------------------------------


def options(path: Path, workers: int = 0, steps: int = 12) -> list[str]:
    more = f"--streaming --shuffle_buffer_size 32 --max_train_steps {steps} --dataloader_num_workers {workers}"
    return [*RUN, *shlex.split(more), "--dataset_name", str(path)]


def assert_same_end(left: Path, right: Path) -> None:
    """Two checkpoints hold the same weights, averages, moments, and places in the stream."""
    for name in ("unet/diffusion_pytorch_model.safetensors", "ema-0.safetensors"):
        one, other = load_file(left / name), load_file(right / name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    one, other = (torch.load(folder / "optimizer.bin", weights_only=True)["state"] for folder in (left, right))
    assert all(torch.equal(one[k][key], other[k][key]) for k in one for key in one[k])
    for place in left.glob("data_*.json"):
        assert place.stat().st_size < 10_000
        one, other = (json.loads((folder / place.name).read_text()) for folder in (left, right))
        assert [one[key] for key in ("epoch", "turn", "rest")] == [other[key] for key in ("epoch", "turn", "rest")]


def assert_nothing_but_progress(output: str) -> None:
    for word in ("Exception", "Traceback", "Warning", "warning", "Too many", "shuffle buffer"):
        assert word not in output, output


def test_a_run_of_a_stream_that_goes_on_ends_as_if_it_had_not_stopped(parquet: Path, tmp_path: Path) -> None:
    arguments = [*options(parquet, workers=2), "--num_class_embeds", 5, "--random_flip", "--checkpointing_steps", 7]
    assert_nothing_but_progress(train(tmp_path / "whole", *arguments))
    (tmp_path / "again").mkdir()
    os.rename(tmp_path / "whole" / "checkpoint-7", tmp_path / "again" / "checkpoint-7")
    output = train(tmp_path / "again", *arguments, *LATEST)
    assert "after step 7 of 12" in output
    assert_nothing_but_progress(output)
    assert_same_end(tmp_path / "whole" / "checkpoint-12", tmp_path / "again" / "checkpoint-12")


@pytest.mark.slow
def test_two_processes_go_on_with_their_parts_of_a_stream(
    scripts: ScriptServer, parquet: Path, tmp_path: Path
) -> None:
    def run(folder: Path, *more: str) -> None:
        processes = start_together(scripts, 2, folder, *options(parquet), "--checkpointing_steps", 7, *more)
        while any(process.code is None for process in processes):
            assert all(not process.code for process in processes), [process.output for process in processes]
            time.sleep(0.05)
        for process in processes:
            assert process.code == 0, process.output
            assert_nothing_but_progress(process.output)

    run(tmp_path / "whole")
    (tmp_path / "again").mkdir()
    os.rename(tmp_path / "whole" / "checkpoint-7", tmp_path / "again" / "checkpoint-7")
    run(tmp_path / "again", *LATEST)
    left, right = tmp_path / "whole" / "checkpoint-12", tmp_path / "again" / "checkpoint-12"
    assert_same_end(left, right)
    first, second = ((left / f"data_{rank}.json").read_text() for rank in range(2))
    assert first != second


STOPPED = shlex.split(
    "--streaming --shuffle_buffer_size 32 --max_train_steps 12 --dataloader_num_workers 2"
    " --gradient_accumulation_steps 2 --checkpointing_steps 100 --checkpoints_total_limit -1 --random_flip"
)
IN_STEP_5 = 9  # the batch that comes in its first window


def assert_goes_on_exactly(tmp_path: Path, go: Callable[..., str]) -> None:
    """`go(folder, code, *arguments)` trains; told whether to stop by the code."""
    go(tmp_path / "unstopped", 0)
    go(tmp_path / "run", 143)
    (stopped,) = (tmp_path / "run").glob("checkpoint-*")
    assert f"after step {stopped.name.partition('-')[2]} of 12" in go(tmp_path / "run", 0, *LATEST)
    shutil.rmtree(stopped)
    assert_same(tmp_path / "run", tmp_path / "unstopped")


def test_a_stream_that_was_stopped_goes_on_exactly(parquet: Path, tmp_path: Path) -> None:
    def go(folder: Path, code: int, *more: object) -> str:
        hooks = (signal_at(IN_STEP_5, "SIGTERM"),) if code else ()
        return train(folder, *RUN, *STOPPED, "--dataset_name", parquet, *more, code=code, during=hooks)

    assert_goes_on_exactly(tmp_path, go)


@pytest.mark.slow  # what each of the processes reads is tested above
def test_a_stream_of_two_processes_with_workers_that_was_stopped_goes_on_exactly(
    scripts: ScriptServer, parquet: Path, tmp_path: Path
) -> None:
    def go(folder: Path, code: int, *more: object) -> str:
        hooks = f'hooks.signal_at({IN_STEP_5}, "SIGTERM", send=hooks.to_all_of_it)' if code else ""
        arguments = [*RUN, *STOPPED, "--dataset_name", parquet, *more]
        return "".join([ended(run, code) for run in start_together(scripts, 2, folder, *arguments, hooks=hooks)])

    assert_goes_on_exactly(tmp_path, go)
    first, second = ((tmp_path / "run" / "checkpoint-12" / f"data_{rank}.json").read_text() for rank in range(2))
    assert first != second


@pytest.mark.slow
def test_a_run_with_workers_that_is_told_to_stop_leaves_a_checkpoint(
    scripts: ScriptServer, parquet: Path, tmp_path: Path
) -> None:
    often = ["--checkpointing_steps", 5, "--checkpoints_total_limit", 1]
    run = start(scripts, tmp_path / "run", *options(parquet, workers=2, steps=100_000), *often)
    while run.code is None and not list((tmp_path / "run").glob("checkpoint-*")):
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGTERM)  # the workers too, as a cluster does
    assert run.wait() == 128 + signal.SIGTERM, run.output
    assert "SIGTERM stopped it" in run.output
    assert_nothing_but_progress(run.output)
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert f"{checkpoint} is whole." in run.output


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_of_a_stream_stops_the_run_which_goes_on_without_it(tmp_path: Path, workers: int) -> None:
    path = write_parquet(tmp_path / "data", [damaged(), [png(number) for number in range(60, 90)]])
    file = re.escape(f"{path / 'train-00000.parquet'}, row group 0")
    arguments = options(path, workers)
    if not workers:
        # It comes in the second window of a step.
        arguments = [*arguments, "--gradient_accumulation_steps", "2", "--train_batch_size", "6"]
    stopped = train(tmp_path / "run", *arguments, code=1)
    assert_nothing_but_progress(stopped)
    assert re.search(rf"Image \d+ of {file} is not an image .*\. Pass --skip_bad_images to skip", stopped)
    assert f"is whole. {GOES_ON}" in stopped
    again = train(tmp_path / "run", *arguments, "--skip_bad_images", *LATEST)
    assert "Going on from" in again
    whole = train(tmp_path / "whole", *arguments, "--skip_bad_images")
    for output in (again, whole):
        assert_nothing_but_progress(output)
        told = re.findall(rf"Image (\d+) of {file} is not an image that can be read", output)
        assert sorted(map(int, told)) == [7, 23, 41]
    assert_same_end(tmp_path / "run" / "checkpoint-12", tmp_path / "whole" / "checkpoint-12")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["bad_images_passed_over"] == 3


def test_a_stream_that_nobody_has_counted_needs_a_number_of_steps(parquet: Path, tars: Path, tmp_path: Path) -> None:
    assert open_data(dataset_name=str(parquet), test_fraction=0.25).train.size == 117
    output = train(tmp_path / "run", *RUN, "--streaming", "--dataset_name", tars, code=2)
    assert "pass --max_train_steps" in output
    assert_nothing_but_progress(output)
