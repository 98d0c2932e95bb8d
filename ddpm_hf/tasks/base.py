# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The interface between the trainer and a family of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import nn

from ..conditioning.conditioner import Conditioners
from ..data.batches import BatchShard, TrainingBatches
from ..data.image_streams import ImageStream
from ..data.level_images import ImageData, LevelImages
from ..diffusion.denoiser import Denoiser
from ..results import RunFacts
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .arguments import DiffusionArguments


Training = TypeVar("Training")  # the arguments of the training, a dataclass


class Task(ABC):
    """One family of models: what x_0 is, and everything that follows from it.

    It knows the arguments, the data and the model. How its models are trained, scored and sampled is a method of
    `ddpm_hf.training`: families of diffusion models are subclasses of `DiffusionTask`.

    Attributes:
        arguments: dataclasses for the task's command-line arguments: one for the model, one for the data, and one for
            what the model learns.
        model_part: the name of the folder of the model's weights in checkpoints.

    Args:
        model_arguments, data_arguments, objective_arguments: instances of these dataclasses.
    """

    arguments: ClassVar[tuple[type, type, type]]
    model_part: ClassVar[str]

    def __init__(self, model_arguments: Any, data_arguments: Any, objective_arguments: Any):
        self.model_arguments, self.data_arguments = model_arguments, data_arguments
        self.objective_arguments = objective_arguments

    @property
    @abstractmethod
    def skip_bad_examples(self) -> bool:
        """Whether training skips examples that cannot be read."""

    @abstractmethod
    def load_data(self) -> ImageData:
        """The examples x_0 for training, validation and testing, and their columns.

        Raises:
            ValueError, OSError: for data that cannot be trained on.
        """

    def settle(self, data: ImageData, others: Training, used_before: str | None = None) -> tuple[Training, str | None]:
        """Fill in the arguments that the user left open and that depend on the data. By default there are none.

        Args:
            others: arguments of the training.
            used_before: the preset of the run that is resumed; None for a new run, or one without.

        Returns:
            The arguments of the training, and the name of the preset that the values are from, if they are from one.

        Raises:
            ValueError: for a preset that does not fit the data.
        """
        return others, None

    @abstractmethod
    def open_batches(
        self,
        data: ImageData,
        shard: BatchShard,
        steps: tuple[int, int],
        seed: int,
        device: torch.device,
        position: dict[str, Any] | None,
    ) -> TrainingBatches:
        """The batches of one process from the first to before the last of `steps`.

        Args:
            position: the position at which a stream resumes, from `TrainingBatches.state`.

        Raises:
            ValueError: if the stream cannot resume at this position.
        """

    def data_lines(self, data: ImageData) -> tuple[str, ...]:
        """What the examples are, for the summary at the start of a run."""
        return (f"{'x'.join(map(str, data.train.shape))} numbers of {data.train.num_levels} levels",)

    @abstractmethod
    def build_model(self, data: ImageData) -> ModelMixin:
        """The model to train.

        Raises:
            ValueError: for a configuration that does not fit the data.
        """

    @abstractmethod
    def model_settings(self, model: ModelMixin) -> dict[str, Any]:
        """The values of `model_arguments` that build this model."""

    def conditioners(self, model: ModelMixin) -> Conditioners:
        """The conditioners of the model; by default there are none."""
        return Conditioners()

    def fingerprint(self) -> dict[str, Any]:
        """What else determines the result of a run, beside the arguments, the model's configuration and the data."""
        return {}


class DiffusionTask(Task):
    """A family of diffusion models. The trainer knows only this interface.

    A new family is a new subclass, a pipeline that saves its models, and a script that calls `ddpm_hf.cli.train.main`
    with the subclass.

    Attributes:
        arguments: dataclasses for the task's command-line arguments: one for the model, one for the data, and
            `DiffusionArguments` or a subclass with other defaults.
        frozen_parts: parts of the pipeline that training does not change, such as a text encoder; they are saved once.

    Args:
        model_arguments, data_arguments, diffusion: instances of these dataclasses.
    """

    model_part = "unet"
    frozen_parts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model_arguments: Any, data_arguments: Any, diffusion: DiffusionArguments):
        super().__init__(model_arguments, data_arguments, diffusion)

    @property
    def diffusion(self) -> DiffusionArguments:
        """The arguments of the forward process, and of what the model learns."""
        return self.objective_arguments

    @diffusion.setter
    def diffusion(self, arguments: DiffusionArguments) -> None:
        self.objective_arguments = arguments

    @abstractmethod
    def build_scheduler(self, data: ImageData) -> DDPMPaperScheduler:
        """The scheduler to train with."""

    @abstractmethod
    def denoiser(self, model: nn.Module) -> Denoiser:
        """The model, wrapped for training or not, as a denoiser with float32 output."""

    @abstractmethod
    def pipeline(self, model: ModelMixin, scheduler: DDPMPaperScheduler) -> DiffusionPipeline:
        """The pipeline that samples and saves the model.

        It has `denoiser`, `conditioners`, `example_shape`, `bits_per_dim` and `importance_weighted_bits_per_dim` as
        `DDPMPaperPipeline` has them, and takes the columns of its conditioners as arguments.
        """

    def training_images(self, data: ImageData) -> LevelImages | ImageStream:
        """The training images as pixels, which samples are compared with; override it if x_0 is not the image."""
        return data.train

    def facts(self, data: ImageData) -> RunFacts:
        """Facts for metrics.json that differ from those of `data.train`, or come in addition."""
        return {}
