# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The summary before the first step: data, model, objective, device, and the phases with their expected time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..data.notes import split_note
from ..runtime.progress import RunProgress, duration
from ..runtime.words import plural
from .plan import expected_phases
from .run_clock import SAVING, TRAINING, Phase
from .run_state import RunState
from .tracking import tell, tell_passed_over


PRECISIONS = {"no": "float32"}
WIDTH = 11  # of a column of names


def announce(state: RunState) -> None:
    """Print the summary of the run. All processes call this together; the main process prints."""
    state.clock.expect(expected_phases(state))
    if not state.accelerator.is_main_process:
        return
    state.clock.progress = RunProgress()
    for line in summary(state):
        tell(line)
    for count, sentence in enumerate(state.data.bad_images, 1):
        tell_passed_over(count, sentence)


def summary(state: RunState) -> list[str]:
    """The lines of the summary, in two columns; notes on the data follow the line on the data."""
    first, *notes = state.data.notes or (split_note(state.data.name, vars(state.data), None),)
    return [
        *_row("data", first, *state.task.data_lines(state.data), *notes),
        *_row("model", _model(state)),
        *_row("learns", state.method.objective(state)),
        *_row("on", _device(state)),
        *_row("to come", *_to_come(state)),
    ]


def _row(name: str, *lines: str) -> list[str]:
    return [f"{label:{WIDTH}}{line}" for label, line in zip((name, *[""] * len(lines)), lines, strict=False)]


def _model(state: RunState) -> str:
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    network = "no preset" if state.preset is None else f"preset {state.preset}"
    told = [each.summary for each in state.conditioners.members]
    given = f", given {', '.join(told)}" if told else ""
    return f"{type(state.model).__name__} of {_count(parameters)} parameters ({network}){given}"


def _count(number: int) -> str:
    """A rounded number of parameters in words, or with spaces between thousands."""
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,}".replace(",", " ")


def _device(state: RunState) -> str:
    accelerator, shard = state.accelerator, state.shard
    cpu, count = accelerator.device.type == "cpu", accelerator.num_processes
    precision = PRECISIONS.get(accelerator.mixed_precision, accelerator.mixed_precision)
    threads = f" with {plural(torch.get_num_threads(), 'thread')}" if cpu else ""
    processes = f", {count} processes" if count > 1 else ""
    windows = f", {shard.accumulation} batches accumulated" if shard.accumulation > 1 else ""
    return f"{accelerator.device}{threads}, {precision}{processes}; {plural(shard.total, 'image')} a step{windows}"


def _to_come(state: RunState) -> Iterator[str]:
    """A line for each phase that has work, and one for the whole run."""
    phases, left = state.clock.phases, state.clock.left
    for name, what in _contents(state).items():
        if phases[name].work:
            yield f"{name:{WIDTH}}{what:44}{_time(phases[name])}".rstrip()
    if left is None:
        yield "The time expected follows after the first steps."
    else:
        yield f"About {duration(left)} in all; the estimate is renewed during the run."


def _time(phase: Phase) -> str:
    if phase.expected is None:
        return ""
    return duration(phase.expected) if phase.expected >= 0.5 else "under 1 s"


def _contents(state: RunState) -> dict[str, str]:
    """A description of each phase, by its name."""
    made = f"{state.step} of them made" if state.step else ""
    return {
        TRAINING: ", ".join(filter(None, (plural(state.steps, "step"), made))),
        **state.method.contents(state),
        SAVING: f"in {state.folder}",
    }
