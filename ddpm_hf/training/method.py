# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The interface between the trainer and a kind of model, such as diffusion models or autoencoders.

The trainer reads the data, takes steps, averages the weights, writes checkpoints, and says what is due when. A method
says what a step is, and what is measured, sampled, scored and saved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor

from ..conditioning.conditioner import Conditioners
from ..data.batches import Batch
from ..data.level_images import ImageData, LevelImages
from ..results import Metrics
from ..tasks.base import Task
from .run_clock import Work
from .tracking import StepFigures


State = TypeVar("State")  # of a run of this kind, a subclass of `RunState`
Result = TypeVar("Result")  # of a training step


class Score(Protocol):
    """Bits/dim over images, or another figure that training makes smaller."""

    @property
    def total(self) -> float: ...

    @property
    def standard_error(self) -> float: ...


class Saved(Protocol):
    """A model, or a pipeline around it, that can be saved."""

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> Any: ...


class Method(ABC, Generic[State, Result]):
    """How models of one kind are trained, measured, sampled, scored and saved; it holds no state.

    Attributes:
        index: the file that is written last when a model is saved, so that it marks a complete model.
        score_name: the name of the score in metrics.json.
    """

    index: ClassVar[str]
    score_name: ClassVar[str] = "bits_per_dim"

    # --- before the first step ---

    @abstractmethod
    def check_arguments(self, task: Task, training: Any) -> None:
        """Raise ValueError, naming the argument, for arguments out of range or that contradict each other."""

    @abstractmethod
    def parts(self, task: Task, training: Any, data: ImageData, accelerator: Accelerator) -> dict[str, Any]:
        """What the state has beside that of any run, by name.

        Raises:
            ValueError: for arguments that do not fit the data.
        """

    def check_conditioning(self, task: Task, conditioners: Conditioners) -> None:
        """Raise ValueError for arguments that do not fit the model's conditioning."""

    @abstractmethod
    def state(self, **parts: Any) -> State:
        """The state of a run, from its attributes."""

    @abstractmethod
    def objective(self, state: State) -> str:
        """What the model learns, for the summary at the start of a run."""

    @abstractmethod
    def contents(self, state: State) -> Mapping[str, str]:
        """What is measured, sampled and scored, by phase, for the summary."""

    @abstractmethod
    def work(self, state: State) -> Mapping[str, Work]:
        """The model calls of this process after the current step, by phase, without those of the training."""

    @abstractmethod
    def example_call(self, state: State, size: int) -> Callable[[], Any]:
        """A call of the model with a batch of `size` images, of which the trainer takes the time."""

    # --- a step ---

    @abstractmethod
    def training_step(self, state: State, batches: Iterator[Batch]) -> Result:
        """Take an optimisation step with the next `state.shard.accumulation` batches."""

    @abstractmethod
    def progress(self, state: State) -> StepFigures:
        """A new collector of what steps report."""

    @abstractmethod
    def note(self, state: State, result: Result, progress: Any) -> None:
        """Take the result of a step into the state and the collector."""

    # --- checkpoints ---

    def tensors(self, state: State) -> Mapping[str, Mapping[str, Tensor]]:
        """Tensors of a checkpoint beside weights, averages and optimiser, by the name of their file and their own."""
        return {}

    def restore(self, state: State, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take back what `tensors` gave; it is called where that was not empty."""

    # --- samples, scores and the saved model ---

    @abstractmethod
    def saved(self, state: State, model: ModelMixin) -> Saved:
        """What is saved of a model with these weights."""

    def saving_options(self, state: State) -> dict[str, Any]:
        """Arguments of the `save_pretrained` of `saved`."""
        return {}

    @abstractmethod
    def draw(self, state: State, count: int) -> Tensor:
        """`count` images `[count, C, H, W]` in [0, 1] for a grid, the same every time, by all processes together."""

    @abstractmethod
    def number_of_samples(self, state: State) -> int:
        """The number of images that are drawn at the end; a grid shows the first of them."""

    def columns(self, count: int) -> int | None:
        """The number of columns of a grid of `count` images; None for as many as rows."""
        return None

    @abstractmethod
    def validate(self, state: State, images: LevelImages) -> Score:
        """The score of validation images during training, by all processes together."""

    @abstractmethod
    def measure(self, state: State) -> None:
        """Measure at the end what the saved model needs, on training images, and keep it in the state."""

    @abstractmethod
    def scores(self, state: State, samples: Tensor) -> Metrics:
        """All figures of a finished run but the facts, by all processes together.

        Figures of the samples are computed by the main process alone.
        """

    @abstractmethod
    def facts(self, state: State) -> Metrics:
        """The facts on the model and what it learned from."""
