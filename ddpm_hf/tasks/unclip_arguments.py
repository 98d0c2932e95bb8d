# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments of unCLIP (Ramesh et al. 2022): of the image encoder, the prior and the decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..conditioning.image_encoders import POSTERIOR_STD
from ..runtime.arguments import help_text
from .presets import IMAGE_ENCODER_PRESETS, UNCLIP_PRESETS
from .text_arguments import CaptionArguments, TextDiffusionArguments, TextEncoderArguments, TextUNetArguments


# --- the image encoder ---


@dataclass
class ImageEncoderModelArguments(CaptionArguments, TextEncoderArguments):
    """The CLIPVisionModelWithProjection, by its own argument names, and the frozen text encoder."""

    preset: str = field(
        default="auto",
        metadata=help_text(
            f"{', '.join(IMAGE_ENCODER_PRESETS)}: a network and settings for images of this side, in the arguments of"
            " model and training; those given win over it."
        ),
    )
    projection_dim: int = field(default=32, metadata=help_text("Numbers of an embedding."))
    patch_size: int = field(default=4, metadata=help_text("Side of the squares that an image is cut into."))
    hidden_size: int = 128
    intermediate_size: int = 256
    num_hidden_layers: int = 3
    num_attention_heads: int = 4


@dataclass
class ContrastiveArguments:
    """What the image encoder learns: to tell which caption of the batch is an image's (Radford et al. 2021)."""

    _argument_group_name = "objective"

    logit_scale_init_value: float = field(
        default=math.log(1 / 0.07), metadata=help_text("The logarithm of the inverse temperature, at the start.")
    )


# --- the prior ---


@dataclass
class PriorModelArguments(CaptionArguments, TextEncoderArguments):
    """The PriorTransformer, by its own argument names, the image encoder, and the frozen text encoder."""

    image_encoder: str = field(
        default="runs/unclip-image-encoder",
        metadata=help_text("A saved CLIPVisionModelWithProjection, or a pipeline with one: a folder or a Hub name."),
    )
    image_encoder_revision: str | None = field(
        default=None, metadata=help_text("Branch, tag or commit of the image encoder on the Hub.")
    )
    posterior_std: float = field(
        default=POSTERIOR_STD,
        metadata=help_text("s of q(z | x) = N(e(x), s^2 I), for embeddings of variance 1 over images."),
    )
    num_layers: int = 2
    num_attention_heads: int = 4
    attention_head_dim: int = 32
    dropout: float = field(default=0.2, metadata=help_text("Dropout probability in the transformer."))


@dataclass
class PriorDiffusionArguments(TextDiffusionArguments):
    """The forward process of the embeddings, and what the prior learns.

    The paper predicts the embedding itself. Where there is little noise the bound weighs the error of that prediction
    by a high SNR, and a small transformer that has to copy its input pays for it; a v-prediction has the input by its
    definition, and the embedding follows from both.
    """

    prediction_type: str = field(
        default="v_prediction",
        metadata=help_text("epsilon, sample (the embedding itself, as in the paper), v_prediction or mean."),
    )
    variance_type: str | None = field(
        default="optimal",
        metadata=help_text("Of the reverse process; a PriorTransformer has no output for a learned one."),
    )
    log_snr_max: float | None = field(
        default=None, metadata=help_text("Of log_snr; if unset, from the width of q(z | x).")
    )


# --- the decoder ---


@dataclass
class UnCLIPModelArguments(TextUNetArguments, CaptionArguments):
    """The decoder, a UNet2DConditionModel by its own argument names, and the prior that it is saved with."""

    preset: str = field(
        default="auto",
        metadata=help_text(
            f"{', '.join(UNCLIP_PRESETS)}: a network and settings for images of this side, in the arguments of model"
            " and training; those given win over it. auto: by the size of the images, unless a network is given below."
        ),
    )
    prior: str | None = field(
        default=None,
        metadata=help_text(
            "A trained prior with its encoders: a folder, or a name on the Hub. If unset, an image encoder and a prior"
            " are trained first, in folders of their own beside --output_dir."
        ),
    )
    prior_revision: str | None = field(
        default=None, metadata=help_text("Branch, tag or commit of the prior on the Hub.")
    )
    text_dropout_prob: float = field(
        default=0.5,
        metadata=help_text(
            "Share of the training images that lose their caption alone, so that the decoder also learns to do with"
            " the embedding, as variations need it."
        ),
    )


def check_unclip_arguments(model: UnCLIPModelArguments) -> None:
    """Raise ValueError for a probability outside [0, 1)."""
    if not 0 <= model.text_dropout_prob < 1:  # NaN included
        raise ValueError(f"`text_dropout_prob` must be in [0, 1), but is {model.text_dropout_prob}.")


def check_contrastive_arguments(objective: ContrastiveArguments) -> None:
    """Raise ValueError for a temperature that training would not allow."""
    value = objective.logit_scale_init_value
    if not 0 <= value <= math.log(100):  # NaN included
        raise ValueError(f"`logit_scale_init_value` must be in [0, {math.log(100):.3f}], but is {value}.")
