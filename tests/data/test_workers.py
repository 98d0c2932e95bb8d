# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Worker processes that die, or cannot send what they read: the run is told, and never waits for ever."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image

from ddpm_hf.conditioning.classes import LABELS, of_classes
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.batches import Batch, BatchShard, TrainingBatches
from ddpm_hf.data.image_streams import ImageStream
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.data.loading import load_images
from ddpm_hf.runtime.errors import DataUnreadable


SIZE = 40
SENTENCE = (
    r"as happens when memory or shared memory \(/dev/shm; docker run --shm-size sets its size\) is full\. Fewer"
    r" --dataloader_num_workers need less, and with 0 hardly any is needed\."
)


def read(i: int, crop: tuple[float, float] | None) -> torch.Tensor:
    return torch.full((1, 2, 4), i, dtype=torch.uint8)


def images(read: Callable = read) -> LevelImages:
    return LevelImages(SIZE, read, 256, (1, 2, 4), of_classes(torch.arange(SIZE) % 3))


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> ImageStream:
    folder = tmp_path_factory.mktemp("images")
    for i in range(SIZE):
        Image.new("L", (4, 2), i).save(folder / f"{i:02d}.png")
    return load_images(DataArguments(train_data_dir=str(folder), streaming=True, shuffle_buffer_size=8)).train


@pytest.fixture(params=["images", "stream"])
def data(request: pytest.FixtureRequest) -> LevelImages | ImageStream:
    return images() if request.param == "images" else request.getfixturevalue("stream")


def batches_of(data: LevelImages | ImageStream, workers: int = 2, steps: int = 1000) -> Iterator[Batch]:
    return iter(TrainingBatches(data, BatchShard(4), 0, steps, seed=5, num_workers=workers))


def until_the_end(batches: Iterator[Batch]) -> str:
    """The sentence with which they end, after whatever was read before."""
    with pytest.raises(DataUnreadable) as told:
        for _ in batches:
            continue
    return str(told.value)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS], ids=["SIGKILL", "SIGBUS"])
def test_a_worker_that_was_killed_is_told_when_its_batch_is_waited_for(
    data: LevelImages | ImageStream, number: signal.Signals
) -> None:
    others = set(multiprocessing.active_children())
    with closing(batches_of(data)) as batches:
        next(batches)
        worker = (set(multiprocessing.active_children()) - others).pop()
        os.kill(worker.pid, number)
        while Path(f"/proc/{worker.pid}/stat").read_text().split()[2] != "Z":  # torch's exception would come here
            time.sleep(0.01)
        sentence = until_the_end(batches)
    assert re.fullmatch(rf"DataLoader worker \(pid {worker.pid}\) .*, {SENTENCE}", sentence), sentence
    assert set(multiprocessing.active_children()) == others


def test_a_worker_that_is_killed_while_it_is_waited_for_is_told() -> None:
    def killed(i: int, crop: tuple[float, float] | None) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)

    with closing(batches_of(images(killed))) as batches:
        assert "is killed by signal: Killed, as happens when memory" in until_the_end(batches)


@pytest.mark.slow  # torch looks for dead workers every five seconds
def test_a_worker_that_was_killed_is_told_in_a_thread_too() -> None:
    told = []

    def run() -> None:
        others = set(multiprocessing.active_children())
        with closing(batches_of(images())) as batches:
            next(batches)
            (set(multiprocessing.active_children()) - others).pop().kill()
            told.append(until_the_end(batches))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "exited" in told[0] and "as happens when memory or shared memory" in told[0]


def test_shared_memory_that_is_full_is_told(data: LevelImages | ImageStream) -> None:
    full = RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")
    with mock.patch.object(torch.Tensor, "share_memory_", side_effect=full), closing(batches_of(data)) as batches:
        assert until_the_end(batches) == (
            "There is no room left in shared memory (/dev/shm; docker run --shm-size sets its size). Fewer"
            " --dataloader_num_workers need less, and with 0 hardly any is needed."
        )


def test_workers_that_cannot_be_started_are_told() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch("torch.utils.data.dataloader.DataLoader.__iter__", side_effect=full):
        sentence = until_the_end(batches_of(images()))
    assert sentence.startswith("Workers find no room in shared memory (/dev/shm")


def test_a_batch_that_cannot_be_sent_ends_its_worker(capfd: pytest.CaptureFixture) -> None:
    data = images()
    data.columns["unsendable"] = [lambda: None] * SIZE
    with closing(batches_of(data)) as batches:
        assert "exited unexpectedly with exit code 1, as happens" in until_the_end(batches)
    printed = capfd.readouterr()
    assert "A worker that reads images could not send them: " in printed.err and "Traceback" not in printed.err


def test_what_else_goes_wrong_in_a_worker_is_no_lack_of_memory() -> None:
    def wrong(i: int, crop: tuple[float, float] | None) -> torch.Tensor:
        raise RuntimeError("the transformation is wrong")

    with closing(batches_of(images(wrong))) as batches, pytest.raises(RuntimeError, match="transformation is wrong"):
        next(batches)


@pytest.mark.slow  # it takes longer than torch looks for dead workers, every five seconds
def test_a_worker_that_is_slow_is_waited_for() -> None:
    def slowly(i: int, crop: tuple[float, float] | None) -> torch.Tensor:
        time.sleep(1.4)
        return read(i, crop)

    slow, fast = (list(batches_of(images(each), workers, 1)) for each, workers in ((slowly, 1), (read, 0)))
    assert torch.equal(slow[0].x_0, fast[0].x_0) and torch.equal(slow[0].columns[LABELS], fast[0].columns[LABELS])


def test_torch_hears_of_its_workers_again_when_the_batches_have_ended(data: LevelImages | ImageStream) -> None:
    with closing(batches_of(data)) as batches:
        next(batches)
        during = signal.getsignal(signal.SIGCHLD)
    assert signal.getsignal(signal.SIGCHLD) is not during
