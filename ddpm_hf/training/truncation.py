# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Captions of a stream that the model truncates, counted while the stream is read."""

from __future__ import annotations

from accelerate.utils import gather_object

from ..conditioning.captions import ADVICE
from ..data.batches import Batch
from ..runtime.words import plural
from .run_state import RunState
from .tracking import tell


def count_truncated(state: RunState, batch: Batch) -> None:
    """Count the captions of a stream's batch; the main process tells of the first truncated ones that it reads."""
    count = state.truncation
    if count is None:
        return
    was_any = count.is_any
    count.add(len(batch.x_0), batch.columns)
    if count.is_any and not was_any and state.accelerator.is_main_process:
        for told in count.told(count.counts):
            tell(f"Of the first {plural(count.counts[0], 'image')} of the stream, {told}{ADVICE}.")


def tell_truncated(state: RunState) -> None:
    """Tell how many captions of a stream were truncated, of all that were read. All processes call this together."""
    count, first = state.truncation, state.batches.steps[0]
    if count is None:
        return
    counts = [sum(each) for each in zip(*gather_object([count.counts]), strict=True)]
    if state.accelerator.is_main_process:
        when = f"since step {first}" if first else "in training"
        for told in count.told(counts):
            tell(f"Of the {plural(counts[0], 'image')} read {when}, {told}.")
