# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Batches of numbered images: they depend only on the seed and the step, not on the process that reads them."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from ddpm_hf.conditioning.classes import LABELS, of_classes
from ddpm_hf.conditioning.conditioner import Conditioners
from ddpm_hf.data.batches import Batch, BatchShard, EndlessImages, TrainingBatches
from ddpm_hf.data.image_files import BadImage
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.runtime.errors import RunStopped


SIZE = 50
BAD = (7, 23)


def numbered(size: int = SIZE) -> LevelImages:
    """Images that tell their number, and are not their own mirror images."""
    pixels = torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 4)
    pixels[:, :, 0] = torch.tensor([200, 201, 202, 203])
    return LevelImages.in_memory(pixels, 256, of_classes(torch.arange(size) % 3))


def read(i: int, crop: tuple[float, float] | None) -> torch.Tensor:
    """Image i, and in its first row where it was cropped, in percent."""
    if i in BAD:
        raise BadImage(f"{i}.png is not an image that can be read: it is torn.")
    levels = torch.full((1, 2, 4), i, dtype=torch.uint8)
    levels[0, 0, :2] = torch.tensor([int(100 * where) for where in crop or (0.5, 0.5)])
    return levels


def read_on_demand(size: int = SIZE) -> LevelImages:
    return LevelImages(size, read, 256, (1, 2, 4), of_classes(torch.arange(size) % 3))


def levels_of(batch: Batch) -> torch.Tensor:
    return ((batch.x_0 + 1) * 127.5).round().long()


def numbers_of(batch: Batch) -> list[int]:
    return levels_of(batch)[:, 0, 1, 0].tolist()


def take(images: LevelImages, shard: BatchShard, steps: tuple[int, int] = (0, 12), **options: object) -> list[Batch]:
    return list(TrainingBatches(images, shard, *steps, seed=5, **options))


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    for batch, other in zip(batches, others, strict=True):
        assert torch.equal(batch.x_0, other.x_0) and torch.equal(batch.columns[LABELS], other.columns[LABELS])
        assert batch.bad == other.bad


@pytest.mark.parametrize("batch_size", [8, 50, 120])
def test_every_image_comes_once_in_an_epoch(batch_size: int) -> None:
    batches = take(numbered(), BatchShard(batch_size), (0, 1 + 300 // batch_size))
    order = [number for batch in batches for number in numbers_of(batch)]
    epochs = [order[start : start + SIZE] for start in range(0, 300, SIZE)]
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert [label for batch in batches for label in batch.columns[LABELS].tolist()] == [number % 3 for number in order]


def in_groups() -> LevelImages:
    """Groups of 1, 2 … images, the last of 5."""
    names = [f"group {group}" for group in range(9) for _ in range(1 + group)][::-1]
    return numbered().in_groups(names + ["the last"] * 5)


def test_an_epoch_has_one_image_of_every_group_anew() -> None:
    images = in_groups()
    assert images.epoch_size == 10 and len(images) == SIZE
    for each in (images.reading(Conditioners(())), images.reduced(1), images.cropped(2)):
        assert each.epoch_size == 10
    order = [number for batch in take(images, BatchShard(50), (0, 80)) for number in numbers_of(batch)]
    epochs = [order[start : start + 10] for start in range(0, len(order), 10)]
    assert all(sorted(images.groups[epoch].tolist()) == list(range(10)) for epoch in epochs)
    uses, expected = Counter(order), len(epochs) / images.groups.bincount()[images.groups]
    chi_squared = sum((uses[k] - expected[k]) ** 2 / expected[k] for k in range(SIZE))
    assert chi_squared < 80  # of 40 degrees of freedom, exceeded once in 5000 times
    first = [next(iter(epoch)) for epoch in epochs]
    assert len({int(images.groups[number]) for number in first}) == 10  # no group comes first by itself


@pytest.mark.parametrize(
    "images", [numbered(), read_on_demand(), in_groups()], ids=["in memory", "on demand", "in groups"]
)
def test_who_reads_changes_nothing(images: LevelImages) -> None:
    whole = take(images, BatchShard(24), random_flip=True)
    for processes, accumulation in ((1, 2), (2, 1), (3, 1), (2, 3), (1, 24)):
        size = 24 // processes // accumulation
        shards = [BatchShard(size, accumulation, rank, processes) for rank in range(processes)]
        windows = zip(*(take(images, shard, random_flip=True) for shard in shards), strict=True)
        parts = [part for window in windows for part in window]  # as the places of a step lie
        joined = [parts[k : k + 24 // size] for k in range(0, len(parts), 24 // size)]
        for batch, pieces in zip(whole, joined, strict=True):
            assert torch.equal(batch.x_0, torch.cat([piece.x_0 for piece in pieces]))
            assert torch.equal(batch.columns[LABELS], torch.cat([piece.columns[LABELS] for piece in pieces]))
            assert batch.bad == [sentence for piece in pieces for sentence in piece.bad]
    assert_same(take(images, BatchShard(24), random_flip=True, num_workers=2), whole)


@pytest.mark.parametrize(
    "images", [numbered(), read_on_demand(), in_groups()], ids=["in memory", "on demand", "in groups"]
)
def test_a_run_goes_on_with_the_batch_it_would_have_read(images: LevelImages) -> None:
    whole = take(images, BatchShard(7, accumulation=2), random_flip=True)
    for step in range(12):
        assert_same(take(images, BatchShard(7, accumulation=2), (step, 12), random_flip=True), whole[2 * step :])


def test_another_seed_is_another_order_and_torchs_own_randomness_stays() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = (next(iter(TrainingBatches(numbered(), BatchShard(50), 0, 1, seed))) for seed in (0, 1))
    list(TrainingBatches(numbered(), BatchShard(50), 0, 1, 0, num_workers=1))
    assert numbers_of(first) != numbers_of(second)
    assert torch.equal(torch.get_rng_state(), before)


def test_half_of_the_images_are_mirrored_and_nothing_else_changes() -> None:
    plain, flipped = (take(numbered(), BatchShard(50), (0, 20), random_flip=flip) for flip in (False, True))
    mirrored: Counter[int] = Counter()
    for batch, other in zip(plain, flipped, strict=True):
        assert numbers_of(batch) == numbers_of(other)
        for number, image, flip in zip(numbers_of(batch), batch.x_0, other.x_0, strict=True):
            mirrored[number] += torch.equal(flip, image.flip(-1))
            assert torch.equal(flip, image.flip(-1)) or torch.equal(flip, image)
    assert 430 < sum(mirrored.values()) < 570
    assert min(mirrored.values()) > 2 and max(mirrored.values()) < 18  # of 20: not by the image


def test_crops_are_anywhere_and_of_their_place_alone() -> None:
    batches = take(read_on_demand(), BatchShard(50), (0, 8))
    crops = torch.cat([levels_of(batch)[:, 0, 0, :2] for batch in batches])
    assert crops.min() < 3 and crops.max() > 96 and (crops.float().mean(0) - 49.5).abs().max() < 5
    assert len({tuple(crop) for crop in crops.tolist()}) > 350


def test_the_next_image_comes_in_the_place_of_a_bad_one() -> None:
    batches = take(read_on_demand(), BatchShard(25), (0, 4))
    for epoch in (batches[:2], batches[2:]):
        assert Counter(number for batch in epoch for number in numbers_of(batch)) == Counter(range(SIZE)) - Counter(
            BAD
        ) + Counter(number + 1 for number in BAD)
        assert sorted(sentence for batch in epoch for sentence in batch.bad) == [
            "23.png is not an image that can be read: it is torn.",
            "7.png is not an image that can be read: it is torn.",
        ]
    for batch in batches:
        assert batch.columns[LABELS].tolist() == [number % 3 for number in numbers_of(batch)]


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_but_bad_images_ends_in_a_sentence(workers: int) -> None:
    def torn(i: int, crop: object) -> torch.Tensor:
        raise BadImage(f"{i}.png is not an image that can be read: it is torn.")

    images = LevelImages(3, torn, 256, (1, 2, 4))
    with pytest.raises(RunStopped, match=r"^None of the training images can be read: \d.png is not an image"):
        take(images, BatchShard(2), num_workers=workers)


def test_batches_of_images_to_score_leave_out_bad_ones_only_if_that_is_asked_for() -> None:
    images = read_on_demand()
    with pytest.raises(BadImage, match=r"7\.png"):
        images.batch(5, 10)
    batch, columns = images.batch(5, 10, skip_bad=True)
    assert ((batch[:, 0, 1, 0] + 1) * 127.5).round().tolist() == [5, 6, 8, 9]
    assert columns[LABELS].tolist() == [2, 0, 2, 0]
    assert images.batch(7, 8, skip_bad=True)[0].shape == (0, 1, 2, 4)
    assert [len(part) for part in numbered().spread(33).batches(10)] == [10, 10, 10, 3]


def read_whole(i: int, crop: tuple[float, float] | None) -> torch.Tensor:
    return torch.full((1, 2, 4), i, dtype=torch.uint8)


@pytest.mark.parametrize(
    "images",
    [numbered(), LevelImages(SIZE, read_whole, 256, (1, 2, 4), of_classes(torch.arange(SIZE) % 3))],
    ids=["in memory", "on demand"],
)
@pytest.mark.parametrize("count", [1, 7, 33, 49, 50, 300])
def test_some_images_are_of_all_parts_of_a_data_set(images: LevelImages, count: int) -> None:
    some = images.spread(count)
    levels, columns = some.batch(0, len(some))
    found = numbers_of(Batch(levels, columns, []))
    assert found == [k * SIZE // min(count, SIZE) for k in range(min(count, SIZE))]
    assert columns[LABELS].tolist() == [number % 3 for number in found]
    assert torch.equal(torch.cat(list(images.batches(8, count))), levels)


def test_images_of_many_levels_reach_both_ends() -> None:
    pixels = torch.tensor([0, 65535], dtype=torch.int32).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    batch = next(iter(TrainingBatches(LevelImages.in_memory(pixels, 65536), BatchShard(2), 0, 1, 0)))
    assert batch.x_0.dtype == torch.float32 and batch.columns == {}
    assert set(batch.x_0.unique().tolist()) == {-1.0, 1.0}


def test_a_place_is_read_alike_from_any_batch() -> None:
    endless = EndlessImages(read_on_demand(), seed=2, random_flip=True)
    whole = endless.__getitems__(range(40, 130)).levels
    for start, stop in itertools.pairwise([40, 41, 57, 99, 100, 101, 130]):
        fresh = EndlessImages(read_on_demand(), seed=2, random_flip=True)
        assert torch.equal(fresh.__getitems__(range(start, stop)).levels, whole[start - 40 : stop - 40])
