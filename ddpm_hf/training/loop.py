# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train a DDPM (Ho et al. 2020, Algorithm 1), draw samples, and score it in bits/dim.

    accelerate launch examples/train.py                                    the digits, in minutes on two cores
    accelerate launch examples/train.py examples/configs/cifar10.yaml      the paper's model and settings
    accelerate launch examples/train.py --train_data_dir my_images --resolution 64

Leaves in --output_dir a saved pipeline, samples.png, metrics.json and a model card (README.md); with --push_to_hub,
on the Hub too.
"""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import time
from collections.abc import Iterator

import torch
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from ..data.batches import Batch
from ..data.image_files import TAKE_OUT
from ..diffusion.losses import hybrid_loss, rate_loss, simple_loss, variance_loss, vlb_loss
from ..diffusion.timestep_sampling import stratified_timesteps, uniform_timesteps
from ..evaluation.scoring import conditioning
from ..runtime.errors import DataUnreadable, RunStopped
from ..runtime.randomness import Use, generator_of, noise_like, seed_dropout
from ..runtime.signals import Interrupted, Signals
from .checkpoint_contents import is_finite, write_state
from .checkpoints import last_step, save_checkpoint, way_on
from .finish import draw_grid, push_snapshot, save_model, validate
from .state import Job, gather_bad_images
from .tracking import Progress, tell_passed_over


STEPS_BETWEEN_REPORTS = 10  # reading the loss waits for the device
MOST_LEFT_OUT = 50  # steps one after the other, by which the scale of fp16 has fallen 50 times by half
ANEW = "The checkpoints before it are good, but lead to it again; start anew with a lower learning rate, say."


def losses_of(job: Job, batch: Batch, t: Tensor, first: int) -> Tensor:
    """Algorithm 1, lines 2 to 5: one loss per example, `[B]`, at its time in `t`; `first` is its place in the step."""
    scheduler, x_0 = job.scheduler, batch.images
    noise = noise_like(x_0, first, job.training.seed, job.step)
    x_t = scheduler.add_noise(x_0, noise, t)
    classes = conditioning(job.unet, batch.labels, x_0.device)
    precision = next(job.unet.parameters()).dtype  # the model's `dtype` would look at every module of it
    output = job.model(x_t.to(precision), t, return_dict=False, **classes)[0].float()
    if job.diffusion.objective == "simple":
        return simple_loss(output, scheduler.training_target(x_0, noise, t))
    # Every timestep is visited: the chain's index is the timestep.
    process, rest = job.training_process, (x_0, x_t, t, scheduler.num_levels)
    if job.diffusion.objective == "vlb":
        return vlb_loss(process, output, *rest).float()
    if job.diffusion.objective == "hybrid":
        target = scheduler.training_target(x_0, noise, t)
        return hybrid_loss(process, output, target, *rest, job.diffusion.vlb_weight)
    loss = rate_loss(process, output, x_0, x_t, t)
    if process.learns_variance:
        of_variance = variance_loss(process, output, *rest, job.diffusion.variance_stride)
        loss = loss + job.diffusion.vlb_weight * of_variance.float()
    return loss


def draw_timesteps(job: Job) -> tuple[Tensor, Tensor, Tensor | float]:
    """A timestep for every example of the step, those of all processes, and two weights of its loss.

    The first makes up for how the times are drawn, the second is the objective's own.
    """
    size, device = job.share.total, job.accelerator.device
    generator = generator_of(Use.TIMES, job.training.seed, job.step, device=device)
    if job.importance is not None:
        t, weights = job.importance.sample(size, generator)
    else:
        draw = uniform_timesteps if job.diffusion.timestep_sampling == "uniform" else stratified_timesteps
        t = draw(size, len(job.scheduler), generator=generator)
        weights = torch.ones(size, device=device)
    if job.diffusion.snr_gamma is None:
        return t, weights, 1.0
    return t, weights, job.scheduler.min_snr_weights(t, job.diffusion.snr_gamma).float()


def take_step(job: Job, batches: Iterator[Batch], progress: Progress) -> None:
    """One optimisation step: the gradients of all its windows, on all processes, then the average of the weights."""
    accelerator, share = job.accelerator, job.share
    t, weights, emphasis = draw_timesteps(job)
    weights = weights * emphasis
    seen, norm = [], None
    for window in range(share.accumulation):
        batch = next(batches)
        note_bad_images(job, batch)
        first = share.first(window)
        mine = slice(first, first + share.batch_size)
        seed_dropout(job.accelerator.device, job.training.seed, job.step, window, share.rank)
        with accelerator.accumulate(job.model):
            losses = losses_of(job, batch, t[mine], first)
            accelerator.backward((weights[mine] * losses).mean())
            if accelerator.sync_gradients:
                if job.flat is not None:
                    job.flat.take_gradients()
                norm = accelerator.clip_grad_norm_(job.parameters, job.training.max_grad_norm)
            job.optimizer.step()
            job.optimizer.zero_grad()
        seen.append(accelerator.gather(losses.detach()))
    job.lr_scheduler.step()
    losses = torch.cat(seen)
    if job.importance is not None:
        job.importance.update(t, emphasis * losses)
    for average in job.averages:
        average.update()
    progress.add(t, losses, weights, norm)
    job.step += 1


def train(job: Job, signals: Signals) -> None:
    """Algorithm 1 until the last step, or until a signal comes; what is due along the way is done here."""
    progress = Progress(len(job.scheduler), job.accelerator.device)
    is_main = job.accelerator.is_main_process
    if job.is_resumed and job.step < job.steps:
        at_the_end_of_an_epoch(job)  # which may have been due when the run was stopped
    clock = time.monotonic()
    bar = tqdm(total=job.steps, initial=job.step, desc="training", unit="step", disable=not is_main)
    with bar, contextlib.closing(iter(job.batches)) as batches:
        job.model.train()
        while job.step < job.steps:
            place = job.batches.place()
            try:
                take_step(job, batches, progress)
            except DataUnreadable as stop:
                job.batches.rewind(place)
                raise RunStopped(f"{stop} {kept(job)}") from stop
            bar.update()
            if is_time_to_report(job, progress, signals):
                clock = report(job, progress, bar, clock)
                caught = next((each for each in gather_object([signals.caught]) if each is not None), None)
            else:
                caught = None
            pause = time.monotonic()
            along_the_way(job, caught)
            clock += time.monotonic() - pause


def is_time_to_report(job: Job, progress: Progress, signals: Signals) -> bool:
    """Whether to read the losses now; of several processes none alone may decide it."""
    is_stopped = job.accelerator.num_processes == 1 and signals.caught is not None
    return len(progress) == STEPS_BETWEEN_REPORTS or is_anything_due(job) or is_stopped


def is_anything_due(job: Job) -> bool:
    """Whether the last step is followed by anything but the next one."""
    training = job.training
    steps = (training.validation_steps, training.checkpointing_steps, job.push_steps)
    epochs = (training.save_images_epochs, training.save_model_epochs)
    return job.step == job.steps or any(map(job.is_due, steps)) or any(map(job.ends_epoch, epochs))


def along_the_way(job: Job, caught: signal.Signals | None) -> None:
    """What is due after the step besides training; after the last one only what its end does not do anyway.

    Raises:
        Interrupted: if a signal was caught, when all is saved.
        RunStopped: if there are numbers that are not finite.
    """
    training, is_last = job.training, job.step == job.steps
    if (caught or is_anything_due(job)) and not is_finite(job):
        raise RunStopped(f"After step {job.step} not all weights are finite. {ANEW}")
    if job.is_due(training.validation_steps):
        validate(job)
    if caught or job.is_due(training.checkpointing_steps) or (is_last and training.checkpointing_steps):
        save(job)
    if caught:
        raise Interrupted(caught)
    if not is_last:
        at_the_end_of_an_epoch(job)


def at_the_end_of_an_epoch(job: Job) -> None:
    """Pictures, the model and pushes, if they are due after the step."""
    training = job.training
    if job.ends_epoch(training.save_images_epochs):
        draw_grid(job)
    is_saved = job.ends_epoch(training.save_model_epochs)
    if is_saved:
        save_model(job)
    if job.is_pushed and (is_saved or job.is_due(job.push_steps)):
        push_snapshot(job)


def kept(job: Job) -> str:
    """Keep what a run has reached that cannot take its next step, and tell the way on.

    One of several processes is alone in this, and cannot: a checkpoint takes them all.
    """
    is_alone = job.accelerator.num_processes == 1
    if is_alone and 0 < job.step > last_step(job.folder) and is_finite(job):
        save(job)
    return way_on(job.folder)


def save(job: Job) -> None:
    """A checkpoint of the run as it is now."""
    gather_bad_images(job)
    limit = job.training.checkpoints_total_limit
    write = functools.partial(write_state, job)
    save_checkpoint(job.accelerator, job.folder, job.step, write, limit, is_together=job.is_divided)


def report(job: Job, progress: Progress, bar: tqdm, since: float) -> float:
    """Tell of the steps since the last report, and stop if one went wrong; returns the time."""
    count, now = len(progress), time.monotonic()
    losses, norms, levels = progress.read()
    is_scaled = job.accelerator.scaler is not None  # for fp16, which leaves out steps whose gradient overflows
    for step, loss, norm in zip(range(job.step - count + 1, job.step + 1), losses, norms, strict=True):
        job.left_out = 0 if math.isfinite(norm) else job.left_out + 1
        if job.left_out == MOST_LEFT_OUT:
            raise RunStopped(f"The gradients of the last {job.left_out} steps are not finite, at any scale. {ANEW}")
        if not math.isfinite(loss) or not (is_scaled or math.isfinite(norm)):
            what = f"The loss of step {step} is {loss}, the norm of its gradient {norm}."
            raise RunStopped(f"{what} {ANEW}")
    job.seconds += now - since
    speed = count * job.share.total / (now - since)
    loss = sum(losses) / count
    bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
    figures = {
        "loss": loss,
        "gradient_norm": norms[-1],
        "learning_rate": job.lr_scheduler.get_last_lr()[0],
        "images_per_second": speed,
        "epoch": job.epochs_made(job.step),
    }
    if job.average is not None:
        figures["ema_decay"] = job.average.decay
    if job.accelerator.device.type == "cuda":
        figures["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    job.trackers.log(figures | levels, job.step)
    return time.monotonic()


def note_bad_images(job: Job, batch: Batch) -> None:
    """Name every image that was passed over once, or stop at the first."""
    for sentence in batch.bad:
        if not job.skip_bad_images:
            raise DataUnreadable(f"{sentence} {TAKE_OUT}")
        if sentence not in job.bad_images:
            job.bad_images.add(sentence)
            tell_passed_over(len(job.bad_images), sentence)
