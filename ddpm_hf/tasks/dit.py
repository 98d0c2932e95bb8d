# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Diffusion transformers (Peebles & Xie 2023) as the model of latents: diffusers' `DiTTransformer2DModel`."""

from __future__ import annotations

from typing import Any

from diffusers import DiTTransformer2DModel
from torch import nn

from ..conditioning.classes import CLASSES_OF_DIT
from ..data.level_images import LevelImages
from ..runtime.arguments import decided
from .arguments import DiffusionArguments, ModelArguments
from .building import of_images


NULL_CLASS_PROB = 0.1  # the share of labels that the paper drops


def dit_config(model: ModelArguments) -> dict[str, Any] | None:
    """The configuration of a transformer, if the arguments name one; None for a UNet."""
    if model.model_config_name_or_path is None:
        return None
    config = dict(DiTTransformer2DModel.load_config(model.model_config_name_or_path))
    if config.get("_class_name") != DiTTransformer2DModel.__name__:
        return None
    return config if model.num_class_embeds is None else config | {CLASSES_OF_DIT: model.num_class_embeds}


def with_null_class_trained(diffusion: DiffusionArguments) -> DiffusionArguments:
    """The arguments with labels dropped, unless the user says how many.

    Raises:
        ValueError: if none are.
    """
    diffusion = decided(diffusion, {"conditioning_dropout_prob": NULL_CLASS_PROB})
    if diffusion.conditioning_dropout_prob == 0:
        raise ValueError(
            "`conditioning_dropout_prob` must be above 0 for a DiTTransformer2DModel, which always has a null class."
        )
    return diffusion


def build_dit(config: dict[str, Any], diffusion: DiffusionArguments, latents: LevelImages) -> DiTTransformer2DModel:
    """A transformer for the latents, initialised as in the paper.

    Raises:
        ValueError: for a configuration that does not fit the latents.
    """
    _, height, width = latents.shape
    patch, classes = config.get("patch_size", 2), config.get(CLASSES_OF_DIT, 1000)
    if height != width or height % patch:
        raise ValueError(
            f"`patch_size` must divide the side of square latents, but is {patch}, and these are {height}x{width}."
        )
    if classes is None or classes < 1:
        raise ValueError(f"`{CLASSES_OF_DIT}` must be at least 1, but is {classes}.")
    dit = DiTTransformer2DModel.from_config(config | of_images(latents, diffusion))
    _initialise(dit)
    for block in dit.transformer_blocks:
        # Each block would drop other labels. The trainer drops them, the same ones for all blocks.
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    return dit


def _initialise(dit: DiTTransformer2DModel) -> None:
    """Every block is the identity at first, and the output 0 ("adaLN-Zero"; Peebles & Xie 2023, section 3.2)."""
    for layer in dit.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight.data.flatten(1))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for block in dit.transformer_blocks:
        embedding = block.norm1.emb
        small = (embedding.timestep_embedder.linear_1, embedding.timestep_embedder.linear_2)
        for weight in (*(layer.weight for layer in small), embedding.class_embedder.embedding_table.weight):
            nn.init.normal_(weight, std=0.02)
        nn.init.zeros_(block.norm1.linear.weight)
    for layer in (dit.proj_out_1, dit.proj_out_2):
        nn.init.zeros_(layer.weight)
