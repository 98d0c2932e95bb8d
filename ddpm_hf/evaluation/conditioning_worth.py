# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What a model's conditioning is worth on a data set, and how well the conditioning is found again by Bayes' rule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..conditioning.columns import chosen
from ..conditioning.denoiser import ConditionalDenoiser
from ..data.level_images import LevelImages
from ..likelihood.information import Information, grouped_standard_error, information_of
from ..likelihood.variational import BitsPerDim
from ..runtime.randomness import Use, generator_of


CANDIDATES = 16
GROUP = "group"  # the column of groups of images that are not independent

Score = Callable[[ConditionalDenoiser, LevelImages], BitsPerDim]
"""score(denoiser, images) -> their bound, with noise and times that depend on an image's place alone."""


class Worth(NamedTuple):
    """What conditioning is worth.

    Attributes:
        name: of the conditioning, such as "caption".
        without: the bound without conditioning.
        own: what the images' own conditioning saves.
        shuffled: what another image's conditioning saves, the control: at most 0 for a model that heeds it.
    """

    name: str
    without: BitsPerDim
    own: Information
    shuffled: Information

    @property
    def picture(self) -> str:
        """The name of the file that shows it by noise level."""
        return f"{self.name}_information.png"

    def report(self) -> dict[str, Any]:
        """The figures, under their names in metrics.json."""
        return {
            "bits_per_dim_unconditional": self.without.total,
            "bits_per_dim_unconditional_standard_error": self.without.standard_error,
            f"{self.name}_information_bits": self.own.bits,
            f"{self.name}_information_bits_standard_error": self.own.standard_error,
            f"{self.name}_information_bits_shuffled": self.shuffled.bits,
            f"{self.name}_information_bits_shuffled_standard_error": self.shuffled.standard_error,
        }


def worth_of(score: Score, denoiser: ConditionalDenoiser, images: LevelImages, given: BitsPerDim, seed: int) -> Worth:
    """What the conditioning of the images is worth.

    Args:
        score: scores images.
        denoiser: the model.
        images: at least two images, with the columns of their conditioning.
        given: their bound with their conditioning.
        seed: of the order in which the images take each other's conditioning.
    """
    dimensions, groups = math.prod(images.shape), images.columns.get(GROUP)
    without = score(dataclasses.replace(denoiser, conditioners=denoiser.conditioners.without()), images)
    others = images.with_columns({**images.columns, **chosen(images.columns, of_others(len(images), seed))})
    shuffled = score(denoiser, others)
    return Worth(
        denoiser.conditioners.worth_name,
        without,
        information_of(without, given, dimensions, groups),
        information_of(without, shuffled, dimensions, groups),
    )


def of_others(count: int, seed: int) -> Tensor:
    """For each image another one, at random: the next one in a random circle of all."""
    circle = torch.randperm(count, generator=generator_of(Use.SHUFFLING, seed))
    others = torch.empty_like(circle)
    others[circle] = circle.roll(-1)
    return others


def guided_report(
    guided: Sequence[BitsPerDim], scales: Sequence[float], plain: BitsPerDim, images: LevelImages
) -> list[dict[str, Any]]:
    """The bounds of guided chains, one row for each scale, and how far they are above that of another chain.

    Args:
        guided: the bounds, from the same noise and times as `plain`.
        images: the images, perhaps in groups that are not independent.
    """
    rows = []
    for scale, bound in zip(scales, guided, strict=True):
        bits, fewer = (torch.tensor(each.per_example, dtype=torch.float64) for each in (bound, plain))
        rows.append(
            {
                "guidance_scale": scale,
                "bits_per_dim": bound.total,
                "bits_per_dim_standard_error": bound.standard_error,
                "excess_bits_per_dim": (bits - fewer).mean().item(),
                "excess_bits_per_dim_standard_error": grouped_standard_error(bits - fewer, images.columns.get(GROUP)),
            }
        )
    return rows


def retrieval_accuracy(
    score: Callable[[LevelImages], Sequence[float]], images: LevelImages, seed: int, candidates: int = CANDIDATES
) -> float | None:
    """The share of the images whose own conditioning is the most likely among `candidates`, by Bayes' rule.

    The images are divided at random into blocks of `candidates`, whose conditionings are the candidates, all equally
    likely a priori: the most likely one is that given which the image has the fewest bits. Where several have as few,
    each is taken with the same probability, so that a model that ignores its conditioning finds by chance.

    Args:
        score: the bits/dim of each image given its conditioning, from noise that depends on an image's place alone.
        images: the images; those that fill no block are left out.

    Returns:
        The accuracy, in [0, 1]; 1 / candidates by chance. None for fewer images than candidates.
    """
    blocks = len(images) // candidates
    if blocks == 0:
        return None
    some = torch.randperm(len(images), generator=generator_of(Use.SHUFFLING, seed))[: blocks * candidates]
    images = images.chosen(some)
    place = torch.arange(len(images)).view(blocks, candidates)
    bits = [
        score(images.with_columns(chosen(images.columns, place.roll(-shift, dims=1).flatten())))
        for shift in range(candidates)
    ]
    table = torch.tensor(bits, dtype=torch.float64)  # [candidates, N], the images' own conditioning first
    is_least = (table == table.amin(dim=0)).double()
    return (is_least[0] / is_least.sum(dim=0)).mean().item()
