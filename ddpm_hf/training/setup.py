# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Checking and building a training run, new or resumed from a checkpoint."""

from __future__ import annotations

import datetime
import math
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, InitProcessGroupKwargs
from accelerate.utils import ProjectConfiguration, broadcast_object_list, set_seed
from diffusers import ModelMixin
from diffusers.optimization import get_scheduler
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..data.batches import BatchShard
from ..data.level_images import ImageData
from ..hub.arguments import HubArguments, check_hub_arguments
from ..results import METRICS
from ..runtime.distributed import processes_started
from ..runtime.output_folder import claim_folder, clear_remains
from ..runtime.threads import use_all_cores
from ..tasks.base import Task
from .arguments import RunArguments
from .checkpoint_contents import open_batches, preset_of, restore, save_weights_as_diffusers_does
from .checkpoints import agreed_checkpoint, remove_run
from .facts import training_facts
from .fingerprint import settings
from .flat_weights import FlatWeights
from .method import Method, State
from .pushing import Pusher
from .run_state import DIVIDED, RunState
from .tracking import Trackers, check_logger, tell
from .weight_averages import WeightAverage


LONGEST_WAIT = datetime.timedelta(hours=2)  # for another process, which may read much data or draw many samples


def prepare(task: Task, method: Method[State, Any], training: RunArguments, hub: HubArguments) -> State:
    """Check the arguments and build the run.

    Raises:
        ValueError, OSError: if the run cannot be trained, resumed or pushed as the arguments say.
    """
    method.check_arguments(task, training)
    check_hub_arguments(hub)
    check_logger(training.logger)
    accelerator = _engine(training)
    use_all_cores(accelerator.device)
    set_seed(training.seed)
    data, checkpoint = task.load_data(), _checkpoint(training, accelerator)
    training, preset = task.settle(data, training, None if checkpoint is None else preset_of(checkpoint))
    method.check_arguments(task, training)  # completed for the data
    parts = method.parts(task, training, data, accelerator)
    model = task.build_model(data)
    conditioners = task.conditioners(model)
    method.check_conditioning(task, conditioners)
    data = data.reading(conditioners)
    shard = _shard(training, accelerator)
    steps = _steps(training, data, shard)
    folder = _claim(training, checkpoint, accelerator)
    optimized = _prepare_to_step(model, task.model_part, training, steps, shard, accelerator)
    state = method.state(
        task=task,
        training=training,
        accelerator=accelerator,
        folder=folder,
        data=data,
        model=accelerator.unwrap_model(optimized["prepared"], keep_torch_compile=False),
        conditioners=conditioners,
        **optimized,
        **parts,
        shard=shard,
        steps=steps,
        run_id=broadcast_object_list([secrets.token_hex(4)])[0],
        preset=preset,
        license=hub.hub_license,
        bad_images=set(data.bad_images),
    )
    _place(state, hub, checkpoint)
    return state


def _place(state: RunState, hub: HubArguments, checkpoint: Path | None) -> None:
    """Start the run at step 0 or at the checkpoint: open its batches, repository and trackers."""
    if checkpoint is not None:
        restore(state, checkpoint)
        state.accelerator.print(f"Going on from {checkpoint}, after step {state.step} of {state.steps}.")
    else:
        open_batches(state)
        if state.training.resume_from_checkpoint is not None:
            state.accelerator.print(f"There is no checkpoint in {state.folder} yet; starting from the beginning.")
    training = state.training
    if state.data.train.epoch_size is None and (training.save_images_epochs or training.save_model_epochs):
        state.accelerator.print(
            "The number of images of this stream is not known, and no epoch ends: pictures and the model come at the"
            " end."
        )
    if hub.push_to_hub:
        state.is_pushed, state.push_steps = True, hub.hub_push_steps
        state.pusher = Pusher(state.folder, hub) if state.accelerator.is_main_process else None
    state.trackers = Trackers(state.accelerator, state.folder, _tracked_settings(state), state.run_id, state.step)


def _engine(training: RunArguments) -> Accelerator:
    """Start Accelerate on all processes of the launcher.

    Raises:
        ValueError: if the processes do not find each other, or divide the weights in a way that does not allow
            sampling.
    """
    processes = processes_started()
    if training.local_rank >= 0 and processes > 1:
        os.environ.setdefault("LOCAL_RANK", str(training.local_rank))
    folder = Path(training.output_dir)
    precision = training.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION")
    if precision == "fp16" and not _has_device():
        tell("fp16 needs a GPU, and there is none: training in float32.")
        precision = "no"
    allow_tf32 = torch.backends.cuda.matmul.allow_tf32 if training.torch_compile else None
    accelerator = Accelerator(
        cpu=processes > 1 and not _has_device(),
        mixed_precision=precision,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        log_with=None if training.logger == "none" else training.logger,
        project_config=ProjectConfiguration(str(folder), str(folder / training.logging_dir)),
        step_scheduler_with_optimizer=False,  # one step per optimiser step, whatever the number of processes
        dynamo_backend="inductor" if training.torch_compile else None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    if allow_tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = allow_tf32  # Accelerate turns it on if it compiles
    if accelerator.num_processes < processes:
        raise ValueError(
            f"{processes} processes were started, but only {accelerator.num_processes} found each other; start them"
            " with `accelerate launch` or `torchrun`."
        )
    if accelerator.distributed_type == DistributedType.FSDP and accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise ValueError("`fsdp_version` of the launcher's settings must be 2.")
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        raise ValueError("`zero_stage` of the launcher's settings must be at most 2; FSDP divides the weights too.")
    return accelerator


def _tell_deepspeed(accelerator: Accelerator, shard: BatchShard, training: RunArguments) -> None:
    """Configure DeepSpeed, if it is used: batch size, accumulation and clipping, which it handles itself."""
    if accelerator.state.deepspeed_plugin is not None:
        accelerator.state.deepspeed_plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": shard.batch_size,
            "gradient_accumulation_steps": shard.accumulation,
            "gradient_clipping": training.max_grad_norm,
        }


def _has_device() -> bool:
    """Whether there is a GPU or another accelerator."""
    return torch.accelerator.is_available() if hasattr(torch, "accelerator") else torch.cuda.is_available()


def _shard(training: RunArguments, accelerator: Accelerator) -> BatchShard:
    return BatchShard(
        training.train_batch_size,
        accelerator.gradient_accumulation_steps,
        accelerator.process_index,
        accelerator.num_processes,
    )


def _steps(training: RunArguments, data: ImageData, shard: BatchShard) -> int:
    """The total number of optimisation steps."""
    if training.max_train_steps is not None:
        return training.max_train_steps
    size = data.train.epoch_size
    if size is None:
        raise ValueError("The number of images of this stream is not known; pass --max_train_steps.")
    return math.ceil(training.num_epochs * size / shard.total)


def _checkpoint(training: RunArguments, accelerator: Accelerator) -> Path | None:
    """The checkpoint to resume from, if the run is to be resumed and has one."""
    resume = training.resume_from_checkpoint
    return None if resume is None else agreed_checkpoint(accelerator, Path(training.output_dir), resume)


def _claim(training: RunArguments, checkpoint: Path | None, accelerator: Accelerator) -> Path:
    """Claim the run's folder, remove the results of an earlier run if this one is new, and return its path."""
    folder, resume = Path(training.output_dir), training.resume_from_checkpoint
    is_new = resume is None or (checkpoint is not None and checkpoint.parent.resolve() != folder.resolve())
    if not is_new and checkpoint is None and (folder / METRICS).exists() and not training.overwrite_output_dir:
        raise ValueError(f"`output_dir` {folder} holds a finished run without a checkpoint; choose another.")
    claim_folder(training.output_dir, training.overwrite_output_dir or not is_new, accelerator)
    if accelerator.is_main_process:
        clear_remains(folder)
        if is_new:
            remove_run(folder)
    accelerator.wait_for_everyone()
    return folder


def _prepare_to_step(
    model: ModelMixin, part: str, training: RunArguments, steps: int, shard: BatchShard, accelerator: Accelerator
) -> dict[str, Any]:
    """The wrapped model, its optimizer and averages, by their names in `RunState`; `part` names it in checkpoints."""
    if training.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    save_weights_as_diffusers_does(accelerator, model, part)
    _tell_deepspeed(accelerator, shard, training)
    if accelerator.distributed_type in DIVIDED:  # such an engine prepares them together
        flat = None
        prepared = accelerator.prepare(model, *_make_optimizer(model.parameters(), training, steps))
    else:
        wrapped = accelerator.prepare(model)
        flat = FlatWeights(model)  # after `prepare`, which may move the weights
        prepared = [wrapped, *accelerator.prepare(*_make_optimizer([flat.parameter], training, steps))]
    names = ("prepared", "optimizer", "lr_scheduler")
    averages = _averages(accelerator.unwrap_model(prepared[0], keep_torch_compile=False), training, flat)
    return {**dict(zip(names, prepared, strict=True)), "flat": flat, "averages": averages}


def _make_optimizer(
    parameters: Iterable[Parameter], training: RunArguments, steps: int
) -> tuple[Optimizer, LRScheduler]:
    """AdamW and its learning-rate schedule: warm-up, then the chosen decay."""
    optimizer = torch.optim.AdamW(
        parameters,
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        weight_decay=training.adam_weight_decay,
        eps=training.adam_epsilon,
        fused=True,
    )
    lr_scheduler = get_scheduler(
        training.lr_scheduler, optimizer, num_warmup_steps=training.lr_warmup_steps, num_training_steps=steps
    )
    return optimizer, lr_scheduler


def _averages(model: ModelMixin, training: RunArguments, flat: FlatWeights | None) -> list[WeightAverage]:
    if not training.use_ema:
        return []
    return [
        WeightAverage(model, training.ema_inv_gamma, training.ema_power, decay, flat)
        for decay in training.ema_max_decay
    ]


def _tracked_settings(state: RunState) -> dict[str, Any]:
    """The settings of a run that trackers show."""
    facts = training_facts(state) | {"images_in_a_step": state.shard.total} | settings(state)
    return {name: value for name, value in facts.items() if value is not None and name != "settings"}
