# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf unclip`: train DALL-E 2, that is an image encoder, a prior and a decoder, one after the other.

Each of the three is a run with a folder of its own, as `ddpm-hf image_encoder`, `ddpm-hf prior` and `ddpm-hf unclip
--prior` make it. The first two are made unless a prior is named.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..conditioning.image_encoders import POSTERIOR_STD
from ..data.arguments import CaptionedDataArguments
from ..hub.arguments import HubArguments
from ..hub.model_card import CARD
from ..runtime.arguments import given_in, help_text, with_given
from ..runtime.errors import end, run_errors
from ..tasks.image_encoder import ImageEncoderTask
from ..tasks.prior import PriorTask
from ..tasks.text_arguments import CaptionArguments, TextEncoderArguments
from ..tasks.unclip import UnCLIPTask
from ..tasks.unclip_arguments import (
    ContrastiveArguments,
    ImageEncoderModelArguments,
    PriorDiffusionArguments,
    PriorModelArguments,
    UnCLIPModelArguments,
)
from ..training.arguments import LATEST, TrainingArguments
from ..training.step import TrainingStep
from ..training.tracking import tell
from ..training.unclip import UnCLIPDecoding
from . import image_encoder, prior, train
from .image_encoder import ImageEncoderTrainingArguments
from .parsing import parse
from .prior import PriorTrainingArguments
from .running import program


METHOD = UnCLIPDecoding()

# Arguments of the decoder's training that also hold for the image encoder and the prior that are trained first.
SHARED = (
    *("overwrite_output_dir", "seed", "local_rank", "torch_compile", "mixed_precision", "logger", "logging_dir"),
    *("checkpointing_steps", "checkpoints_total_limit"),
)

Arguments = TypeVar("Arguments")


@dataclass
class UnCLIPTrainingArguments(TrainingArguments):
    """The optimisation, and where results are written."""

    output_dir: str = field(default="runs/unclip", metadata=help_text("Must not hold another run."))
    num_paths: int | None = field(default=0, metadata=help_text("Must be 0; `ddpm-hf evaluate` takes paths."))
    num_quality_samples: int = field(default=0, metadata=help_text("Must be 0; `ddpm-hf evaluate` compares samples."))


@dataclass
class FirstPhasesArguments(TextEncoderArguments):
    """The image encoder and the prior that are trained first if no prior is named; their own verbs take more."""

    _argument_group_name = "first phases"

    encoder_train_steps: int | None = field(
        default=None, metadata=help_text("Optimisation steps of the image encoder; those of its preset if unset.")
    )
    prior_train_steps: int | None = field(
        default=None, metadata=help_text("Optimisation steps of the prior; those of `ddpm-hf prior` if unset.")
    )
    posterior_std: float = field(
        default=POSTERIOR_STD,
        metadata=help_text("s of q(z | x) = N(e(x), s^2 I), for embeddings of variance 1 over images."),
    )


def main(training_step: TrainingStep | None = None) -> None:
    """All trainings from the command line to their end."""
    script = program()
    classes = (*train.run_arguments(UnCLIPTask, UnCLIPTrainingArguments), FirstPhasesArguments)
    *arguments, phases = parse(script, *classes)
    model, data, _, training, _ = arguments
    with run_errors(script):
        if model.prior is None:
            folder = train_prior(script, model, data, training, phases)
            arguments[0] = _with(model, {"prior": str(folder)})
        train.run(script, arguments, UnCLIPTask, METHOD, training_step)
        end()


def train_prior(
    script: str,
    model: UnCLIPModelArguments,
    data: CaptionedDataArguments,
    training: UnCLIPTrainingArguments,
    phases: FirstPhasesArguments,
) -> Path:
    """Train an image encoder and a prior, if they are not there from an earlier try, and return the prior's folder."""
    encoder, folder = (Path(f"{training.output_dir.rstrip('/')}-{name}") for name in ("image-encoder", "prior"))
    text = {name.name: getattr(phases, name.name) for name in dataclasses.fields(TextEncoderArguments)}
    text |= {name.name: getattr(model, name.name) for name in dataclasses.fields(CaptionArguments)}
    if _is_to_train(encoder, training):
        tell(f"First of three: an image encoder, in {encoder}.")
        of_encoder = (
            *(_given(ImageEncoderModelArguments, text), copy.copy(data), ContrastiveArguments()),
            _training(ImageEncoderTrainingArguments, encoder, training, phases.encoder_train_steps),
        )
        train.run(script, (*of_encoder, HubArguments()), ImageEncoderTask, image_encoder.METHOD)
    if _is_to_train(folder, training):
        tell(f"Second of three: a prior of its embeddings, in {folder}.")
        of_embeddings = {"image_encoder": str(encoder), "posterior_std": phases.posterior_std}
        of_prior = (
            *(_given(PriorModelArguments, {**text, **of_embeddings}), copy.copy(data), PriorDiffusionArguments()),
            _training(PriorTrainingArguments, folder, training, phases.prior_train_steps),
        )
        train.run(script, (*of_prior, HubArguments()), PriorTask, prior.METHOD)
    tell(f"Third of three: the decoder, in {training.output_dir}.")
    return folder


def _is_to_train(folder: Path, training: UnCLIPTrainingArguments) -> bool:
    """Whether a phase is not finished, of a run that goes on; always for a new run."""
    return training.resume_from_checkpoint is None or not (folder / CARD).is_file()


def _training(kind: type[Arguments], folder: Path, training: UnCLIPTrainingArguments, steps: int | None) -> Arguments:
    """The arguments of the training of a phase: its own defaults, and what it shares with the decoder's."""
    values = {name: getattr(training, name) for name in SHARED} | {"output_dir": str(folder)}
    if steps is not None:
        values["max_train_steps"] = steps
    if training.resume_from_checkpoint is not None:
        values["resume_from_checkpoint"] = LATEST
    return _given(kind, values)


def _given(kind: type[Arguments], values: dict[str, Any]) -> Arguments:
    """Arguments with these values, which no preset changes."""
    return with_given(kind(**values), values.keys())


def _with(arguments: Arguments, values: dict[str, Any]) -> Arguments:
    """A copy with these values, which count as given by the user, as no preset changes them."""
    given = given_in(arguments) | values.keys()
    other = copy.copy(arguments)
    vars(other).update(values)
    return with_given(other, given)
