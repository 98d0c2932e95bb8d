# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""An encoder of images that is trained against a frozen encoder of text (CLIP, Radford et al. 2021)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


MOST = math.log(100)  # of the logarithm of the inverse temperature, as in the paper's section 2.5


class Matched(NamedTuple):
    """The result of a pass through both encoders.

    Attributes:
        image_embeds, text_embeds: of unit norm, `[B, D]`.
        logit_scale: the inverse temperature, `[]`.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    logit_scale: Tensor


class ContrastiveEncoder(ModelMixin, ConfigMixin):
    """A `CLIPVisionModelWithProjection`, and a projection of sentence embeddings into the same space.

    Args:
        vision_config: the configuration of the `CLIPVisionModelWithProjection`.
        text_width: the width of the text encoder.
        logit_scale_init_value: the logarithm of the inverse temperature at the start.
    """

    @register_to_config
    def __init__(
        self, vision_config: dict[str, Any], text_width: int, logit_scale_init_value: float = math.log(1 / 0.07)
    ):
        super().__init__()
        self.vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision_config))
        self.text_projection = nn.Linear(text_width, vision_config["projection_dim"], bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale_init_value)))

    def forward(self, x: Tensor, sentences: Tensor) -> Matched:
        """The embeddings of images and of their captions.

        Args:
            x: `[B, C, H, W]` in [−1, 1].
            sentences: embeddings of the captions by the text encoder, `[B, text_width]`.
        """
        images, texts = self.vision(x).image_embeds, self.text_projection(sentences)
        scale = self.logit_scale.clamp(max=MOST).exp()
        return Matched(nn.functional.normalize(images, dim=1), nn.functional.normalize(texts, dim=1), scale)


@torch.no_grad()
def image_encoder_of(model: ContrastiveEncoder, overall_std: float = 1.0) -> CLIPVisionModelWithProjection:
    """The encoder of images alone, with its own copy of the weights, whose embeddings are divided by `overall_std`.

    The directions of the embeddings, which alone were trained, do not change.
    """
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**model.config["vision_config"])).to(model.device).eval()
    encoder.load_state_dict(model.vision.state_dict())
    encoder.visual_projection.weight /= overall_std
    return encoder
