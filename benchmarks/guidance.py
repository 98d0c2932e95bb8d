# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The digits under classifier-free guidance: bits/dim and samples by the guidance scale.

    python benchmarks/guidance.py --output results.json

It trains a class-conditional model of the digits with 10 % of the classes dropped (examples/train.py; an existing
folder is used again), or loads --model_name_or_path, and measures it at every scale w of
unconditional + w (conditional − unconditional):

bits/dim          the bound of the guided chain on the test images given their classes, with the same noise for all
                  scales. w = 1 is the bound given the class, w = 0 the bound without it.
Fréchet distance  of the pixels of 500 samples, 50 of each class, from the training images
own class         the share of the samples that a support vector classifier, trained on the training images, assigns to
                  the class that they were drawn for

"Parabola" is bits(1) + (w − 1)² (bits(0) − bits(1)), the bound of optimal denoisers (docs/mathematics.md, section
9.3). The table is printed and written next to the output (.md), with a plot (.png).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import matplotlib
import sklearn
import torch
from matplotlib import pyplot as plt
from report import known_results, parse, parser_of, save_report
from torch import Tensor

from ddpm_hf import BitsPerDim
from ddpm_hf.conditioning.classes import classes_of, number_of_classes, of_classes
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.diffusion.numerics import standard_error
from ddpm_hf.evaluation.arguments import EvaluationArguments, ModelPathArguments
from ddpm_hf.evaluation.classification import support_vector_classifier
from ddpm_hf.evaluation.features import PIXELS
from ddpm_hf.evaluation.frechet_distance import frechet_distance
from ddpm_hf.evaluation.sampling import draw_images
from ddpm_hf.evaluation.scoring import check_fit, follow, load_pipeline
from ddpm_hf.evaluation.subject import Subject
from ddpm_hf.pipelines.guidance import Guidance
from ddpm_hf.pipelines.pipeline_ddpm_paper import DDPMPaperPipeline
from ddpm_hf.reporting.style import BLUE, GREEN, VERMILION
from ddpm_hf.runtime.threads import use_all_cores
from ddpm_hf.tasks.images import load_labelled_images


matplotlib.use("Agg")

ROOT = Path(__file__).resolve().parents[1]
BATCH = 128
CONDITIONAL, UNCONDITIONAL = 1.0, 0.0  # guidance scales


@dataclass(frozen=True)
class Trial:
    """A guided model, and real images to compare with.

    Attributes:
        pipeline: the model.
        data: the digits.
        evaluations: model calls per image for the bound.
        steps: steps of a sample.
        seed: seed of the noise.
    """

    pipeline: DDPMPaperPipeline
    data: ImageData
    evaluations: int
    steps: int
    seed: int

    def bits(self, scale: float) -> BitsPerDim:
        """The bound of the guided chain on the test images."""
        settings = EvaluationArguments(num_evaluations=self.evaluations, batch_size=BATCH, seed=self.seed)
        scheduler = follow(self.pipeline.scheduler, self.data.test.num_levels, settings)
        pipeline = DDPMPaperPipeline(self.pipeline.unet, scheduler)
        return Subject(pipeline, self.data.test, settings, accelerate.Accelerator(), Guidance(scale)).bound()

    def samples(self, scale: float, count: int, number: int) -> tuple[Tensor, Tensor]:
        """The compared pixels of samples, `[count, D]`, and the classes that they were drawn for."""
        classes = number_of_classes(self.pipeline.unet.config)
        asked = torch.arange(count) % classes
        machine, guidance = accelerate.Accelerator(), Guidance(scale)
        turns = of_classes(range(classes))
        drawn = draw_images(
            self.pipeline, count, BATCH, self.steps, self.seed + number, machine, turns, guidance=guidance
        )
        return PIXELS.of(drawn * 2 - 1), asked


@dataclass(frozen=True)
class Judge:
    """What samples are compared with: training images, and a classifier that was trained on them."""

    train: Tensor
    classify: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, train: LevelImages) -> Judge:
        pixels = PIXELS.of_data_set(train)
        return cls(pixels, support_vector_classifier(pixels, classes_of(train.columns)))

    def figures(self, pixels: Tensor, classes: Tensor) -> dict[str, float]:
        return {
            "frechet_distance_pixels": frechet_distance(pixels, self.train),
            "own_class": (self.classify(pixels) == classes).double().mean().item(),
        }


def measure(trial: Trial, judge: Judge, scale: float, count: int, sets: int) -> dict[str, Any]:
    """The figures at one scale: the bound, and means and deviations over sets of samples."""
    began, bound = time.perf_counter(), trial.bits(scale)
    row: dict[str, Any] = {
        "bits_per_dim": bound.total,
        "bits_per_dim_standard_error": bound.standard_error,
        "bits_per_dim_estimation_error": bound.estimation_error,
        "bits_per_dim_per_example": bound.per_example,
        "seconds_of_scoring": time.perf_counter() - began,
        "samples": count,
        "sets": sets,
    }
    found = [judge.figures(*trial.samples(scale, count, number)) for number in range(sets)]
    for name in found[0]:
        values = torch.tensor([figures[name] for figures in found], dtype=torch.float64)
        row |= {name: values.mean().item()} | ({f"{name}_deviation": values.std().item()} if sets > 1 else {})
    return row | {"seconds": time.perf_counter() - began}


def what_the_class_is_worth(results: dict[str, dict[str, Any]], dimensions: int) -> dict[str, float]:
    """Bits per image that knowing the class saves, with the standard error of the paired difference."""
    without, given = (results[f"{scale:g}"]["bits_per_dim_per_example"] for scale in (UNCONDITIONAL, CONDITIONAL))
    saved = dimensions * (torch.tensor(without, dtype=torch.float64) - torch.tensor(given, dtype=torch.float64))
    return {"bits_per_image": saved.mean().item(), "standard_error": standard_error(saved)}


def parabola(results: dict[str, dict[str, Any]]) -> Callable[[float], float]:
    """The bound of optimal denoisers at each scale, given the bounds at the scales 0 and 1."""
    without, given = (results[f"{scale:g}"]["bits_per_dim"] for scale in (UNCONDITIONAL, CONDITIONAL))
    return lambda scale: given + (scale - 1) ** 2 * (without - given)


SAMPLED = {"frechet_distance_pixels": "Fréchet distance, pixels", "own_class": "share given its own class"}


def table(results: dict[str, dict[str, Any]], references: dict[str, float]) -> str:
    """The figures as Markdown, a row for each scale, and one for the test images."""
    expected = parabola(results)
    lines = [
        "| guidance scale | bits/dim | parabola | Fréchet distance, pixels | own class |",
        "| --- | --- | --- | --- | --- |",
    ]
    for scale, row in results.items():
        bits = f"{row['bits_per_dim']:.4f} ± {row['bits_per_dim_standard_error']:.4f}"
        cells = [scale, bits, f"{expected(float(scale)):.4f}", *(_cell(row, name) for name in SAMPLED)]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"| test images | – | – | – | {references['own_class']:.3f} |")
    return "\n".join(lines)


def _cell(row: dict[str, float], name: str) -> str:
    deviation = f" ± {row[f'{name}_deviation']:.3f}" if f"{name}_deviation" in row else ""
    return f"{row[name]:.3f}{deviation}"


def plot(results: dict[str, dict[str, Any]], references: dict[str, float], path: Path) -> None:
    """Bits/dim with the parabola, Fréchet distance and own class by the scale."""
    scales = [float(scale) for scale in results]
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    errors = [row["bits_per_dim_standard_error"] for row in results.values()]
    bits = [row["bits_per_dim"] for row in results.values()]
    axes[0].errorbar(scales, bits, errors, marker="o", capsize=3, color=BLUE, label="bound of the guided chain")
    fine = torch.linspace(min(scales), max(scales), 100).tolist()
    axes[0].plot(fine, list(map(parabola(results), fine)), "--", color=VERMILION, label="parabola")
    axes[0].set_ylabel("bits/dim given the class")
    for axis, (name, title) in zip(axes[1:], SAMPLED.items(), strict=True):
        values = [row[name] for row in results.values()]
        deviations = [row.get(f"{name}_deviation", 0.0) for row in results.values()]
        axis.errorbar(scales, values, deviations, marker="s", capsize=3, color=GREEN, label="samples")
        if name in references:
            axis.axhline(references[name], color="black", linewidth=0.8, linestyle=":", label="test images")
        axis.set_ylabel(title)
    for axis in axes:
        axis.set_xlabel("guidance scale w (1: the conditional model)")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def trained(folder: Path, max_train_steps: int | None) -> Path:
    """A class-conditional model of the digits, trained with 10 % of the classes dropped unless it is there."""
    if not (folder / "metrics.json").exists():
        flags = [str(ROOT / "examples" / "configs" / "digits_best.yaml"), "--output_dir", str(folder)]
        flags += ["--num_class_embeds", "10", "--conditioning_dropout_prob", "0.1"]
        flags += ["--resume_from_checkpoint", "latest"]
        flags += [] if max_train_steps is None else ["--max_train_steps", str(max_train_steps)]
        subprocess.run([sys.executable, str(ROOT / "examples" / "train.py"), *flags], check=True)
    return folder


def arguments_of() -> argparse.Namespace:
    parser = parser_of(__doc__, "guidance")
    parser.add_argument("--model_name_or_path", help="a model with a null class; trained if not given")
    parser.add_argument("--train_dir", type=Path, default=Path("runs/digits_guided"), help="where it is trained")
    parser.add_argument("--max_train_steps", type=int, help="of that training; its default if not given")
    parser.add_argument("--scales", type=float, nargs="+", default=[0, 0.5, 1, 1.5, 2, 3, 5], help="with 0 and 1")
    parser.add_argument("--samples", type=int, default=500, help="of every scale")
    parser.add_argument("--sets", type=int, default=3, help="of samples, each from other noise")
    parser.add_argument("--steps", type=int, default=100, help="of a sample")
    parser.add_argument("--evaluations", type=int, default=200, help="calls per test image for bits/dim; 0 for all T")
    parser.add_argument("--resume", action="store_true", help="leave out what the output knows already")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse(parser)
    if not {UNCONDITIONAL, CONDITIONAL} <= set(arguments.scales):
        parser.error("--scales must have 0 and 1, the bounds without the class and given it.")
    if arguments.samples < 2 or arguments.sets < 1:
        parser.error("--samples must be at least 2, --sets at least 1.")
    return arguments


def main() -> None:
    arguments = arguments_of()
    path = arguments.model_name_or_path or trained(arguments.train_dir, arguments.max_train_steps)
    device = torch.device("cpu")
    use_all_cores(device)
    data, pipeline = load_labelled_images(DataArguments()), load_pipeline(ModelPathArguments(str(path)), device)
    pipeline.set_progress_bar_config(disable=True)
    check_fit(pipeline, data.test)
    Guidance(2.0).check(pipeline.unet, pipeline.conditioners_of)
    trial = Trial(pipeline, data, arguments.evaluations, arguments.steps, arguments.seed)
    judge = Judge.of(data.train)
    test = judge.figures(PIXELS.of_data_set(data.test), classes_of(data.test.columns))
    references = {"own_class": test["own_class"]}  # 297 images have another Fréchet distance than 500 would
    facts = {
        "model": str(path),
        "test images": {**references, "images": len(data.test)},
        "model calls per image and branch": arguments.evaluations,
        "steps of a sample": arguments.steps,
        "threads": torch.get_num_threads(),
    }
    known, results = known_results(arguments), {}
    for scale in sorted(arguments.scales):
        name = f"{scale:g}"
        results[name] = known.get(name) or measure(trial, judge, scale, arguments.samples, arguments.sets)
        shown = {key: round(value, 4) for key, value in results[name].items() if isinstance(value, float)}
        print(f"scale {name}: {shown}", flush=True)
        save_report(arguments.output, results, diffusers, sklearn, **facts)
    facts["what the class is worth"] = what_the_class_is_worth(results, torch.Size(data.test.shape).numel())
    save_report(arguments.output, results, diffusers, sklearn, **facts)
    text = table(results, references)
    arguments.output.with_suffix(".md").write_text(text + "\n", "utf-8")
    plot(results, references, arguments.output.with_suffix(".png"))
    worth = facts["what the class is worth"]
    print(f"{text}\n\nThe class is worth {worth['bits_per_image']:.2f} ± {worth['standard_error']:.2f} bits an image.")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
