# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A training run, made and checked before it starts."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from arguments import (
    DataArguments,
    DiffusionArguments,
    HubArguments,
    ModelArguments,
    TrainingArguments,
    check_hub_arguments,
    check_training_arguments,
)
from building import build_scheduler, build_unet
from diffusers import UNet2DModel
from image_data import ImageData, load_images
from output_folder import claim_folder
from pushing import Pusher
from threads import use_all_cores
from torch.utils.data import DataLoader

from ddpm_hf import DDPMPaperScheduler
from ddpm_hf.objectives import ImportanceTimesteps
from ddpm_hf.reverse_process import ReverseProcess


@dataclasses.dataclass
class Job:
    """Everything a run needs, made and checked before it starts."""

    accelerator: Accelerator
    folder: Path
    data: ImageData
    unet: UNet2DModel
    scheduler: DDPMPaperScheduler
    training_process: ReverseProcess
    objective: str
    timestep_sampling: str
    importance: ImportanceTimesteps | None
    training: TrainingArguments
    inference_steps: int
    loader: DataLoader
    steps: int  # optimisation steps in all
    settings: dict[str, Any]  # as they were given, but for places and names of the user's own
    pusher: Pusher | None = None
    push_steps: int = 0
    seconds: float = 0.0  # spent training


def prepare(
    model: ModelArguments,
    data: DataArguments,
    diffusion: DiffusionArguments,
    training: TrainingArguments,
    hub: HubArguments,
) -> Job:
    """Check what was asked for and build it.

    Raises:
        ValueError, OSError: for anything that cannot be trained or pushed as asked.
    """
    check_training_arguments(training, diffusion)
    check_hub_arguments(hub)
    accelerator = Accelerator(
        mixed_precision=training.mixed_precision, gradient_accumulation_steps=training.gradient_accumulation_steps
    )
    use_all_cores(accelerator.device)
    set_seed(training.seed, device_specific=True)  # other noise on every process
    images = load_images(data)
    scheduler = build_scheduler(diffusion, images.train.num_levels)
    inference_steps = diffusion.ddpm_num_inference_steps or min(100, len(scheduler))
    build_scheduler(diffusion, images.train.num_levels).set_timesteps(inference_steps)  # found out now if it cannot
    unet = build_unet(model, diffusion, images.train)
    loader = DataLoader(
        images.train,
        batch_size=min(training.train_batch_size, len(images.train)),
        shuffle=True,
        drop_last=True,
        num_workers=data.dataloader_num_workers,
        generator=torch.Generator().manual_seed(training.seed),
    )
    is_by_loss = diffusion.timestep_sampling == "importance"
    importance = ImportanceTimesteps(len(scheduler), accelerator.device) if is_by_loss else None
    per_epoch = math.ceil(len(loader) / accelerator.num_processes / training.gradient_accumulation_steps)
    folder = claim_folder(training.output_dir, training.overwrite_output_dir)
    return Job(
        accelerator=accelerator,
        folder=folder,
        data=images,
        unet=unet,
        scheduler=scheduler,
        training_process=dataclasses.replace(scheduler.process, constrain=None),  # clipping would stop the gradient
        objective=diffusion.objective,
        timestep_sampling=diffusion.timestep_sampling,
        importance=importance,
        training=training,
        inference_steps=inference_steps,
        loader=loader,
        steps=training.max_train_steps or training.num_epochs * per_epoch,
        settings=settings(model, data, diffusion, training),
        pusher=Pusher(folder, hub) if hub.push_to_hub and accelerator.is_main_process else None,
        push_steps=hub.hub_push_steps,
    )


def settings(*arguments: Any) -> dict[str, Any]:
    """What a reader of the model card may know of the arguments: nothing about the user's machine."""
    fields = {name: value for group in arguments for name, value in dataclasses.asdict(group).items()}
    private = ("_dir", "_path", "dataset_name")  # the data are named, without their place, in the card
    return {name: value for name, value in fields.items() if value is not None and not name.endswith(private)}
