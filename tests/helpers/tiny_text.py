# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Text encoders of three kinds with a few random weights, and pipelines of text to image with such an encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from PIL import Image
from tiny_pipelines import TEXT_WIDTH, clip_text_encoder, clip_tokenizer, conditional_unet, prepared, text_parts
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ddpm_hf import DDPMPaperTextToImagePipeline
from ddpm_hf.conditioning.text import TOKENS_OF_STOCK, TextSettings


WORDS = ("a", "red", "blue", "green", "dark", "light", "circle", "square", "cat", "on", "the", "big")
SIZE = 8  # side of the images in pixels
COLOURS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255)}
SHADES = {"dark": 0.5, "big": 0.75, "light": 1.0}


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word, between [CLS] and [SEP]."""
    vocabulary = {word: k for k, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def bert(positions: int = TOKENS_OF_STOCK, seed: int = 2) -> tuple[Any, Any]:
    tokenizer = bert_tokenizer()
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=positions,
    )
    return tokenizer, BertModel(config).eval()


def clip() -> tuple[Any, Any]:
    tokenizer = clip_tokenizer()
    return tokenizer, clip_text_encoder(tokenizer, TOKENS_OF_STOCK)


def t5() -> tuple[Any, Any]:
    return tuple(text_parts().values())


ENCODERS = {"T5": t5, "CLIP": clip, "BERT": bert}


def save_encoder(folder: Path, **options: Any) -> Path:
    """A small BERT in a folder, as `--text_encoder` takes it."""
    for part in bert(**options):
        part.save_pretrained(folder)
    return folder


def save_images(folder: Path, count: int = 60, several: bool = False) -> Path:
    """Squares of 8x8 pixels in a colour and a shade, which the captions name; with several captions, in two orders."""
    folder.mkdir(parents=True)
    noise, rows = np.random.default_rng(0), []
    for k in range(count):
        colour, shade = list(COLOURS)[k % 3], list(SHADES)[k // 3 % 3]
        pixels = np.array(COLOURS[colour]) * SHADES[shade] - noise.uniform(0, 40, (8, 8, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{k:03}.png")
        caption = f"a {shade} {colour} square"
        rows.append({"file_name": f"{k:03}.png", "text": [caption, f"{colour} {shade}"] if several else caption})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def text_unet(seed: int = 0, settings: TextSettings | None = None, **options: Any) -> UNet2DConditionModel:
    """A model of text with settings; one of stock diffusers without them."""
    unet = conditional_unet(3, options.pop("out_channels", 6), SIZE, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if ".to_v." in name or "conv_out" in name:  # so that the text makes a difference
                weight.copy_(torch.randn(weight.shape, generator=generator) * (0.1 if "conv_out" in name else 0.5))
    if settings is not None:
        unet.register_to_config(**settings.to_config())
    return unet.eval()


def stock_scheduler(**options: Any) -> DDPMScheduler:
    return DDPMScheduler(**{"variance_type": "learned_range", **options})


def stock(tokenizer: Any, text_encoder: Any, unet: Any, scheduler: SchedulerMixin | None = None) -> IFPipeline:
    """The pipeline of diffusers."""
    unused = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
    scheduler = scheduler or stock_scheduler()
    pipeline = IFPipeline(tokenizer, text_encoder, unet, scheduler, **unused, requires_safety_checker=False)
    return prepared(pipeline, torch.float32)


def ours(
    tokenizer: Any, text_encoder: Any, unet: Any, scheduler: SchedulerMixin | None = None
) -> DDPMPaperTextToImagePipeline:
    """Ours of the same parts."""
    pipeline = DDPMPaperTextToImagePipeline(tokenizer, text_encoder, unet, scheduler or stock_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
