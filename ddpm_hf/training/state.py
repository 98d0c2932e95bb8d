# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A training run: everything it needs, and how far it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object
from diffusers import UNet2DModel

from ..data.batches import Share, TrainingBatches
from ..data.level_images import ImageData
from ..diffusion.reverse_process import ReverseProcess
from ..diffusion.timestep_sampling import ImportanceTimesteps
from ..results import Validation
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from ..tasks.arguments import DiffusionArguments
from .arguments import TrainingArguments
from .flat_weights import FlatWeights
from .pushing import Pusher
from .tracking import Trackers
from .weight_averages import WeightAverage


DIVIDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


@dataclasses.dataclass
class Job:
    """Everything a run needs, made and checked before it starts; from `step` on how far it is."""

    accelerator: Accelerator
    folder: Path
    data: ImageData
    unet: UNet2DModel  # the model itself: sampled, scored, averaged and saved
    model: torch.nn.Module  # the same as Accelerate prepared it: trained
    optimizer: Any
    lr_scheduler: Any
    parameters: list[torch.nn.Parameter]  # that the optimiser steps: the one of `flat`, or the prepared model's
    flat: FlatWeights | None  # unless an engine divides the model
    averages: list[WeightAverage]
    scheduler: DDPMPaperScheduler
    training_process: ReverseProcess
    importance: ImportanceTimesteps | None
    diffusion: DiffusionArguments
    training: TrainingArguments
    share: Share
    steps: int  # optimisation steps in all
    inference_steps: int
    settings: dict[str, Any]  # as they were given, but for places and names of the user's own
    course: dict[str, Any]  # the settings that decide what the run arrives at
    run_id: str
    skip_bad_images: bool
    is_pushed: bool = False
    push_steps: int = 0
    pusher: Pusher | None = None  # of the main process, if the run is pushed
    batches: TrainingBatches | None = None
    trackers: Trackers | None = None
    step: int = 0  # optimisation steps made
    is_resumed: bool = False
    left_out: int = 0  # steps in a row whose gradient was not finite
    seconds: float = 0.0  # spent training
    bad_images: set[str] = dataclasses.field(default_factory=set)  # sentences on those passed over
    validation: list[Validation] = dataclasses.field(default_factory=list)  # bits/dim along the way

    @property
    def average(self) -> WeightAverage | None:
        """The averaged weights that are sampled and scored, if there are any."""
        return self.averages[0] if self.averages else None

    @property
    def is_divided(self) -> bool:
        """Whether an engine divides the model itself among the processes."""
        return self.accelerator.distributed_type in DIVIDED

    @property
    def images_per_epoch(self) -> int | None:
        """Training images, if they have been counted."""
        return self.data.train.size

    def epochs_made(self, step: int) -> int:
        """Whole passes over the data after so many steps; 0 for data that nobody has counted."""
        size = self.data.train.epoch_size
        return step * self.share.total // size if size else 0

    def ends_epoch(self, interval: int) -> bool:
        """Whether the last step ended an epoch after which something done every `interval` epochs is due."""
        if interval == 0:
            return False
        return self.epochs_made(self.step) // interval > self.epochs_made(self.step - 1) // interval

    def is_due(self, interval: int) -> bool:
        """Whether something done every `interval` steps, never if 0, is due after the last step."""
        return interval > 0 and self.step % interval == 0


def gather_bad_images(job: Job) -> None:
    """Let every process know of the images that any of them passed over."""
    job.bad_images = set(gather_object(sorted(job.bad_images)))
