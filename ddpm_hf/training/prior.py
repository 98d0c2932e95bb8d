# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""How priors of embeddings are trained and scored: as other diffusions, and shown by the images that they mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..conditioning.columns import Columns
from ..evaluation.sampling import by_number
from ..results import Metrics
from ..runtime.words import plural
from ..tasks.base import DiffusionTask
from .arguments import TrainingArguments
from .diffusion import Diffusion
from .prior_figures import prior_figures
from .run_clock import SAMPLING
from .state import TrainState


class PriorDiffusion(Diffusion):
    """A diffusion of embeddings of images, in the place of images."""

    def check_arguments(self, task: DiffusionTask, training: TrainingArguments) -> None:
        super().check_arguments(task, training)
        if training.num_quality_samples:
            raise ValueError("`num_quality_samples` must be 0: a prior draws embeddings, and no images.")

    def contents(self, state: TrainState) -> Mapping[str, str]:
        count = plural(self.number_of_samples(state), "embedding")
        shown = f"{count} in {plural(state.inference_steps, 'step')}, shown by the training images nearest to them"
        return {**super().contents(state), SAMPLING: shown}

    def draw(self, state: TrainState, count: int) -> Tensor:
        """For embeddings drawn for the captions that are shown, the training image with the nearest embedding."""
        pipeline, encoder = state.pipeline(), state.task.image_encoder
        pipeline.set_progress_bar_config(disable=True)  # the run's progress includes sampling

        def embeds(generators: list[torch.Generator], columns: Columns) -> Tensor:
            chain = {"num_inference_steps": state.inference_steps, "batch_size": len(generators)}
            return pipeline(**columns, **chain, generator=generators).image_embeds

        how = (state.training.scoring_batch_size, state.training.seed, state.accelerator)
        drawn = by_number(embeds, count, *how, state.conditioners.variety())
        images = state.task.images.train
        means = state.data.train.pixels[:, : encoder.width]  # of q(z | x)
        nearest = torch.cdist(encoder.standardised(drawn.cpu()), means).argmin(dim=1)
        return torch.stack([images[int(i)] for i in nearest]) / 2 + 0.5

    def scores(self, state: TrainState, samples: Tensor) -> Metrics:
        figures = super().scores(state, samples)
        encoder = state.task.image_encoder
        return {**figures, **prior_figures(figures, encoder.width, encoder.posterior_std)}
