# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Train a DDPM (Ho et al. 2020, Algorithm 1), draw samples, and score it in bits/dim.

    accelerate launch examples/train.py                                    the digits, about five minutes on two cores
    accelerate launch examples/train.py examples/configs/cifar10.yaml      the paper's model and settings
    accelerate launch examples/train.py --train_data_dir my_images --resolution 64

Leaves in --output_dir a saved pipeline, samples.png, metrics.json and a model card (README.md); with --push_to_hub,
on the Hub too.
"""

from __future__ import annotations


import threads  # noqa: F401  # isort: skip - before torch

import copy
import shutil
import time
from pathlib import Path

import torch
from arguments import (
    DataArguments,
    DiffusionArguments,
    HubArguments,
    ModelArguments,
    TrainingArguments,
    parse,
    user_errors,
)
from diffusers.optimization import get_scheduler
from ema import WeightAverage, averaged
from figures import save_grid
from output_folder import write_file, write_folder, write_json
from preparation import Job, prepare
from reporting import describe, metrics, quality_of, training_facts
from sampling import draw_images
from scoring import fit_decoder_variance, score
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

from ddpm_hf import DDPMPaperPipeline, DDPMPaperScheduler
from ddpm_hf.hub import INDEX
from ddpm_hf.model_card import CARD, METRICS, SAMPLES, fill_card
from ddpm_hf.objectives import (
    rate_loss,
    simple_loss,
    stratified_timesteps,
    uniform_timesteps,
    vlb_loss,
)


IMAGES_FOR_THE_DECODER = 2048  # more than enough to fit one number
STEPS_BETWEEN_REPORTS = 10  # reading the loss waits for the device


def losses(job: Job, model: torch.nn.Module, x_0: Tensor) -> Tensor:
    """Algorithm 1, lines 2 to 5: one loss per example, at a random time each, `[B]`."""
    scheduler = job.scheduler
    noise = torch.randn_like(x_0)
    t, weights = draw_timesteps(job, len(x_0), x_0.device)
    x_t = scheduler.add_noise(x_0, noise, t)
    output = model(x_t, t, return_dict=False)[0].float()
    if job.objective == "simple":
        loss = simple_loss(output, scheduler.training_target(x_0, noise, t))
    elif job.objective == "vlb":  # every timestep is visited: the chain's index is the timestep
        loss = vlb_loss(job.training_process, output, x_0, x_t, t, scheduler.num_levels)
    else:
        loss = rate_loss(job.training_process, output, x_0, x_t, t)
    if job.importance is not None:
        job.importance.update(t, loss)
    return weights * loss


def draw_timesteps(job: Job, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor | float]:
    """One timestep per example, and the weight of its loss."""
    if job.importance is not None:
        return job.importance.sample(batch_size)
    draw = uniform_timesteps if job.timestep_sampling == "uniform" else stratified_timesteps
    return draw(batch_size, len(job.scheduler), device), 1.0


def make_optimizer(job: Job) -> tuple[Optimizer, LRScheduler]:
    """AdamW and its learning rate: warm-up, then the decay asked for."""
    training = job.training
    optimizer = torch.optim.AdamW(
        job.unet.parameters(),
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        weight_decay=training.adam_weight_decay,
        eps=training.adam_epsilon,
        fused=True,
    )
    lr_scheduler = get_scheduler(
        training.lr_scheduler,
        optimizer,
        num_warmup_steps=training.lr_warmup_steps * job.accelerator.num_processes,  # each process makes a step of it
        num_training_steps=job.steps * job.accelerator.num_processes,
    )
    return optimizer, lr_scheduler


def train(job: Job) -> WeightAverage | None:
    """Algorithm 1 until the last step; returns the averaged weights, if they are wanted."""
    accelerator, training = job.accelerator, job.training
    model, optimizer, lr_scheduler, loader = accelerator.prepare(job.unet, *make_optimizer(job), job.loader)
    ema = None
    if training.use_ema:
        ema = WeightAverage(job.unet, training.ema_inv_gamma, training.ema_power, training.ema_max_decay)
    bar = tqdm(total=job.steps, desc="training", unit="step", disable=not accelerator.is_main_process)
    started, running = time.monotonic(), torch.zeros((), device=accelerator.device)
    step = epoch = 0  # counted here: the bars of other processes are disabled, and count nothing
    while step < job.steps:
        model.train()
        for x_0 in loader:
            with accelerator.accumulate(model):
                loss = losses(job, model, x_0).mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), training.max_grad_norm)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            running += loss.detach() / training.gradient_accumulation_steps
            if not accelerator.sync_gradients:
                continue
            if ema is not None:
                ema.update(job.unet)
            step += 1
            bar.update()
            if step % STEPS_BETWEEN_REPORTS == 0:
                images = step * loader.total_batch_size * training.gradient_accumulation_steps
                speed = images / (time.monotonic() - started)
                bar.set_postfix_str(f"loss {running.item() / STEPS_BETWEEN_REPORTS:.4f}, {speed:.0f} images/s")
                running.zero_()
            if step == job.steps:
                break
            if job.pusher is not None and is_due(step, job.push_steps) and not job.pusher.is_busy:
                push_snapshot(job, ema, step)
        epoch += 1
        is_last = step == job.steps
        if accelerator.is_main_process and is_due(epoch, training.save_images_epochs) and not is_last:
            with averaged(ema, job.unet):
                samples = draw(job, training.eval_batch_size)
            save_grid(samples, job.folder / "samples" / f"step_{step:07d}.png")
    bar.close()
    job.seconds = time.monotonic() - started
    return ema


def is_due(count: int, interval: int) -> bool:
    """Whether something done every `interval` steps or epochs, never if 0, is due after so many."""
    return interval > 0 and count % interval == 0


def draw(job: Job, count: int) -> Tensor:
    """Samples in [0, 1], the same noise every time."""
    job.unet.eval()
    pipeline = DDPMPaperPipeline(job.unet, DDPMPaperScheduler.from_config(job.scheduler.config))
    pipeline.set_progress_bar_config(leave=False, desc="sampling", unit="step")
    return draw_images(pipeline, count, job.training.train_batch_size, job.inference_steps, job.training.seed)


def push_snapshot(job: Job, ema: WeightAverage | None, step: int) -> None:
    """Push what is trained so far beside the training, which waits for no more than a copy of the weights."""
    with averaged(ema, job.unet):
        pipeline = DDPMPaperPipeline(copy.deepcopy(job.unet).cpu(), job.scheduler)
    grids = sorted((job.folder / "samples").glob("*.png"))

    def write(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        write_json(folder / METRICS, {**training_facts(job), "step_of_training": step})
        if grids:
            shutil.copyfile(grids[-1], folder / SAMPLES)

    job.pusher.push_snapshot(step, write)


def finish(job: Job) -> None:
    """Sample, score on the test images, and save: all with the averaged weights."""
    training, device = job.training, job.accelerator.device
    job.unet.eval()
    if job.scheduler.variance_type.startswith("fixed"):
        some = job.data.train.batches(training.train_batch_size, limit=IMAGES_FOR_THE_DECODER)
        variance = fit_decoder_variance(job.unet, job.scheduler, some, training.seed, device)
        job.scheduler = DDPMPaperScheduler.from_config(job.scheduler.config, first_variance=variance)
    samples = draw(job, max(training.eval_batch_size, training.num_quality_samples))
    save_grid(samples[: training.eval_batch_size], job.folder / SAMPLES)
    quality = quality_of(samples, job.inference_steps, job.data) if training.num_quality_samples else {}
    batches = job.data.test.batches(training.train_batch_size)
    result = score(job.unet, job.scheduler, batches, training.num_evaluations, training.seed, device)
    report = metrics(job, result, quality)
    write_json(job.folder / METRICS, report)
    pipeline = DDPMPaperPipeline(job.unet, job.scheduler)
    write_folder(job.folder, pipeline.save_pretrained, last=INDEX)
    name = str(job.folder) if job.pusher is None else job.pusher.repo_id
    write_file(job.folder / CARD, lambda partial: partial.write_text(fill_card(job.folder, name), "utf-8"))
    print(describe(report))
    if job.pusher is not None:
        job.pusher.push_run()


def main() -> None:
    script = Path(__file__).name
    arguments = parse(script, ModelArguments, DataArguments, DiffusionArguments, TrainingArguments, HubArguments)
    with user_errors(script):
        job = prepare(*arguments)
    ema = train(job)
    if job.accelerator.is_main_process:
        with averaged(ema, job.unet):
            finish(job)
    job.accelerator.end_training()


if __name__ == "__main__":
    main()
