# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Pipelines of diffusers, in whose layout ours are saved, and their schedulers."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import logging as diffusers_logging

from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler


def stock_class(name: str) -> Any:
    """A pipeline of diffusers. It is imported when first needed, since it may load much.

    The modules of text import image processors that no model here uses; transformers warns where torchvision is
    missing for them, which says nothing to a user. The warning comes with the first import, and is left out.
    """
    if importlib.util.find_spec("transformers") is None:
        return getattr(diffusers, name)  # which needs no text, or says what to install
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return getattr(diffusers, name)
    finally:
        logging.set_verbosity(verbosity)


def own_scheduler(scheduler: SchedulerMixin) -> DDPMPaperScheduler:
    """The scheduler, converted if it is of another class; ValueError if it has another process."""
    return scheduler if isinstance(scheduler, DDPMPaperScheduler) else DDPMPaperScheduler.from_scheduler(scheduler)


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """A context without diffusers' notices, such as that one of its pipelines is no longer developed."""
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(verbosity)
