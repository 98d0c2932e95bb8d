# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The model and the diffusion process, under the names of `UNet2DModel` and of diffusers' `train_unconditional.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..runtime.arguments import help_text
from .presets import PRESETS


OBJECTIVES = ("simple", "vlb", "hybrid", "rate")
TIMESTEP_SAMPLINGS = ("uniform", "stratified", "importance")


@dataclass
class ModelArguments:
    """The UNet2DModel, by its own argument names."""

    _argument_group_name = "model"

    preset: str = field(
        default="auto",
        metadata=help_text(
            f"{', '.join(PRESETS)}: a network and settings for images of this side. They replace every default that"
            ' is followed by "or the preset\'s", and no flag that is given. auto: the preset for the size of the'
            " images, unless one of the flags below gives a network."
        ),
    )
    model_config_name_or_path: str | None = field(
        default=None,
        metadata=help_text(
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
    dropout: float = field(default=0.15, metadata=help_text("Dropout probability in the residual blocks."))
    num_class_embeds: int | None = field(
        default=None, metadata=help_text("Number of classes of a class-conditional model, from the data's labels.")
    )
    enable_xformers_memory_efficient_attention: bool = field(
        default=False, metadata=help_text("Changes nothing: torch's own memory-efficient attention is always used.")
    )


@dataclass
class DiffusionArguments:
    """The forward process, and what the model learns."""

    _argument_group_name = "diffusion"

    recipe: str = field(
        default="default",
        metadata=help_text(
            'default, ddpm or improved: the settings of a paper. They replace every default that is followed by "or'
            " the recipe's\", and no flag that is given."
        ),
    )
    prediction_type: str = field(default="v_prediction", metadata=help_text("epsilon, sample, v_prediction or mean."))
    variance_type: str | None = field(
        default=None,
        metadata=help_text(
            "Of the reverse process, DDPMPaperScheduler's; learned_range if unset, or optimal, which is measured when"
            " the model is trained, for an objective that does not train a variance."
        ),
    )
    per_element: bool | None = field(
        default=None,
        metadata=help_text(
            "An optimal variance for every pixel's channel; if unset, of images with up to 1024 of these."
        ),
    )
    objective: str = field(
        default="rate",
        metadata=help_text(
            "simple (L_simple), vlb (L_vlb), hybrid (of both), or rate: L_vlb but for its decoder, steadier."
        ),
    )
    vlb_weight: float | None = field(
        default=None,
        metadata=help_text(
            "Of L_vlb, which trains a learned variance beside another objective; 0.001 in hybrid, else 0.1."
        ),
    )
    variance_steps: int | None = field(
        default=None,
        metadata=help_text(
            "Beside objective rate, a learned_range is trained by the bound of chains of so many steps, where it"
            " matters most; 50 if unset."
        ),
    )
    timestep_sampling: str = field(
        default="importance", metadata=help_text("uniform, stratified over the batch, or importance: by the loss.")
    )
    conditioning_dropout_prob: float = field(
        default=0.0,
        metadata=help_text(
            "Share of the training examples that lose their conditioning, so that the model also learns to do without"
            " it: 0.1 for classifier-free guidance."
        ),
    )
    snr_gamma: float | None = field(
        default=None, metadata=help_text("Weights L_simple by min(SNR, gamma), as Hang et al. 2023 do with 5.")
    )
    ddpm_num_steps: int = field(default=1000, metadata=help_text("T, the number of training timesteps."))
    ddpm_num_inference_steps: int | None = field(
        default=None,
        metadata=help_text(
            "Steps of the samples drawn during and after the training; if unset at most 100, or all for the variance"
            " `learned`."
        ),
    )
    ddpm_beta_schedule: str = field(
        default="log_snr",
        metadata=help_text("log_snr (linear in the log signal-to-noise ratio), or one of DDPMPaperScheduler's."),
    )
    beta_start: float = 1e-4
    beta_end: float = 0.02
    log_snr_max: float | None = field(default=None, metadata=help_text("Of log_snr; fitted to the levels if unset."))
    log_snr_min: float = field(default=-9.0, metadata=help_text("Of log_snr."))

    def __post_init__(self) -> None:
        if self.variance_type is None:
            self.variance_type = "optimal" if self.objective == "simple" else "learned_range"
        if self.vlb_weight is None:
            self.vlb_weight = 0.001 if self.objective == "hybrid" else 0.1
        if self.variance_steps is None and self.trains_variance_by_few_steps:
            self.variance_steps = min(50, max(1, self.ddpm_num_steps))  # of 0 the schedule complains

    @property
    def trains_variance_by_few_steps(self) -> bool:
        """Whether `variance_steps` is used."""
        return self.objective == "rate" and self.variance_type == "learned_range"

    @property
    def variance_stride(self) -> int:
        """The stride of the chains that a learned variance is trained by, in timesteps."""
        return 1 if self.variance_steps is None else -(-self.ddpm_num_steps // self.variance_steps)


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


def check_conditioning_dropout(diffusion: DiffusionArguments) -> None:
    """Raise ValueError for a probability outside [0, 1)."""
    probability = diffusion.conditioning_dropout_prob
    if not 0 <= probability < 1:  # NaN included
        raise ValueError(f"`conditioning_dropout_prob` must be in [0, 1), but is {probability}.")


def check_variance(diffusion: DiffusionArguments) -> None:
    """Raise ValueError for a variance that the objective does not train."""
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
