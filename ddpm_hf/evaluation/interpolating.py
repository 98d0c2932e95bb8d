# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Images between two others, through the noise that leads to them (Song, Meng & Ermon 2021, section 5.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..conditioning.columns import Columns, chosen
from ..diffusion.numerics import slerp
from ..pipelines.guidance import Guidance
from ..pipelines.pipeline_ddpm_paper_unclip import DDPMPaperUnCLIPPipeline
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..runtime.randomness import Use, generator_of


def draw_between(
    pipeline: SamplingPipeline,
    ends: Tensor,
    count: int,
    batch_size: int,
    chain: Mapping[str, Any],
    solver_order: int = 1,
    turns: Columns | None = None,
    guidance: Guidance | None = None,
    seed: int = 0,
) -> Tensor:
    """`count` images from the first to the second of two, `[count, C, H, W]` in [0, 1], on the CPU.

    A model that varies images draws them from embeddings between those of the two. For other models both are encoded
    by DDIM's steps without noise, their noises are interpolated along the great circle, and the steps lead back. The
    first and the last are then the two images, as far as steps and autoencoder restore them.

    Args:
        ends: the two images, `[2, C, H, W]` in [−1, 1].
        count: at least 2.
        batch_size: images in a call of the model, at most.
        chain: `num_inference_steps` and `timestep_spacing`, as in a pipeline's call.
        solver_order, guidance: as in `draw_images`.
        turns: columns whose first entry conditions all images; None takes the conditioners' variety.
        seed: of the noise of a model that varies images.
    """
    guided = {**chain, **(guidance or Guidance()).options}
    drawn = {**guided, "eta": 0.0, "solver_order": solver_order, "output_type": "pt"}
    if isinstance(pipeline, DDPMPaperUnCLIPPipeline):
        columns = _times(chosen(turns or {}, [0]), count)
        generator = generator_of(Use.SAMPLING, seed, 0)
        return pipeline.interpolate(*ends, count, generator=generator, **columns, **drawn).images.cpu()
    columns = chosen(pipeline.conditioners.variety() if turns is None else turns, [0])
    first, second = pipeline.encode(ends, **_times(columns, 2), **guided).chunk(2)
    between = torch.cat([slerp(first, second, k / (count - 1)) for k in range(count)])
    parts = [
        pipeline(batch_size=len(part), latents=part, **_times(columns, len(part)), **drawn).images.cpu()
        for part in between.split(batch_size)
    ]
    return torch.cat(parts)


def _times(columns: Columns, count: int) -> dict[str, Any]:
    """Columns of one example, `count` times."""
    return chosen(columns, [0] * count)
