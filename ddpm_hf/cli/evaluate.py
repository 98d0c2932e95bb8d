# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`ddpm-hf evaluate`: score a saved model in bits/dim."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..conditioning.denoiser import ConditionalDenoiser
from ..data.arguments import CaptionedDataArguments
from ..data.level_images import LevelImages
from ..evaluation.arguments import EvaluationArguments, GuidanceArguments, ModelPathArguments, check_scoring
from ..evaluation.cascades import with_noise_asked
from ..evaluation.conditioning_worth import Worth, guided_report, worth_of
from ..evaluation.few_steps import score_few_steps
from ..evaluation.guiding import guidance_report, load_guidance
from ..evaluation.quality_features import check_quality_features, load_quality_features
from ..evaluation.real_files import RealFiles, codec_of_singles
from ..evaluation.sample_quality import Judge
from ..evaluation.scoring import check_few_steps, check_fit, follow, load_as_they_are, load_pipeline, score, split_of
from ..evaluation.subject import Subject
from ..evaluation.truncation import tell_of_truncation, truncation_is_counted
from ..likelihood.distortion import RateDistortion
from ..likelihood.summary import in_parts
from ..likelihood.variational import BitsPerDim
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..reporting.by_calls import save_few_steps
from ..reporting.conditioning_figures import save_guided_bounds, save_worth
from ..reporting.figures import save_evaluation
from ..reporting.lines import evaluation_report, quality_line, weighted_line
from ..reporting.rate_distortion import curve_report, files_lines, files_report, save_curve
from ..reporting.tables import few_steps_table
from ..runtime.errors import user_errors
from ..runtime.output_folder import claim_folder, write_json
from ..runtime.progress import progress_bar
from ..runtime.threads import use_all_cores
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .cascades import evaluate_cascade
from .running import run_script


def main() -> None:
    run_script(evaluate, ModelPathArguments, CaptionedDataArguments, EvaluationArguments, GuidanceArguments)


@truncation_is_counted()
def evaluate(
    script: str,
    model: ModelPathArguments,
    data: CaptionedDataArguments,
    evaluation: EvaluationArguments,
    guiding: GuidanceArguments,
) -> None:
    """Score the images on all processes; the main process writes the results."""
    if evaluation.cascade:
        with user_errors(script):
            check_evaluation(evaluation)
        return evaluate_cascade(script, model, data, evaluation, guiding)
    with user_errors(script):
        accelerator = Accelerator()
        check_evaluation(evaluation)
        pipeline = load_pipeline(model, accelerator.device)
        loaded = load_as_they_are(data, pipeline)
        images = split_of(loaded, evaluation.split).spread(evaluation.max_images)
        images = with_noise_asked(images, pipeline, evaluation)
        subject = choose_subject(pipeline, images, evaluation, guiding, accelerator)
        train = split_of(loaded, "train") if evaluation.num_quality_samples else None
        tell_of_truncation([pipeline], images)
        folder = claim_folder(evaluation.output_dir, evaluation.overwrite_output_dir, accelerator)
    use_all_cores(accelerator.device)
    progress = functools.partial(progress_bar, desc="scoring", unit="batch", disable=not accelerator.is_main_process)
    result, weighted = subject.bound(progress), subject.bound_by_paths(progress)
    judge = None
    if train is not None and accelerator.is_main_process:
        judge = Judge(train, subject.images, load_quality_features(evaluation, accelerator.device))
    chains = score_few_steps(subject, judge)
    flow = subject.likelihood_by_ode() if evaluation.num_flow_images else None
    curve = subject.rate_distortion(progress)
    worth = worth_on_images(subject, result)
    guided = [subject.guided_by(scale).bound() for scale in evaluation.guidance_scales]
    if accelerator.is_main_process:
        compared = {} if judge is None else judge.report(subject.images, evaluation.num_quality_samples)
        more = {
            **guidance_report(guiding),
            "importance_weighted": weighted,
            "few_steps": chains,
            "test_images_as_samples": {},
            **compared,
            "flow": flow,
            "rate_distortion": None if curve is None else rate_and_distortion(subject, curve, folder),
            "guidance": guided_report(guided, evaluation.guidance_scales, result, images),
            **({} if worth is None else worth.report()),
        }
        save_conditioning(worth, more["guidance"], subject.pipeline.scheduler, folder)
        write_evaluation(result, subject, folder, model.model_name_or_path, more)


def rate_and_distortion(subject: Subject, curve: RateDistortion, folder: Path) -> dict[str, Any]:
    """Draw the curve and files of some images, and return both for JSON."""
    files, fault = code_some(subject)
    save_curve(curve, files, folder / "rate_distortion.png")
    return curve_report(curve) | ({"no_files": fault} if files is None else {"files": files_report(files)})


def code_some(subject: Subject) -> tuple[RealFiles | None, str | None]:
    """Files of some images, or why there are none; told on the screen, too."""
    if not subject.evaluation.num_coded_images:
        return None, "`num_coded_images` is 0."
    try:
        codec = codec_of_singles(subject.pipeline)
    except ValueError as error:
        print(f"The rate-distortion curve comes without files. {error}")
        return None, str(error)
    files = subject.files(codec, functools.partial(progress_bar, desc="coding", unit="image"))
    print(files_lines(files))
    return files, None


def save_conditioning(
    worth: Worth | None, guided: list[dict[str, Any]], scheduler: DDPMPaperScheduler, folder: Path
) -> None:
    """Draw what the conditioning is worth and the bounds of guided chains, where these are known, and print them."""
    if worth is not None:
        save_worth(worth.own, worth.shuffled, worth.name, scheduler, folder / worth.picture)
        print(f"A {worth.name} is worth {worth.own}; that of another image {worth.shuffled}.")
    if guided:
        save_guided_bounds(guided, folder / "guidance.png")
        for row in guided:
            print(
                f"{row['bits_per_dim']:.4f} bits/dim guided by {row['guidance_scale']:g},"
                f" {row['excess_bits_per_dim']:+.4f} ± {row['excess_bits_per_dim_standard_error']:.4f}"
            )


def worth_on_images(subject: Subject, given: BitsPerDim) -> Worth | None:
    """What the conditioning is worth on the images, for a model that is also able to do without it."""
    denoiser, evaluation = subject.pipeline.denoiser(subject.guidance), subject.evaluation
    if denoiser.conditioners.worth_name is None or len(subject.images) < 2 or subject.guidance.guidance_scale != 1:
        return None
    how = (subject.accelerator, evaluation.batch_size, evaluation.num_evaluations, evaluation.seed)

    def scored(denoiser: ConditionalDenoiser, images: LevelImages) -> BitsPerDim:
        return score(denoiser, subject.pipeline.scheduler, images, *how, count=subject.pipeline.bits_per_dim)

    return worth_of(scored, denoiser, subject.images, given, evaluation.seed)


def choose_subject(
    pipeline: SamplingPipeline,
    images: LevelImages,
    evaluation: EvaluationArguments,
    guiding: GuidanceArguments,
    accelerator: Accelerator,
) -> Subject:
    """The model as it is evaluated on these images.

    Raises:
        ValueError, OSError: if it cannot be evaluated with these arguments.
    """
    check_fit(pipeline, images)
    pipeline.require_likelihood(images.num_levels)
    levels = pipeline.levels_of_examples(images.num_levels)
    if evaluation.rate_distortion and levels is None:
        raise ValueError("`rate_distortion` must be False: the error of predicted latents is not one of images.")
    if evaluation.num_flow_images and pipeline.scheduler.config.prediction_type == "mean":
        raise ValueError("`num_flow_images` must be 0: a model that predicts the 'mean' has no probability-flow ODE.")
    guidance = load_guidance(guiding, pipeline)
    pipeline.scheduler = follow(pipeline.scheduler, levels, evaluation)
    check_few_steps([pipeline.scheduler], evaluation.few_steps)
    subject = Subject(pipeline, images, evaluation, accelerator, guidance)
    for scale in evaluation.guidance_scales:  # raises now if the model cannot be guided by it
        subject.guided_by(scale)
    return subject


def write_evaluation(result: BitsPerDim, subject: Subject, folder: Path, model: str, more: dict[str, Any]) -> None:
    """Write the figures and pictures, and print one line."""
    scheduler, images, seed = subject.pipeline.scheduler, subject.images, subject.evaluation.seed
    report = evaluation_report(
        result,
        model=model,
        split=subject.evaluation.split,
        num_levels=images.num_levels,
        variance_type=scheduler.variance_type,
        first_variance=scheduler.first_variance,
        clip_sample=scheduler.config.clip_sample,
        **more,
    )
    write_json(folder / "evaluation.json", report)
    picture = folder / "evaluation.png"
    save_evaluation(result, subject.pipeline, *images.batch(0, 3), picture, seed, subject.guidance)
    if more["few_steps"]:
        real = more["test_images_as_samples"]
        is_equal = real.get("images") == subject.evaluation.num_quality_samples
        references = {"bits_per_dim": result.total} | (real if is_equal else {})
        save_few_steps(more["few_steps"], references, folder / "few_steps.png")
        print(few_steps_table(more["few_steps"]))
        if "quality_samples" in more:
            print(quality_line(more["quality_samples"], more["quality_training_images"], real))
    if more["flow"] is not None:
        print(f"{more['flow']['flow_bits_per_dim']:.4f} bits/dim by the ODE on {more['flow']['images']} images")
    if more["importance_weighted"] is not None:
        print(weighted_line(more["importance_weighted"]))
    print(
        f"{result.total:.4f} ± {result.standard_error:.4f} bits/dim on {result.num_examples} images"
        f" = {in_parts(result.parts)}; see {folder}"
    )


def check_evaluation(evaluation: EvaluationArguments) -> None:
    """Raise ValueError for arguments out of range, or without the other arguments or the package that they need."""
    if evaluation.split not in ("train", "test"):
        raise ValueError(f"`split` must be 'train' or 'test', but is {evaluation.split!r}.")
    check_scoring(evaluation)
    if evaluation.num_coded_images < 0:
        raise ValueError(f"`num_coded_images` must be at least 0, but is {evaluation.num_coded_images}.")
    if evaluation.num_flow_images < 0 or evaluation.num_quality_samples < 0 or evaluation.num_quality_samples == 1:
        raise ValueError("`num_flow_images` must be at least 0, and `num_quality_samples` 0 or at least 2.")
    if evaluation.num_quality_samples and not evaluation.few_steps:
        raise ValueError("`num_quality_samples` are drawn by the chains of `few_steps`; pass `few_steps` too.")
    check_quality_features(evaluation)
    if evaluation.num_flow_images and importlib.util.find_spec("torchdiffeq") is None:
        raise ValueError("`num_flow_images` needs torchdiffeq, which is not installed: `pip install torchdiffeq`.")
