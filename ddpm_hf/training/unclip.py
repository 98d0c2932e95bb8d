# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""How decoders of embeddings are trained and scored: as other diffusions, with a prior for pictures and the bound."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..conditioning.captions import PROMPT
from ..results import Metrics
from ..runtime.words import plural
from ..tasks.base import DiffusionTask
from .arguments import TrainingArguments
from .diffusion import Diffusion
from .plan import work_on
from .run_clock import SAMPLING, SCORING, Work
from .state import TrainState
from .unclip_scores import INTERPOLATIONS, ROWS, VARIATIONS, draw_by, save_variations, unclip_scores


class UnCLIPDecoding(Diffusion):
    """A diffusion of images given their embeddings; samples come by way of a prior."""

    def check_arguments(self, task: DiffusionTask, training: TrainingArguments) -> None:
        super().check_arguments(task, training)
        if training.num_quality_samples or training.num_paths:
            raise ValueError("`num_quality_samples` and `num_paths` must be 0; `ddpm-hf evaluate` takes them.")

    def contents(self, state: TrainState) -> Mapping[str, str]:
        drawn = f"{plural(self.number_of_samples(state), 'image')}, variations and interpolations"
        return {**super().contents(state), SAMPLING: f"{drawn} in {plural(state.inference_steps, 'step')} at the end"}

    def work(self, state: TrainState) -> Mapping[str, Work]:
        works = dict(super().work(state))
        more = work_on(state, ROWS * (VARIATIONS + INTERPOLATIONS)).times(state.inference_steps)
        works[SAMPLING] = works[SAMPLING].plus(more)
        every = len(state.scheduler.timesteps)
        calls = state.training.num_evaluations or every
        of_test = work_on(state, len(state.data.test)).times(min(calls, every) * 2)
        works[SCORING] = of_test  # and validation, which costs little
        return works

    def draw(self, state: TrainState, count: int) -> Tensor:
        """Images by way of the prior, from the captions that are shown."""
        pipeline = state.pipeline()
        pipeline.set_progress_bar_config(disable=True)  # the run's progress includes sampling
        return draw_by(state, pipeline, count, {PROMPT: state.conditioners.variety()[PROMPT]})

    def scores(self, state: TrainState, samples: Tensor) -> Metrics:
        save_variations(state)
        return unclip_scores(state) if len(state.data.test) else {}
