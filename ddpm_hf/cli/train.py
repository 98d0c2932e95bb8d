# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf train`: train a DDPM, draw samples, score it and save it."""

from __future__ import annotations

import contextlib

from ..runtime.errors import end, run_errors, user_errors
from ..runtime.signals import Signals
from ..training.arguments import RUN
from ..training.checkpoints import telling_the_way_on
from ..training.finish import finish
from ..training.loop import train
from ..training.setup import prepare
from .parsing import parse
from .running import program


def main() -> None:
    script = program()
    arguments = parse(script, *RUN)
    with run_errors(script):
        signals = Signals()
        with user_errors(script):
            job = prepare(*arguments)
        with telling_the_way_on(job.folder), contextlib.closing(job.trackers):
            with signals.noted():
                train(job, signals)
            finish(job)
        end()
