# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A training run, made and checked before it starts, at its beginning or where a checkpoint left it."""

from __future__ import annotations

import dataclasses
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
from diffusers import UNet2DModel
from diffusers.optimization import get_scheduler
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..data.arguments import DataArguments
from ..data.batches import Share
from ..data.image_streams import ImageStream
from ..data.level_images import ImageData
from ..data.loading import load_images
from ..diffusion.timestep_sampling import ImportanceTimesteps
from ..evaluation.scoring import check_labels
from ..hub.arguments import HubArguments, check_hub_arguments
from ..hub.model_card import number_of_classes
from ..results import METRICS
from ..runtime.distributed import processes_started
from ..runtime.output_folder import claim_folder, clear_remains
from ..runtime.threads import use_all_cores
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from ..tasks.arguments import DiffusionArguments, ModelArguments
from ..tasks.building import build_scheduler, build_unet
from .arguments import TrainingArguments, check_training_arguments
from .checkpoint_contents import open_batches, restore, save_weights_as_diffusers_does
from .checkpoints import find_checkpoint, remove_run
from .facts import training_facts
from .fingerprint import course_of, settings
from .flat_weights import FlatWeights
from .pushing import Pusher
from .state import DIVIDED, Job
from .tracking import Trackers, check_logger, tell, tell_passed_over
from .weight_averages import WeightAverage


STEPS_OF_A_SAMPLE = 100  # at most, if not given; a "learned" variance is of all timesteps
LONGEST_WAIT = datetime.timedelta(hours=2)  # for a process that reads a large data set, or draws many samples


def prepare(
    model: ModelArguments,
    data: DataArguments,
    diffusion: DiffusionArguments,
    training: TrainingArguments,
    hub: HubArguments,
) -> Job:
    """Check what was asked for and build it.

    Raises:
        ValueError, OSError: for anything that cannot be trained, gone on with or pushed as asked.
    """
    check_training_arguments(training, diffusion)
    check_hub_arguments(hub)
    check_logger(training.logger)
    accelerator = _engine(training)
    use_all_cores(accelerator.device)
    set_seed(training.seed)
    images = load_images(data)
    scheduler = build_scheduler(diffusion, images.train.num_levels)
    inference_steps = _inference_steps(scheduler, diffusion.ddpm_num_inference_steps)
    unet = build_unet(model, diffusion, images.train)
    images = _with_classes(images, number_of_classes(unet.config))
    if training.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    share = _share(training, accelerator)
    steps = _steps(training, images, share)
    folder, checkpoint = _claim(training, accelerator)
    save_weights_as_diffusers_does(accelerator, unet)
    _tell_deepspeed(accelerator, share, training)
    prepared, flat = _prepare_to_step(unet, training, steps, accelerator)
    unet = accelerator.unwrap_model(prepared[0], keep_torch_compile=False)
    job = Job(
        accelerator,
        folder,
        images,
        unet,
        *prepared,
        parameters=list(prepared[0].parameters()) if flat is None else [flat.parameter],
        flat=flat,
        averages=_averages(unet, training, flat),
        scheduler=scheduler,
        training_process=dataclasses.replace(scheduler.process, constrain=None),  # clipping would stop the gradient
        importance=_importance(diffusion, scheduler, accelerator),
        diffusion=diffusion,
        training=training,
        share=share,
        steps=steps,
        inference_steps=inference_steps,
        settings=settings(unet, model, data, diffusion, training),
        course=course_of(unet, images, share, accelerator, data, diffusion, training),
        run_id=broadcast_object_list([secrets.token_hex(4)])[0],
        skip_bad_images=data.skip_bad_images,
        bad_images=set(images.bad_images),
    )
    _place(job, data, hub, checkpoint)
    return job


def _place(job: Job, data: DataArguments, hub: HubArguments, checkpoint: Path | None) -> None:
    """Put the run at its beginning or where the checkpoint left it, with its batches, pushes and trackers."""
    if checkpoint is not None:
        restore(job, checkpoint, data)
        job.accelerator.print(f"Going on from {checkpoint}, after step {job.step} of {job.steps}.")
    else:
        open_batches(job, data)
        if job.training.resume_from_checkpoint is not None:
            job.accelerator.print(f"There is no checkpoint in {job.folder} yet; starting from the beginning.")
    if job.data.train.epoch_size is None and (job.training.save_images_epochs or job.training.save_model_epochs):
        job.accelerator.print(
            "Nobody has counted the images of this stream, and no epoch ends: pictures and the model come at the end."
        )
    if hub.push_to_hub:
        job.is_pushed, job.push_steps = True, hub.hub_push_steps
        job.pusher = Pusher(job.folder, hub) if job.accelerator.is_main_process else None
    job.trackers = Trackers(job.accelerator, job.folder, _told(job), job.run_id, job.step)
    if job.accelerator.is_main_process:
        for count, sentence in enumerate(job.data.bad_images, 1):
            tell_passed_over(count, sentence)


def _engine(training: TrainingArguments) -> Accelerator:
    """Accelerate, on all the processes that were started.

    Raises:
        ValueError: if they do not find each other, or divide the weights in a way that cannot be sampled from.
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
        step_scheduler_with_optimizer=False,  # one step of it for each of the optimiser's, however many processes
        dynamo_backend="inductor" if training.torch_compile else None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    if allow_tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = allow_tf32  # Accelerate turns it on where it compiles
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


def _tell_deepspeed(accelerator: Accelerator, share: Share, training: TrainingArguments) -> None:
    """Tell DeepSpeed, if it is used, of batches, which it cannot see, and of steps, which it divides itself."""
    if accelerator.state.deepspeed_plugin is not None:
        accelerator.state.deepspeed_plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": share.batch_size,
            "gradient_accumulation_steps": share.accumulation,
            "gradient_clipping": training.max_grad_norm,
        }


def _has_device() -> bool:
    """Whether there is anything but processor cores to compute on."""
    return torch.accelerator.is_available() if hasattr(torch, "accelerator") else torch.cuda.is_available()


def _with_classes(images: ImageData, classes: int | None) -> ImageData:
    """The images for a model of so many classes; a stream checks its labels as they come.

    Raises:
        ValueError: for a class-conditional model without the classes, or with fewer of them than the data have.
    """
    if classes is None:
        return images
    for part in (images.test, images.validation):
        check_labels(part.labels, classes)
    if not isinstance(images.train, ImageStream):
        check_labels(images.train.labels, classes)
        return images
    if not images.train.has_labels:
        check_labels(None, classes)
    return dataclasses.replace(images, train=dataclasses.replace(images.train, num_classes=classes))


def _inference_steps(scheduler: DDPMPaperScheduler, asked: int | None) -> int:
    """Of the samples; whether there can be so many is found out now."""
    T = len(scheduler)
    most = T if scheduler.process.learns_of_neighbours else STEPS_OF_A_SAMPLE
    steps = min(most, T) if asked is None else asked
    DDPMPaperScheduler.from_config(scheduler.config).set_timesteps(steps)
    return steps


def _share(training: TrainingArguments, accelerator: Accelerator) -> Share:
    return Share(
        training.train_batch_size,
        accelerator.gradient_accumulation_steps,
        accelerator.process_index,
        accelerator.num_processes,
    )


def _steps(training: TrainingArguments, images: ImageData, share: Share) -> int:
    """Optimisation steps in all."""
    if training.max_train_steps is not None:
        return training.max_train_steps
    size = images.train.epoch_size
    if size is None:
        raise ValueError("Nobody has counted the images of this stream; pass --max_train_steps.")
    return math.ceil(training.num_epochs * size / share.total)


def _claim(training: TrainingArguments, accelerator: Accelerator) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint in it to go on from, if that is wanted and there is one."""
    folder, resume = Path(training.output_dir), training.resume_from_checkpoint
    checkpoint = None if resume is None else find_checkpoint(folder, resume)
    is_new = resume is None or (checkpoint is not None and checkpoint.parent.resolve() != folder.resolve())
    if is_new:
        claim_folder(training.output_dir, training.overwrite_output_dir)
    elif checkpoint is None and (folder / METRICS).exists() and not training.overwrite_output_dir:
        raise ValueError(f"`output_dir` {folder} holds a finished run without a checkpoint; choose another.")
    folder.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()  # all have looked before anything is written
    if accelerator.is_main_process:
        clear_remains(folder)
        if is_new:
            remove_run(folder)
    accelerator.wait_for_everyone()
    return folder, checkpoint


def _prepare_to_step(
    unet: UNet2DModel, training: TrainingArguments, steps: int, accelerator: Accelerator
) -> tuple[list[Any], FlatWeights | None]:
    """What is trained, as Accelerate prepares it; on flat weights, unless an engine divides the model."""
    if accelerator.distributed_type in DIVIDED:  # it wants all of them at once
        return accelerator.prepare(unet, *_make_optimizer(unet.parameters(), training, steps)), None
    model = accelerator.prepare(unet)
    flat = FlatWeights(unet)  # now that nothing moves the weights any more
    return [model, *accelerator.prepare(*_make_optimizer([flat.parameter], training, steps))], flat


def _make_optimizer(
    parameters: Iterable[Parameter], training: TrainingArguments, steps: int
) -> tuple[Optimizer, LRScheduler]:
    """AdamW and its learning rate: warm-up, then the decay asked for."""
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


def _importance(
    diffusion: DiffusionArguments, scheduler: DDPMPaperScheduler, accelerator: Accelerator
) -> ImportanceTimesteps | None:
    is_by_loss = diffusion.timestep_sampling == "importance"
    return ImportanceTimesteps(len(scheduler), accelerator.device) if is_by_loss else None


def _averages(unet: UNet2DModel, training: TrainingArguments, flat: FlatWeights | None) -> list[WeightAverage]:
    if not training.use_ema:
        return []
    return [
        WeightAverage(unet, training.ema_inv_gamma, training.ema_power, decay, flat)
        for decay in training.ema_max_decay
    ]


def _told(job: Job) -> dict[str, Any]:
    """What the trackers are told of a run that begins."""
    facts = training_facts(job) | {"images_in_a_step": job.share.total} | job.settings
    return {name: value for name, value in facts.items() if value is not None and name != "settings"}
