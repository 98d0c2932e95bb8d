# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Whether the words for colours and shapes have an effect on a model of text to image that was trained on OpenMoji.

    accelerate launch examples/text_to_image.py
    python benchmarks/colour_words.py --model runs/emoji

draws samples of "red heart", "blue circle" and so on. For each sample it asks which real picture of the same shape has
the nearest mean colour. The share of samples nearest the colour asked for is written to results/colour_words.json,
separately for the captions that were trained on and for those that were held out, and for several guidance scales. The
shape is asked for in the same way: which of the three shapes of that colour has the nearest pixels. The picture is of
the first scale.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import accelerate
import torch
from torch import Tensor

from ddpm_hf.conditioning.captions import PROMPT
from ddpm_hf.data.arguments import CaptionedDataArguments
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.evaluation.arguments import ModelPathArguments
from ddpm_hf.evaluation.sampling import draw_images
from ddpm_hf.evaluation.scoring import load_pipeline
from ddpm_hf.pipelines.guidance import Guidance
from ddpm_hf.pipelines.sampling_pipeline import SamplingPipeline
from ddpm_hf.reporting.figures import save_grid
from ddpm_hf.runtime.threads import use_all_cores
from ddpm_hf.tasks.captioned_images import load_captioned_images


RESULTS = Path(__file__).parent / "results"
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")
SHAPES = ("heart", "circle", "square")
OTHER_NAMES = {"black square": "black large square", "white square": "white large square"}  # as OpenMoji calls them


class Subject(NamedTuple):
    """A picture that is asked for by a colour and a shape.

    Attributes:
        picture: the real one, `[C, H, W]` in [0, 1].
        is_trained: whether it is a training image.
    """

    colour: str
    shape: str
    picture: Tensor
    is_trained: bool

    @property
    def caption(self) -> str:
        name = f"{self.colour} {self.shape}"
        return OTHER_NAMES.get(name, name)


def subjects_of(train: LevelImages, test: LevelImages) -> list[Subject]:
    """The pictures of all colours and shapes that the data have."""
    found = []
    for colour in COLOURS:
        for shape in SHAPES:
            subject = Subject(colour, shape, torch.empty(0), True)
            for images, is_trained in ((train, True), (test, False)):
                captions = list(images.columns[PROMPT])
                if subject.caption in captions:
                    picture = images[captions.index(subject.caption)] / 2 + 0.5
                    found.append(subject._replace(picture=picture, is_trained=is_trained))
    return found


def nearest(sample: Tensor, subjects: list[Subject], of: Any) -> Subject:
    """The subject whose picture is nearest the sample in what `of` takes from a picture."""
    return min(subjects, key=lambda each: float((of(each.picture) - of(sample)).square().sum()))


def mean_colour(picture: Tensor) -> Tensor:
    return picture.mean(dim=(1, 2))


def measured(samples: Tensor, asked: list[Subject], subjects: list[Subject]) -> dict[str, Any]:
    """The shares of samples nearest the colour and the shape asked for, by whether the caption was trained on."""
    rows = []
    for sample, subject in zip(samples, asked, strict=True):
        same_shape = [each for each in subjects if each.shape == subject.shape]
        same_colour = [each for each in subjects if each.colour == subject.colour]
        is_colour = nearest(sample, same_shape, mean_colour).colour == subject.colour
        is_shape = nearest(sample, same_colour, lambda picture: picture).shape == subject.shape
        rows.append((subject, is_colour, is_shape))
    return {
        kind: _shares([row for row in rows if row[0].is_trained == is_trained])
        for kind, is_trained in (("trained", True), ("held_out", False))
    }


def _shares(rows: list[tuple[Subject, bool, bool]]) -> dict[str, Any]:
    if not rows:
        return {"samples": 0}
    colours = {
        colour: sum(is_colour for subject, is_colour, _ in rows if subject.colour == colour)
        / sum(subject.colour == colour for subject, *_ in rows)
        for colour in COLOURS
        if any(subject.colour == colour for subject, *_ in rows)
    }
    return {
        "samples": len(rows),
        "nearest_the_colour": sum(is_colour for _, is_colour, _ in rows) / len(rows),
        "nearest_the_shape": sum(is_shape for *_, is_shape in rows) / len(rows),
        "nearest_the_colour_by_colour": colours,
    }


def draw(pipeline: SamplingPipeline, asked: list[Subject], steps: int, scale: float, seed: int) -> Tensor:
    """One sample for each, `[N, C, H, W]` in [0, 1]."""
    turns = {PROMPT: [subject.caption for subject in asked]}
    machine = accelerate.Accelerator()
    return draw_images(pipeline, len(asked), 64, steps, seed, machine, turns, guidance=Guidance(scale))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/emoji", help="a folder, or a name on the Hub (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=8, help="of each caption (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of a sample (default: %(default)s)")
    parser.add_argument(
        "--guidance_scales", type=float, nargs="+", default=[1.5, 1.0, 3.0], help="(default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--output_dir", type=Path, default=RESULTS, help="(default: %(default)s)")
    arguments = parser.parse_args()
    device = accelerate.Accelerator().device
    use_all_cores(device)
    pipeline = load_pipeline(ModelPathArguments(arguments.model), device)
    pipeline.set_progress_bar_config(disable=True)
    data = load_captioned_images(CaptionedDataArguments(resolution=pipeline.example_shape[1]))
    subjects = subjects_of(data.train, data.test)
    asked = [subject for subject in subjects for _ in range(arguments.samples)]
    scales = arguments.guidance_scales
    drawn = [draw(pipeline, asked, arguments.steps, scale, arguments.seed) for scale in scales]
    report = {
        "model": arguments.model,
        "steps": arguments.steps,
        "by_guidance_scale": {
            f"{scale:g}": measured(samples, asked, subjects) for scale, samples in zip(scales, drawn, strict=True)
        },
    }
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "colour_words.json").write_text(json.dumps(report, indent=2) + "\n")
    shown = slice(None, None, arguments.samples)
    captions = [subject.caption for subject in asked[shown]]
    save_grid(drawn[0][shown], arguments.output_dir / "colour_words.png", captions=captions)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
