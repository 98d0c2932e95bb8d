# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A run written into a checkpoint, and read back; see checkpoints.py for what lies where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from ..data.arguments import DataArguments
from ..data.batches import TrainingBatches
from ..data.image_streams import ImageStream
from ..hub.model_card import read_json
from ..runtime.distributed import on_all
from ..runtime.output_folder import write_json
from .checkpoints import read_checkpoint
from .fingerprint import check_course
from .state import DIVIDED, Job


STATE = "training.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
AVERAGE = "ema-{}.safetensors"


def save_weights_as_diffusers_does(accelerator: Accelerator, unet: UNet2DModel) -> None:
    """Have Accelerate leave the weights to diffusers, by the model's own names whatever wraps it.

    Not where an engine divides the model: only the engine can put its parts together.
    """
    if accelerator.distributed_type in DIVIDED:
        return

    def save(models: list[Any], weights: list[Any], folder: str) -> None:
        weights.clear()
        if accelerator.is_main_process:
            unet.save_pretrained(Path(folder) / "unet")

    def load(models: list[Any], folder: str) -> None:
        models.clear()
        unet.load_state_dict(load_file(Path(folder) / WEIGHTS))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def write_state(job: Job, folder: Path) -> None:
    """This process's part of a checkpoint."""
    accelerator = job.accelerator
    accelerator.save_state(str(folder))
    if job.batches.state is not None:
        write_json(folder / f"data_{accelerator.process_index}.json", job.batches.state)
    averages = [average.state_dict() for average in job.averages]
    if not accelerator.is_main_process:
        return
    for i, average in enumerate(averages):
        save_file(average, folder / AVERAGE.format(i))
    if job.importance is not None:
        save_file(job.importance.state_dict(), folder / "importance.safetensors")
    state = {
        "step": job.step,
        "seconds": job.seconds,
        "run_id": job.run_id,
        "processes": accelerator.num_processes,
        "validation": job.validation,
        "bad_images": sorted(job.bad_images),
        "course": job.course,
    }
    write_json(folder / STATE, state)


def restore(job: Job, checkpoint: Path, data: DataArguments) -> None:
    """Put the run where the checkpoint was written, and let it read its images from there on.

    Raises:
        ValueError: if it cannot be read, is of a run with other settings, or of a stream that was divided among other
            processes or workers.
    """

    def read() -> None:
        read_checkpoint(checkpoint, lambda: _restore(job, checkpoint, data))

    if job.is_divided:  # its parts are read together anyway
        read()
    else:
        on_all(read, ValueError)


def _restore(job: Job, checkpoint: Path, data: DataArguments) -> None:
    state = read_json(checkpoint / STATE)
    check_course(state["course"], json.loads(json.dumps(job.course)))
    if state["step"] > job.steps:
        raise ValueError(f"it is after step {state['step']}, and the run would end after {job.steps}.")
    job.accelerator.load_state(str(checkpoint))
    _follow_the_course(job)
    # Windows, which may be others than in the checkpoint.
    job.accelerator.step = state["step"] * job.share.accumulation
    for i, average in enumerate(job.averages):
        average.load_state_dict(load_file(checkpoint / AVERAGE.format(i)), state["step"])
    if job.importance is not None:
        job.importance.load_state_dict(load_file(checkpoint / "importance.safetensors"))
    job.step, job.seconds, job.run_id = state["step"], state["seconds"], state["run_id"]
    job.validation, job.is_resumed = state["validation"], True
    job.bad_images |= set(state["bad_images"])
    position = None
    if isinstance(job.data.train, ImageStream):
        if state["processes"] != job.accelerator.num_processes:
            raise ValueError(
                f"it is of a stream that {state['processes']} processes read, now there are"
                f" {job.accelerator.num_processes}; a stream goes on with as many."
            )
        position = read_json(checkpoint / f"data_{job.accelerator.process_index}.json")
    open_batches(job, data, position)


def _follow_the_course(job: Job) -> None:
    """Have the next step take the learning rate of this run, which may be longer than the checkpoint knew."""
    schedule = getattr(job.lr_scheduler, "scheduler", job.lr_scheduler)
    for group, factor, rate in zip(job.optimizer.param_groups, schedule.lr_lambdas, schedule.base_lrs, strict=True):
        group["lr"] = rate * factor(schedule.last_epoch)


def open_batches(job: Job, data: DataArguments, position: dict[str, Any] | None = None) -> None:
    """Let the run read its images from the step on that it is at.

    Args:
        position: of a stream, as a checkpoint has it.

    Raises:
        ValueError: if a stream was divided among other workers.
    """
    job.batches = TrainingBatches(
        job.data.train,
        job.share,
        job.step,
        job.steps,
        job.training.seed,
        data.random_flip,
        data.dataloader_num_workers,
        job.accelerator.device,
        position,
    )


def is_finite(job: Job) -> bool:
    """Whether all numbers are finite that a checkpoint would hold now, those of all processes."""
    tensors = [*job.parameters, *(tensor for average in job.averages for tensor in average.averages)]
    tensors += [value for state in job.optimizer.state.values() for value in state.values()]
    if job.importance is not None:
        tensors += job.importance.state_dict().values()
    parts = [
        tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors if torch.is_tensor(tensor)
    ]
    device = job.accelerator.device  # where they are put together, so that they are waited for once
    found = torch.stack([part.isfinite().all().to(device, non_blocking=True) for part in parts])
    return all(gather_object([bool(found.all())]))
