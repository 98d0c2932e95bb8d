# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Latents of a data set: drawn anew for training, computed once, and never another encoder's or of other images."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import image_folders
import pytest
import torch
from torch import Tensor

from ddpm_hf.data.batches import BatchShard, TrainingBatches
from ddpm_hf.data.latents import LatentImages, digest_of, latents_of
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.diffusion.diagonal_gaussian import DiagonalGaussian


CPU = torch.device("cpu")


@dataclasses.dataclass
class Halves:
    """An encoder of three channels, all of them the means of the left and of the right half of every row."""

    log_variance: float = -4.0
    calls: int = 0

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        self.calls += len(x)
        mean = torch.stack([half.mean(dim=(1, 3)) for half in x.chunk(2, dim=3)], dim=2)  # [B, 4, 2]
        mean = mean[:, None].expand(-1, 3, -1, -1).contiguous()
        return DiagonalGaussian(mean, torch.full_like(mean, self.log_variance))


def pictures(count: int = 10, seed: int = 0) -> LevelImages:
    draws = torch.Generator().manual_seed(seed)
    levels = torch.randint(256, (count, 1, 4, 4), generator=draws, dtype=torch.uint8)
    return LevelImages.in_memory(levels, 256, {"class_labels": torch.arange(count)})


def read(images: LatentImages, steps: int, flip: bool = False, **shard: int) -> list[Tensor]:
    batches = TrainingBatches(images, BatchShard(**{"batch_size": 10, **shard}), 0, steps, seed=3, random_flip=flip)
    return [batch.x_0 for batch in batches]


def test_latents_are_continuous_and_have_the_columns_of_their_images(tmp_path: Path) -> None:
    images = pictures()
    latents = latents_of(images, Halves(), "a", tmp_path, CPU, batch_size=4)
    assert latents.shape == (3, 4, 2) and latents.num_levels is None and len(latents) == 10
    q = Halves().posterior(images.batch(0, 10)[0])
    z, columns = latents.batch(0, 10)
    assert torch.equal(columns["class_labels"], torch.arange(10))
    assert (z - q.mean).abs().max() < 5 * math.exp(-2)
    assert torch.equal(latents.batch(4, 7)[0], z[4:7]) and torch.equal(latents[4], z[4])  # the same every time
    assert latents.spread(5).images.size == 5
    assert latents.narrowest == pytest.approx(-4.0)


def test_every_epoch_draws_other_latents_with_the_posteriors_moments(tmp_path: Path) -> None:
    images = pictures()
    latents = latents_of(images, Halves(), "a", tmp_path, CPU)
    mean = Halves().posterior(images.batch(0, 10)[0]).mean
    epochs = torch.stack(read(latents, 400))  # of 10 images each, in another order every time
    ordered = torch.stack([epoch[_nearest(epoch, mean)] for epoch in epochs])
    noise = (ordered - mean) / math.exp(-2)
    assert noise.mean().abs() < 5 / math.sqrt(noise.numel())
    assert abs(noise.std() - 1) < 5 / math.sqrt(2 * noise.numel())
    assert not torch.equal(ordered[0], ordered[1])


def _nearest(drawn: Tensor, mean: Tensor) -> Tensor:
    """For every image the place of its latents in a batch."""
    return torch.cdist(mean.flatten(1), drawn.flatten(1)).argmin(dim=1)


def test_processes_and_windows_draw_what_one_draws(tmp_path: Path) -> None:
    latents = latents_of(pictures(), Halves(), "a", tmp_path, CPU)
    (whole,) = read(latents, 1)
    windows = read(latents, 1, batch_size=5, accumulation=2)
    ranks = [read(latents, 1, batch_size=5, rank=rank, processes=2)[0] for rank in range(2)]
    assert torch.equal(torch.cat(windows), whole) and torch.equal(torch.cat(ranks), whole)


def test_a_mirrored_image_has_latents_of_its_own(tmp_path: Path) -> None:
    images = pictures()
    latents = latents_of(images, Halves(-40.0), "a", tmp_path, CPU, with_mirrored=True)
    x = images.batch(0, 10)[0]
    own, mirrored = (Halves().posterior(version).mean for version in (x, x.flip(-1)))
    drawn = torch.cat(read(latents, 20, flip=True))
    distances = torch.cdist(drawn.flatten(1), torch.cat([own, mirrored]).flatten(1))
    nearest = distances.argmin(dim=1)
    assert distances.min(dim=1).values.max() < 2e-3  # nothing but latents of images and of mirror images
    assert 60 < (nearest >= 10).sum() < 140  # half of 200
    assert torch.allclose(latents.batch(0, 10)[0], own, atol=1e-4)


def test_what_is_computed_once_is_read_again(tmp_path: Path) -> None:
    first, second = Halves(), Halves()
    one = latents_of(pictures(), first, "a", tmp_path, CPU)
    two = latents_of(pictures(), second, "a", tmp_path, CPU)
    assert (first.calls, second.calls) == (10, 0) and torch.equal(one.pixels, two.pixels)


@pytest.mark.parametrize("change", ["encoder", "images", "mirrored"])
def test_another_encoder_other_images_and_mirror_images_are_computed(tmp_path: Path, change: str) -> None:
    latents_of(pictures(), Halves(), "a", tmp_path, CPU)
    again = Halves(-2.0)
    images, name = pictures(seed=int(change == "images")), "b" if change == "encoder" else "a"
    found = latents_of(images, again, name, tmp_path, CPU, with_mirrored=change == "mirrored")
    assert again.calls == 10 * (1 + (change == "mirrored")) and found.narrowest == pytest.approx(-2.0)


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_damaged_file_is_written_anew(tmp_path: Path, length: int) -> None:
    latents_of(pictures(), Halves(), "a", tmp_path, CPU)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:length])
    again = Halves()
    latents_of(pictures(), again, "a", tmp_path, CPU)
    assert again.calls == 10
    latents_of(pictures(), again, "a", tmp_path, CPU)
    assert again.calls == 10


def test_latents_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The latents are not finite for some images; run the autoencoder in float32"):
        latents_of(pictures(), Halves(math.nan), "a", tmp_path, CPU)
    assert not list(tmp_path.glob("*.safetensors"))


def test_images_that_are_not_in_memory_are_told_apart_by_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddpm_hf.data.loading.LARGEST_IN_MEMORY", 0)
    folder = image_folders.save(tmp_path / "a", [f"{k}.png" for k in range(8)])
    other = image_folders.save(tmp_path / "b", [f"{k}.png" for k in range(10)])
    first, again, larger = (
        image_folders.load(each, test_fraction=0.25, **size).train
        for each, size in ((folder, {}), (folder, {}), (folder, {"resolution": 8}))
    )
    assert first.pixels is None
    others = [larger, image_folders.load(other, test_fraction=0.25).train, first.spread(3)]
    assert digest_of(first) == digest_of(again)
    assert digest_of(first) not in set(map(digest_of, others))
    assert len(latents_of(first, Halves(), "a", tmp_path / "cache", CPU)) == len(first)
