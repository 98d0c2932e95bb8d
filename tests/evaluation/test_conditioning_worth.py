# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What conditioning is worth on a data set, its control, and retrieval: with scores that are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm_hf import BitsPerDim, DDPMPaperScheduler
from ddpm_hf.conditioning.captions import PROMPT
from ddpm_hf.conditioning.columns import Columns
from ddpm_hf.conditioning.conditioner import Conditioner, Conditioners
from ddpm_hf.conditioning.denoiser import ConditionalDenoiser
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.evaluation.conditioning_worth import GROUP, guided_report, retrieval_accuracy, worth_of
from ddpm_hf.likelihood.information import grouped_standard_error
from ddpm_hf.reporting.conditioning_figures import save_guided_bounds, save_worth
from ddpm_hf.results import checked


COUNT, SHAPE = 200, (3, 2, 2)
CPU = torch.device("cpu")


class Named(Conditioner):
    """Captions that are the images' numbers; −1 for none."""

    columns, arguments, has_null, worth_name = (PROMPT,), ("number",), True, "caption"

    def fault(self, column: str, value: Any) -> str | None:
        return None

    def check(self, columns: Columns) -> None:
        pass

    def make(self, columns: Columns, device: torch.device) -> dict[str, Tensor]:
        return {"number": torch.tensor([int(each) for each in columns[PROMPT]])}

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        return {"number": torch.full((count,), -1)}

    def variety(self) -> Columns:
        return {}


DENOISER = ConditionalDenoiser(lambda x_t, t, number: x_t, Conditioners((Named(),)))


def images(count: int = COUNT, groups: bool = False) -> LevelImages:
    """Images whose pixels and captions are their numbers; in groups of two if asked for."""
    pixels = torch.arange(count)[:, None, None, None].expand(count, *SHAPE)
    columns: dict[str, Any] = {PROMPT: [str(k) for k in range(count)]}
    if groups:
        columns[GROUP] = [f"group {k // 2}" for k in range(count)]
    return LevelImages.in_memory(pixels, 1000, columns)


def told(denoiser: ConditionalDenoiser, some: LevelImages) -> tuple[Tensor, Tensor]:
    """The number of each image, and the one that its caption says."""
    numbers = torch.stack([some.levels(i)[0, 0, 0] for i in range(len(some))])
    return numbers, denoiser.conditioners.make(some.columns, CPU)["number"]


def scored(denoiser: ConditionalDenoiser, some: LevelImages) -> BitsPerDim:
    """5 bits/dim without a caption, the own caption saves ½ to 1½ of them, another one costs 1."""
    numbers, said = told(denoiser, some)
    saved = torch.where(said < 0, 0.0, torch.where(said == numbers, 0.5 + numbers / COUNT, -1.0)).double()
    bits = 5 - saved
    return BitsPerDim(
        total=bits.mean().item(),
        prior=0.0,
        rate=bits.mean().item() - 1,
        decoder=1.0,
        standard_error=bits.std().item() / math.sqrt(len(bits)),
        estimation_error=0.0,
        per_example=bits.tolist(),
        per_timestep=[1.0, bits.mean().item() - 1],
        timesteps=[0, 1],
        num_examples=len(bits),
        num_model_evaluations=2 * len(bits),
    )


@pytest.mark.parametrize("groups", [False, True])
def test_the_worth_of_captions_and_its_control(groups: bool, tmp_path: Path) -> None:
    some = images(groups=groups)
    worth = worth_of(scored, DENOISER, some, scored(DENOISER, some), seed=3)
    saved = 12 * (0.5 + torch.arange(COUNT, dtype=torch.float64) / COUNT)
    assert worth.without.total == 5 and worth.name == "caption"
    assert worth.own.bits == pytest.approx(saved.mean().item(), rel=1e-6)
    assert worth.own.standard_error == pytest.approx(grouped_standard_error(saved, some.columns.get(GROUP)), rel=1e-6)
    assert worth.shuffled.bits == -12  # no image has kept its own caption
    report = worth.report()
    assert checked(report) == report
    assert report["caption_information_bits"] == worth.own.bits
    assert report["bits_per_dim_unconditional"] == 5
    save_worth(worth.own, worth.shuffled, worth.name, DDPMPaperScheduler(10), tmp_path / worth.picture)
    assert Image.open(tmp_path / "caption_information.png").width > 100


def test_every_image_takes_the_caption_of_another_and_every_caption_is_taken() -> None:
    taken: list[list[str]] = []

    def noted(denoiser: ConditionalDenoiser, some: LevelImages) -> BitsPerDim:
        taken.append(list(some.columns[PROMPT]))
        return scored(denoiser, some)

    for count in (2, 3, 50):
        some = images(count)
        worth_of(noted, DENOISER, some, scored(DENOISER, some), seed=count)
        own, (_, shuffled) = some.columns[PROMPT], taken[-2:]
        assert sorted(shuffled) == sorted(own) and not any(map(str.__eq__, shuffled, own))


def test_guided_bounds_are_told_with_their_excess(tmp_path: Path) -> None:
    some = images(groups=True)
    plain, other = (
        scored(DENOISER, some),
        scored(DENOISER, some.with_columns({**some.columns, PROMPT: ["-1"] * COUNT})),
    )
    rows = guided_report([other, plain], [0.0, 1.0], plain, some)
    assert [(row["guidance_scale"], row["bits_per_dim"]) for row in rows] == [(0.0, 5.0), (1.0, plain.total)]
    assert rows[0]["excess_bits_per_dim"] == pytest.approx(5 - plain.total)
    assert rows[0]["excess_bits_per_dim_standard_error"] > rows[0]["bits_per_dim_standard_error"] == 0
    assert rows[1]["excess_bits_per_dim"] == rows[1]["excess_bits_per_dim_standard_error"] == 0
    save_guided_bounds(rows, tmp_path / "guidance.png")
    assert Image.open(tmp_path / "guidance.png").width > 100


# --- retrieval -------------------------------------------------------------------------------------------------------


def by_oracle(some: LevelImages) -> list[float]:
    return scored(DENOISER, some).per_example


def test_an_oracle_finds_every_caption() -> None:
    for candidates in (2, 16, COUNT):
        assert retrieval_accuracy(by_oracle, images(), 0, candidates) == 1.0


def test_who_takes_every_caption_for_another_finds_none() -> None:
    assert retrieval_accuracy(lambda some: [-bits for bits in by_oracle(some)], images(), 0) == 0.0


def test_who_knows_nothing_finds_by_chance() -> None:
    noise = torch.Generator().manual_seed(0)
    for candidates in (2, 8):
        found = retrieval_accuracy(
            lambda some: torch.rand(len(some), generator=noise).tolist(), images(), 0, candidates
        )
        chance, blocks = 1 / candidates, COUNT // candidates * candidates
        assert abs(found - chance) < 4 * math.sqrt(chance * (1 - chance) / blocks)
        same = retrieval_accuracy(lambda some: [2.5] * len(some), images(), 0, candidates)
        assert same == pytest.approx(chance)  # a model that ignores captions gives all of them the same bits


def test_who_knows_half_of_the_images_finds_half() -> None:
    def half(some: LevelImages) -> list[float]:
        numbers, said = told(DENOISER, some)
        return torch.where(numbers < COUNT // 2, (numbers != said).double(), 0.5).tolist()

    found = retrieval_accuracy(half, images(), 0, 8)
    assert found == pytest.approx(0.5 + 0.5 / 8)


def test_the_noise_of_an_image_cancels() -> None:
    """What an image costs given any caption does not matter."""

    def noisy(some: LevelImages) -> list[float]:
        numbers, said = told(DENOISER, some)
        return (1000 * (numbers.double().sin() + 1) + (numbers != said)).tolist()

    assert retrieval_accuracy(noisy, images(), 0) == 1.0


def test_images_that_fill_no_block_are_left_out() -> None:
    sizes: list[int] = []

    def noted(some: LevelImages) -> list[float]:
        sizes.append(len(some))
        return by_oracle(some)

    assert retrieval_accuracy(noted, images(50), 0, 16) == 1.0
    assert sizes == [48] * 16
    assert retrieval_accuracy(noted, images(15), 0, 16) is None
