# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperTextToImagePipeline`: images from words, by a `UNet2DConditionModel` and a frozen text encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from typing_extensions import Self

from ..conditioning.conditioner import Conditioners
from ..conditioning.text import MASK, STATES, TextConditioner, TextEncoder, TextSettings
from ..conditioning.text_encoders import load_text_encoder
from ..diffusion.numerics import require_count
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .denoising_step import DenoisingStep
from .guidance import Guidance
from .images import check_output_type, require_finite_images, to_output
from .sampling_pipeline import Chain, Generators, SamplingPipeline
from .text import Prompts, TextInput, check_embeddings, check_width, text_arguments


Callback = Callable[[int, int, Tensor], None]
"""callback(step, timestep, x_s), as in `IFPipeline`."""


class DDPMPaperTextToImagePipeline(SamplingPipeline):
    """Images from prompts, in pixels, by a frozen text encoder and guidance (GLIDE, Nichol et al. 2022; Imagen,
    Saharia et al. 2022).

    It loads what `diffusers.IFPipeline` saved, from a folder or the Hub, and saves what `diffusers.IFPipeline` loads.
    A safety checker and a watermarker are neither loaded nor saved. If the model's configuration names a text encoder
    on the Hub, it is loaded from there, and not saved; stock users pass `text_encoder` and `tokenizer`.

    Args:
        tokenizer: a tokenizer of transformers; None to pass embeddings in place of prompts.
        text_encoder: its encoder of any kind, such as `T5EncoderModel`, `CLIPTextModel` or `BertModel`; or None.
        unet (`UNet2DConditionModel`): a model with the scheduler's `prediction_type`, with twice the channels if it
            learns the variance. Its configuration says whether it ignores padding; see `ddpm_hf.conditioning.text`.
        scheduler (`SchedulerMixin`): a `DDPMPaperScheduler`, or any compatible one, which is converted.

    Raises:
        ValueError: if the encoder's width does not fit the model, or the scheduler has another process.
    """

    model_cpu_offload_seq = "text_encoder->unet"
    _optional_components = ["tokenizer", "text_encoder"]

    def __init__(self, tokenizer: Any, text_encoder: Any, unet: UNet2DConditionModel, scheduler: SchedulerMixin):
        super().__init__()
        if text_encoder is not None:
            check_width(text_encoder, unet)
        if not isinstance(scheduler, DDPMPaperScheduler):
            scheduler = DDPMPaperScheduler.from_scheduler(scheduler)
        self.register_modules(tokenizer=tokenizer, text_encoder=text_encoder, unet=unet, scheduler=scheduler)

    # --- loading and saving ---

    @classmethod
    def _load(cls, name: str, **kwargs: Any) -> Self:
        pipeline = super()._load(name, **kwargs)
        settings = TextSettings.of(pipeline.unet.config)
        if settings.encoder is None or "text_encoder" in kwargs:
            return pipeline
        encoder = load_text_encoder(settings.encoder, settings.max_length, settings.encoder_revision)
        model = encoder.model.to(pipeline.unet.dtype)
        return pipeline._with({"tokenizer": encoder.tokenizer, "text_encoder": model})

    @property
    def _named_parts(self) -> tuple[str, ...]:
        return ("tokenizer", "text_encoder") if TextSettings.of(self.unet.config).encoder else ()

    def to_stock(self) -> DiffusionPipeline:
        """The `IFPipeline` with the same parts, which passes no attention mask to the model."""
        parts = {"tokenizer": self.tokenizer, "text_encoder": self.text_encoder, "unet": self.unet}
        unused = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
        from diffusers import IFPipeline  # which loads much, and warns where torchvision is missing

        return IFPipeline(**parts, scheduler=self._stock_scheduler, **unused, requires_safety_checker=False)

    # --- the model ---

    def conditioners_of(self, unet: UNet2DConditionModel) -> Conditioners:
        """The conditioners of the pipeline's model, or of another model in its place."""
        return Conditioners((self._text_of(unet),))

    def _text_of(self, unet: UNet2DConditionModel, embeddings: Tensor | None = None) -> TextConditioner:
        """What tells a model of text, in as many tokens as the embeddings have, if they are given."""
        settings = TextSettings.of(unet.config)
        if embeddings is not None:
            settings = replace(settings, max_length=embeddings.shape[1])
        return TextConditioner(TextEncoder(self.tokenizer, self.text_encoder, settings.max_length), settings)

    # --- sampling ---

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: Prompts = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        batch_size: int | None = None,
        timestep_spacing: str | None = None,
        eta: float | None = None,
        solver_order: int = 1,
        latents: Tensor | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_model: UNet2DConditionModel | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        callback: Callback | None = None,
        callback_steps: int = 1,
    ) -> ImagePipelineOutput | tuple:
        """Draw images.

        Args:
            prompt: one prompt, or a list of them; None draws images without a prompt if the model was also trained
                without text.
            num_inference_steps, timesteps, timestep_spacing, eta, solver_order, latents, generator, output_type,
                return_dict: as in `DDPMPaperPipeline`; `latents` are x_T, and a list of generators has one per image.
            guidance_scale, guidance_interval, guidance_rescale, guidance_model: see `Guidance`. A scale other than 1
                needs a prompt, and a model that was also trained without text.
            negative_prompt: what guidance leads away from: one for all images, or one for each prompt; the empty
                prompt if not given.
            num_images_per_prompt: images of each prompt, one after the other.
            batch_size: the number of images without a prompt; 1 if not given.
            prompt_embeds, negative_prompt_embeds: `[B, L, width]`, in place of prompts, from `encode_prompt` or stock.
            prompt_attention_mask, negative_prompt_attention_mask: booleans `[B, L]`, with embeddings for a model that
                ignores padding.
            callback: called with the number of the step, the timestep and x_s after every `callback_steps` steps.

        Raises:
            ValueError: for arguments out of range, before any image is drawn; and for images that are not finite.
        """
        check_output_type(output_type, self.unet.config.in_channels)
        require_count(callback_steps=callback_steps)
        steps = self.iterate(
            prompt,
            num_inference_steps,
            timesteps,
            guidance_scale,
            negative_prompt,
            num_images_per_prompt,
            generator,
            batch_size=batch_size,
            timestep_spacing=timestep_spacing,
            eta=eta,
            solver_order=solver_order,
            latents=latents,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
            guidance_model=guidance_model,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
        )
        for number, step in enumerate(steps):
            if callback is not None and number % callback_steps == 0:
                callback(number, step.timestep, step.prev_sample)
        require_finite_images(step.prev_sample, step.sample, step.timestep, self.unet.config)
        images = to_output(step.prev_sample, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def iterate(
        self,
        prompt: Prompts = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: Prompts = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        *,
        batch_size: int | None = None,
        timestep_spacing: str | None = None,
        eta: float | None = None,
        solver_order: int = 1,
        latents: Tensor | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_model: UNet2DConditionModel | None = None,
        **embeddings: Tensor | None,
    ) -> Iterator[DenoisingStep]:
        """Yield one `DenoisingStep` per visited timestep while sampling. Arguments and errors as in a call."""
        text = TextInput(prompt, negative_prompt, num_images_per_prompt, **embeddings)
        count = text.count(batch_size)
        self._check_batch(count, generator)
        chain = Chain(num_inference_steps, timesteps, timestep_spacing, eta, solver_order)
        chain.check()
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        conditioning, unconditional = self._conditioning(text, count, guidance)
        return self._sample(count, generator, chain, latents, conditioning, guidance, unconditional)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        prompt: Prompts = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        *,
        timestep_spacing: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_model: UNet2DConditionModel | None = None,
    ) -> Tensor:
        """The latents of images with these prompts, by DDIM's step without noise, as `DDPMPaperPipeline.encode`.

        Args:
            images: `[B, C, H, W]` in [−1, 1], floating.
            prompt: a prompt for all images, or a list with one per image; None for no text.
        """
        count = self._check_images_to_encode(images)
        text = TextInput([prompt] * count if isinstance(prompt, str) else prompt)
        if not text.is_empty and (prompts := text.count(None)) != count:
            raise ValueError(f"`prompt` must be one for all images, or one for each of {count}, but are {prompts}.")
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        conditioning, _ = self._conditioning(text, count, guidance)
        return self._encode(images, Chain(num_inference_steps, timesteps, timestep_spacing), conditioning, guidance)

    @torch.no_grad()
    def encode_prompt(self, prompt: str | Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """The embeddings of prompts `[B, L, width]`, and their mask `[B, L]`, or None if the model takes none."""
        text = TextInput(prompt)
        made = text_arguments(self._text_of(self.unet), text, text.count(None), self._execution_device)
        return made[STATES], made.get(MASK)

    def _conditioning(
        self, text: TextInput, count: int, guidance: Guidance
    ) -> tuple[dict[str, Tensor], Callable[..., dict[str, Tensor]] | None]:
        """The model's further arguments, and what replaces them in the unconditional prediction.

        Raises:
            ValueError: if prompts or guidance do not fit the model.
        """
        guidance.check(self.unet, self.conditioners_of)
        conditioner, device = self._text_of(self.unet, text.prompt_embeds), self._execution_device
        check_embeddings(text, self.unet, conditioner.settings.attention_mask)
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
        return positive, lambda conditioning: negative
