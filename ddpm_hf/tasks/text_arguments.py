# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The arguments of models of text to image, under the names of `UNet2DConditionModel` and of diffusers' scripts."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..conditioning.text_encoders import MINILM
from ..runtime.arguments import help_text
from .arguments import DiffusionArguments
from .presets import TEXT_PRESETS


@dataclass
class TextEncoderArguments:
    """The frozen text encoder."""

    _argument_group_name = "model"

    text_encoder: str = field(
        default=MINILM,
        metadata=help_text(
            "A folder, or a name on the Hub such as google/t5-v1_1-base; all-MiniLM-L6-v2 is that of a package."
        ),
    )
    text_encoder_revision: str | None = field(
        default=None, metadata=help_text("Branch, tag or commit of the text encoder on the Hub.")
    )
    tokenizer_max_length: int = field(default=24, metadata=help_text("Tokens of a caption, at most."))


@dataclass
class CaptionArguments:
    """What is done with captions."""

    _argument_group_name = "model"

    pre_compute_text_embeddings: bool = field(
        default=True, metadata=help_text("Compute the captions' embeddings once, and keep them in the cache folder.")
    )
    validation_prompts: list[str] = field(
        default_factory=list,
        metadata=help_text("Prompts of the first samples in a grid; the others are of test captions."),
    )


@dataclass
class TextUNetArguments:
    """The UNet2DConditionModel, by its own argument names."""

    _argument_group_name = "model"

    preset: str = field(
        default="auto",
        metadata=help_text(
            f"{', '.join(TEXT_PRESETS)}: a network and settings for images of this side, in the arguments of model"
            " and training; those given win over it. auto: by the size of the images, unless a network is given below."
        ),
    )
    model_config_name_or_path: str | None = field(
        default=None,
        metadata=help_text("A saved UNet2DConditionModel's configuration in place of the arguments below."),
    )
    block_out_channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    down_block_types: list[str] = field(default_factory=lambda: ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2])
    up_block_types: list[str] = field(default_factory=lambda: [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"])
    layers_per_block: int = 1
    norm_num_groups: int = 16
    cross_attention_dim: int = field(
        default=96, metadata=help_text("Width that the embeddings of the text are projected to.")
    )
    attention_head_dim: int = field(
        default=4, metadata=help_text("Number of attention heads, which UNet2DConditionModel calls by this name.")
    )
    resnet_time_scale_shift: str = "scale_shift"
    addition_embed_type: str | None = field(
        default="text",
        metadata=help_text("text: also add the pooled embedding of the text to that of the time, as GLIDE does."),
    )
    addition_embed_type_num_heads: int = 4
    dropout: float = field(default=0.1, metadata=help_text("Dropout probability in the residual blocks."))


@dataclass
class TextModelArguments(TextUNetArguments, CaptionArguments, TextEncoderArguments):
    """The UNet2DConditionModel, by its own argument names, and the frozen text encoder."""

    text_attention_mask: bool = field(
        default=True,
        metadata=help_text("Mask padding. Stock IFPipeline does not, and draws other images with such a model."),
    )


@dataclass
class TextDiffusionArguments(DiffusionArguments):
    """The forward process, and what the model learns; a tenth of the captions are dropped."""

    conditioning_dropout_prob: float = field(
        default=0.1,
        metadata=help_text(
            "Share of the training images that lose their caption, so that the model also learns to do without one."
        ),
    )


@dataclass
class TextToImageDiffusionArguments(TextDiffusionArguments):
    """The forward process, and what the model learns.

    What a caption says, such as a colour, is decided where noise hides the image. The bound weighs the error of x_0
    there by an SNR near 0, and so do L_vlb and L_rate; L_simple of a v-prediction weighs it by SNR + 1.
    """

    objective: str = field(
        default="hybrid",
        metadata=help_text(
            "simple (L_simple), vlb (L_vlb), rate (L_vlb but for its decoder), or hybrid (L_simple, and L_vlb"
            " for the variance), which makes most of captions."
        ),
    )
