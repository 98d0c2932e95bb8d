# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Sample grids, validation, saved models and pushes during training, and the scores and the model card at the end.

All processes sample and score together; the main process writes.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from diffusers import ModelMixin
from torch import Tensor

from ..conditioning.columns import Columns, chosen, joined
from ..data.batches import BatchShard, TrainingBatches
from ..data.image_streams import ImageStream
from ..data.level_images import LevelImages
from ..evaluation.features import IMAGES_OF_A_DATA_SET
from ..evaluation.frechet_distance import quality_of
from ..evaluation.measuring import measured_errors, with_errors
from ..evaluation.quality_features import load_quality_features
from ..evaluation.sampling import draw_images
from ..evaluation.scoring import paths_report, score_by_paths
from ..hub.model_card import CARD, SAMPLES, fill_card
from ..hub.push import INDEX
from ..likelihood.variational import BitsPerDim
from ..reporting.figures import save_grid
from ..reporting.lines import describe
from ..results import FRECHET_DISTANCES, METRICS, Metrics, QualityFigures, Validation, checked
from ..runtime.output_folder import replace_folder, write_file, write_folder, write_json
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .facts import metrics, training_facts
from .run_clock import MEASURING, SAMPLING, SAVING, SCORING
from .state import TrainState, gather_bad_images
from .weight_averages import WeightAverage, averaged
from .worth import RETRIEVED, is_worth_scored, scored, worth_figures


PATHS, IMAGES_ON_PATHS = 4, 512  # by default, of each of up to so many test images
STEPS_OF_A_PATH = 50  # at most: more paths tighten the bound more than longer ones


@contextlib.contextmanager
def evaluated(state: TrainState, average: WeightAverage | None) -> Iterator[None]:
    """A context in which the model is in evaluation mode, with the averaged weights, or its own if None."""
    with averaged(average, state.model):
        state.model.eval()
        try:
            with state.clock.counting(state.model):
                yield
        finally:
            state.model.train()


def draw(state: TrainState, count: int) -> Tensor:
    """Samples in [0, 1], from the same noise every time."""
    pipeline = state.pipeline()
    pipeline.set_progress_bar_config(disable=True)  # the run's progress includes sampling
    how = (state.training.scoring_batch_size, state.inference_steps, state.training.seed, state.accelerator)
    return draw_images(pipeline, count, *how, state.conditioners.variety())


def draw_grid(state: TrainState) -> None:
    """Draw and save a sample grid with the current weights."""
    with state.clock.phase(SAMPLING), evaluated(state, state.average):
        samples = draw(state, state.training.eval_batch_size)
    if state.accelerator.is_main_process:
        titles = state.conditioners.titles(len(samples))
        picture = save_grid(samples, state.folder / "samples" / f"{grid_of(state.step)}.png", captions=titles)
        state.trackers.log_picture("samples", picture, state.step)


def grid_of(step: int) -> str:
    """The file name of the sample grid of a step, without its ending."""
    return f"step_{step:07d}"


def validate(state: TrainState) -> None:
    """Compute the bits/dim of the validation images, if there are any, with the current weights."""
    if not len(state.data.validation):
        return
    with state.clock.phase(SCORING), evaluated(state, state.average):
        result = _score(state, state.data.validation.spread(state.training.max_validation_images))
    figures: Validation = {
        "step": state.step,
        "bits_per_dim": result.total,
        "bits_per_dim_standard_error": result.standard_error,
    }
    checked({"validation": [figures]})
    state.validation.append(figures)
    state.trackers.log({f"validation/{name}": value for name, value in figures.items() if name != "step"}, state.step)


def _score(state: TrainState, images: LevelImages, num_evaluations: int | None = None) -> BitsPerDim:
    asked = state.training.num_validation_evaluations if num_evaluations is None else num_evaluations
    return scored(state, state.denoiser, images, asked)


def _score_by_paths(state: TrainState) -> Metrics:
    """The importance-weighted bound of a short chain, at optimal timesteps if the denoising errors are known."""
    count = number_of_paths(state)
    if not count:
        return {}
    scheduler = DDPMPaperScheduler.from_config(state.scheduler.config)
    if not scheduler.process.learns_of_neighbours:
        spacing = None if scheduler.denoising_errors is None else "optimal"
        scheduler.set_timesteps(steps_of_a_path(state), timestep_spacing=spacing)
    chosen = (state.accelerator, state.training.scoring_batch_size, count, state.training.seed)
    bits = state.task.importance_weighted_bits_per_dim
    result = score_by_paths(state.denoiser, scheduler, state.data.test, *chosen, count=bits)
    return {"importance_weighted": paths_report(result)}


def number_of_paths(state: TrainState) -> int:
    """The number of weighted paths per test image for the final score; 0 for no such score."""
    if state.training.num_paths is not None:
        return state.training.num_paths
    visits_all = state.scheduler.process.learns_of_neighbours  # paths through all timesteps would take long
    return 0 if visits_all or len(state.data.test) > IMAGES_ON_PATHS else PATHS


def steps_of_a_path(state: TrainState) -> int:
    """The number of model calls per path, at most."""
    visits_all = state.scheduler.process.learns_of_neighbours
    return len(state.scheduler) if visits_all else min(STEPS_OF_A_PATH, state.inference_steps)


def save_model(state: TrainState) -> None:
    """Save the pipeline with the current averaged weights in the run's folder."""
    with averaged(state.average, state.model):
        _save_pipeline(state)


def _save_pipeline(state: TrainState) -> None:
    with state.clock.phase(SAVING):
        model = _whole(state, state.average)
        if state.accelerator.is_main_process:
            write = functools.partial(state.pipeline(model).save_pretrained, **_parts_there(state))
            write_folder(state.folder, write, last=INDEX)
            state.is_saved = True
        state.clock.advance(state.bytes_of_weights)


def _parts_there(state: TrainState) -> dict[str, Any]:
    """Frozen parts of the pipeline that this run has saved already, as an argument of `save_pretrained`."""
    is_of_this_run = state.is_saved or state.is_resumed
    there = [name for name in state.task.frozen_parts if is_of_this_run and (state.folder / name).is_dir()]
    return {"parts_there": there} if there else {}


def _whole(state: TrainState, average: WeightAverage | None) -> ModelMixin:
    """The whole model with these averaged weights, gathered from all processes; only the main process gets them."""
    if not state.is_divided:
        return state.model
    weights = state.accelerator.get_state_dict(state.prepared) if average is None else average.state_dict()
    model = type(state.model).from_config(state.model.config)
    if state.accelerator.is_main_process:
        model.load_state_dict(weights)
    return model


def push_snapshot(state: TrainState) -> None:
    """Push the current model in the background; training waits only while the weights are copied.

    All processes call this together. It does nothing while the last push is still running.
    """
    is_main = state.accelerator.is_main_process
    is_free = broadcast_object_list([is_main and not state.pusher.is_busy])[0]
    if not is_free or not (is_main or state.is_divided):
        return
    with state.clock.phase(SAVING), averaged(state.average, state.model):
        pipeline = state.pipeline(copy.deepcopy(_whole(state, state.average)).cpu())
    if not is_main:
        return
    grids = sorted(path for path in (state.folder / "samples").glob("*.png") if path.stem <= grid_of(state.step))
    facts = checked({**training_facts(state), "step_of_training": state.step})

    def write(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        write_json(folder / METRICS, facts)
        if grids:
            shutil.copyfile(grids[-1], folder / SAMPLES)

    state.pusher.push_snapshot(state.step, write)


def training_images(state: TrainState, limit: int) -> Iterator[tuple[Tensor, Columns]]:
    """Up to `limit` training images with their columns, the same on every process."""
    train, size = state.data.train, state.training.train_batch_size
    if not isinstance(train, ImageStream):
        yield from train.batches_with_columns(size, limit, state.task.skip_bad_examples)
        return
    count = -(-min(limit, state.images_per_epoch or limit) // size)
    stream = TrainingBatches(dataclasses.replace(train, derive=None), BatchShard(size), 0, count, state.training.seed)
    with contextlib.closing(iter(stream)) as batches:
        for batch in itertools.islice(batches, count):
            yield batch.x_0, batch.columns


def finish(state: TrainState) -> None:
    """Sample, score on the test images, and save the model, all with the averaged weights."""
    training, clock = state.training, state.clock
    gather_bad_images(state)
    others = _scores_of_other_averages(state)
    with evaluated(state, state.average):
        _save_pipeline(state)  # before scoring, which may fail: without checkpoints nothing else would be left
        with clock.phase(MEASURING, is_last=True):
            state.scheduler = _with_what_is_measured(state)
        with clock.phase(SAMPLING, is_last=True):
            samples = draw(state, max(training.eval_batch_size, training.num_quality_samples))
        with clock.phase(SCORING, is_last=True):
            report = checked(_scored(state, samples) | others)  # on all processes, before any of them writes
        if state.accelerator.is_main_process:
            report = _write(state, report, samples[: training.eval_batch_size])
        _save_pipeline(state)  # again, with the measured variance
    clock.close()
    if state.accelerator.is_main_process:
        _tell(state, report)


def _scored(state: TrainState, samples: Tensor) -> Metrics:
    """All figures of the run; only the main process computes those of the samples."""
    result, weighted, quality = None, {}, {}
    if len(state.data.test):
        result = _score(state, state.data.test, state.training.num_evaluations)
        weighted = _score_by_paths(state)
        if is_worth_scored(state):
            weighted |= worth_figures(state, result, _some_training_images(state))
    if state.accelerator.is_main_process:
        quality = _quality(state, samples)
    return metrics(state, result, weighted | quality)


def _some_training_images(state: TrainState) -> LevelImages:
    """As many training images as retrieval takes, in memory, with their columns."""
    train = state.data.train
    if isinstance(train, LevelImages):
        return train.spread(RETRIEVED)
    batches = list(training_images(state, RETRIEVED))
    x_0 = torch.cat([images for images, _ in batches])[:RETRIEVED].cpu()
    levels = ((x_0 + 1) / 2 * (train.num_levels - 1)).round().to(torch.int32)
    columns = joined([columns for _, columns in batches])
    return LevelImages.in_memory(levels, train.num_levels, chosen(columns, slice(len(levels))))


def _write(state: TrainState, report: Metrics, samples: Tensor) -> Metrics:
    """Write samples and metrics to the run's folder and the trackers; returns the figures and the times of phases."""
    with state.clock.phase(SAVING):
        picture = save_grid(samples, state.folder / SAMPLES, captions=state.conditioners.titles(len(samples)))
        state.trackers.log_picture("samples", picture, state.step)
        state.trackers.log({f"test/{name}": value for name, value in _figures(report).items()}, state.step)
    report = {**report, "seconds_by_phase": dict(state.clock.seconds)}  # without the last save, which comes next
    write_json(state.folder / METRICS, checked(report))
    return report


def _tell(state: TrainState, report: Metrics) -> None:
    """Write the card, print the results, and push the run if that was requested."""
    name = str(state.folder) if state.pusher is None else state.pusher.repo_id
    card = fill_card(state.folder, name, license=state.license)
    write_file(state.folder / CARD, lambda partial: partial.write_text(card, "utf-8"))
    print(describe(report))
    print(f"the model is in {state.folder}, with {CARD}, {SAMPLES} and {METRICS}")
    if state.pusher is not None:
        state.pusher.push_run()


def _with_what_is_measured(state: TrainState) -> DDPMPaperScheduler:
    """The scheduler with denoising errors measured on training images, and the variance that follows from them.

    All processes use the measurement of the main process.
    """
    scheduler, seed = state.scheduler, state.training.seed
    most = state.training.max_measured_images
    images, device = training_images(state, most), state.accelerator.device
    count = min(state.images_per_epoch or most, most)
    is_fixed = state.diffusion.variance_type.startswith("fixed")
    per_element = False if is_fixed else state.diffusion.per_element
    errors = measured_errors(
        state.denoiser, scheduler, images, count, state.data.train.shape, seed, device, per_element=per_element
    )
    return with_errors(scheduler, broadcast_object_list([errors])[0], keeps_variance=is_fixed)


def _quality(state: TrainState, samples: Tensor) -> QualityFigures:
    if not state.training.num_quality_samples:
        return {}
    train = torch.cat([images for images, _ in training_images(state, IMAGES_OF_A_DATA_SET)])
    if len(train) < 2:
        return {}  # one image has no covariance
    test, _ = state.data.test.spread(IMAGES_OF_A_DATA_SET).batch(0, IMAGES_OF_A_DATA_SET)
    features = load_quality_features(state.training, state.accelerator.device)
    return quality_of(samples, state.inference_steps, train, test, features)


def _figures(report: Metrics) -> dict[str, float]:
    names = [f"frechet_distance_{name}" for name in FRECHET_DISTANCES]
    names += ["bits_per_dim", "bits_per_dim_standard_error"]
    names += [f"bits_per_dim_{part}" for part in ("prior", "rate", "decoder")]
    figures = {name: report[name] for name in names if report.get(name) is not None}
    for decay, bits in report.get("validation_bits_per_dim_by_ema_decay", {}).items():
        figures[f"validation_bits_per_dim_of_ema_decay_{decay}"] = bits
    if "importance_weighted" in report:
        figures["bits_per_dim_importance_weighted"] = report["importance_weighted"]["bits_per_dim"]
    return figures


def _scores_of_other_averages(state: TrainState) -> Metrics:
    """Validation bits/dim for each decay, if there are several; saves the weights of all but the first separately."""
    if len(state.averages) < 2:
        return {}
    scores = {}
    for average in state.averages:
        with evaluated(state, average):
            if len(state.data.validation):
                with state.clock.phase(SCORING):
                    scores[f"{average.max_decay:g}"] = _score(state, state.data.validation).total
            if average is not state.average:
                _save_other(state, average)
    return {"validation_bits_per_dim_by_ema_decay": scores}


def _save_other(state: TrainState, average: WeightAverage) -> None:
    """Save the weights of a further average, which the model has at present."""
    with state.clock.phase(SAVING):
        other = _whole(state, average)
        if state.accelerator.is_main_process:
            replace_folder(state.folder / f"unet_ema_{average.max_decay:g}", other.save_pretrained)
        state.clock.advance(state.bytes_of_weights)
