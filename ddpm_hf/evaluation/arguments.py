# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Arguments for the model, its chain, sampling, scoring, classification and measurement."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.arguments import help_text


CASCADE = "Several models in the place of one: the first of small images, each other one enlarging those before it."
MEASURED_IMAGES = 2048  # training images that errors are measured on by default


@dataclass
class ModelPathArguments:
    """The saved model."""

    _argument_group_name = "model"

    model_name_or_path: str = field(default="runs/digits", metadata=help_text("A folder, or a name on the Hub."))
    revision: str | None = field(default=None, metadata=help_text("Branch, tag or commit on the Hub."))
    variant: str | None = field(default=None, metadata=help_text("Variant of the weights, such as fp16."))


@dataclass
class ChainArguments:
    """The timesteps that the chain visits."""

    _argument_group_name = "sampling and scoring"

    num_inference_steps: int | None = field(
        default=None, metadata=help_text("Steps of the chain; all training timesteps if unset.")
    )
    timestep_spacing: str | None = field(
        default=None, metadata=help_text("linspace, leading, trailing, quadratic, log_snr or optimal.")
    )


@dataclass
class GuidanceArguments:
    """Guidance; by default there is none."""

    _argument_group_name = "guidance"

    guidance_scale: float = field(
        default=1.0,
        metadata=help_text(
            "At least 0; 1 is the conditional model, 0 the unconditional one (classifier-free guidance)."
        ),
    )
    guidance_interval: list[float] | None = field(
        default=None, metadata=help_text("The lowest and the highest guided timestep; all if unset.")
    )
    guidance_rescale: float = field(
        default=0.0,
        metadata=help_text("From 0 to 1: how far guided predictions are scaled to the conditional ones' deviation."),
    )
    guidance_model_name_or_path: str | None = field(
        default=None,
        metadata=help_text(
            "A weaker model of the same data that replaces the unconditional one (autoguidance): a folder, or a name"
            " on the Hub."
        ),
    )


@dataclass
class SampleArguments(ChainArguments):
    """How many images are sampled, and how."""

    num_images: int = field(default=36, metadata=help_text("With --image as many as there are files, if unset."))
    batch_size: int = 36
    eta: float | None = field(
        default=None, metadata=help_text("DDIM's eta from 0 (no noise) to 1; the model's own variance if unset.")
    )
    solver_order: int = field(
        default=1, metadata=help_text("2 for DPM-Solver++(2M), better in few steps; needs --eta 0.")
    )
    class_labels: list[int] | None = field(
        default=None, metadata=help_text("Classes to sample in turn, for a class-conditional model; all if unset.")
    )
    prompt: list[str] | None = field(
        default=None, metadata=help_text("Prompts to sample in turn, for a model of text to image; none if unset.")
    )
    negative_prompt: str | None = field(
        default=None, metadata=help_text("What guidance leads away from; the empty prompt if unset.")
    )
    cascade: list[str] = field(default_factory=list, metadata=help_text(CASCADE))
    image: list[str] = field(
        default_factory=list,
        metadata=help_text(
            "Image files in turn, all of one size: to enlarge or to vary, for a model that does so; for others to"
            " start from in the place of noise, or with --mask_image to keep a part of."
        ),
    )
    mask_image: list[str] = field(
        default_factory=list,
        metadata=help_text(
            "Files of masks in turn, of the size of --image, which is drawn anew where they are white (RePaint)."
        ),
    )
    strength: float | None = field(
        default=None,
        metadata=help_text(
            "The share of the steps that --image goes through, from 0 (none) to 1; 0.8 if unset, and 1 with"
            " --mask_image."
        ),
    )
    jump_length: int = field(
        default=10, metadata=help_text("With --mask_image: the steps that a chain jumps back by, every so many steps.")
    )
    jump_n_sample: int = field(
        default=10,
        metadata=help_text("With --mask_image: how often these steps are taken, so that the parts fit; 1 for once."),
    )
    interpolate: list[str] = field(
        default_factory=list,
        metadata=help_text("Two image files, between which images are drawn, through the noise that leads to them."),
    )
    noise_level: int = field(default=0, metadata=help_text("Noise in the images that are enlarged, from 0 (none) on."))
    seed: int = 0
    output: str = field(default="samples.png", metadata=help_text("File for the grid; must not exist."))
    gif: str | None = field(
        default=None,
        metadata=help_text("File for an animation of the reverse process of up to 36 images; a new .gif."),
    )


@dataclass
class ScoringArguments(ChainArguments):
    """Which images are scored, and with how many model calls."""

    max_images: int | None = field(
        default=None, metadata=help_text("Score at most this many images, evenly spread over the data.")
    )
    num_evaluations: int = field(
        default=50, metadata=help_text("Model calls per image (and class, if classifying), at most; 0 for all times.")
    )
    num_paths: int = field(
        default=0, metadata=help_text("Paths per image of the tighter, importance-weighted bound; 0 for none.")
    )
    batch_size: int = 128
    seed: int = 0


@dataclass
class QualityArguments:
    """How samples are compared with training images."""

    num_quality_samples: int = field(
        default=500, metadata=help_text("Samples that are compared with real images at the end; 0 for none.")
    )
    quality_features: list[str] = field(
        default_factory=lambda: ["pixels"],
        metadata=help_text(
            "What samples are compared by, one or several: pixels, efficientnet_lite0 (features of a network) and"
            " inception (the FID)."
        ),
    )
    inception_weights: str | None = field(
        default=None, metadata=help_text("File of the weights for inception: pt_inception-2015-12-05-6726825d.pth.")
    )


@dataclass
class EvaluationArguments(ScoringArguments, QualityArguments):
    """Which scores are computed, and where they are written."""

    output_dir: str = field(default="evaluation", metadata=help_text("Must not hold another evaluation."))
    overwrite_output_dir: bool = False
    split: str = field(default="test", metadata=help_text("test or train."))
    cascade: list[str] = field(default_factory=list, metadata=help_text(CASCADE))
    noise_level: int = field(
        default=0,
        metadata=help_text("Of a model that enlarges images: noise in the images that it is given, from 0 (none) on."),
    )
    rate_distortion: bool = field(
        default=False,
        metadata=help_text("Also compute and draw the error of the predicted image against the bits so far."),
    )
    num_coded_images: int = field(
        default=4,
        metadata=help_text(
            "Images for --rate_distortion that are also coded into files, one by one, beside files of PNG, WebP, JPEG"
            " and JPEG XL; 0 for none."
        ),
    )
    guidance_scales: list[float] = field(
        default_factory=list,
        metadata=help_text("Also score the chains guided by these scales, from the same noise, and draw their bound."),
    )
    few_steps: list[int] = field(
        default_factory=list,
        metadata=help_text("Also score chains with these numbers of steps, at even and at optimal timesteps."),
    )
    num_quality_samples: int = field(
        default=0,
        metadata=help_text(
            "Samples compared with training images, for each of --few_steps: of the chains, of DDIM and of the ODE."
        ),
    )
    num_flow_images: int = field(
        default=0,
        metadata=help_text("Images also scored by the probability-flow ODE, exactly and for each of --few_steps."),
    )


@dataclass
class ClassificationArguments(ScoringArguments):
    """How the test images are classified, or their captions retrieved, and where the result is written."""

    output_dir: str = field(default="classification", metadata=help_text("Must not hold another classification."))
    overwrite_output_dir: bool = False
    num_candidates: int = field(
        default=16, metadata=help_text("Captions among which each image's own is looked for, at least 2.")
    )


@dataclass
class MeasurementArguments:
    """How a model's errors are measured, and where the model is saved with them."""

    _argument_group_name = "measurement"

    output_dir: str = field(default="runs/digits_optimal", metadata=help_text("Must not hold another model."))
    overwrite_output_dir: bool = False
    max_images: int = field(default=MEASURED_IMAGES, metadata=help_text("Training images to measure on, at most."))
    num_noise_levels: int = field(default=64, metadata=help_text("At most this many, evenly spaced in log-SNR."))
    num_evaluations: int = field(default=8, metadata=help_text("Model calls per image, each at another level."))
    per_element: bool | None = field(
        default=None,
        metadata=help_text("One variance per pixel and channel; if unset, for images with at most 1024 of them."),
    )
    batch_size: int = 128
    seed: int = 0


def check_batches(batch_size: int, max_images: int | None) -> None:
    """Raise ValueError unless both are at least 1; `max_images` may be None."""
    if batch_size < 1 or (max_images is not None and max_images < 1):
        raise ValueError("`batch_size` and `max_images` must be at least 1.")


def check_scoring(scoring: ScoringArguments) -> None:
    """Raise ValueError for arguments out of range; the message names the argument."""
    check_batches(scoring.batch_size, scoring.max_images)
    check_num_evaluations(scoring.num_evaluations)
    check_num_paths(scoring.num_paths)


def check_num_evaluations(num_evaluations: int) -> None:
    """Raise ValueError unless it is 0 (all timesteps) or at least 2."""
    if num_evaluations < 0 or num_evaluations == 1:
        raise ValueError(f"`num_evaluations` must be 0, or at least 2, but is {num_evaluations}.")


def check_num_paths(num_paths: int) -> None:
    """Raise ValueError unless it is at least 0."""
    if num_paths < 0:
        raise ValueError(f"`num_paths` must be at least 0, but is {num_paths}.")
