# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A run written into a checkpoint, and read back; see checkpoints.py for what lies where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedType
from batches import TrainingBatches
from checkpoints import check_course, read_checkpoint, read_json
from diffusers import UNet2DModel
from job import DIVIDED, Job
from safetensors.torch import load_file, save_file


STATE = "training.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


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
        _write_json(folder / f"data_{accelerator.process_index}.json", job.batches.state)
    for i, average in enumerate(job.averages):
        name = _average_name(accelerator, i)
        if accelerator.is_main_process or "rank" in name:
            save_file(average.state_dict(), folder / name)
    if not accelerator.is_main_process:
        return
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
    _write_json(folder / STATE, state)


def restore(job: Job, checkpoint: Path) -> None:
    """Put the run where the checkpoint was written.

    Raises:
        ValueError: if it cannot be read, or is of a run with other settings.
    """
    read_checkpoint(checkpoint, lambda: _restore(job, checkpoint))


def _restore(job: Job, checkpoint: Path) -> None:
    state = read_json(checkpoint / STATE)
    check_course(state["course"], json.loads(json.dumps(job.course)))
    job.accelerator.load_state(str(checkpoint))
    for i, average in enumerate(job.averages):
        average.load_state_dict(load_file(checkpoint / _average_name(job.accelerator, i)), state["step"])
    if job.importance is not None:
        job.importance.load_state_dict(load_file(checkpoint / "importance.safetensors"))
    job.step, job.seconds, job.run_id = state["step"], state["seconds"], state["run_id"]
    job.validation, job.bad_images = state["validation"], set(state["bad_images"])


def open_batches(job: Job, random_flip: bool, num_workers: int, checkpoint: Path | None) -> None:
    """Let the run read its images from the step on that it is at.

    Raises:
        ValueError: if a stream was divided among other processes or workers.
    """
    position = None
    if checkpoint is not None and not hasattr(job.data.train, "__len__"):
        processes = read_json(checkpoint / STATE)["processes"]
        if processes != job.accelerator.num_processes:
            raise ValueError(
                f"{checkpoint} is of a stream that {processes} processes read, now there are"
                f" {job.accelerator.num_processes}; a stream goes on with as many."
            )
        position = read_json(checkpoint / f"data_{job.accelerator.process_index}.json")
    job.batches = TrainingBatches(
        job.data.train,
        job.share,
        job.step,
        job.steps,
        job.training.seed,
        random_flip,
        num_workers,
        job.accelerator.device,
        position,
    )


def _average_name(accelerator: Accelerator, i: int) -> str:
    """Each process has its part of the averages where the model is divided."""
    is_divided = accelerator.distributed_type == DistributedType.FSDP
    return f"ema-{i}-rank{accelerator.process_index}.safetensors" if is_divided else f"ema-{i}.safetensors"


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
