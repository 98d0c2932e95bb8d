# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The bits/dim of one picture, where they are, and those of its PNG file."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ..conditioning.denoiser import ConditionalDenoiser
from ..evaluation.arguments import ChainArguments
from ..evaluation.file_formats import PNG
from ..evaluation.scoring import follow
from ..likelihood.latents import LatentBitsPerDim
from ..likelihood.variational import BitsPerDim
from ..runtime.randomness import Use, generator_of
from .model import PageModel, Told
from .uploads import Upload


MOST_DRAWS = 32


class Score(NamedTuple):
    """The bound of one picture.

    Attributes:
        result: over copies of the picture, each with its own noise and times.
        png_bytes: the length of its PNG file.
        png_bits_per_dim: the same, in the bound's unit.
    """

    result: BitsPerDim | LatentBitsPerDim
    png_bytes: int
    png_bits_per_dim: float

    @property
    def standard_error(self) -> float:
        """Of the bound, from noise and times; bits/dim."""
        is_single = self.result.num_examples == 1
        return self.result.estimation_error if is_single else self.result.standard_error

    @property
    def calls(self) -> int:
        """Model calls for each draw."""
        return self.result.num_model_evaluations // self.result.num_examples


def score_picture(
    model: PageModel,
    upload: Upload,
    told: Told = None,
    num_evaluations: int = 50,
    draws: int = 8,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Score:
    """The variational bound of a picture along all timesteps, in bits/dim.

    Args:
        told: the picture's class or prompt, if any.
        num_evaluations: model calls for each draw, at least 2; all timesteps if there are no more.
        draws: how often the bound is estimated; all draws are scored side by side.
        progress: is told the share of the calls that are done, in [0, 1].

    Raises:
        ValueError: for a model that has no bound of pictures, or arguments out of range.
    """
    if model.fault_of_scores is not None:
        raise ValueError(model.fault_of_scores)
    if not 1 <= draws <= MOST_DRAWS:
        raise ValueError(f"`draws` must lie in 1 ... {MOST_DRAWS}, but is {draws}.")
    pipeline = model.pipeline
    scheduler = follow(pipeline.scheduler, pipeline.levels_of_examples(upload.num_levels), ChainArguments())
    calls = None if num_evaluations >= len(scheduler) else num_evaluations
    copies = upload.x_0.expand(draws, -1, -1, -1).contiguous()
    conditioning = model.conditioning(copies, told)
    denoiser = _counting(pipeline.denoiser(), calls or len(scheduler), progress)
    batch = (copies.to(pipeline.device), conditioning)
    generator = generator_of(Use.SCORING, seed, 0)
    result = pipeline.bits_per_dim(denoiser, scheduler, [batch], num_evaluations=calls, generator=generator)
    size = len(PNG.file(upload.picture))
    return Score(result, size, size * 8 / math.prod(model.image_shape))


def _counting(
    denoiser: ConditionalDenoiser, total: int, progress: Callable[[float], None] | None
) -> ConditionalDenoiser:
    """The denoiser, which tells of its calls."""
    if progress is None:
        return denoiser
    done = 0

    def denoise(x_t: Tensor, timesteps: Tensor, **conditioning: Any) -> Tensor:
        nonlocal done
        done += 1
        progress(min(1.0, done / total))
        return denoiser(x_t, timesteps, **conditioning)

    return ConditionalDenoiser(denoise, denoiser.conditioners)
