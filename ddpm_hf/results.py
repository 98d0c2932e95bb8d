# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The schema of `metrics.json`: training writes the file; the model card and the last lines on the screen read it.

Every key of `Metrics` may be absent: a run without test images has no bound, and a snapshot has no figures. Add a new
key here first, then write and read it. A reader ignores unknown keys, so it can read files of later versions. Bits/dim
are bits per dimension (per pixel and channel of an image).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, cast, get_args, get_origin

from typing_extensions import TypedDict, get_type_hints, is_typeddict


METRICS = "metrics.json"  # in the folder of a run, and in its repository on the Hub


class InvalidResult(ValueError):
    """A figure that must not be written, such as a NaN."""


class BoundFigures(TypedDict, total=False):
    """The variational bound on the test images."""

    bits_per_dim: float
    bits_per_dim_standard_error: float | None  # None for a single image
    bits_per_dim_estimation_error: float | None
    bits_per_dim_prior: float
    bits_per_dim_rate: float
    bits_per_dim_decoder: float
    test_images: int
    model_evaluations_per_test_image: int


class WeightedBound(TypedDict, total=False):
    """The importance-weighted bound on the test images."""

    bits_per_dim: float
    bits_per_dim_standard_error: float | None
    bits_per_dim_by_number_of_paths: dict[int, float]  # JSON has the numbers as strings
    paths: int
    steps: int
    images: int


# What the Fréchet distance is called in words, by the name of the features.
FRECHET_DISTANCES = {
    "pixels": "Fréchet distance of pixels",
    "efficientnet_lite0": "Fréchet distance of EfficientNet-Lite0 features",
    "inception": "FID (Fréchet distance of Inception features)",
}


class EqualNumbers(TypedDict, total=False):
    """Fréchet distances of equally many images of each kind, all from the same other training images.

    The distance of two samples of one distribution is not 0, and falls with their sizes: only those of equal sizes can
    be compared.
    """

    images: int  # of each kind
    reference_images: int  # the training images that are not among those of `training_images`
    samples: float
    training_images: float
    test_images: float | None  # None for fewer than two test images


class QualityFigures(TypedDict, total=False):
    """How close the samples are to the training images, by the features in `FRECHET_DISTANCES` that were chosen."""

    frechet_distance_pixels: float
    frechet_distance_pixels_of_test_images: float | None  # of all of them; None for fewer than two
    frechet_distance_pixels_at_equal_numbers: EqualNumbers
    frechet_distance_efficientnet_lite0: float
    frechet_distance_efficientnet_lite0_of_test_images: float | None
    frechet_distance_efficientnet_lite0_at_equal_numbers: EqualNumbers
    frechet_distance_inception: float
    frechet_distance_inception_of_test_images: float | None
    frechet_distance_inception_at_equal_numbers: EqualNumbers
    quality_resolution: str | None  # of the pixels: "16×16" if larger images were averaged down
    quality_samples: int
    quality_training_images: int
    quality_inference_steps: int


class Validation(TypedDict, total=False):
    """The score of validation images after a training step: a bound, or the loss of an image encoder."""

    step: int
    bits_per_dim: float
    bits_per_dim_standard_error: float | None
    contrastive_loss: float
    contrastive_loss_standard_error: float | None


DIGITS = "scikit-learn digits"  # the name of the built-in data in `RunFacts.data`


class RunFacts(TypedDict, total=False):
    """The facts of a run that are known before it is scored."""

    data: str
    dataset_name: str | None  # on the Hub
    attribution: str | None  # whom the licence of the data asks to name, and the licence
    train_images: int | None  # None for a stream of unknown length
    bad_images_passed_over: int
    train_steps: int
    train_batch_size: int
    cpu_threads: int
    image_shape: list[int]
    num_levels: int | None
    parameters: int
    prediction_type: str
    variance_type: str
    timesteps: int
    objective: str
    seed: int
    settings: dict[str, Any]


class CaptionFigures(TypedDict, total=False):
    """What captions are worth on the test images, and how well they are found again.

    Information is in bits per image, with standard errors for other groups of images, such as other emoji with their
    variants. Retrieval is the share of images whose own caption is the most likely among the candidates.
    """

    bits_per_dim_unconditional: float
    bits_per_dim_unconditional_standard_error: float | None
    caption_information_bits: float
    caption_information_bits_standard_error: float | None
    caption_information_bits_shuffled: float  # of another image's caption, the control
    caption_information_bits_shuffled_standard_error: float | None
    caption_retrieval_accuracy: float | None  # None for fewer images than candidates
    caption_retrieval_accuracy_training: float | None  # of training images
    caption_retrieval_candidates: int
    caption_retrieval_images: int  # at most, of each kind


class LatentFigures(TypedDict, total=False):
    """The parts of the bound of a latent diffusion, in bits per dimension of the images; their sum is the bound.

    The diffusion's prior, rate and decoder in `BoundFigures` are the parts of `bits_per_dim_latent`.
    """

    bits_per_dim_reconstruction: float
    bits_per_dim_posterior_entropy: float  # minus the entropy of q(z | x), as it enters the sum
    bits_per_dim_latent: float


class AutoencoderFigures(TypedDict, total=False):
    """The evidence lower bound of an autoencoder on the test images, and its latents."""

    bits_per_dim_reconstruction: float
    bits_per_dim_kl: float
    kl_nats_by_channel: list[float]  # per image
    decoder_scale: list[float]  # the standard deviation of p(x | z) in each channel of the images
    latent_shape: list[int]
    latents_mean: list[float]  # of each channel over training images, before they are shifted and scaled
    latents_std: list[float]


class ContrastiveFigures(TypedDict, total=False):
    """How well an image encoder tells which caption of the test images is an image's."""

    contrastive_loss: float  # nats: minus the logarithm of the probability of the right one, in both directions
    contrastive_loss_standard_error: float | None
    contrastive_accuracy: float  # the share of images whose own caption is the most similar
    contrastive_accuracy_of_captions: float  # the share of captions whose own image is the most similar
    contrastive_chance: float  # that of guessing
    contrastive_temperature: float


class PriorFigures(TypedDict, total=False):
    """The bits of an embedding of a test image by a prior of unCLIP: those of z ~ q(z | x), less those of q(z | x).

    In bits per image; the standard errors are for other groups of images, such as other emoji with their variants.
    """

    prior_bits_per_image: float  # given the caption
    prior_bits_per_image_standard_error: float | None
    prior_bits_per_image_unconditional: float
    prior_bits_per_image_unconditional_standard_error: float | None
    prior_caption_information_bits: float  # the difference, from the same noise
    prior_caption_information_bits_standard_error: float | None
    prior_caption_information_bits_shuffled: float  # of another image's caption, the control
    prior_caption_information_bits_shuffled_standard_error: float | None


class UnCLIPFigures(TypedDict, total=False):
    """The decoder's part of the bound of unCLIP, given an embedding z and the caption.

    `bits_per_dim` of such a run is the whole bound: the parts `bits_per_dim_reconstruction`, of the decoder, and
    `bits_per_dim_posterior_entropy` and `bits_per_dim_latent`, which are of the prior.
    """

    bits_per_dim_given_embedding: float
    bits_per_dim_given_embedding_standard_error: float | None
    bits_per_dim_given_another_embedding: float  # that of another test image, the control
    bits_per_dim_given_another_embedding_standard_error: float | None
    embedding_information_bits: float  # per image: what its own embedding saves in comparison with another's
    embedding_information_bits_standard_error: float | None


PRIOR_NAMES = tuple(PriorFigures.__annotations__)
CONTRASTIVE_NAMES = tuple(ContrastiveFigures.__annotations__)


class Metrics(
    BoundFigures,
    QualityFigures,
    CaptionFigures,
    LatentFigures,
    AutoencoderFigures,
    ContrastiveFigures,
    PriorFigures,
    UnCLIPFigures,
    RunFacts,
    total=False,
):
    """All of `metrics.json`."""

    importance_weighted: WeightedBound
    validation: list[Validation]
    validation_bits_per_dim_by_ema_decay: dict[str, float]
    validation_contrastive_loss_by_ema_decay: dict[str, float]
    train_seconds: float
    seconds_by_phase: dict[str, float]  # training, measuring, sampling, scoring, saving
    step_of_training: int  # only in a snapshot


class Measure(NamedTuple):
    """A figure that the model card claims in its metadata."""

    key: str  # in `Metrics`; "outer.inner" for a key of an inner dictionary
    metric: str  # the name of the metric on the Hub
    label: str


MEASURES = (
    Measure("bits_per_dim", "bits_per_dim", "bits/dim (variational bound)"),
    Measure(
        "importance_weighted.bits_per_dim",
        "bits_per_dim_importance_weighted",
        "bits/dim (importance-weighted bound)",
    ),
    Measure("caption_information_bits", "caption_information_bits", "bits per image that a caption is worth"),
    *(
        Measure(f"frechet_distance_{name}", f"frechet_distance_{name}", f"{words} to the training images")
        for name, words in FRECHET_DISTANCES.items()
    ),
)


def checked(metrics: Metrics) -> Metrics:
    """The same figures, after a check that they may be written.

    Raises:
        InvalidResult: for a key that is not in the schema, or a value that does not fit its key. A NaN fits no key; an
            infinite number fits keys that allow None, and is written as null.
    """
    kinds = get_type_hints(Metrics)
    for key, value in metrics.items():
        if key not in kinds:
            raise InvalidResult(f"`{key}` is not a key of {METRICS}; its keys are in ddpm_hf/results.py.")
        for name, misfit in _misfits(key, value, kinds[key]):
            raise InvalidResult(f"`{name}` of {METRICS} is {misfit!r}, which is not a valid result.")
    return metrics


def understood(content: Mapping[str, Any]) -> Metrics:
    """The content of a file that this version understands: without unknown keys and values that do not fit."""
    kinds = get_type_hints(Metrics)
    known = {key: value for key, value in content.items() if key in kinds}
    fitting = {key: value for key, value in known.items() if not any(_misfits(key, value, kinds[key]))}
    return cast("Metrics", fitting)


def measured(metrics: Metrics) -> Iterator[tuple[Measure, float]]:
    """The available `MEASURES` with their values."""
    for measure in MEASURES:
        outer, _, inner = measure.key.rpartition(".")
        holder: Any = metrics.get(outer, {}) if outer else metrics
        if inner in holder:
            yield measure, holder[inner]


def _misfits(name: str, value: Any, kind: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of the parts of a value that do not have the annotated type."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind) and isinstance(value, dict):
        kinds = get_type_hints(kind)
        parts = [(f"{name}.{key}", each, kinds[key]) for key, each in value.items() if key in kinds]
    elif origin is dict and isinstance(value, dict):
        parts = [(f"{name}.{key}", each, inner[1]) for key, each in value.items()]
    elif origin is list and isinstance(value, list):
        parts = [(f"{name}[{i}]", each, inner[0]) for i, each in enumerate(value)]
    else:
        alternatives = inner if origin in (Union, UnionType) else (kind,)
        parts = []
        if not any(_is_plain(value, each) for each in alternatives):
            yield name, value
    for part in parts:
        yield from _misfits(*part)


def _is_plain(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is NoneType:  # an infinite number stands for "not known", and JSON has only null for it
        return value is None or value in (math.inf, -math.inf)
    if kind is str:
        return isinstance(value, str)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return is_number and (kind is float or (kind is int and isinstance(value, int)))
