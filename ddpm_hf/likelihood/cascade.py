# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The bound of a cascade: models of images of growing resolution, each given the image of the stage before.

Let low(x) be a function of x, such as the mean over boxes of pixels rounded to the levels of the data. Then
p(x) ≥ p(low(x)) p(x | low(x)) for any two models, with equality if the second one only draws x with this low(x), so

    −log₂ p(x) ≤ bits(low(x)) + bits(x | low(x))

and so on for more stages. A stage that is given low(x) with noise averages its bits over the noise, which leaves a
bound by Jensen's inequality. The levels must be discrete: for densities the inequality does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .information import grouped_standard_error
from .summary import Summary
from .variational import BitsPerDim


class StageBits(NamedTuple):
    """The part of one stage.

    Attributes:
        total: bits per dimension of the cascade's images.
        standard_error: of `total`, for other examples like these.
        own: bits per dimension of the stage's own images.
        dimensions: number of dimensions of the stage's own images.
    """

    total: float
    standard_error: float
    own: float
    dimensions: int


@dataclass(frozen=True, repr=False)
class CascadeBitsPerDim(Summary):
    """The bound of a cascade over a data set, in bits per dimension of the last stage's images.

    Attributes:
        total: the sum of the stages, an upper bound on the mean negative log-likelihood.
        standard_error: of `total`, for other examples like these.
        estimation_error: of `total` as an estimate of the bound of these very examples; see `BitsPerDim`.
        per_example: the bound of each example, in order; their mean is `total`.
        stages: the part of each stage, from the lowest resolution to the highest.
        num_examples: number of examples scored.
        num_model_evaluations: number of model calls in total, of all stages.
    """

    total: float
    standard_error: float
    estimation_error: float
    per_example: list[float]
    stages: list[StageBits]
    num_examples: int
    num_model_evaluations: int

    HEADLINES = ("total", "standard_error", "num_examples")

    def __str__(self) -> str:
        parts = " + ".join(f"{stage.total:.4f} of stage {k}" for k, stage in enumerate(self.stages, 1))
        return f"{self.first_line}\n= {parts}\n{self.last_line}"


def cascade_bits_per_dim(
    results: Sequence[BitsPerDim], dimensions: Sequence[int], groups: Sequence[Hashable] | None = None
) -> CascadeBitsPerDim:
    """The bound of a cascade from those of its stages (Ho et al. 2022, section 2.2, has the model).

    Args:
        results: the bound of each stage, from the lowest resolution to the highest: the first of low-resolution
            images, each other one of larger images given those. All are of the same examples in the same order.
        dimensions: number of dimensions of each stage's images.
        groups: the group of each example; examples of one group, such as variants of a picture, are not independent.

    Raises:
        ValueError: for no stages, for stages of different examples, or for dimensions that do not grow.
    """
    sizes = list(dimensions)
    if not results or len(results) != len(sizes):
        raise ValueError(
            f"`dimensions` must have one number for each of `results`, at least one, but {len(sizes)} are given for"
            f" {len(results)}."
        )
    if sizes != sorted(set(sizes)) or sizes[0] < 1:
        raise ValueError(f"`dimensions` must grow from stage to stage, but are {sizes}.")
    counts = [each.num_examples for each in results]
    if len(set(counts)) > 1:
        raise ValueError(f"`results` must be of the same examples, but are of {counts}.")
    shares = [size / sizes[-1] for size in sizes]
    bits = torch.tensor([each.per_example for each in results], dtype=torch.float64, device="cpu")  # [stages, N]
    parts = bits * torch.tensor(shares, dtype=torch.float64, device="cpu")[:, None]
    errors = [share * each.estimation_error for share, each in zip(shares, results, strict=True)]
    return CascadeBitsPerDim(
        total=parts.sum(dim=0).mean().item(),
        standard_error=grouped_standard_error(parts.sum(dim=0), groups),
        estimation_error=math.sqrt(math.fsum(error**2 for error in errors)),
        per_example=parts.sum(dim=0).tolist(),
        stages=[
            StageBits(part.mean().item(), grouped_standard_error(part, groups), result.total, size)
            for part, result, size in zip(parts, results, sizes, strict=True)
        ],
        num_examples=counts[0],
        num_model_evaluations=sum(each.num_model_evaluations for each in results),
    )
