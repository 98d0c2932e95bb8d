# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""How diffusion models are trained, measured, sampled, scored and saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from accelerate import Accelerator
from diffusers import DiffusionPipeline, ModelMixin
from torch import Tensor

from ..conditioning.conditioner import Conditioners
from ..data.batches import Batch
from ..data.level_images import ImageData, LevelImages
from ..diffusion.timestep_sampling import ImportanceTimesteps
from ..hub.push import INDEX
from ..results import Metrics
from ..runtime.words import plural
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from ..tasks.base import DiffusionTask
from .arguments import TrainingArguments, check_training_arguments
from .diffusion_plan import example_call, work_of
from .diffusion_scores import all_scores, drawn, with_what_is_measured
from .method import Method, Score
from .run_clock import MEASURING, SAMPLING, SCORING, Work
from .state import TrainState
from .step import StepResult, training_step
from .tracking import Progress
from .worth import scored


STEPS_OF_A_SAMPLE = 100  # at most, by default; a "learned" variance needs all timesteps
IMPORTANCE = "importance"  # the file in checkpoints, without its ending


class Diffusion(Method[TrainState, StepResult]):
    """Algorithm 1 of Ho et al. (2020), the measured variance, samples, and the bound of the chain."""

    index = INDEX

    # --- before the first step ---

    def check_arguments(self, task: DiffusionTask, training: TrainingArguments) -> None:
        check_training_arguments(training, task.diffusion)

    def parts(
        self, task: DiffusionTask, training: TrainingArguments, data: ImageData, accelerator: Accelerator
    ) -> dict[str, Any]:
        scheduler, diffusion = task.build_scheduler(data), task.diffusion
        is_by_loss = diffusion.timestep_sampling == "importance"
        return {
            "diffusion": diffusion,
            "scheduler": scheduler,
            "importance": ImportanceTimesteps(len(scheduler), accelerator.device) if is_by_loss else None,
            "inference_steps": _inference_steps(scheduler, diffusion.ddpm_num_inference_steps),
        }

    def check_conditioning(self, task: DiffusionTask, conditioners: Conditioners) -> None:
        probability = task.diffusion.conditioning_dropout_prob
        if probability > 0 and not conditioners.has_null:
            raise ValueError(
                "`conditioning_dropout_prob` must be 0 for a model without conditioning to drop, but is"
                f" {probability}."
            )

    def state(self, **parts: Any) -> TrainState:
        return TrainState(method=self, **parts)

    def objective(self, state: TrainState) -> str:
        diffusion, schedule = state.diffusion, state.diffusion.ddpm_beta_schedule
        return (
            f"{diffusion.prediction_type}, variance {diffusion.variance_type}, by objective {diffusion.objective};"
            f" {len(state.scheduler)} timesteps, schedule {schedule}"
        )

    def contents(self, state: TrainState) -> Mapping[str, str]:
        test, samples = len(state.data.test), self.number_of_samples(state)
        return {
            MEASURING: "the model's errors on training images",
            SAMPLING: f"{plural(samples, 'image')} in {plural(state.inference_steps, 'step')} at the end",
            SCORING: f"{plural(test, 'test image')} at the end" if test else "validation images",
        }

    def work(self, state: TrainState) -> Mapping[str, Work]:
        return work_of(state)

    def example_call(self, state: TrainState, size: int) -> Callable[[], Any]:
        return example_call(state, size)

    # --- a step ---

    def training_step(self, state: TrainState, batches: Iterator[Batch]) -> StepResult:
        return training_step(state, batches)

    def progress(self, state: TrainState) -> Progress:
        return Progress(len(state.scheduler), state.accelerator.device)

    def note(self, state: TrainState, result: StepResult, progress: Progress) -> None:
        t, losses, sampling_weights, objective_weights, norm = result
        if state.importance is not None:
            state.importance.update(t, objective_weights * losses)
        progress.add(t, losses, sampling_weights * objective_weights, norm)

    # --- checkpoints ---

    def tensors(self, state: TrainState) -> Mapping[str, Mapping[str, Tensor]]:
        return {} if state.importance is None else {IMPORTANCE: state.importance.state_dict()}

    def restore(self, state: TrainState, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        state.importance.load_state_dict(tensors[IMPORTANCE])

    # --- samples, scores and the saved model ---

    def saved(self, state: TrainState, model: ModelMixin) -> DiffusionPipeline:
        return state.pipeline(model)

    def saving_options(self, state: TrainState) -> dict[str, Any]:
        """Names the frozen parts of the pipeline that this run has saved already."""
        is_of_this_run = state.is_saved or state.is_resumed
        there = [name for name in state.task.frozen_parts if is_of_this_run and (state.folder / name).is_dir()]
        return {"parts_there": there} if there else {}

    def draw(self, state: TrainState, count: int) -> Tensor:
        return drawn(state, count)

    def number_of_samples(self, state: TrainState) -> int:
        return max(state.training.eval_batch_size, state.training.num_quality_samples)

    def validate(self, state: TrainState, images: LevelImages) -> Score:
        return scored(state, state.denoiser, images, state.training.num_validation_evaluations)

    def measure(self, state: TrainState) -> None:
        state.scheduler = with_what_is_measured(state)

    def scores(self, state: TrainState, samples: Tensor) -> Metrics:
        return all_scores(state, samples)

    def facts(self, state: TrainState) -> Metrics:
        return {
            "prediction_type": state.scheduler.config.prediction_type,
            "variance_type": state.scheduler.variance_type,
            "timesteps": len(state.scheduler),
            "objective": state.diffusion.objective,
            **state.task.facts(state.data),
        }


def _inference_steps(scheduler: DDPMPaperScheduler, asked: int | None) -> int:
    """The number of steps of a sample; ValueError if the chain cannot have as many as requested."""
    T = len(scheduler)
    most = T if scheduler.process.learns_of_neighbours else STEPS_OF_A_SAMPLE
    steps = min(most, T) if asked is None else asked
    DDPMPaperScheduler.from_config(scheduler.config).set_timesteps(steps)
    return steps
