# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What a run leaves: sample grids and scores along the way, snapshots on the Hub, the finished model with its card.

All processes draw and score together; the main one writes.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from diffusers import UNet2DModel
from torch import Tensor
from tqdm.auto import tqdm

from ..data.batches import Share, TrainingBatches
from ..data.image_streams import ImageStream
from ..evaluation.frechet_distance import IMAGES_OF_A_DATA_SET, quality_of
from ..evaluation.measuring import measured_errors, with_errors
from ..evaluation.sampling import draw_images
from ..evaluation.scoring import paths_report, score, score_by_paths
from ..hub.model_card import CARD, SAMPLES, fill_card
from ..hub.push import INDEX
from ..likelihood.variational import BitsPerDim
from ..pipelines.pipeline_ddpm_paper import DDPMPaperPipeline
from ..reporting.figures import save_grid
from ..reporting.lines import describe
from ..results import METRICS, Metrics, QualityFigures, Validation, checked
from ..runtime.output_folder import replace_folder, write_file, write_folder, write_json
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .facts import metrics, training_facts
from .state import Job, gather_bad_images
from .weight_averages import WeightAverage, averaged


PATHS, IMAGES_ON_PATHS = 8, 512  # by default, of each of up to so many test images
STEPS_OF_A_PATH = 50  # at most: more paths tighten the bound more than longer ones


@contextlib.contextmanager
def evaluated(job: Job, average: WeightAverage | None) -> Iterator[None]:
    """Inside, the model has these averaged weights, or its own if None, and drops nothing out."""
    with averaged(average, job.unet):
        job.unet.eval()
        try:
            yield
        finally:
            job.unet.train()


def draw(job: Job, count: int) -> Tensor:
    """Samples in [0, 1], the same noise every time."""
    pipeline = DDPMPaperPipeline(job.unet, DDPMPaperScheduler.from_config(job.scheduler.config))
    pipeline.set_progress_bar_config(
        leave=False, desc="sampling", unit="step", disable=not job.accelerator.is_main_process
    )
    batch_size = job.training.scoring_batch_size
    return draw_images(pipeline, count, batch_size, job.inference_steps, job.training.seed, job.accelerator)


def draw_grid(job: Job) -> None:
    """A sample grid of the weights as they are now."""
    with evaluated(job, job.average):
        samples = draw(job, job.training.eval_batch_size)
    if job.accelerator.is_main_process:
        picture = save_grid(samples, job.folder / "samples" / f"{grid_of(job.step)}.png")
        job.trackers.log_picture("samples", picture, job.step)


def grid_of(step: int) -> str:
    """What the sample grid of a step is called."""
    return f"step_{step:07d}"


def validate(job: Job) -> None:
    """Bits/dim of validation images, if there are any, with the weights as they are now."""
    if not len(job.data.validation):
        return
    with evaluated(job, job.average):
        result = _score(job, job.data.validation.spread(job.training.max_validation_images))
    figures: Validation = {
        "step": job.step,
        "bits_per_dim": result.total,
        "bits_per_dim_standard_error": result.standard_error,
    }
    checked({"validation": [figures]})
    job.validation.append(figures)
    job.trackers.log({f"validation/{name}": value for name, value in figures.items() if name != "step"}, job.step)


def _score(job: Job, images: object, num_evaluations: int | None = None) -> BitsPerDim:
    asked = job.training.num_validation_evaluations if num_evaluations is None else num_evaluations
    batch_size, seed = job.training.scoring_batch_size, job.training.seed
    return score(job.unet, job.scheduler, images, job.accelerator, batch_size, asked, seed)


def _score_by_paths(job: Job) -> Metrics:
    """The importance-weighted bound of a short chain, its times chosen for the bound if they can be."""
    images, count = job.data.test, job.training.num_paths
    visits_all = job.scheduler.process.learns_of_neighbours  # and would take long
    if count is None:
        count = 0 if visits_all or len(images) > IMAGES_ON_PATHS else PATHS
    if not count:
        return {}
    scheduler = DDPMPaperScheduler.from_config(job.scheduler.config)
    if not visits_all:
        spacing = None if scheduler.denoising_errors is None else "optimal"
        scheduler.set_timesteps(min(STEPS_OF_A_PATH, job.inference_steps), timestep_spacing=spacing)
    batch_size, seed = job.training.scoring_batch_size, job.training.seed
    hidden = not job.accelerator.is_main_process
    progress = partial(tqdm, leave=False, desc="scoring by weighted paths", unit="batch", disable=hidden)
    result = score_by_paths(job.unet, scheduler, images, job.accelerator, batch_size, count, seed, progress)
    return {"importance_weighted": paths_report(result)}


def save_model(job: Job) -> None:
    """The pipeline with the averaged weights as they are now, in the run's folder."""
    with averaged(job.average, job.unet):
        _save_pipeline(job)


def _save_pipeline(job: Job) -> None:
    unet = _whole(job, job.average)
    if job.accelerator.is_main_process:
        write_folder(job.folder, DDPMPaperPipeline(unet, job.scheduler).save_pretrained, last=INDEX)


def _whole(job: Job, average: WeightAverage | None) -> UNet2DModel:
    """The model, which has these averaged weights, in one piece; of several processes the main one's counts."""
    if not job.is_divided:
        return job.unet
    weights = job.accelerator.get_state_dict(job.model) if average is None else average.state_dict()
    unet = UNet2DModel.from_config(job.unet.config)
    if job.accelerator.is_main_process:
        unet.load_state_dict(weights)
    return unet


def push_snapshot(job: Job) -> None:
    """Push what is trained so far beside the training, which waits for no more than a copy of the weights.

    All processes call it together; nothing happens while the last push is under way.
    """
    is_main = job.accelerator.is_main_process
    is_free = broadcast_object_list([is_main and not job.pusher.is_busy])[0]
    if not is_free or not (is_main or job.is_divided):
        return
    with averaged(job.average, job.unet):
        pipeline = DDPMPaperPipeline(copy.deepcopy(_whole(job, job.average)).cpu(), job.scheduler)
    if not is_main:
        return
    grids = sorted(path for path in (job.folder / "samples").glob("*.png") if path.stem <= grid_of(job.step))
    facts = checked({**training_facts(job), "step_of_training": job.step})

    def write(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        write_json(folder / METRICS, facts)
        if grids:
            shutil.copyfile(grids[-1], folder / SAMPLES)

    job.pusher.push_snapshot(job.step, write)


def training_images(job: Job, limit: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Up to so many training images with their classes, the same on every process."""
    train, size = job.data.train, job.training.train_batch_size
    if not isinstance(train, ImageStream):
        yield from train.labelled_batches(size, limit, job.skip_bad_images)
        return
    count = -(-min(limit, job.images_per_epoch or limit) // size)
    with contextlib.closing(iter(TrainingBatches(train, Share(size), 0, count, job.training.seed))) as batches:
        for batch in itertools.islice(batches, count):
            yield batch.images, batch.labels


def finish(job: Job) -> None:
    """Sample, score on the test images, and save: all with the averaged weights."""
    training, accelerator = job.training, job.accelerator
    gather_bad_images(job)
    others = _scores_of_other_averages(job)
    with evaluated(job, job.average):
        _save_pipeline(job)  # what comes now may fail, and without checkpoints this is all there is
        job.scheduler = _with_what_is_measured(job)
        samples = draw(job, max(training.eval_batch_size, training.num_quality_samples))
        result, weighted = None, {}
        if len(job.data.test):
            result = _score(job, job.data.test, training.num_evaluations)
            weighted = _score_by_paths(job)
        if accelerator.is_main_process:
            report = metrics(job, result, weighted | _quality(job, samples)) | others
            picture = save_grid(samples[: training.eval_batch_size], job.folder / SAMPLES)
            write_json(job.folder / METRICS, checked(report))
        _save_pipeline(job)
    if accelerator.is_main_process:
        job.trackers.log_picture("samples", picture, job.step)
        job.trackers.log({f"test/{name}": value for name, value in _figures(report).items()}, job.step)
        name = str(job.folder) if job.pusher is None else job.pusher.repo_id
        write_file(job.folder / CARD, lambda partial: partial.write_text(fill_card(job.folder, name), "utf-8"))
        print(describe(report))
        if job.pusher is not None:
            job.pusher.push_run()


def _with_what_is_measured(job: Job) -> DDPMPaperScheduler:
    """The scheduler with what is measured on training images and not learned: denoising errors, and the variance.

    Of several processes the main one's counts.
    """
    scheduler, seed = job.scheduler, job.training.seed
    most = job.training.max_measured_images
    images, device = training_images(job, most), job.accelerator.device
    count = min(job.images_per_epoch or most, most)
    is_fixed = job.diffusion.variance_type.startswith("fixed")
    per_element = False if is_fixed else job.diffusion.per_element
    errors = measured_errors(job.unet, scheduler, images, count, seed, device, per_element=per_element)
    return with_errors(scheduler, broadcast_object_list([errors])[0], keeps_variance=is_fixed)


def _quality(job: Job, samples: Tensor) -> QualityFigures:
    if not job.training.num_quality_samples:
        return {}
    train = torch.cat([images for images, _ in training_images(job, IMAGES_OF_A_DATA_SET)])
    if len(train) < 2:
        return {}  # one image has no covariance
    test, _ = job.data.test.spread(IMAGES_OF_A_DATA_SET).batch(0, IMAGES_OF_A_DATA_SET)
    return quality_of(samples, job.inference_steps, train, test)


def _figures(report: Metrics) -> dict[str, float]:
    names = ["frechet_distance_pixels", "bits_per_dim", "bits_per_dim_standard_error"]
    names += [f"bits_per_dim_{part}" for part in ("prior", "rate", "decoder")]
    figures = {name: report[name] for name in names if report.get(name) is not None}
    for decay, bits in report.get("validation_bits_per_dim_by_ema_decay", {}).items():
        figures[f"validation_bits_per_dim_of_ema_decay_{decay}"] = bits
    if "importance_weighted" in report:
        figures["bits_per_dim_importance_weighted"] = report["importance_weighted"]["bits_per_dim"]
    return figures


def _scores_of_other_averages(job: Job) -> Metrics:
    """Validation bits/dim of every decay, where there are several; the weights of the others are saved beside."""
    if len(job.averages) < 2:
        return {}
    scores = {}
    for average in job.averages:
        with evaluated(job, average):
            if len(job.data.validation):
                scores[f"{average.max_decay:g}"] = _score(job, job.data.validation).total
            unet = _whole(job, average) if average is not job.average else None
            if unet is not None and job.accelerator.is_main_process:
                replace_folder(job.folder / f"unet_ema_{average.max_decay:g}", unet.save_pretrained)
    return {"validation_bits_per_dim_by_ema_decay": scores}
