# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The state of a training run of a diffusion model: what Algorithm 1 needs beside that of any run."""

from __future__ import annotations

import dataclasses
import functools

from diffusers import DiffusionPipeline, ModelMixin
from torch import Tensor

from ..conditioning.denoiser import ConditionalDenoiser
from ..conditioning.dropout import draw_dropped
from ..diffusion.denoiser import Denoiser
from ..diffusion.reverse_process import ReverseProcess
from ..diffusion.timestep_sampling import ImportanceTimesteps
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from ..tasks.arguments import DiffusionArguments
from ..tasks.base import DiffusionTask
from .arguments import TrainingArguments
from .run_state import RunState


@dataclasses.dataclass(kw_only=True)
class TrainState(RunState):
    """Everything that a run of a diffusion model needs, built and checked before it starts.

    Attributes:
        diffusion: the arguments of the process, and of what the model learns.
        scheduler: the diffusion process; at the end of the run it has the measured variance.
        importance: draws timesteps by their losses; None if they are drawn in another way.
        inference_steps: number of steps of the samples that are drawn during training and at the end.
    """

    task: DiffusionTask
    training: TrainingArguments
    diffusion: DiffusionArguments
    scheduler: DDPMPaperScheduler
    importance: ImportanceTimesteps | None
    inference_steps: int

    # --- what a training step needs ---

    @functools.cached_property
    def denoise(self) -> Denoiser:
        """The model that is trained, as a denoiser."""
        return self.task.denoiser(self.prepared)

    @functools.cached_property
    def training_process(self) -> ReverseProcess:
        """The reverse process over all timesteps, without clipping, which would stop the gradient."""
        return dataclasses.replace(self.scheduler.process, constrain=None)

    def draw_dropped(self) -> Tensor | None:
        """Which examples of the step lose their conditioning: booleans for all processes together; None for none."""
        probability, device = self.diffusion.conditioning_dropout_prob, self.accelerator.device
        return draw_dropped(probability, self.shard.total, self.training.seed, self.step, device)

    # --- what is sampled, scored and saved ---

    @property
    def denoiser(self) -> ConditionalDenoiser:
        """The model without its wrapper, with its conditioning, as it is scored."""
        return ConditionalDenoiser(self.task.denoiser(self.model), self.conditioners)

    def pipeline(self, model: ModelMixin | None = None) -> DiffusionPipeline:
        """A pipeline of the model, or of another one, with a scheduler of its own."""
        scheduler = DDPMPaperScheduler.from_config(self.scheduler.config)
        return self.task.pipeline(self.model if model is None else model, scheduler)
