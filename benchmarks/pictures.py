# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The pictures of README.md, from a trained model and from the results of the benchmarks.

    accelerate launch examples/train.py
    python benchmarks/pictures.py --model runs/digits

draws docs/images/digits.png, samples beside where the bits go, in some minutes, and docs/images/bits_by_calls.png from
results/few_steps.json. Without --model it draws the second alone, in seconds. The figures of benchmarks/README.md,
results/few_steps.png and results/guidance.png, are drawn anew from their results too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import accelerate
import guidance

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation.arguments import ChainArguments, ModelPathArguments
from ddpm_hf.evaluation.sampling import draw_images
from ddpm_hf.evaluation.scoring import check_fit, follow, load_pipeline, score
from ddpm_hf.reporting.by_calls import save_by_calls
from ddpm_hf.reporting.figures import save_overview
from ddpm_hf.runtime.threads import use_all_cores
from ddpm_hf.tasks.images import load_labelled_images


RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
BATCH = 128
WAYS = {  # of few_steps.json, and what the chart for README.md calls them
    "learned, optimal times": "learned variance, optimal times",
    "σ*, optimal times": "optimal variance, optimal times",
    "learned, even times": "learned variance, even times",
    "σ*, even times": "optimal variance, even times",
    "β, even times": "fixed_large, even times",
    "β̃, even times": "fixed_small, even times",
}


def draw_overview(model: str, path: Path, images: int, steps: int, evaluations: int, seed: int) -> None:
    """Samples of a model beside the bits of the test images."""
    machine = accelerate.Accelerator()
    use_all_cores(machine.device)
    test = load_labelled_images(DataArguments()).test
    pipeline = load_pipeline(ModelPathArguments(model), machine.device)
    check_fit(pipeline, test)
    pipeline.set_progress_bar_config(disable=True)
    samples = draw_images(pipeline, images, BATCH, steps, seed, machine)
    pipeline.scheduler = follow(pipeline.scheduler, test.num_levels, ChainArguments())
    result = score(pipeline.denoiser(), pipeline.scheduler, test, machine, BATCH, evaluations, seed)
    save_overview(samples, steps, result, path)
    print(result)


def draw_few_steps(report: dict[str, Any], path: Path) -> None:
    """All that the benchmark of few steps found."""
    by_calls = {way: {int(K): row for K, row in rows.items()} for way, rows in report["results"].items()}
    save_by_calls(by_calls, {}, path)


def draw_bits_by_calls(report: dict[str, Any], path: Path) -> None:
    """The bounds of chains by their model calls."""
    results = report["results"]
    bits = {
        title: {int(K): {"bits_per_dim": row["bits_per_dim"]} for K, row in results[way].items()}
        for way, title in WAYS.items()
    }
    save_by_calls(bits, {}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder, or a name on the Hub; without it digits.png is left as it is")
    parser.add_argument("--output_dir", type=Path, default=IMAGES, help="of README's pictures (default: %(default)s)")
    parser.add_argument("--images", type=int, default=36, help="samples shown (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="model calls of a sample (default: %(default)s)")
    parser.add_argument(
        "--evaluations", type=int, default=200, help="model calls of a test image; 0 for all (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    few_steps, guided = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("few_steps", "guidance"))
    draw_bits_by_calls(few_steps, arguments.output_dir / "bits_by_calls.png")
    draw_few_steps(few_steps, RESULTS / "few_steps.png")
    guidance.plot(guided["results"], guided["test images"], RESULTS / "guidance.png")
    if arguments.model is not None:
        chosen = (arguments.images, arguments.steps, arguments.evaluations, arguments.seed)
        draw_overview(arguments.model, arguments.output_dir / "digits.png", *chosen)


if __name__ == "__main__":
    main()
