# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A saved model under evaluation, with its scores and samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..compression.codec import Codec
from ..conditioning.classes import LABELS
from ..conditioning.columns import Columns, with_first
from ..data.level_images import LevelImages
from ..likelihood.batches import Batches
from ..likelihood.distortion import RateDistortion, rate_distortion
from ..likelihood.latent_ode import LatentOdeBitsPerDim
from ..likelihood.latents import LatentBitsPerDim
from ..likelihood.ode import OdeBitsPerDim
from ..likelihood.variational import BitsPerDim
from ..pipelines.guidance import Guidance
from ..pipelines.sampling_pipeline import SamplingPipeline
from .arguments import EvaluationArguments
from .real_files import RealFiles, code_images
from .sampling import draw_images, draw_images_by_ode
from .scoring import by_batches, on_chain, paths_report, score, score_by_paths


ODE_TOLERANCE = 1e-3  # relative and absolute: tighter ones change bits/dim by less than its standard error

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class Subject:
    """A model as it is evaluated.

    Attributes:
        pipeline: the model; its scheduler is set to the chain.
        images: the images to score.
        evaluation: how they are scored.
        accelerator: Accelerate's, on all processes.
        guidance: how the model is guided.
    """

    pipeline: SamplingPipeline
    images: LevelImages
    evaluation: EvaluationArguments
    accelerator: Accelerator
    guidance: Guidance = field(default_factory=Guidance)

    def bound(self, progress: Progress | None = None) -> BitsPerDim | LatentBitsPerDim:
        """Bits/dim of the chain."""
        how = (self.accelerator, self.evaluation.batch_size, self.evaluation.num_evaluations, self.evaluation.seed)
        denoiser = self.pipeline.denoiser(self.guidance)
        return score(denoiser, self.pipeline.scheduler, self.images, *how, progress, self.pipeline.bits_per_dim)

    def bound_by_paths(self, progress: Progress | None = None) -> dict[str, Any] | None:
        """The importance-weighted bound of the chain; None if it is not requested."""
        if not self.evaluation.num_paths:
            return None
        how = (self.accelerator, self.evaluation.batch_size, self.evaluation.num_paths, self.evaluation.seed)
        denoiser = self.pipeline.denoiser(self.guidance)
        count = self.pipeline.importance_weighted_bits_per_dim
        return paths_report(score_by_paths(denoiser, self.pipeline.scheduler, self.images, *how, progress, count))

    def rate_distortion(self, progress: Progress | None = None) -> RateDistortion | None:
        """The chain read as progressive compression; None if it is not requested."""
        if not self.evaluation.rate_distortion:
            return None
        denoiser = self.pipeline.denoiser(self.guidance)

        def part(batches: Batches, generator: torch.Generator) -> RateDistortion:
            return rate_distortion(denoiser, self.pipeline.scheduler, batches, generator=generator)

        how = (self.accelerator, self.evaluation.batch_size, self.evaluation.seed)
        return RateDistortion.merged(by_batches(denoiser, self.images, *how, part, progress))

    def files(self, codec: Codec, progress: Progress | None = None) -> RealFiles:
        """Files of some of the images by the model's codec, beside files in other formats."""
        images, conditioners = self.images.spread(self.evaluation.num_coded_images), self.pipeline.conditioners
        labels = images.read_for(conditioners).get(LABELS)
        levels = torch.stack([images.levels(i) for i in range(len(images))])
        return code_images(codec, levels, labels, seed=self.evaluation.seed, progress=progress)

    def likelihood_by_ode(self, calls: int | None = None) -> dict[str, Any]:
        """The likelihood by the probability-flow ODE.

        Args:
            calls: the largest number of model calls, at least 4; None for as many as the tolerance needs.
        """
        images, denoiser = self.images.spread(self.evaluation.num_flow_images), self.pipeline.denoiser(self.guidance)
        solver: dict[str, Any] = {"rtol": ODE_TOLERANCE, "atol": ODE_TOLERANCE}
        if calls is not None:
            solver = {"method": "rk4", "num_steps": calls // 4}

        def part(batches: Batches, generator: torch.Generator) -> OdeBitsPerDim | LatentOdeBitsPerDim:
            options = {**solver, "generator": generator}
            return self.pipeline.ode_bits_per_dim(denoiser, self.pipeline.scheduler, batches, **options)

        how = (self.accelerator, self.evaluation.batch_size, self.evaluation.seed)
        parts = by_batches(denoiser, images, *how, part)
        result = type(parts[0]).merged(parts)
        return {
            "flow_bits_per_dim": result.total,
            "flow_bits_per_dim_standard_error": result.standard_error if len(images) > 1 else None,
            "images": len(images),
            "model_calls_per_image": result.num_model_evaluations / len(images),
            **({"tolerance": ODE_TOLERANCE} if calls is None else solver),
            "log_snr_at_the_start": self.pipeline.scheduler.schedule.log_snr[1].item(),
            "dequantisation": "uniform" if self.pipeline.scheduler.num_levels is not None else None,
            **{f"flow_bits_per_dim_{name.replace(' ', '_')}": bits for name, bits in result.parts.items()},
        }

    def guided_by(self, scale: float) -> Subject:
        """The same model guided by this scale."""
        guidance = dataclasses.replace(self.guidance, guidance_scale=scale)
        guidance.check(self.pipeline.unet, self.pipeline.conditioners_of)
        return dataclasses.replace(self, guidance=guidance)

    def on_chain(self, steps: int, spacing: str) -> Subject:
        """The same model on a chain of `steps` steps, without a progress bar."""
        return dataclasses.replace(self, pipeline=on_chain(self.pipeline, steps, spacing))

    def samples(self, steps: int, spacing: str, eta: float | None = None, solver_order: int = 1) -> Tensor:
        """Samples of a chain in [0, 1], as many as `num_quality_samples`."""
        evaluation = self.evaluation
        how = (evaluation.num_quality_samples, evaluation.batch_size, steps, evaluation.seed, self.accelerator)
        chained = self.on_chain(steps, spacing)
        return draw_images(chained.pipeline, *how, self._turns, spacing, eta, self.guidance, solver_order)

    def samples_by_ode(self, calls: int) -> Tensor:
        """Samples along the ODE in [0, 1], as many as `num_quality_samples`."""
        evaluation = self.evaluation
        how = (evaluation.num_quality_samples, evaluation.batch_size, calls, evaluation.seed, self.accelerator)
        return draw_images_by_ode(self.pipeline, *how, self._turns, self.guidance)

    @property
    def _turns(self) -> Columns:
        """The conditioning that samples take in turn: the model's variety, or if it has none that of the images.

        Of several alternatives of an image, such as captions, it is the first.
        """
        conditioners = self.pipeline.conditioners
        return conditioners.variety() or with_first(self.images.read_for(conditioners))
