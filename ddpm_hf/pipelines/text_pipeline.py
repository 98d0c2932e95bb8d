# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What the pipelines share that may be told of text by a frozen encoder: prompts, and the images of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from diffusers import ImagePipelineOutput, UNet2DConditionModel
from torch import Tensor
from typing_extensions import Self

from ..conditioning.text import MASK, STATES, TextConditioner, TextEncoder, TextSettings, has_fixed_length
from ..conditioning.text_encoders import load_text_encoder
from ..diffusion.numerics import require_count
from .denoising_step import DenoisingStep
from .guidance import Guidance
from .image_starts import ImageStart
from .images import LATENT, require_finite_images, to_output
from .sampling_pipeline import SOURCE_ARGUMENTS, SamplingPipeline
from .stock import stock_class
from .text import TextInput, check_embeddings, text_arguments, with_length


Callback = Callable[[int, int, Tensor], None]
"""callback(step, timestep, x_s), as in `IFPipeline`."""


class TextPipeline(SamplingPipeline):
    """A pipeline of a `tokenizer`, a `text_encoder`, both of which may be None, a model `unet` and a scheduler."""

    stock_name: ClassVar[str]  # the pipeline of diffusers that saves it
    model_cpu_offload_seq = "text_encoder->unet"
    _optional_components = ["tokenizer", "text_encoder"]

    # --- loading and saving ---

    @classmethod
    def _load(cls, name: str, **kwargs: Any) -> Self:
        stock_class(cls.stock_name)  # diffusers looks it up, since the index names it
        pipeline = super()._load(name, **kwargs)
        return pipeline if "text_encoder" in kwargs else pipeline._with_named_encoder(kwargs)

    def _with_named_encoder(self, given: Mapping[str, Any]) -> Self:
        """The pipeline with the text encoder that the model's configuration names, if it names one.

        Args:
            given: the arguments of `from_pretrained`; the revision is that of the pipeline, and not of the encoder.
        """
        settings = TextSettings.of(self.unet.config)
        if settings.encoder is None:
            return self
        source = {key: given[key] for key in SOURCE_ARGUMENTS if key in given}
        encoder = load_text_encoder(settings.encoder, settings.max_length, settings.encoder_revision, **source)
        return self._with({"tokenizer": encoder.tokenizer, "text_encoder": encoder.model.to(self.unet.dtype)})

    @property
    def _named_parts(self) -> tuple[str, ...]:
        return ("tokenizer", "text_encoder") if TextSettings.of(self.unet.config).encoder else ()

    # --- text ---

    def _text_of(self, unet: UNet2DConditionModel, embeddings: Tensor | None = None) -> TextConditioner:
        """What tells a model of text, in as many tokens as the embeddings have, if they are given."""
        settings = TextSettings.of(unet.config)
        if embeddings is not None:
            settings = replace(settings, max_length=embeddings.shape[1])
        return TextConditioner(TextEncoder(self.tokenizer, self.text_encoder, settings.max_length), settings)

    @torch.no_grad()
    def encode_prompt(self, prompt: str | Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """The embeddings of prompts `[B, L, width]`, and their mask `[B, L]`, or None if the model takes none."""
        text = TextInput(prompt)
        made = text_arguments(self._text_of(self.unet), text, text.count(None), self._execution_device)
        return made[STATES], made.get(MASK)

    def _text_conditioning(
        self, text: TextInput, count: int, guidance: Guidance
    ) -> tuple[dict[str, Tensor], Callable[..., dict[str, Tensor]] | None]:
        """The model's further arguments, and what replaces them in the unconditional prediction.

        Raises:
            ValueError: if prompts or guidance do not fit the model.
        """
        guidance.check(self.unet, self.conditioners_of)
        settings, device = TextSettings.of(self.unet.config), self._execution_device
        check_embeddings(text, self.unet, settings.attention_mask)
        models = [each for each in (self.unet, guidance.guidance_model) if each is not None]
        if settings.attention_mask and any(has_fixed_length(each.config) for each in models):
            text, conditioner = with_length(text, settings.max_length), self._text_of(self.unet)
        else:
            conditioner = self._text_of(self.unet, text.prompt_embeds)
        if text.is_empty and not conditioner.has_null:
            raise ValueError("`prompt` must be given: the model was not trained without text.")
        if text.is_empty and guidance.is_classifier_free:
            raise ValueError(f"`guidance_scale` must be 1 without a `prompt`, but is {guidance.guidance_scale}.")
        has_negative = text.negative_prompt is not None or text.negative_prompt_embeds is not None
        if has_negative and not guidance.is_classifier_free:
            raise ValueError("`negative_prompt` needs a `guidance_scale` other than 1, and no `guidance_model`.")
        if self.text_encoder is None and (text.prompt_embeds is None or guidance.is_classifier_free > has_negative):
            raise ValueError(
                "`prompt_embeds`, and with guidance `negative_prompt_embeds`, must be given: the pipeline has no text"
                " encoder."
            )

        def made(is_negative: bool) -> dict[str, Tensor]:
            arguments = text_arguments(conditioner, text, count, device, is_negative)
            dtype = self.unet.dtype
            return {name: value.to(dtype) if value.is_floating_point() else value for name, value in arguments.items()}

        if not guidance.is_classifier_free:
            return made(False), None
        positive, negative = made(False), made(True)
        lengths = [each[STATES].shape[1] for each in (positive, negative)]
        if lengths[0] != lengths[1]:
            raise ValueError(
                f"`negative_prompt_embeds` must have as many tokens as the prompts, {lengths[0]}, but have"
                f" {lengths[1]}."
            )
        return positive, lambda conditioning: {**conditioning, **negative}

    def _result(
        self,
        steps: Iterator[DenoisingStep],
        output_type: str,
        return_dict: bool,
        callback: Callback | None,
        callback_steps: int,
        start: ImageStart | None = None,
    ) -> ImagePipelineOutput | tuple:
        """The images at the end of the steps, as a call returns them, with the pixels that `start` knows.

        Raises:
            ValueError: for `callback_steps` below 1, before any image is drawn; and for images that are not finite.
        """
        require_count(callback_steps=callback_steps)
        for number, step in enumerate(steps):
            if callback is not None and number % callback_steps == 0:
                callback(number, step.timestep, step.prev_sample)
        require_finite_images(step.prev_sample, step.sample, step.timestep, self.unet.config)
        x_0 = step.prev_sample
        if output_type == LATENT:
            images = x_0
        else:
            found = self.images_of(x_0)
            images = to_output(found if start is None else start.with_known(found), output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)
