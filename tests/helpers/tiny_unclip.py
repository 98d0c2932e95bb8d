# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""A prior and a decoder of unCLIP with a few random weights, and their encoders."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import PriorTransformer
from tiny_text import SIZE, bert, stock_scheduler, text_unet
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ddpm_hf import DDPMPaperPriorPipeline, DDPMPaperScheduler, DDPMPaperUnCLIPPipeline
from ddpm_hf.conditioning.image_encoders import EmbeddingSettings
from ddpm_hf.conditioning.prior_text import FURTHER_PLACES
from ddpm_hf.conditioning.text import TextSettings
from ddpm_hf.schedulers.configuration import OWN_CONFIG_KEY


WIDTH, TOKENS = 6, 10  # of an embedding, and of a caption
POSTERIOR_STD = 0.2


def image_encoder(size: int = SIZE, width: int = WIDTH) -> CLIPVisionModelWithProjection:
    torch.manual_seed(3)
    config = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_channels=3,
        image_size=size,
        patch_size=4,
    )
    model = CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():  # so that images differ
        model.vision_model.embeddings.patch_embedding.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.visual_projection.weight.normal_(generator=torch.Generator().manual_seed(1))
    return model


def prior(text_width: int = 8, own: bool = True, **options: Any) -> PriorTransformer:
    torch.manual_seed(4)
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "num_layers": 1,
        "embedding_dim": WIDTH,
        "embedding_proj_dim": text_width,
        "embedding_proj_norm_type": "layer",
        "encoder_hid_proj_type": None,
        "num_embeddings": 1 + TOKENS,
        "additional_embeddings": FURTHER_PLACES,
    }
    model = PriorTransformer(**{**settings, **options}).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        model.prd_embedding.normal_(generator=generator)
        model.positional_embedding.normal_(generator=generator)
        model.clip_mean.normal_(generator=generator)
        model.clip_std.uniform_(0.5, 2, generator=generator)
    if own:
        text = TextSettings(TOKENS, True).to_config()[OWN_CONFIG_KEY]
        embedding = EmbeddingSettings(POSTERIOR_STD).to_config()
        model.register_to_config(**{OWN_CONFIG_KEY: {**text, **embedding}})
    return model.requires_grad_(False)


def decoder(**options: Any) -> Any:
    model = text_unet(class_embed_type="projection", projection_class_embeddings_input_dim=WIDTH, **options)
    text = TextSettings(TOKENS, True).to_config()[OWN_CONFIG_KEY]
    embedding = EmbeddingSettings(POSTERIOR_STD, null=True).to_config()
    model.register_to_config(**{OWN_CONFIG_KEY: {**text, **embedding}})
    return model


def prior_scheduler(**options: Any) -> DDPMPaperScheduler:
    settings = {"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small"}
    return DDPMPaperScheduler(**{**settings, "clip_sample": False, "num_levels": None, **options})


def prior_pipeline(**parts: Any) -> DDPMPaperPriorPipeline:
    tokenizer, text_encoder = bert()
    own = {"prior": prior(), "image_encoder": image_encoder(), "text_encoder": text_encoder, "tokenizer": tokenizer}
    pipeline = DDPMPaperPriorPipeline(**{**own, "scheduler": prior_scheduler(), **parts})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def unclip(**parts: Any) -> DDPMPaperUnCLIPPipeline:
    of_prior = prior_pipeline().components
    own = {**of_prior, "prior_scheduler": of_prior["scheduler"], "unet": decoder(), "scheduler": stock_scheduler()}
    pipeline = DDPMPaperUnCLIPPipeline(**{**own, **parts})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
