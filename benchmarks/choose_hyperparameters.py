# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Compares settings of examples/train.py for the digits, using only training images.

    python benchmarks/choose_hyperparameters.py --output results.json

It varies dropout, weight decay, `vlb_weight`, epochs and the decay of the averaged weights, one at a time around the
recipe's values. examples/train.py's own loop trains each model on the training images 0 to 1299. Each model is scored
in bits/dim on the training images 1300 to 1499, with the same noise and times for all.

No test image is used. `TrainingDigits` reads the first 1500 lines of scikit-learn's file of 1797 digits and closes it;
the test images are the lines that follow. The runs have no test images.

The table is printed and written next to the output (.md). Differences to the recipe are paired over the images. Their
standard errors cover the choice of images and the noise of the scores, but not the noise of the trainings; the recipe
with another seed shows the latter. All decays of averages come from one training, which they do not change.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import numpy as np
import sklearn
import torch
from our_recipe import prepare_ours, quiet, train_ours
from report import known_results, parse, parser_of, save_report
from torch import Tensor

from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.diffusion.numerics import standard_error
from ddpm_hf.evaluation.scoring import score
from ddpm_hf.likelihood.variational import BitsPerDim
from ddpm_hf.tasks.arguments import DiffusionArguments, ModelArguments
from ddpm_hf.tasks.images import ImageTask
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.finish import evaluated
from ddpm_hf.training.state import TrainState
from ddpm_hf.training.weight_averages import WeightAverage


TRAINING_IMAGES = 1500  # of the digits; the next 297 are the test images
RECIPE = "recipe"
DECAY, EPOCHS, SEED = "ema_max_decay", "num_epochs", "seed"
OTHERS = {  # values other than the recipe's; epochs are shares of the recipe's
    "dropout": (0.0, 0.1, 0.2, 0.3),
    "adam_weight_decay": (0.1, 1.0),
    "vlb_weight": (0.0, 0.03, 0.3),
    EPOCHS: (0.5, 1.5),
    DECAY: (0.95, 0.98, 0.995, 0.999),
    SEED: (1,),
}
SCORED_TOGETHER = 50  # images per batch; the times of a batch are spread evenly

Values = dict[str, float]
"""Arguments of examples/train.py."""


class TrainingDigits(ImageTask):
    """The digits' training images, divided into training and validation images; no test images.

    Attributes:
        train, validation: numbers of images; the validation images follow the training images.
    """

    train: ClassVar[int] = 1300
    validation: ClassVar[int] = 200

    def load_data(self) -> ImageData:
        pixels = training_digits()
        end = self.train + self.validation
        train = LevelImages.in_memory(pixels[: self.train], 17)
        validation = LevelImages.in_memory(pixels[self.train : end], 17)
        return ImageData("scikit-learn digits, training images alone", train, LevelImages.none_like(train), validation)


class FewDigits(TrainingDigits):
    """Too few for figures that mean anything: a test of this script."""

    train: ClassVar[int] = 32
    validation: ClassVar[int] = 16


def training_digits() -> Tensor:
    """The training images, levels 0 … 16, uint8 `[1500, 1, 8, 8]`; the lines of the test images are not read."""
    source = resources.files("sklearn.datasets.data") / "digits.csv.gz"
    with source.open("rb") as packed, gzip.open(packed, "rt") as lines:
        rows = np.loadtxt(itertools.islice(lines, TRAINING_IMAGES), delimiter=",", dtype=np.uint8)
    return torch.from_numpy(rows[:, :64]).reshape(-1, 1, 8, 8)  # the last column is the class


def recipe(epochs: int | None) -> Values:
    """The values of the recipe, perhaps with another number of epochs."""
    training = TrainingArguments()
    return {
        "dropout": ModelArguments().dropout,
        "adam_weight_decay": training.adam_weight_decay,
        "vlb_weight": DiffusionArguments().vlb_weight,
        EPOCHS: training.num_epochs if epochs is None else epochs,
        DECAY: training.ema_max_decay[0],
        SEED: training.seed,
    }


def other_values(asked: argparse.Namespace, base: Values) -> dict[str, list[float]]:
    """The values to compare with the recipe's, by argument; arguments without any are left out."""
    found = {}
    for argument in OTHERS:
        given = getattr(asked, argument)
        values = [max(1, round(share * base[EPOCHS])) for share in given] if argument == EPOCHS else given
        found[argument] = [value for value in values if value != base[argument]]
    return {argument: values for argument, values in found.items() if values}


def name_of(argument: str, value: float) -> str:
    return f"{argument} {value:g}"


@dataclass(frozen=True)
class Trial:
    """One training, and the settings that its scores belong to.

    Attributes:
        values: the values of the training; its decay of averages is the first of `decays`.
        decays: decays of averages, by the names of their rows.
    """

    values: Values
    decays: dict[str, float]

    @property
    def flags(self) -> list[str]:
        """Of examples/train.py."""
        values = {name: value for name, value in self.values.items() if name != DECAY}
        flags = [part for name, value in values.items() for part in (f"--{name}", f"{value:g}")]
        return [*flags, f"--{DECAY}", *(f"{decay:g}" for decay in self.decays.values())]


def trials(base: Values, others: dict[str, list[float]]) -> Iterator[Trial]:
    """The recipe with all decays, and then one training for every other value of the other arguments."""
    decays = {name_of(DECAY, decay): decay for decay in others.get(DECAY, [])}
    yield Trial(base, {RECIPE: base[DECAY]} | decays)
    for argument, values in others.items():
        for value in [] if argument == DECAY else values:
            yield Trial(base | {argument: value}, {name_of(argument, value): base[DECAY]})


@dataclass(frozen=True)
class Judge:
    """How models are trained and scored; the same for all settings.

    Attributes:
        task: the images.
        evaluations: model calls per validation image.
        threads: number of threads; all cores if None.
        flags: further flags of examples/train.py.
    """

    task: type[TrainingDigits]
    evaluations: int
    threads: int | None
    flags: list[str]

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that must agree for figures to be comparable; threads change only the last digits."""
        images = [self.task.train, self.task.validation]
        return {"images": images, "model calls per image": self.evaluations, "flags": self.flags}

    def rows(self, trial: Trial) -> dict[str, dict[str, Any]]:
        """The figures of each of a trial's settings, by name."""
        with tempfile.TemporaryDirectory() as folder, quiet():
            state = prepare_ours(
                Path(folder) / "run", "--checkpointing_steps", "0", *self.flags, *trial.flags, task=self.task
            )
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            began = time.perf_counter()
            train_ours(state, state.batches)
            facts = {"steps": state.step, "seconds of training": time.perf_counter() - began}
            scores = [self.bits(state, average) for average in state.averages]
        rows = zip(trial.decays.items(), scores, strict=True)
        return {name: self.row(trial.values | {DECAY: decay}, bits) | facts for (name, decay), bits in rows}

    def bits(self, state: TrainState, average: WeightAverage) -> BitsPerDim:
        """The bound of the validation images with averaged weights; noise and times are the same for every model."""
        images, seed = state.data.validation, 0
        with evaluated(state, average):
            size, calls = SCORED_TOGETHER, self.evaluations
            return score(state.denoiser, state.scheduler, images, state.accelerator, size, calls, seed)

    def row(self, values: Values, bits: BitsPerDim) -> dict[str, Any]:
        return {
            "values": values,
            **self.facts,
            "bits_per_dim": bits.total,
            "bits_per_dim_standard_error": bits.standard_error,
            "bits_per_dim_per_example": bits.per_example,
        }

    def is_known(self, trial: Trial, known: dict[str, dict[str, Any]]) -> bool:
        """Whether rows exist for all settings of the trial, trained and scored in the same way."""
        for name, decay in trial.decays.items():
            wanted = self.facts | {"values": trial.values | {DECAY: decay}}
            if name not in known or wanted != {fact: known[name][fact] for fact in wanted}:
                return False
        return True


def compared(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The results with their paired differences to the recipe."""
    values = {name: torch.tensor(row["bits_per_dim_per_example"]).double() for name, row in results.items()}
    differences = {name: each - values[RECIPE] for name, each in values.items() if name != RECIPE}
    found = {
        name: {"over the recipe": each.mean().item(), "over the recipe, standard error": standard_error(each)}
        for name, each in differences.items()
    }
    return {name: row | found.get(name, {}) for name, row in results.items()}


def table(results: dict[str, dict[str, Any]], arguments: Iterable[str]) -> str:
    """The figures as Markdown, with one row for each value of each argument, including the recipe's."""
    lines = ["| setting | validation bits/dim | over the recipe | |", "| --- | --- | --- | --- |"]
    for argument in arguments:
        lines += _lines_of(argument, results)
    return "\n".join(lines)


def _lines_of(argument: str, results: dict[str, dict[str, Any]]) -> list[str]:
    rows = {name: row for name, row in results.items() if name == RECIPE or name.split()[0] == argument}
    best = min(rows, key=lambda name: rows[name]["bits_per_dim"])
    ordered = sorted(rows.items(), key=lambda item: item[1]["values"][argument])
    return [_line(argument, name, row, name == best and argument != SEED) for name, row in ordered]


def _line(argument: str, name: str, row: dict[str, Any], is_best: bool) -> str:
    bits = f"{row['bits_per_dim']:.4f} ± {row['bits_per_dim_standard_error']:.4f}"
    marks = ["default"] if name == RECIPE else []
    marks += ["best"] if is_best else []
    if name == RECIPE:
        return f"| {name_of(argument, row['values'][argument])} | {bits} | – | {', '.join(marks)} |"
    difference, error = row["over the recipe"], row["over the recipe, standard error"]
    marks += [] if abs(difference) <= 2 * error else ["differs"]
    return f"| {name} | {bits} | {difference:+.4f} ± {error:.4f} | {', '.join(marks)} |"


def arguments_of() -> argparse.Namespace:
    parser = parser_of(__doc__, "choose_hyperparameters")
    for argument, values in OTHERS.items():
        kind = int if argument == SEED else float
        told = "shares of the recipe's to compare" if argument == EPOCHS else "values to compare with the recipe's"
        told = f"{told}, perhaps none (default: %(default)s)"
        parser.add_argument(f"--{argument}", type=kind, nargs="*", default=values, metavar="VALUE", help=told)
    parser.add_argument("--epochs", type=int, help="that the recipe trains for here; its own number if not given")
    parser.add_argument("--evaluations", type=int, default=50, help="model calls per image for the bits/dim")
    parser.add_argument("--threads", type=int, help="one for each core if not given")
    parser.add_argument("--resume", action="store_true", help="leave out what the output knows already")
    parser.add_argument("--quick", action="store_true", help="few images and two epochs, to see that it runs")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="more of examples/train.py; comes last")
    return parse(parser)


def main() -> None:
    arguments = arguments_of()
    task = FewDigits if arguments.quick else TrainingDigits
    base = recipe(2 if arguments.quick and arguments.epochs is None else arguments.epochs)
    evaluations = 4 if arguments.quick else arguments.evaluations
    judge = Judge(task, evaluations, arguments.threads, arguments.flags)
    first, last = task.train, task.train + task.validation
    facts = {
        "trained on": f"training images 0 to {first - 1}",
        "scored on": f"training images {first} to {last - 1}",
        "recipe": base,
        "flags for all": arguments.flags,
        "threads": arguments.threads,
    }
    others, known, results = other_values(arguments, base), known_results(arguments), {}
    for trial in trials(base, others):
        if judge.is_known(trial, known):
            results |= {name: known[name] for name in trial.decays}
        else:
            results |= judge.rows(trial)
        results = compared(results)
        save_report(arguments.output, known | results, diffusers, sklearn, **facts)
        for name in trial.decays:
            print(f"{name:24} {results[name]['bits_per_dim']:.4f} bits/dim", flush=True)
    save_report(arguments.output, results, diffusers, sklearn, **facts)
    text = table(results, others)
    arguments.output.with_suffix(".md").write_text(text + "\n", "utf-8")
    print(f"{text}\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
