# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Sample grids, validation, saved models and pushes during training, and the scores and the model card at the end.

All processes sample and score together; the main process writes.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from accelerate.utils import broadcast_object_list
from diffusers import ModelMixin
from PIL import Image
from torch import Tensor

from ..evaluation.truncation import truncation_is_counted
from ..hub.model_card import CARD, SAMPLES, fill_card
from ..reporting.figures import save_grid
from ..reporting.lines import describe
from ..results import CONTRASTIVE_NAMES, FRECHET_DISTANCES, METRICS, PRIOR_NAMES, Metrics, Validation, checked
from ..runtime.output_folder import replace_folder, write_file, write_folder, write_json
from .facts import metrics, training_facts
from .run_clock import MEASURING, SAMPLING, SAVING, SCORING
from .run_state import RunState, gather_bad_images
from .truncation import tell_truncated
from .weight_averages import WeightAverage, averaged


OF_LATENTS = ("reconstruction", "kl", "posterior_entropy", "latent")  # parts of bounds


@contextlib.contextmanager
def evaluated(state: RunState, average: WeightAverage | None) -> Iterator[None]:
    """A context in which the model is in evaluation mode, with the averaged weights, or its own if None."""
    with averaged(average, state.model):
        state.model.eval()
        try:
            with state.clock.counting(state.model):
                yield
        finally:
            state.model.train()


def draw(state: RunState, count: int) -> Tensor:
    """Samples in [0, 1], from the same noise every time."""
    return state.method.draw(state, count)


@truncation_is_counted()
def draw_grid(state: RunState) -> None:
    """Draw and save a sample grid with the current weights."""
    with state.clock.phase(SAMPLING), evaluated(state, state.average):
        samples = draw(state, state.training.eval_batch_size)
    if state.accelerator.is_main_process:
        picture = _save_grid(state, samples, state.folder / "samples" / f"{grid_of(state.step)}.png")
        state.trackers.log_picture("samples", picture, state.step)


def _save_grid(state: RunState, samples: Tensor, path: Path) -> Image.Image:
    count = len(samples)
    return save_grid(samples, path, state.method.columns(count), captions=state.conditioners.titles(count))


def grid_of(step: int) -> str:
    """The file name of the sample grid of a step, without its ending."""
    return f"step_{step:07d}"


def validate(state: RunState) -> None:
    """Compute the score of the validation images, if there are any, with the current weights."""
    if not len(state.data.validation):
        return
    with state.clock.phase(SCORING), evaluated(state, state.average):
        result = state.method.validate(state, state.data.validation.spread(state.training.max_validation_images))
    name = state.method.score_name
    figures = cast(
        "Validation", {"step": state.step, name: result.total, f"{name}_standard_error": result.standard_error}
    )
    checked({"validation": [figures]})
    state.validation.append(figures)
    state.trackers.log({f"validation/{name}": value for name, value in figures.items() if name != "step"}, state.step)


def save_model(state: RunState) -> None:
    """Save the pipeline with the current averaged weights in the run's folder."""
    with averaged(state.average, state.model):
        _save_pipeline(state)


def _save_pipeline(state: RunState) -> None:
    with state.clock.phase(SAVING):
        model = _whole(state, state.average)
        if state.accelerator.is_main_process:
            saved = state.method.saved(state, model)
            write = functools.partial(saved.save_pretrained, **state.method.saving_options(state))
            write_folder(state.folder, write, last=state.method.index)
            state.is_saved = True
        state.clock.advance(state.bytes_of_weights)


def _whole(state: RunState, average: WeightAverage | None) -> ModelMixin:
    """The whole model with these averaged weights, gathered from all processes; only the main process gets them."""
    if not state.is_divided:
        return state.model
    weights = state.accelerator.get_state_dict(state.prepared) if average is None else average.state_dict()
    model = type(state.model).from_config(state.model.config)
    if state.accelerator.is_main_process:
        model.load_state_dict(weights)
    return model


def push_snapshot(state: RunState) -> None:
    """Push the current model in the background; training waits only while the weights are copied.

    All processes call this together. It does nothing while the last push is still running.
    """
    is_main = state.accelerator.is_main_process
    is_free = broadcast_object_list([is_main and not state.pusher.is_busy])[0]
    if not is_free or not (is_main or state.is_divided):
        return
    with state.clock.phase(SAVING), averaged(state.average, state.model):
        model = state.method.saved(state, copy.deepcopy(_whole(state, state.average)).cpu())
    if not is_main:
        return
    grids = sorted(path for path in (state.folder / "samples").glob("*.png") if path.stem <= grid_of(state.step))
    facts = checked({**training_facts(state), "step_of_training": state.step})

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        write_json(folder / METRICS, facts)
        if grids:
            shutil.copyfile(grids[-1], folder / SAMPLES)

    state.pusher.push_snapshot(state.step, write)


@truncation_is_counted()
def finish(state: RunState) -> None:
    """Sample, score on the test images, and save the model, all with the averaged weights."""
    training, clock = state.training, state.clock
    gather_bad_images(state)
    tell_truncated(state)
    others = _scores_of_other_averages(state)
    with evaluated(state, state.average):
        _save_pipeline(state)  # before scoring, which may fail: without checkpoints nothing else would be left
        with clock.phase(MEASURING, is_last=True):
            state.method.measure(state)
        with clock.phase(SAMPLING, is_last=True):
            samples = draw(state, state.method.number_of_samples(state))
        with clock.phase(SCORING, is_last=True):
            figures = state.method.scores(state, samples)
            report = checked(metrics(state, figures) | others)  # on all processes, before any of them writes
        if state.accelerator.is_main_process:
            report = _write(state, report, samples[: training.eval_batch_size])
        _save_pipeline(state)  # again, with the measured variance
    clock.close()
    if state.accelerator.is_main_process:
        _tell(state, report)


def _write(state: RunState, report: Metrics, samples: Tensor) -> Metrics:
    """Write samples and metrics to the run's folder and the trackers; returns the figures and the times of phases."""
    with state.clock.phase(SAVING):
        picture = _save_grid(state, samples, state.folder / SAMPLES)
        state.trackers.log_picture("samples", picture, state.step)
        state.trackers.log({f"test/{name}": value for name, value in _figures(report).items()}, state.step)
    report = {**report, "seconds_by_phase": dict(state.clock.seconds)}  # without the last save, which comes next
    write_json(state.folder / METRICS, checked(report))
    return report


def _tell(state: RunState, report: Metrics) -> None:
    """Write the card, print the results, and push the run if that was requested."""
    name = str(state.folder) if state.pusher is None else state.pusher.repo_id
    card = fill_card(state.folder, name, license=state.license)
    write_file(state.folder / CARD, lambda partial: partial.write_text(card, "utf-8"))
    print(describe(report))
    print(f"the model is in {state.folder}, with {CARD}, {SAMPLES} and {METRICS}")
    if state.pusher is not None:
        state.pusher.push_run()


def _figures(report: Metrics) -> dict[str, float]:
    names = [f"frechet_distance_{name}" for name in FRECHET_DISTANCES]
    names += ["bits_per_dim", "bits_per_dim_standard_error", *PRIOR_NAMES, *CONTRASTIVE_NAMES]
    names += [f"bits_per_dim_{part}" for part in ("prior", "rate", "decoder", *OF_LATENTS)]
    figures = {name: report[name] for name in names if report.get(name) is not None}
    for decay, bits in report.get("validation_bits_per_dim_by_ema_decay", {}).items():
        figures[f"validation_bits_per_dim_of_ema_decay_{decay}"] = bits
    if "importance_weighted" in report:
        figures["bits_per_dim_importance_weighted"] = report["importance_weighted"]["bits_per_dim"]
    return figures


def _scores_of_other_averages(state: RunState) -> Metrics:
    """Validation bits/dim for each decay, if there are several; saves the weights of all but the first separately."""
    if len(state.averages) < 2:
        return {}
    scores = {}
    for average in state.averages:
        with evaluated(state, average):
            if len(state.data.validation):
                with state.clock.phase(SCORING):
                    scores[f"{average.max_decay:g}"] = state.method.validate(state, state.data.validation).total
            if average is not state.average:
                _save_other(state, average)
    return cast("Metrics", {f"validation_{state.method.score_name}_by_ema_decay": scores})


def _save_other(state: RunState, average: WeightAverage) -> None:
    """Save the weights of a further average, which the model has at present."""
    with state.clock.phase(SAVING):
        other = _whole(state, average)
        if state.accelerator.is_main_process:
            replace_folder(state.folder / f"{state.task.model_part}_ema_{average.max_decay:g}", other.save_pretrained)
        state.clock.advance(state.bytes_of_weights)
