# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Builds the model and the scheduler that the arguments describe."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

from diffusers import ConfigMixin, UNet2DConditionModel, UNet2DModel

from ..conditioning.classes import number_of_classes, with_null_class
from ..conditioning.image_encoders import EmbeddingSettings
from ..conditioning.low_resolution import LowResolutionSettings
from ..conditioning.text import TextSettings
from ..data.level_images import LevelImages
from ..diffusion.noise_schedule import NoiseSchedule
from ..schedulers.configuration import OWN_CONFIG_KEY
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .arguments import DiffusionArguments, ModelArguments
from .text_arguments import TextModelArguments, TextUNetArguments


# The first noise level, as a fraction of half the level spacing: finer noise costs bits and adds no information.
FIRST_NOISE_LEVEL = 0.8


def build_unet(model: ModelArguments, diffusion: DiffusionArguments, images: LevelImages) -> UNet2DModel:
    """A UNet2DModel for the images, with twice the output channels if it learns the variance.

    If conditioning is dropped in training, it has a null class after `num_class_embeds` other classes.

    Raises:
        ValueError: for a configuration that is invalid or does not fit the images.
    """
    config = _config(model) | of_images(images, diffusion)
    if diffusion.conditioning_dropout_prob > 0 and number_of_classes(config) is not None:
        config |= with_null_class(number_of_classes(config))
    _check_size(config, *images.shape[1:])
    head, least = config.get("attention_head_dim"), _fewest_channels_with_attention(config)
    if head is not None and not 1 <= head <= least:
        raise ValueError(f"`attention_head_dim` must be in 1 ... {least}, the channels of a block, but is {head}.")
    return UNet2DModel.from_config(config)


def build_text_unet(
    model: TextUNetArguments,
    diffusion: DiffusionArguments,
    images: LevelImages,
    width: int,
    settings: TextSettings,
    embedding: tuple[int, EmbeddingSettings] | None = None,
) -> UNet2DConditionModel:
    """A UNet2DConditionModel for the images and embeddings of this width, told of text as the settings say.

    Args:
        embedding: the width of embeddings of the images themselves, and how the model is told of them; None for none.

    Raises:
        ValueError: for a configuration that is invalid or does not fit the images.
    """
    config = _text_config(model) | of_images(images, diffusion)
    _check_size(config, *images.shape[1:])
    own = settings.to_config()[OWN_CONFIG_KEY]
    if embedding is not None:
        width_of_embeddings, settings_of_embeddings = embedding
        given = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": width_of_embeddings}
        config, own = config | given, own | settings_of_embeddings.to_config()
    return UNet2DConditionModel.from_config(config | _of_text(width) | {OWN_CONFIG_KEY: own})


def build_super_resolution_unet(
    model: TextModelArguments,
    diffusion: DiffusionArguments,
    images: LevelImages,
    low: LowResolutionSettings,
    text: tuple[int, TextSettings] | None,
    crop_size: int | None = None,
) -> UNet2DConditionModel:
    """A UNet2DConditionModel for images and their low-resolution versions, which is told the noise level.

    Args:
        text: the width of the embeddings of text, and how the model is told of it; None for a model without text,
            whose blocks attend within the picture alone.
        crop_size: the side of the squares that it is trained on; None for whole images.

    Raises:
        ValueError: for a configuration that is invalid or does not fit the images.
    """
    config = _text_config(model) | of_images(images, diffusion)
    config |= {"in_channels": 2 * config["in_channels"], "class_embed_type": "timestep"}
    for height, width in (images.shape[1:], *([] if crop_size is None else [(crop_size, crop_size)])):
        _check_size(config, height, width)
    if text is None:
        return UNet2DConditionModel.from_config(config | _without_text(config) | low.to_config())
    width, settings = text
    own = {OWN_CONFIG_KEY: low.to_config()[OWN_CONFIG_KEY] | settings.to_config()[OWN_CONFIG_KEY]}
    return UNet2DConditionModel.from_config(config | _of_text(width) | own)


def _text_config(model: TextUNetArguments) -> dict[str, Any]:
    """The part of a UNet2DConditionModel's configuration that the arguments determine."""
    if model.model_config_name_or_path is not None:
        return saved_config(UNet2DConditionModel, model.model_config_name_or_path)
    known = inspect.signature(UNet2DConditionModel.__init__).parameters
    return {name: value for name, value in dataclasses.asdict(model).items() if name in known}


def _of_text(width: int) -> dict[str, Any]:
    return {"encoder_hid_dim": width, "encoder_hid_dim_type": "text_proj"}


def _without_text(config: dict[str, Any]) -> dict[str, Any]:
    """The part of the configuration that makes a model without text of one with it."""
    heads = config["attention_head_dim"]  # their number in blocks with cross-attention, and their width in others
    widths = heads if isinstance(heads, list) else [channels // heads for channels in config["block_out_channels"]]
    return {
        "down_block_types": [kind.replace("CrossAttn", "Attn") for kind in config["down_block_types"]],
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": [kind.replace("CrossAttn", "Attn") for kind in config["up_block_types"]],
        "attention_head_dim": widths,
        "addition_embed_type": None,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
    }


def saved_config(kind: type[ConfigMixin], name: str) -> dict[str, Any]:
    """The configuration that `model_config_name_or_path` names.

    Raises:
        ValueError: if it is that of another class.
    """
    config = dict(kind.load_config(name))
    found = config.get("_class_name", kind.__name__)
    if found != kind.__name__:
        raise ValueError(
            f"`model_config_name_or_path` must be the configuration of a {kind.__name__}, but is that of a {found}."
        )
    return config


def of_images(images: LevelImages, diffusion: DiffusionArguments) -> dict[str, Any]:
    """The part of the configuration that the images and the variance determine."""
    channels, height, width = images.shape
    return {
        "sample_size": height if height == width else (height, width),
        "in_channels": channels,
        "out_channels": channels * (2 if diffusion.variance_type in ("learned", "learned_range") else 1),
    }


def _config(model: ModelArguments) -> dict[str, Any]:
    """The part of the configuration that the arguments, and not the images, determine."""
    if model.model_config_name_or_path is None:
        known = inspect.signature(UNet2DModel.__init__).parameters
        config = {name: value for name, value in dataclasses.asdict(model).items() if name in known}
    else:
        config = saved_config(UNet2DModel, model.model_config_name_or_path)
        if model.num_class_embeds is not None:
            config["num_class_embeds"] = model.num_class_embeds
            config.pop(OWN_CONFIG_KEY, None)  # the null class of the saved model
    if config.get("num_class_embeds") is not None and config["num_class_embeds"] < 1:
        raise ValueError(f"`num_class_embeds` must be at least 1, but is {config['num_class_embeds']}.")
    return config


def _check_size(config: dict[str, Any], height: int, width: int) -> None:
    depth = len(config["block_out_channels"]) - 1
    if height % 2**depth or width % 2**depth:
        raise ValueError(
            f"`block_out_channels` has {depth + 1} resolutions, so that height and width must be multiples of"
            f" {2**depth}, but the images are {height}x{width}; pass another --resolution or fewer blocks."
        )


def _fewest_channels_with_attention(config: dict[str, Any]) -> int:
    """The fewest channels of a block with attention. The middle block has attention and the last block's channels."""
    down, channels = config["down_block_types"], config["block_out_channels"]
    up = reversed(config["up_block_types"])
    return min(
        count
        for count, *kinds in zip(channels, down, up, strict=False)  # the model itself checks the lengths
        if count == channels[-1] or any("Attn" in kind for kind in kinds)
    )


def build_scheduler(diffusion: DiffusionArguments, num_levels: int | None) -> DDPMPaperScheduler:
    """The scheduler to train with; by default its noise schedule is fitted to the levels of the data.

    Args:
        diffusion: its arguments; of continuous data they must give `log_snr_max`.
        num_levels: number of levels of the data; None for continuous data.
    """
    # The optimal variance is measured on the trained model; until then another variance is used.
    is_optimal = diffusion.variance_type == "optimal"
    T = diffusion.ddpm_num_steps
    options = {
        "prediction_type": diffusion.prediction_type,
        "variance_type": "fixed_small" if is_optimal else diffusion.variance_type,
        "num_levels": num_levels,
        "clip_sample": num_levels is not None,  # continuous data have no bounds
    }
    if diffusion.ddpm_beta_schedule == "log_snr":
        log_snr_max = diffusion.log_snr_max
        if log_snr_max is None:
            log_snr_max = -2 * math.log(FIRST_NOISE_LEVEL / (num_levels - 1))
        schedule = NoiseSchedule.linear_log_snr(T, log_snr_max, diffusion.log_snr_min)
        return DDPMPaperScheduler.from_schedule(schedule, **options)
    return DDPMPaperScheduler(
        num_train_timesteps=T,
        beta_schedule=diffusion.ddpm_beta_schedule,
        beta_start=diffusion.beta_start,
        beta_end=diffusion.beta_end,
        **options,
    )
