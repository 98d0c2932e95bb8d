# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The last lines that commands print, and the reports that they are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ..likelihood.variational import BitsPerDim
from ..results import FRECHET_DISTANCES, EqualNumbers, Metrics, WeightedBound


PARTS = {
    "bits_per_dim_prior": "prior",
    "bits_per_dim_rate": "rate",
    "bits_per_dim_decoder": "decoder",
    "bits_per_dim_reconstruction": "reconstruction",
    "bits_per_dim_kl": "KL",
    "bits_per_dim_posterior_entropy": "posterior entropy",
}


def describe(report: Metrics) -> str:
    """The last lines that a run prints."""
    weighted = f"{weighted_line(report['importance_weighted'])}\n" if "importance_weighted" in report else ""
    quality = "".join(_distance_lines(report))
    score = "there were no test images to score\n"
    if "bits_per_dim" in report:
        parts = (f"{words} {report[key]:.4f}" for key, words in PARTS.items() if key in report)
        score = (
            f"{report['bits_per_dim']:.4f} ± {report['bits_per_dim_standard_error']:.4f} bits/dim on"
            f" {report['test_images']} test images = {' + '.join(parts)}\n"
        )
    if "contrastive_loss" in report:
        score = _contrastive_line(report)
    more = f"{_caption_lines(report)}{_unclip_lines(report)}"
    return f"{score}{more}{weighted}{quality}{_time_line(report)}"


def _contrastive_line(report: Metrics) -> str:
    """How well an image encoder matches images and captions."""
    return (
        f"{report['contrastive_accuracy']:.3f} of {report['test_images']} test images have their own caption as the"
        f" most similar, {report['contrastive_accuracy_of_captions']:.3f} of the captions their own image\n"
    )


def _unclip_lines(report: Metrics) -> str:
    """The bits of an embedding, and of a picture given an embedding, if they are known."""
    lines = ""
    if "prior_bits_per_image" in report:
        lines += f"{_with_error(report, 'prior_bits_per_image')} bits an image for its embedding"
        if "prior_caption_information_bits" in report:
            lines += (
                f", {_with_error(report, 'prior_bits_per_image_unconditional')} without its caption: a caption saves"
                f" {_with_error(report, 'prior_caption_information_bits')}"
            )
        lines += "\n"
    if "bits_per_dim_given_another_embedding" in report:
        lines += (
            f"{report['bits_per_dim_given_embedding']:.4f} bits/dim given its own embedding,"
            f" {report['bits_per_dim_given_another_embedding']:.4f} given another's: it saves"
            f" {_with_error(report, 'embedding_information_bits')} bits an image\n"
        )
    return lines


def _with_error(report: Mapping[str, Any], name: str) -> str:
    error = report[f"{name}_standard_error"]
    return f"{report[name]:.1f}" + ("" if error is None else f" ± {error:.1f}")


def _distance_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The Fréchet distances of samples; for features of networks, which have more dimensions, at equal numbers too."""
    for name, words in FRECHET_DISTANCES.items():
        key = f"frechet_distance_{name}"
        if key in report:
            yield (
                f"{report[key]:.4f} {words} between the training images and {report['quality_samples']} samples of"
                f" {report['quality_inference_steps']} steps\n"
            )
        equal: EqualNumbers | None = report.get(f"{key}_at_equal_numbers")
        if equal is not None and name != "pixels":
            kinds = {"samples": equal["samples"], "training images": equal["training_images"]}
            if equal["test_images"] is not None:
                kinds["test images"] = equal["test_images"]
            told = ", ".join(f"{distance:.4f} of {kind}" for kind, distance in kinds.items())
            yield (
                f"  of {equal['images']} images of each kind from the other {equal['reference_images']} training"
                f" images: {told}\n"
            )


def _caption_lines(report: Metrics) -> str:
    """What captions are worth, if that is known."""
    if "caption_information_bits" not in report:
        return ""
    lines = (
        f"{report['bits_per_dim_unconditional']:.4f} bits/dim without captions: a caption is worth"
        f" {report['caption_information_bits']:.1f} ± {report['caption_information_bits_standard_error']:.1f} bits an"
        f" image, that of another image {report['caption_information_bits_shuffled']:.1f} ±"
        f" {report['caption_information_bits_shuffled_standard_error']:.1f}\n"
    )
    test, training = (report.get(f"caption_retrieval_accuracy{end}") for end in ("", "_training"))
    if test is not None and training is not None:
        lines += (
            f"{test:.3f} of test images and {training:.3f} of training images find their caption among"
            f" {report['caption_retrieval_candidates']}\n"
        )
    return lines


def _time_line(report: Metrics) -> str:
    """How long the training took, and the other phases where they are known."""
    trained = f"trained {report['train_steps']} steps in {report['train_seconds']:.0f} s"
    phases = report.get("seconds_by_phase", {})
    others = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in phases.items() if name != "training")
    return f"{trained}; {others}: {sum(phases.values()):.0f} s in all" if others else trained


def quality_line(samples: int, training_images: int, real: Mapping[str, float]) -> str:
    """A line for the screen that says between how many images Fréchet distances are, and those of real images.

    Args:
        samples, training_images: numbers of images.
        real: the distances of real images from the training images, and the number of these `images`, if known.
    """
    line = f"Fréchet distances are of {samples} samples from {training_images} training images"
    keys = {f"frechet_distance_{name}": words for name, words in FRECHET_DISTANCES.items()}
    distances = [f"{real[key]:.4f} {words}" for key, words in keys.items() if key in real]
    return f"{line}; of {real['images']} real images: {', '.join(distances)}" if distances else line


def weighted_line(figures: WeightedBound) -> str:
    """A line for the screen with the importance-weighted bound and the variational bound of the same chain."""
    of_one_path, *_ = figures["bits_per_dim_by_number_of_paths"].values()
    return (
        f"{figures['bits_per_dim']:.4f} ± {figures['bits_per_dim_standard_error']:.4f} bits/dim by {figures['paths']}"
        f" weighted paths of {figures['steps']} steps, a chain whose bound with one path is {of_one_path:.4f}"
    )


def evaluation_report(result: BitsPerDim, **settings: Any) -> dict[str, Any]:
    """The figures of an evaluation, with the table by timestep last."""
    figures = dataclasses.asdict(result)
    timesteps, per_timestep = figures.pop("timesteps"), figures.pop("per_timestep")
    table = [{"timestep": t, "bits_per_dim": bits} for t, bits in zip(timesteps, per_timestep, strict=True)]
    return {**settings, **figures, "per_timestep": table}
