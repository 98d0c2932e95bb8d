# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Writes the contents of a checkpoint, and restores a run from them. checkpoints.py lists the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import ModelMixin
from safetensors.torch import load_file, save_file

from ..data.image_streams import ImageStream
from ..hub.saved_files import read_json
from ..runtime.distributed import on_all
from ..runtime.output_folder import write_json
from .checkpoints import read_checkpoint
from .fingerprint import check_fingerprint, fingerprint_of
from .run_clock import TRAINING
from .run_state import DIVIDED, RunState


STATE = "training.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
AVERAGE = "ema-{}.safetensors"


def save_weights_as_diffusers_does(accelerator: Accelerator, model: ModelMixin, part: str) -> None:
    """Let diffusers save and load the weights in Accelerate's checkpoints, under the names of the unwrapped model.

    They are in the folder `part`. Where an engine divides the model among processes, the engine saves them.
    """
    if accelerator.distributed_type in DIVIDED:
        return

    def save(models: list[Any], weights: list[Any], folder: str) -> None:
        weights.clear()
        if accelerator.is_main_process:
            model.save_pretrained(Path(folder) / part)

    def load(models: list[Any], folder: str) -> None:
        models.clear()
        model.load_state_dict(load_file(Path(folder) / part / WEIGHTS))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def write_state(state: RunState, folder: Path) -> None:
    """Write this process's part of a checkpoint."""
    accelerator = state.accelerator
    accelerator.save_state(str(folder))
    if state.batches.state is not None:
        write_json(folder / f"data_{accelerator.process_index}.json", state.batches.state)
    averages = [average.state_dict() for average in state.averages]
    if not accelerator.is_main_process:
        return
    for i, average in enumerate(averages):
        save_file(average, folder / AVERAGE.format(i))
    for name, tensors in state.method.tensors(state).items():
        save_file(tensors, folder / f"{name}.safetensors")
    record = {
        "step": state.step,
        "seconds": state.seconds,
        "seconds_by_phase": state.clock.seconds,
        "run_id": state.run_id,
        "processes": accelerator.num_processes,
        "preset": state.preset,
        "validation": state.validation,
        "bad_images": sorted(state.bad_images),
        "fingerprint": fingerprint_of(state),
    }
    write_json(folder / STATE, record)


def preset_of(checkpoint: Path) -> str | None:
    """The preset of a checkpoint's network. Checkpoints from before there were presets have the digits' network."""
    return read_checkpoint(checkpoint, lambda: read_json(checkpoint / STATE)).get("preset", "8")


def restore(state: RunState, checkpoint: Path) -> None:
    """Restore a run from a checkpoint, and open its batches at the step of the checkpoint.

    Raises:
        ValueError: if the checkpoint cannot be read or was written with other settings, or if its stream was divided
            among another number of processes or workers.
    """

    def read() -> None:
        read_checkpoint(checkpoint, lambda: _restore(state, checkpoint))

    if state.is_divided:  # the processes read the parts of the model together, and fail together
        read()
    else:
        on_all(read, ValueError)


def _restore(state: RunState, checkpoint: Path) -> None:
    record = read_json(checkpoint / STATE)
    recorded = record["fingerprint"] if "fingerprint" in record else record["course"]  # as it was called before 0.2
    check_fingerprint(recorded, json.loads(json.dumps(fingerprint_of(state))))
    if record["step"] > state.steps:
        raise ValueError(f"it is after step {record['step']}, and the run would end after {state.steps}.")
    state.accelerator.load_state(str(checkpoint))
    _follow_the_schedule(state)
    # Accelerate counts batches; the number of batches in a step may have changed.
    state.accelerator.step = record["step"] * state.shard.accumulation
    for i, average in enumerate(state.averages):
        average.load_state_dict(load_file(checkpoint / AVERAGE.format(i)), record["step"])
    names = list(state.method.tensors(state))
    if names:
        state.method.restore(state, {name: load_file(checkpoint / f"{name}.safetensors") for name in names})
    state.step, state.run_id = record["step"], record["run_id"]
    state.clock.seconds |= {TRAINING: record["seconds"], **record.get("seconds_by_phase", {})}
    state.validation, state.is_resumed = record["validation"], True
    state.bad_images |= set(record["bad_images"])
    open_batches(state, _position(state, checkpoint, record["processes"]))


def _position(state: RunState, checkpoint: Path, processes: int) -> dict[str, Any] | None:
    """This process's position in a stream; None for other data, where the step determines it."""
    if not isinstance(state.data.train, ImageStream):
        return None
    if processes != state.accelerator.num_processes:
        raise ValueError(
            f"it is of a stream that {processes} processes read, now there are {state.accelerator.num_processes}; a"
            " stream goes on with as many."
        )
    return read_json(checkpoint / f"data_{state.accelerator.process_index}.json")


def _follow_the_schedule(state: RunState) -> None:
    """Set the learning rate by this run's schedule, which may be longer than the one in the checkpoint."""
    schedule = getattr(state.lr_scheduler, "scheduler", state.lr_scheduler)
    for group, factor, rate in zip(state.optimizer.param_groups, schedule.lr_lambdas, schedule.base_lrs, strict=True):
        group["lr"] = rate * factor(schedule.last_epoch)


def open_batches(state: RunState, position: dict[str, Any] | None = None) -> None:
    """Open the run's batches at its current step.

    Args:
        position: this process's position in a stream, from a checkpoint.

    Raises:
        ValueError: if the stream was divided among another number of workers.
    """
    steps, device = (state.step, state.steps), state.accelerator.device
    state.batches = state.task.open_batches(state.data, state.shard, steps, state.training.seed, device, position)


def is_finite(state: RunState) -> bool:
    """Whether all numbers that a checkpoint would hold now are finite, on all processes."""
    tensors = [*state.parameters, *(tensor for average in state.averages for tensor in average.averages)]
    tensors += [value for kept in state.optimizer.state.values() for value in kept.values()]
    tensors += [tensor for each in state.method.tensors(state).values() for tensor in each.values()]
    parts = [
        tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors if torch.is_tensor(tensor)
    ]
    device = state.accelerator.device  # the results are collected here, so that the host waits only once
    found = torch.stack([part.isfinite().all().to(device, non_blocking=True) for part in parts])
    return all(gather_object([bool(found.all())]))
