# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Whole pipelines of stock diffusers with random weights, small enough to run twice in a test."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    IFPipeline,
    IFSuperResolutionPipeline,
    LDMPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer


SIZE = 16  # side of the images in pixels
TEXT_WIDTH = 8
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def prepared(pipeline: DiffusionPipeline, dtype: torch.dtype) -> DiffusionPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype)


def conditional_unet(in_channels: int, out_channels: int, size: int, **options: object) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        **options,
    ).eval()


def autoencoder(latent_channels: int) -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=SIZE,
        scaling_factor=0.5,
    ).eval()


def clip_tokenizer() -> CLIPTokenizer:
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: k for k, piece in enumerate(pieces)}, merges=[], model_max_length=12)


def clip_text_encoder(tokenizer: CLIPTokenizer, positions: int = 12) -> CLIPTextModel:
    torch.manual_seed(2)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config).eval()


def stable_diffusion(
    scheduler: SchedulerMixin,
    dtype: torch.dtype = torch.float32,
    cls: type[DiffusionPipeline] = StableDiffusionPipeline,
    unet_channels: int = 4,
) -> DiffusionPipeline:
    tokenizer = clip_tokenizer()
    pipeline = cls(
        vae=autoencoder(4),
        text_encoder=clip_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=conditional_unet(unet_channels, 4, SIZE // 2),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return prepared(pipeline, dtype)


def image_to_image(scheduler: SchedulerMixin, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    return stable_diffusion(scheduler, dtype, StableDiffusionImg2ImgPipeline)


def inpainting(scheduler: SchedulerMixin, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    return stable_diffusion(scheduler, dtype, StableDiffusionInpaintPipeline)


def text_parts() -> dict[str, object]:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(k)) for k, piece in enumerate(pieces)], extra_ids=0)
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=TEXT_WIDTH, d_ff=16, d_kv=4, num_layers=1, num_heads=2, is_decoder=False
    )
    return {"tokenizer": tokenizer, "text_encoder": T5EncoderModel(config).eval()}


def deepfloyd(scheduler: SchedulerMixin, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    pipeline = IFPipeline(
        **text_parts(),
        unet=conditional_unet(3, 6, SIZE),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    return prepared(pipeline, dtype)


def deepfloyd_super_resolution(scheduler: SchedulerMixin, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    pipeline = IFSuperResolutionPipeline(
        **text_parts(),
        unet=conditional_unet(6, 6, SIZE, class_embed_type="timestep"),
        scheduler=scheduler,
        image_noising_scheduler=type(scheduler)(beta_schedule="squaredcos_cap_v2"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    return prepared(pipeline, dtype)


def latent_unconditional(scheduler: SchedulerMixin, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    torch.manual_seed(4)
    vqvae = VQModel(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        num_vq_embeddings=32,
        norm_num_groups=4,
        sample_size=SIZE,
    ).eval()
    unet = UNet2DModel(
        sample_size=SIZE // 2,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
    ).eval()
    return prepared(LDMPipeline(vqvae, unet, scheduler), dtype)


def diffusion_transformer(
    scheduler: SchedulerMixin, dtype: torch.dtype = torch.float32, num_classes: int = 1000
) -> DiffusionPipeline:
    torch.manual_seed(5)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        norm_num_groups=4,
        sample_size=SIZE // 2,
        patch_size=2,
        num_embeds_ada_norm=num_classes,
    ).eval()
    return prepared(DiTPipeline(transformer, autoencoder(4), scheduler), dtype)
