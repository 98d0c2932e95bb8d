# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperTextToImagePipeline`: images from words, by a `UNet2DConditionModel` and a frozen text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from ..conditioning.conditioner import Conditioners
from .denoising_step import DenoisingStep
from .guidance import Guidance
from .image_starts import ImageStart
from .images import check_images, check_output_type
from .inpainting import Generators, Jumps
from .sampling_pipeline import Chain
from .stock import own_scheduler, stock_class
from .text import Prompts, TextInput, check_tokenizer, check_width
from .text_pipeline import Callback, TextPipeline


class DDPMPaperTextToImagePipeline(TextPipeline):
    """Images from prompts, in pixels, by a frozen text encoder and guidance (GLIDE, Nichol et al. 2022; Imagen,
    Saharia et al. 2022).

    It loads what `diffusers.IFPipeline` saved, from a folder or the Hub, and saves what `diffusers.IFPipeline` loads.
    A safety checker and a watermarker are neither loaded nor saved. If the model's configuration names a text encoder
    on the Hub, it is loaded from there, and not saved; stock users pass `text_encoder` and `tokenizer`.

    Args:
        tokenizer: a tokenizer of transformers; None to pass embeddings in place of prompts.
        text_encoder: its encoder of any kind, such as `T5EncoderModel`, `CLIPTextModel` or `BertModel`; or None.
        unet (`UNet2DConditionModel`): a model with the scheduler's `prediction_type`, with twice the channels if it
            learns the variance. Its configuration says whether padding is masked; see `ddpm_hf.conditioning.text`.
        scheduler (`SchedulerMixin`): a `DDPMPaperScheduler`, or any compatible one, which is converted.

    Raises:
        ValueError: if the encoder's width does not fit the model, the tokenizer knows no words or more tokens than the
            encoder, or the scheduler has another process.
    """

    stock_name = "IFPipeline"

    def __init__(self, tokenizer: Any, text_encoder: Any, unet: UNet2DConditionModel, scheduler: SchedulerMixin):
        super().__init__()
        if text_encoder is not None:
            check_width(text_encoder, unet)
        check_tokenizer(tokenizer, text_encoder)
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, unet=unet, scheduler=own_scheduler(scheduler)
        )

    # --- loading and saving ---

    def to_stock(self) -> DiffusionPipeline:
        """The `IFPipeline` with the same parts, which passes no attention mask to the model."""
        parts = {"tokenizer": self.tokenizer, "text_encoder": self.text_encoder, "unet": self.unet}
        unused = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
        options = {"scheduler": self._stock_scheduler, "requires_safety_checker": False}
        return stock_class(self.stock_name)(**parts, **unused, **options)

    # --- the model ---

    def conditioners_of(self, unet: UNet2DConditionModel) -> Conditioners:
        """The conditioners of the pipeline's model, or of another model in its place."""
        return Conditioners((self._text_of(unet),))

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
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        jump_length: int = 10,
        jump_n_sample: int = 10,
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
            batch_size: the number of images without a prompt; by default `num_images_per_prompt` of each `image`, or
                of nothing.
            image, mask_image, strength, jump_length, jump_n_sample: images to start from, or to keep a part of, as in
                `DDPMPaperPipeline`; one for all, one for each prompt or one for each image.
            prompt_embeds, negative_prompt_embeds: `[B, L, width]`, in place of prompts, from `encode_prompt` or stock.
            prompt_attention_mask, negative_prompt_attention_mask: booleans `[B, L]`, with embeddings for a model
                whose padding is masked. Their number of masked positions makes no difference.
            callback: called with the number of the step, the timestep and x_s after every `callback_steps` steps.

        Raises:
            ValueError: for arguments out of range, before any image is drawn; and for images that are not finite.
        """
        check_output_type(output_type, self.num_channels)
        steps = self.iterate(
            prompt,
            num_inference_steps,
            timesteps,
            guidance_scale,
            negative_prompt,
            num_images_per_prompt,
            generator,
            batch_size=batch_size,
            image=image,
            mask_image=mask_image,
            strength=strength,
            jump_length=jump_length,
            jump_n_sample=jump_n_sample,
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
        return self._result(steps, output_type, return_dict, callback, callback_steps)

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
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        jump_length: int = 10,
        jump_n_sample: int = 10,
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
        jumps = Jumps(jump_length, jump_n_sample)
        start = ImageStart.of(image, mask_image, strength, jumps, self.image_channels)
        count = text.count(batch_size, 1 if start is None else len(start.images))
        self._check_batch(count, generator)
        chain = Chain(num_inference_steps, timesteps, timestep_spacing, eta, solver_order)
        chain.check()
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        conditioning, unconditional = self._text_conditioning(text, count, guidance)
        told = (conditioning, guidance, unconditional)
        if start is None:
            return self._sample(count, generator, chain, latents, *told)
        check_images("image", start.images, (len(start.images), *self.example_shape))
        chain, latents, inpainting = self._started(start, chain, count, generator, latents, num_images_per_prompt)
        return self._sample(count, generator, chain, latents, *told, inpainting=inpainting)

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
        text = TextInput.of_images(prompt, count)
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        conditioning, _ = self._text_conditioning(text, count, guidance)
        return self._encode(images, Chain(num_inference_steps, timesteps, timestep_spacing), conditioning, guidance)
