# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A training run, made and checked before it starts."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from arguments import DataArguments, DiffusionArguments, ModelArguments, TrainingArguments, check_training_arguments
from building import build_scheduler, build_unet
from diffusers import UNet2DModel
from image_data import ImageData, load_images
from output_folder import claim_folder
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
    seconds: float = 0.0  # spent training


def prepare(
    model: ModelArguments, data: DataArguments, diffusion: DiffusionArguments, training: TrainingArguments
) -> Job:
    """Check what was asked for and build it.

    Raises:
        ValueError: for anything that cannot be trained as asked.
    """
    check_training_arguments(training, diffusion)
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
    return Job(
        accelerator=accelerator,
        folder=claim_folder(training.output_dir, training.overwrite_output_dir),
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
    )
