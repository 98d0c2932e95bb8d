# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf latent`: train a diffusion of an autoencoder's latents, draw samples, score it and save it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from transformers.hf_argparser import string_to_bool

from ..runtime.arguments import help_text
from ..tasks.latent import LatentTask, LatentTextTask
from ..training.arguments import TrainingArguments
from ..training.step import TrainingStep, training_step
from . import train


@dataclass
class LatentTrainingArguments(TrainingArguments):
    """The optimisation, and where results are written."""

    output_dir: str = field(default="runs/latent", metadata=help_text("Must not hold another run."))


def main(training_step: TrainingStep = training_step) -> None:
    """A training from the command line to its end."""
    task = LatentTextTask if is_told_of_text(sys.argv[1:]) else LatentTask
    train.main(training_step, task, LatentTrainingArguments)


def is_told_of_text(argv: Sequence[str]) -> bool:
    """Whether a command line, or the file of settings that it begins with, asks for a model that is told of text.

    Such a model has arguments of its own, so this is known before the others are read. Mistakes are left to `parse`.
    """
    asked = False
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            settings = yaml.safe_load(Path(argv[0]).read_text())  # JSON is YAML
            asked = isinstance(settings, dict) and settings.get("with_text") is True
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--with_text", nargs="?", const=True, default=asked, type=string_to_bool)
    try:
        return parser.parse_known_args(argv)[0].with_text
    except argparse.ArgumentError:
        return asked
