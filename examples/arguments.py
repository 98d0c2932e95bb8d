# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What the scripts can be told: dataclasses of arguments, read from flags, from one YAML or JSON file, or both.

Names are those of diffusers' `train_unconditional.py` and of `UNet2DModel` where they have one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from diffusers.optimization import SchedulerType
from transformers import HfArgumentParser


OBJECTIVES = ("simple", "vlb", "hybrid", "rate")
TIMESTEP_SAMPLINGS = ("uniform", "stratified", "importance")
PRECISIONS = ("no", "fp16", "bf16")
LOGGERS = ("none", "tensorboard", "wandb", "trackio")
LR_SCHEDULERS = [each.value for each in SchedulerType if each != SchedulerType.PIECEWISE_CONSTANT]  # wants rules too
LATEST = "latest"
MEASURED_IMAGES = 2048  # by default, of those trained on


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class DataArguments:
    """Which images; without any of these, scikit-learn's handwritten digits (8x8, 17 grey levels)."""

    dataset_name: str | None = field(default=None, metadata=_help("A data set on the Hub, or a local one's path."))
    dataset_config_name: str | None = field(default=None, metadata=_help("The configuration of that data set."))
    train_data_dir: str | None = field(default=None, metadata=_help("A local folder of images."))
    cache_dir: str | None = field(default=None, metadata=_help("Where downloads are kept."))
    resolution: int | None = field(default=None, metadata=_help("Side of the square images; the data's own if unset."))
    interpolation: str = field(
        default="lanczos", metadata=_help("To resize with: lanczos, bicubic, bilinear, as diffusers' script, or box.")
    )
    center_crop: bool = field(default=False, metadata=_help("Crop the middle; a random place if unset."))
    random_flip: bool = field(default=False, metadata=_help("Mirror half of the training images."))
    preserve_input_precision: bool = field(
        default=False, metadata=_help("Keep images of more than 8 bits: 65536 levels, 32-bit ones scaled to these.")
    )
    channels: int | None = field(default=None, metadata=_help("Convert to 1, 3 or 4 channels; the data's if unset."))
    num_levels: int | None = field(default=None, metadata=_help("Quantise 8-bit images to this many levels, <= 256."))
    label_column: str | None = field(
        default=None, metadata=_help("The column of classes; the first of type ClassLabel if unset.")
    )
    test_fraction: float = field(
        default=0.1,
        metadata=_help("Held out where the data set has no test split, 0 for none; the digits have theirs."),
    )
    validation_fraction: float = field(
        default=0.0,
        metadata=_help("Held out to watch the training by where there is no validation split; if 0, the test images."),
    )
    skip_bad_images: bool = field(default=False, metadata=_help("Go on without images that cannot be read."))
    streaming: bool = field(
        default=False, metadata=_help("Read a data set from its files or the Hub as it is needed; it need not fit.")
    )
    shuffle_buffer_size: int = field(
        default=4096, metadata=_help("Encoded images that a process keeps of a stream, to shuffle them.")
    )
    max_held_out_images: int = field(
        default=2048, metadata=_help("Of a stream, the most test and the most validation images that are kept.")
    )
    dataloader_num_workers: int = field(default=0, metadata=_help("Processes that read images, of every process."))


@dataclass
class ModelArguments:
    """The UNet2DModel, by its own argument names."""

    model_config_name_or_path: str | None = field(
        default=None,
        metadata=_help(
            "A saved UNet2DModel's configuration in place of the arguments below, all but num_class_embeds."
        ),
    )
    block_out_channels: list[int] = field(default_factory=lambda: [32, 64])
    down_block_types: list[str] = field(default_factory=lambda: ["DownBlock2D", "AttnDownBlock2D"])
    up_block_types: list[str] = field(default_factory=lambda: ["AttnUpBlock2D", "UpBlock2D"])
    layers_per_block: int = 2
    norm_num_groups: int = 8
    attention_head_dim: int | None = 8
    downsample_padding: int = 1
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "scale_shift"
    dropout: float = field(default=0.15, metadata=_help("Dropout probability in the residual blocks."))
    num_class_embeds: int | None = field(
        default=None, metadata=_help("Number of classes of a class-conditional model, from the data's labels.")
    )
    enable_xformers_memory_efficient_attention: bool = field(
        default=False, metadata=_help("Changes nothing: torch's own memory-efficient attention is always used.")
    )


@dataclass
class DiffusionArguments:
    """The forward process, and what the model learns."""

    recipe: str = field(
        default="default",
        metadata=_help(
            "default, ddpm or improved: what a paper did, in the arguments below; those given win over it."
        ),
    )
    prediction_type: str = field(default="v_prediction", metadata=_help("epsilon, sample, v_prediction or mean."))
    variance_type: str | None = field(
        default=None,
        metadata=_help(
            "Of the reverse process, DDPMPaperScheduler's; learned_range if unset, or optimal, which is measured when"
            " the model is trained, for an objective that does not train a variance."
        ),
    )
    per_element: bool | None = field(
        default=None,
        metadata=_help("An optimal variance for every pixel's channel; if unset, of images with up to 1024 of these."),
    )
    objective: str = field(
        default="rate",
        metadata=_help(
            "simple (L_simple), vlb (L_vlb), hybrid (of both), or rate: L_vlb but for its decoder, steadier."
        ),
    )
    vlb_weight: float | None = field(
        default=None,
        metadata=_help(
            "Of L_vlb, which trains a learned variance beside another objective; 0.001 in hybrid, else 0.1."
        ),
    )
    variance_steps: int | None = field(
        default=None,
        metadata=_help(
            "Beside objective rate, a learned_range is trained by the bound of chains of so many steps, where it"
            " matters most; 50 if unset."
        ),
    )
    timestep_sampling: str = field(
        default="importance", metadata=_help("uniform, stratified over the batch, or importance: by the loss.")
    )
    snr_gamma: float | None = field(
        default=None, metadata=_help("Weights L_simple by min(SNR, gamma), as Hang et al. 2023 do with 5.")
    )
    ddpm_num_steps: int = field(default=1000, metadata=_help("T, the number of training timesteps."))
    ddpm_num_inference_steps: int | None = field(
        default=None,
        metadata=_help(
            "Of the sample grids drawn during training; if unset 100 at most, or all for the variance `learned`."
        ),
    )
    ddpm_beta_schedule: str = field(
        default="log_snr",
        metadata=_help("log_snr (linear in the log signal-to-noise ratio), or one of DDPMPaperScheduler's."),
    )
    beta_start: float = 1e-4
    beta_end: float = 0.02
    log_snr_max: float | None = field(default=None, metadata=_help("Of log_snr; fitted to the levels if unset."))
    log_snr_min: float = field(default=-9.0, metadata=_help("Of log_snr."))

    def __post_init__(self) -> None:
        if self.variance_type is None:
            self.variance_type = "optimal" if self.objective == "simple" else "learned_range"
        if self.vlb_weight is None:
            self.vlb_weight = 0.001 if self.objective == "hybrid" else 0.1
        if self.variance_steps is None and self.trains_variance_by_few_steps:
            self.variance_steps = min(50, max(1, self.ddpm_num_steps))  # of 0 the schedule complains

    @property
    def trains_variance_by_few_steps(self) -> bool:
        """Whether `variance_steps` means anything."""
        return self.objective == "rate" and self.variance_type == "learned_range"

    @property
    def variance_stride(self) -> int:
        """How many timesteps lie between those of the chains that a learned variance is trained by."""
        return 1 if self.variance_steps is None else -(-self.ddpm_num_steps // self.variance_steps)


@dataclass
class TrainingArguments:
    """The optimisation, and what is written where."""

    output_dir: str = field(default="runs/digits", metadata=_help("Must not hold another run."))
    overwrite_output_dir: bool = field(default=False, metadata=_help("Write over another run after all."))
    seed: int = 0
    local_rank: int = field(default=-1, metadata=_help("Set by old launchers; new ones set LOCAL_RANK."))
    num_epochs: int = field(default=88, metadata=_help("Passes over the data."))
    max_train_steps: int | None = field(default=None, metadata=_help("Optimisation steps; overrides num_epochs."))
    train_batch_size: int = field(default=64, metadata=_help("Per process."))
    eval_batch_size: int = field(default=36, metadata=_help("Images in a sample grid."))
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = field(default=False, metadata=_help("Less memory for a third more computation."))
    torch_compile: bool = field(default=False, metadata=_help("Compile the model; also by `accelerate launch`."))
    learning_rate: float = 4e-3
    lr_scheduler: str = "cosine"
    lr_warmup_steps: int = 50
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    adam_weight_decay: float = 0.3
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 10.0
    mixed_precision: str | None = field(
        default=None, metadata=_help("no, fp16 or bf16, or the launcher's; noise, loss and averages stay float32.")
    )
    use_ema: bool = True
    ema_inv_gamma: float = 1.0
    ema_power: float = 0.75
    ema_max_decay: list[float] = field(
        default_factory=lambda: [0.99], metadata=_help("One or several; samples and scores are of the first.")
    )
    logger: str = field(default="none", metadata=_help("none, tensorboard, wandb or trackio."))
    logging_dir: str = field(default="logs", metadata=_help("Within the output folder."))
    save_images_epochs: int = field(default=40, metadata=_help("A sample grid every so many epochs; 0 for none."))
    save_model_epochs: int = field(default=0, metadata=_help("Save the model every so many epochs; 0: at the end."))
    validation_steps: int = field(
        default=500, metadata=_help("Bits/dim of validation images every so many steps; 0 for never.")
    )
    max_validation_images: int = field(default=256, metadata=_help("That the bits/dim along the way are taken on."))
    num_validation_evaluations: int = field(default=10, metadata=_help("Model calls for each of them, at least 2."))
    checkpointing_steps: int = field(default=500, metadata=_help("A checkpoint every so many steps; 0 for none."))
    checkpoints_total_limit: int | None = field(
        default=2, metadata=_help("Checkpoints that are kept; all if negative.")
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata=_help("A checkpoint of this run or its name; `latest`, the last or else the beginning.")
    )
    num_evaluations: int = field(
        default=50, metadata=_help("Model calls per test image for the bits/dim, at most; 0 for all T.")
    )
    num_paths: int | None = field(
        default=None,
        metadata=_help(
            "Paths per test image along a chain of at most 50 steps, whose bound they tighten (importance weighted); 8"
            " if unset, there are at most 512 test images and the variance is not `learned`, else 0 for none."
        ),
    )
    num_quality_samples: int = field(
        default=500, metadata=_help("Samples whose pixels are compared with real ones at the end; 0 for none.")
    )
    max_measured_images: int = field(
        default=MEASURED_IMAGES,
        metadata=_help("Training images that the errors, and with them the variance, are measured on."),
    )

    @property
    def scoring_batch_size(self) -> int:
        """Images that go together through a model that keeps nothing for gradients.

        With checkpointing, which keeps little for them, no more than in training.
        """
        return self.train_batch_size * (1 if self.gradient_checkpointing else 4)


@dataclass
class RepositoryArguments:
    """A repository on the Hugging Face Hub, and the right to push to it."""

    hub_model_id: str | None = field(default=None, metadata=_help("owner/name; the output folder's name if unset."))
    hub_private_repo: bool = field(default=False, metadata=_help("Into a private repository."))
    hub_token: str | None = field(
        default=None, metadata=_help("A token that may write; safer in HF_TOKEN, or by `hf auth login`.")
    )


@dataclass
class HubArguments(RepositoryArguments):
    """Pushing the model to the Hugging Face Hub, with its card, samples and figures."""

    push_to_hub: bool = field(default=False, metadata=_help("Push the model when it is trained."))
    hub_push_steps: int = field(
        default=0, metadata=_help("Also push what is there every so many steps, if no push is under way; 0 for never.")
    )


# What the papers did, in arguments of train.py; how long to train, and with which model, is not among them.
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},  # the best on the digits
    "ddpm": {  # Ho et al. 2020
        "prediction_type": "epsilon",
        "variance_type": "fixed_large",
        "objective": "simple",
        "timestep_sampling": "uniform",
        "ddpm_beta_schedule": "linear",
        "ddpm_num_steps": 1000,
    },
    "improved": {  # Nichol & Dhariwal 2021: L_hybrid; for L_vlb, --objective vlb --timestep_sampling importance
        "prediction_type": "epsilon",
        "variance_type": "learned_range",
        "objective": "hybrid",
        "timestep_sampling": "uniform",
        "ddpm_beta_schedule": "squaredcos_cap_v2",
        "ddpm_num_steps": 4000,
    },
}

RUN = (ModelArguments, DataArguments, DiffusionArguments, TrainingArguments, HubArguments)  # what train.py is told


@dataclass
class PushArguments(RepositoryArguments):
    """Which finished run is pushed."""

    output_dir: str = field(default="runs/digits", metadata=_help("The run's folder, or any saved pipeline."))
    commit_message: str = "Upload model"
    create_pr: bool = field(default=False, metadata=_help("Open a pull request in place of a commit."))


@dataclass
class ModelPathArguments:
    """Which saved model."""

    model_name_or_path: str = field(default="runs/digits", metadata=_help("A folder, or a name on the Hub."))
    revision: str | None = field(default=None, metadata=_help("Branch, tag or commit on the Hub."))
    variant: str | None = field(default=None, metadata=_help("Of the weights, such as fp16."))


@dataclass
class ChainArguments:
    """Which timesteps are visited."""

    num_inference_steps: int | None = field(
        default=None, metadata=_help("Of a strided chain; all training timesteps if unset.")
    )
    timestep_spacing: str | None = field(
        default=None, metadata=_help("Of the chain: linspace, leading, trailing, quadratic, log_snr or optimal.")
    )


@dataclass
class SampleArguments(ChainArguments):
    """How many images, drawn how."""

    num_images: int = 36
    batch_size: int = 36
    eta: float | None = field(
        default=None, metadata=_help("Of DDIM, from 0, no noise, to 1; the model's own variance if unset.")
    )
    class_labels: list[int] | None = field(
        default=None, metadata=_help("Of a class-conditional model, drawn by turns; all of them if unset.")
    )
    seed: int = 0
    output: str = field(default="samples.png", metadata=_help("The grid; must not exist."))


@dataclass
class ScoringArguments(ChainArguments):
    """Which images are scored, and how closely."""

    max_images: int | None = field(default=None, metadata=_help("Score only so many, evenly spread over the data."))
    num_evaluations: int = field(
        default=50, metadata=_help("Model calls per image, and class that it may be of, at most; 0 for all times.")
    )
    num_paths: int = field(
        default=0, metadata=_help("Paths per image by which the chain's bound is tightened (importance weighted).")
    )
    batch_size: int = 128
    seed: int = 0


@dataclass
class EvaluationArguments(ScoringArguments):
    """How the score is taken, and where it goes."""

    output_dir: str = field(default="evaluation", metadata=_help("Must not hold another evaluation."))
    overwrite_output_dir: bool = False
    split: str = field(default="test", metadata=_help("test or train."))
    few_steps: list[int] = field(
        default_factory=list, metadata=_help("Also score chains of so many steps: even times, and the optimal ones.")
    )
    num_quality_samples: int = field(
        default=0,
        metadata=_help(
            "Samples of so many steps that are compared with training images: of the chains, of DDIM, of the ODE."
        ),
    )
    num_flow_images: int = field(
        default=0,
        metadata=_help("Images whose likelihood is also taken by the probability-flow ODE, in few steps too."),
    )


@dataclass
class ClassificationArguments(ScoringArguments):
    """How the test images are scored for every class, and where it goes."""

    output_dir: str = field(default="classification", metadata=_help("Must not hold another classification."))
    overwrite_output_dir: bool = False


@dataclass
class MeasurementArguments:
    """How a model's errors are measured, and where it is saved with them."""

    output_dir: str = field(default="runs/digits_optimal", metadata=_help("Must not hold another model."))
    overwrite_output_dir: bool = False
    max_images: int = field(default=MEASURED_IMAGES, metadata=_help("Training images that are measured on."))
    num_noise_levels: int = field(default=64, metadata=_help("At most so many, even in the log-SNR."))
    num_evaluations: int = field(default=8, metadata=_help("Model calls per image, each at another level."))
    per_element: bool | None = field(
        default=None,
        metadata=_help("A variance for every pixel's channel; if unset, of images with up to 1024 of these."),
    )
    batch_size: int = 128
    seed: int = 0


def parse(script: str, *classes: type, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """The dataclasses filled from `[file.yaml | file.json] [--flag value …]`; flags win over the file.

    Both win over what a recipe sets. A mistake ends the process with status 2 and one sentence.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(classes, prog=script)
    parser.usage = f"{script} [settings.yaml] [--flag value ...]"
    settings = {}
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        settings = _read_settings(parser, classes, Path(argv.pop(0)))
    if DiffusionArguments in classes:
        settings = _recipe(parser, argv, settings) | settings
    parser.set_defaults(**settings)
    *filled, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True, look_for_args_file=False)
    if rest:
        parser.error(f"there is no argument {rest[0]}; --help lists those there are.")
    for token in filter(None, (getattr(group, "hub_token", None) for group in filled)):
        sys.argv = [argument.replace(token, "...") for argument in sys.argv]  # which trackers write down
    return tuple(filled)


def _recipe(parser: HfArgumentParser, argv: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the recipe that the flags name, or else the settings."""
    finder = argparse.ArgumentParser(add_help=False)
    finder.add_argument("--recipe", default=settings.get("recipe", "default"))
    name = finder.parse_known_args(argv)[0].recipe
    if name not in RECIPES:
        parser.error(f"`recipe` must be one of {', '.join(RECIPES)}, but is {name!r}.")
    return RECIPES[name]


def _read_settings(parser: HfArgumentParser, classes: Sequence[type], path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.error(f"{path} cannot be read: {' '.join(str(error).split())}")
    if not isinstance(settings, dict):
        parser.error(f"{path} must hold a mapping of argument names to values.")
    known = {action.dest for action in parser._actions}
    extra = sorted(set(settings) - known)
    if extra:
        parser.error(f"{path} names arguments that do not exist: {', '.join(extra)}.")
    hints = {name: hint for each in classes for name, hint in typing.get_type_hints(each).items()}
    for action in parser._actions:
        value = settings.get(action.dest)
        may_be_none = type(None) in typing.get_args(hints.get(action.dest))
        if action.dest not in settings or action.type is None or (value is None and may_be_none):
            continue
        try:
            settings[action.dest] = _as_by_flag(action, value)
        except (TypeError, ValueError, argparse.ArgumentTypeError):
            parser.error(f"{path} has {value!r} for `{action.dest}`.")
    return settings


def _as_by_flag(action: argparse.Action, value: Any) -> Any:
    """A file's value as the flag would give it.

    Raises:
        TypeError, ValueError, ArgumentTypeError: for one that no flag could give.
    """
    if action.nargs == "+":
        return [_one_as_by_flag(action, each) for each in (value if isinstance(value, list) else [value])]
    return _one_as_by_flag(action, value)


def _one_as_by_flag(action: argparse.Action, value: Any) -> Any:
    if not isinstance(value, (str, bool, int, float)):
        raise TypeError
    if action.type is str and isinstance(value, bool):  # YAML reads a bare `no` as false
        return "yes" if value else "no"
    return action.type(str(value))


def _check_variance(diffusion: DiffusionArguments) -> None:
    """Raise ValueError for a variance that the loss does not train, or not as asked."""
    learns = diffusion.variance_type.startswith("learned")
    if learns and diffusion.objective == "simple":
        raise ValueError("`objective` simple does not train a learned variance; pass --objective hybrid, rate or vlb.")
    if diffusion.objective == "hybrid" and not learns:
        raise ValueError("`objective` hybrid trains a learned variance; pass --variance_type learned_range with it.")
    if not diffusion.vlb_weight >= 0:
        raise ValueError(f"`vlb_weight` must be at least 0, but is {diffusion.vlb_weight}.")
    steps, most = diffusion.variance_steps, diffusion.ddpm_num_steps
    if steps is None:
        return
    if not diffusion.trains_variance_by_few_steps:
        raise ValueError("`variance_steps` is for a learned_range beside objective rate; leave it out.")
    if not 1 <= steps <= max(1, most):
        raise ValueError(f"`variance_steps` must be in 1 ... {most}, the timesteps, but is {steps}.")


def check_training_arguments(training: TrainingArguments, diffusion: DiffusionArguments) -> None:
    """Raise ValueError, naming the argument, for what cannot be trained."""
    numbers = {
        "num_epochs": training.num_epochs,
        "train_batch_size": training.train_batch_size,
        "eval_batch_size": training.eval_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "max_validation_images": training.max_validation_images,
        "max_measured_images": training.max_measured_images,
        "max_train_steps": 1 if training.max_train_steps is None else training.max_train_steps,
    }
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {value}.")
    choices = {
        "objective": (diffusion.objective, OBJECTIVES),
        "timestep_sampling": (diffusion.timestep_sampling, TIMESTEP_SAMPLINGS),
        "mixed_precision": (training.mixed_precision or "no", PRECISIONS),
        "logger": (training.logger, LOGGERS),
        "lr_scheduler": (training.lr_scheduler, LR_SCHEDULERS),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, but is {value!r}.")
    _check_variance(diffusion)
    _check_ranges(training)
    if diffusion.snr_gamma is not None and (diffusion.objective != "simple" or not diffusion.snr_gamma > 0):
        raise ValueError("`snr_gamma` must be above 0, and weights L_simple; pass --objective simple with it.")
    check_num_evaluations(training.num_evaluations)
    check_num_paths(training.num_paths or 0)
    if training.num_quality_samples < 0 or training.num_quality_samples == 1:  # one has no covariance
        raise ValueError(f"`num_quality_samples` must be 0, or at least 2, but is {training.num_quality_samples}.")


def _check_ranges(training: TrainingArguments) -> None:
    names = ("save_images_epochs", "save_model_epochs", "validation_steps", "checkpointing_steps")
    for name in (*names, "lr_warmup_steps", "ema_power"):
        if not getattr(training, name) >= 0:  # NaN included
            raise ValueError(f"`{name}` must be at least 0, but is {getattr(training, name)}.")
    if training.checkpoints_total_limit == 0:
        raise ValueError("`checkpoints_total_limit` must be at least 1; pass --checkpointing_steps 0 for none at all.")
    if training.num_validation_evaluations < 2:
        raise ValueError(
            f"`num_validation_evaluations` must be at least 2, but is {training.num_validation_evaluations}."
        )
    for name in ("max_grad_norm", "ema_inv_gamma"):
        if not getattr(training, name) > 0:
            raise ValueError(f"`{name}` must be above 0, but is {getattr(training, name)}.")
    decays = training.ema_max_decay
    if not decays or not all(0 <= decay <= 1 for decay in decays) or len(set(decays)) < len(decays):
        raise ValueError(f"`ema_max_decay` must be in [0, 1], each another, but is {decays}.")


def check_hub_arguments(hub: HubArguments) -> None:
    """Raise ValueError for what would push nothing."""
    if hub.hub_push_steps < 0:
        raise ValueError(f"`hub_push_steps` must be at least 0, but is {hub.hub_push_steps}.")
    if hub.hub_push_steps and not hub.push_to_hub:
        raise ValueError("`hub_push_steps` does nothing without --push_to_hub.")


def check_batches(batch_size: int, max_images: int | None) -> None:
    """Raise ValueError unless both are at least 1, or there is no limit to the images."""
    if batch_size < 1 or (max_images is not None and max_images < 1):
        raise ValueError("`batch_size` and `max_images` must be at least 1.")


def check_scoring(scoring: ScoringArguments) -> None:
    """Raise ValueError, naming the argument, for what cannot be scored."""
    check_batches(scoring.batch_size, scoring.max_images)
    check_num_evaluations(scoring.num_evaluations)
    check_num_paths(scoring.num_paths)


def check_num_evaluations(num_evaluations: int) -> None:
    """Raise ValueError unless it is 0, for all of them, or at least 2."""
    if num_evaluations < 0 or num_evaluations == 1:
        raise ValueError(f"`num_evaluations` must be 0, or at least 2, but is {num_evaluations}.")


def check_num_paths(num_paths: int) -> None:
    """Raise ValueError unless it is at least 0."""
    if num_paths < 0:
        raise ValueError(f"`num_paths` must be at least 0, but is {num_paths}.")


@contextlib.contextmanager
def user_errors(script: str) -> Iterator[None]:
    """Inside, what a user got wrong ends the process with status 2 and one sentence in place of a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"{script}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
