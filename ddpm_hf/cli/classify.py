# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf classify`: classify images, or retrieve their captions, by Bayes' rule with a conditional model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..conditioning.captions import PROMPT
from ..conditioning.classes import classes_of, number_of_classes
from ..data.arguments import CaptionedDataArguments
from ..data.level_images import LevelImages
from ..evaluation.arguments import ClassificationArguments, ModelPathArguments, check_scoring
from ..evaluation.classification import bayes, bits_by_class, bits_without_the_class, support_vector_classifier
from ..evaluation.conditioning_worth import retrieval_accuracy
from ..evaluation.features import IMAGES_OF_A_DATA_SET, PIXELS
from ..evaluation.scoring import check_fit, follow, load_as_they_are, load_pipeline, score, score_by_paths, split_of
from ..evaluation.truncation import tell_of_truncation
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..runtime.errors import user_errors
from ..runtime.output_folder import claim_folder, write_json
from ..runtime.progress import progress_bar
from ..runtime.threads import use_all_cores
from .running import run_script


def main() -> None:
    run_script(classify, ModelPathArguments, CaptionedDataArguments, ClassificationArguments)


def classify(
    script: str, model: ModelPathArguments, data: CaptionedDataArguments, classification: ClassificationArguments
) -> None:
    """Classify the test images on all processes; the main process writes the results."""
    with user_errors(script):
        accelerator = Accelerator()
        check_scoring(classification)
        pipeline = load_pipeline(model, accelerator.device)
        loaded = load_as_they_are(data, pipeline)
        train, test = split_of(loaded, "train"), split_of(loaded, "test").spread(classification.max_images)
        for images in (train, test):
            check_fit(pipeline, images)
        pipeline.require_likelihood(test.num_levels)
        is_told_of_text = PROMPT in pipeline.conditioners.columns
        classes = None if is_told_of_text else number_of_classes(pipeline.unet.config)
        if classes is None and not is_told_of_text:
            raise ValueError(
                "The model is not class-conditional, nor told of text; train one with --num_class_embeds."
            )
        if is_told_of_text:
            check_candidates(classification.num_candidates, test)
        pipeline.scheduler = follow(pipeline.scheduler, pipeline.levels_of_examples(test.num_levels), classification)
        tell_of_truncation([pipeline], test)
        folder = claim_folder(classification.output_dir, classification.overwrite_output_dir, accelerator)
    use_all_cores(accelerator.device)
    if is_told_of_text:
        retrieve(model, pipeline, classification, accelerator, test, folder)
        return
    progress = functools.partial(
        progress_bar, desc="classifying", unit="class", disable=not accelerator.is_main_process
    )
    bits = bits_by_class(scorer(pipeline, classification, accelerator), test, classes, progress)
    shares = class_shares(train, classes)
    posterior, marginal = bayes(bits, torch.Size(test.shape).numel(), shares)
    if not classification.num_paths:
        again = scorer(pipeline, replace(classification, seed=classification.seed + 1), accelerator)
        marginal = bits_without_the_class(again, test, bits, shares)
    if accelerator.is_main_process:
        report = facts(model, pipeline, classification) | report_on(bits, posterior, marginal, train, test)
        write_json(folder / "classification.json", report)
        print(describe(report, folder))


def check_candidates(count: int, test: LevelImages) -> None:
    """Raise ValueError unless there are so many candidates, at least 2."""
    if not 2 <= count <= len(test):
        raise ValueError(f"`num_candidates` must be in 2 ... {len(test)}, the test images, but is {count}.")


def retrieve(
    model: ModelPathArguments,
    pipeline: SamplingPipeline,
    classification: ClassificationArguments,
    accelerator: Accelerator,
    test: LevelImages,
    folder: Path,
) -> None:
    """Look for the caption of each test image among those of others, on all processes; the main one writes."""
    score_of, count = scorer(pipeline, classification, accelerator), classification.num_candidates
    accuracy = retrieval_accuracy(score_of, test, classification.seed, count)
    if accelerator.is_main_process:
        images = len(test) // count * count
        report = facts(model, pipeline, classification) | {"accuracy": accuracy, "candidates": count, "images": images}
        write_json(folder / "classification.json", report)
        print(f"{accuracy:.4f} of {images} test images find their caption among {count}; by chance {1 / count:.4f}")


def scorer(
    pipeline: SamplingPipeline, classification: ClassificationArguments, accelerator: Accelerator
) -> Callable[[LevelImages], list[float]]:
    """A function that computes the bits/dim of images on all processes, by the bound of the chain or weighted paths.

    The noise of an image depends only on its place and the seed.
    """
    paths = classification.num_paths

    def bits_of(images: LevelImages) -> list[float]:
        by, calls = (score_by_paths, paths) if paths else (score, classification.num_evaluations)
        count = pipeline.importance_weighted_bits_per_dim if paths else pipeline.bits_per_dim
        chosen = (accelerator, classification.batch_size, calls, classification.seed)
        return by(pipeline.denoiser(), pipeline.scheduler, images, *chosen, count=count).per_example

    return bits_of


def facts(
    model: ModelPathArguments, pipeline: SamplingPipeline, classification: ClassificationArguments
) -> dict[str, Any]:
    """The facts of a report: which model was used, and how."""
    paths, visited = classification.num_paths, len(pipeline.scheduler.timesteps)
    calls = min(classification.num_evaluations or visited, visited)
    return {
        "model": model.model_name_or_path,
        "steps": visited,
        "paths": paths,
        "model_evaluations_per_image_and_class": paths * visited if paths else calls,
    }


def class_shares(train: LevelImages, classes: int) -> Tensor:
    """p(class), float64 `[classes]`: the frequencies in the training images, with one added to every count."""
    counts = torch.bincount(classes_of(train.columns), minlength=classes).double() + 1  # no class has probability 0
    return counts / counts.sum()


def report_on(
    bits: Tensor, posterior: Tensor, marginal: Tensor, train: LevelImages, test: LevelImages
) -> dict[str, Any]:
    """The report on the test images.

    Args:
        bits: bits/dim given each class, `[N, classes]`.
        posterior: log₂ p(class | image), `[N, classes]`.
        marginal: bits/dim without the class, `[N]`.
    """
    found, known = posterior.argmax(dim=1), classes_of(test.columns)
    confusion = torch.zeros(bits.shape[1], bits.shape[1], dtype=torch.int64)
    confusion.index_put_((known, found), torch.ones_like(known), accumulate=True)
    of_true_class = posterior.gather(1, known[:, None])[:, 0]
    return {
        "accuracy": (found == known).double().mean().item(),
        "accuracy_of_a_support_vector_classifier": baseline(train, test),
        "cross_entropy_bits": -of_true_class.mean().item(),
        "bits_per_dim_of_the_true_class": bits.gather(1, known[:, None]).mean().item(),
        "bits_per_dim_without_the_class": marginal.mean().item(),
        "images": len(test),
        "confusion": confusion.tolist(),  # rows: true class, columns: predicted class
        "probabilities": torch.exp2(posterior).tolist(),
    }


def baseline(train: LevelImages, test: LevelImages) -> float:
    """The accuracy of a support vector classifier on pixels."""
    some = train.spread(IMAGES_OF_A_DATA_SET)  # a support vector machine takes time quadratic in their number
    classifier = support_vector_classifier(PIXELS.of_data_set(some), classes_of(some.columns))
    return (classifier(PIXELS.of_data_set(test)) == classes_of(test.columns)).double().mean().item()


def describe(report: dict[str, Any], folder: Path) -> str:
    """The last lines that the script prints."""
    return (
        f"{report['accuracy']:.4f} of {report['images']} test images are classified correctly, with a cross-entropy"
        f" of {report['cross_entropy_bits']:.3f} bits; a support vector classifier:"
        f" {report['accuracy_of_a_support_vector_classifier']:.4f}\n"
        f"{report['bits_per_dim_of_the_true_class']:.4f} bits/dim given the true class,"
        f" {report['bits_per_dim_without_the_class']:.4f} without it; see {folder}"
    )
