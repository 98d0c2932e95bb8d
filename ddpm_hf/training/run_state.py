# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The state of a training run of any kind of model: everything that it needs, and its progress."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedType
from accelerate.utils import DynamoBackend, gather_object
from diffusers import ModelMixin
from torch import Tensor, nn

from ..conditioning.conditioner import Conditioners
from ..conditioning.truncation import TruncationCount
from ..data.batches import BatchShard, TrainingBatches
from ..data.image_streams import ImageStream
from ..data.level_images import ImageData
from ..results import Validation
from ..runtime.randomness import seed_dropout
from ..tasks.base import Task
from .arguments import RunArguments
from .flat_weights import FlatWeights
from .method import Method
from .pushing import Pusher
from .run_clock import TRAINING, RunClock
from .tracking import Trackers
from .weight_averages import WeightAverage


DIVIDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


@dataclasses.dataclass(kw_only=True)
class RunState:
    """Everything that a run needs, built and checked before it starts.

    Attributes:
        task: the family of models that is trained.
        method: how models of this kind are trained, scored, sampled and saved.
        training: the arguments.
        accelerator: Accelerate's object for all processes.
        folder: the output folder.
        data: the examples.
        model: the model without Accelerate's wrapper, which is sampled, scored, averaged and saved.
        conditioners: build the model's conditioning.
        prepared: the model in Accelerate's wrapper, which is trained.
        optimizer, lr_scheduler: in Accelerate's wrappers.
        flat: the weights in one tensor, unless an engine divides the model among processes.
        averages: averaged weights, one set for each decay.
        shard: the part of each step's batch that this process reads.
        steps: the total number of optimisation steps.
        run_id: an identifier that a resumed run keeps.
        preset: the name of the network's preset; None for a network of the user's own.
        license: of the model, as its card names it; None if the user names none.
        clock: the time of the run by phase.
        step: the number of finished optimisation steps.
        is_resumed: whether the run goes on from a checkpoint.
        is_saved: whether the model has been saved since the start of this process.
        skipped_steps: the number of last steps in a row whose gradient was not finite.
        bad_images: sentences on the images that were skipped.
        validation: bits/dim of the validation images during training.
    """

    task: Task
    method: Method[Any, Any]
    training: RunArguments
    accelerator: Accelerator
    folder: Path
    data: ImageData
    model: ModelMixin
    conditioners: Conditioners
    prepared: nn.Module
    optimizer: Any
    lr_scheduler: Any
    flat: FlatWeights | None
    averages: list[WeightAverage]
    shard: BatchShard
    steps: int
    run_id: str
    preset: str | None = None
    license: str | None = None
    is_pushed: bool = False
    push_steps: int = 0
    pusher: Pusher | None = None  # of the main process, if the run is pushed
    batches: TrainingBatches | None = None
    trackers: Trackers | None = None
    clock: RunClock = dataclasses.field(default_factory=RunClock)
    step: int = 0
    is_resumed: bool = False
    is_saved: bool = False
    skipped_steps: int = 0
    bad_images: set[str] = dataclasses.field(default_factory=set)
    validation: list[Validation] = dataclasses.field(default_factory=list)

    # --- what a training step needs ---

    @functools.cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimiser updates: that of `flat`, or those of the prepared model."""
        return list(self.prepared.parameters()) if self.flat is None else [self.flat.parameter]

    @functools.cached_property
    def truncation(self) -> TruncationCount | None:
        """Counts the truncated captions of a stream that this process reads; None for data known before."""
        return TruncationCount(self.conditioners) if isinstance(self.data.train, ImageStream) else None

    def seed_dropout(self, window: int) -> None:
        """Seed the model's dropout, so that it depends only on the seed, the step and the place in the batch."""
        seed_dropout(self.accelerator.device, self.training.seed, self.step, window, self.shard.rank)

    def clip_gradients(self) -> Tensor | None:
        """Scale the gradients of all processes down to `max_grad_norm`; returns their norm before that."""
        if self.flat is not None:
            self.flat.take_gradients()
        return self.accelerator.clip_grad_norm_(self.parameters, self.training.max_grad_norm)

    # --- what is sampled, scored and saved ---

    @property
    def average(self) -> WeightAverage | None:
        """The averaged weights that are used for samples and scores, if there are any."""
        return self.averages[0] if self.averages else None

    @property
    def is_divided(self) -> bool:
        """Whether an engine such as FSDP divides the model among the processes."""
        return self.accelerator.distributed_type in DIVIDED

    @property
    def is_compiled(self) -> bool:
        """Whether the trained model is compiled."""
        return self.accelerator.state.dynamo_plugin.backend != DynamoBackend.NO

    @property
    def bytes_of_weights(self) -> int:
        """The size of the weights in bytes."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    @property
    def seconds(self) -> float:
        """Seconds spent on training."""
        return self.clock.spent(TRAINING)

    # --- when something is due ---

    @property
    def images_per_epoch(self) -> int | None:
        """The number of training images; None if it is not known."""
        return self.data.train.size

    def epochs_made(self, step: int) -> int:
        """The number of complete passes over the data after `step` steps; 0 if the number of images is not known."""
        size = self.data.train.epoch_size
        return step * self.shard.total // size if size else 0

    def ends_epoch(self, interval: int) -> bool:
        """Whether something that is done every `interval` epochs is due after the last step; never for 0."""
        if interval == 0:
            return False
        return self.epochs_made(self.step) // interval > self.epochs_made(self.step - 1) // interval

    def is_due(self, interval: int) -> bool:
        """Whether something that is done every `interval` steps is due after the last step; never for 0."""
        return interval > 0 and self.step % interval == 0


def gather_bad_images(state: RunState) -> None:
    """Collect the bad images that any process has skipped, on all processes."""
    state.bad_images = set(gather_object(sorted(state.bad_images)))
