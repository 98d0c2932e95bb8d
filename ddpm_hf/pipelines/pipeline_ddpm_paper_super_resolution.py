# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperSuperResolutionPipeline`: larger images from small ones, and from words if the model is told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..conditioning.classes import LABELS
from ..conditioning.conditioner import Conditioners
from ..conditioning.low_resolution import (
    JOINED,
    LowResolutionConditioner,
    LowResolutionSettings,
    enlarged,
    joining,
    noised,
)
from ..conditioning.text import is_told_of_text
from ..diffusion.denoiser import Denoiser
from .denoising_step import DenoisingStep
from .guidance import Guidance
from .images import batch_of_images, check_images, check_output_type, one_for_each
from .inpainting import Generators
from .sampling_pipeline import Chain
from .stock import own_scheduler, stock_class
from .text import Prompts, TextInput, check_tokenizer, check_width
from .text_pipeline import Callback, TextPipeline


class LowResolutionInput(NamedTuple):
    """The low-resolution images of a call.

    Attributes:
        images: `[B, C, h, w]` in [−1, 1].
        levels: their noise levels, int64 `[B]`.
        noise: `[B, C, H, W]`; None to draw it.
        size: H, W.
    """

    images: Tensor
    levels: Tensor
    noise: Tensor | None
    size: tuple[int, int]


class DDPMPaperSuperResolutionPipeline(TextPipeline):
    """Images from low-resolution ones, the later stages of a cascade (Ho et al. 2022; Saharia et al. 2022).

    It loads what `diffusers.IFSuperResolutionPipeline` saved, from a folder or the Hub, gives the same images for the
    same generator at noise levels above 0, and saves what `diffusers.IFSuperResolutionPipeline` loads. A safety
    checker and a watermarker are neither loaded nor saved.

    Args:
        tokenizer: a tokenizer of transformers; None to pass embeddings, or for a model that is not told of text.
        text_encoder: its encoder of any kind; or None.
        unet (`UNet2DConditionModel`): a model of 2C channels, x_t and the enlarged image, with
            `class_embed_type="timestep"` for the noise level, the scheduler's `prediction_type`, and 2C output
            channels if it learns the variance. Its configuration says by which factor it enlarges images; see
            `ddpm_hf.conditioning.low_resolution`.
        scheduler (`SchedulerMixin`): a `DDPMPaperScheduler`, or any compatible one, which is converted.
        image_noising_scheduler (`SchedulerMixin`): the schedule of the noise in low-resolution images, likewise.

    Raises:
        ValueError: if the model has an odd number of channels, the encoder's width does not fit it, the tokenizer
            knows no words or more tokens than the encoder, or a scheduler has another process.
    """

    stock_name = "IFSuperResolutionPipeline"

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        image_noising_scheduler: SchedulerMixin,
    ):
        super().__init__()
        if unet.config.in_channels % 2:
            raise ValueError(
                "`unet` must have twice the channels of the images, for x_t and the enlarged image, but has"
                f" {unet.config.in_channels}."
            )
        if text_encoder is not None:
            check_width(text_encoder, unet)
        check_tokenizer(tokenizer, text_encoder)
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            unet=unet,
            scheduler=own_scheduler(scheduler),
            image_noising_scheduler=own_scheduler(image_noising_scheduler),
        )

    def to_stock(self) -> DiffusionPipeline:
        """The `IFSuperResolutionPipeline` with the same parts, which passes no attention mask to the model."""
        parts = {"tokenizer": self.tokenizer, "text_encoder": self.text_encoder, "unet": self.unet}
        unused = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
        return stock_class(self.stock_name)(
            **parts,
            scheduler=self._stock_scheduler,
            image_noising_scheduler=self.image_noising_scheduler.to_stock(),
            **unused,
            requires_safety_checker=False,
        )

    # --- the model ---

    @property
    def num_channels(self) -> int:
        return self.unet.config.in_channels // 2

    def conditioners_of(self, unet: UNet2DConditionModel) -> Conditioners:
        """The conditioners of the pipeline's model, or of another model in its place."""
        low = LowResolutionConditioner(LowResolutionSettings.of(unet.config), self.image_noising_scheduler)
        return Conditioners((low, self._text_of(unet)) if is_told_of_text(unet.config) else (low,))

    def _taking_conditioning(self, denoise: Denoiser) -> Denoiser:
        return joining(denoise)

    # --- sampling ---

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts = None,
        height: int | None = None,
        width: int | None = None,
        image: Any = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: Prompts = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        noise_level: int | Sequence[int] | Tensor = 0,
        noise: Tensor | None = None,
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
        """Enlarge images.

        Args:
            image: the low-resolution images: a PIL image, an array `[H, W, C]` or a tensor `[C, H, W]` in [−1, 1], or
                a list or batch of them; one for all, one for each prompt, or one for each image.
            height, width: the size of the result; if not given, that of `image` times the factor that the model's
                configuration records, or without one the model's `sample_size`, as in stock.
            noise_level: how much noise the enlarged image gets, which the model is told: one for all, or one per
                image. 0 is no noise; s > 0 is timestep s of the `image_noising_scheduler`, as in stock, up to the
                highest level that the model was trained with.
            noise: the noise itself, `[B, C, height, width]`; drawn after x_T if not given, as in stock.
            prompt, num_inference_steps, timesteps, guidance_scale, negative_prompt, num_images_per_prompt, generator,
                output_type, return_dict, batch_size, timestep_spacing, eta, solver_order, latents, guidance_interval,
                guidance_rescale, guidance_model, prompt_embeds, negative_prompt_embeds, prompt_attention_mask,
                negative_prompt_attention_mask, callback, callback_steps: as in `DDPMPaperTextToImagePipeline`; a model
                that is not told of text takes no prompt. Guidance leaves out the text and keeps the image.

        Raises:
            ValueError: for arguments out of range, before any image is drawn; and for images that are not finite.
        """
        check_output_type(output_type, self.num_channels)
        steps = self.iterate(
            prompt,
            height,
            width,
            image,
            num_inference_steps,
            timesteps,
            guidance_scale,
            negative_prompt,
            num_images_per_prompt,
            generator,
            noise_level=noise_level,
            noise=noise,
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
        return self._result(steps, output_type, return_dict, callback, callback_steps)

    def iterate(
        self,
        prompt: Prompts = None,
        height: int | None = None,
        width: int | None = None,
        image: Any = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: Prompts = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        *,
        noise_level: int | Sequence[int] | Tensor = 0,
        noise: Tensor | None = None,
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
        images = batch_of_images("image", image, self.num_channels)
        text = TextInput(prompt, negative_prompt, num_images_per_prompt, **embeddings)
        count = text.count(batch_size, len(images))
        self._check_batch(count, generator)
        chain = Chain(num_inference_steps, timesteps, timestep_spacing, eta, solver_order)
        chain.check()
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        images = one_for_each("image", images, count, num_images_per_prompt)
        low = self._low_resolution(images, height, width, noise_level, noise)
        of_text, unconditional = self._conditioning_of_text(text, count, guidance)
        self._set_timesteps(chain)  # raises now for steps that there are not
        if latents is None:
            shape, device = (count, self.num_channels, *low.size), self._execution_device
            latents = randn_tensor(shape, generator=generator, device=device, dtype=self.unet.dtype)
        conditioning = {**self._conditioning_of(low, generator), **of_text}
        return self._sample(count, generator, chain, latents, conditioning, guidance, unconditional, low.size)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        image: Any,
        prompt: Prompts = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        *,
        noise_level: int | Sequence[int] | Tensor = 0,
        noise: Tensor | None = None,
        timestep_spacing: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_model: UNet2DConditionModel | None = None,
    ) -> Tensor:
        """The latents of images with these low-resolution images, as `DDPMPaperPipeline.encode`.

        Args:
            images: `[B, C, H, W]` in [−1, 1], floating, of any size that the model takes.
            image, prompt: as in a call, one for all or one per image.
            noise_level, noise: as in a call; a level above 0 needs the noise with which the images were drawn.
        """
        is_batch = isinstance(images, Tensor) and images.ndim == 4
        size = (images.shape[2], images.shape[3]) if is_batch else self.example_shape[1:]
        count = self._check_images_to_encode(images, size)
        given = one_for_each("image", batch_of_images("image", image, self.num_channels), count)
        low = self._low_resolution(given, *size, noise_level, noise)
        if noise is None and bool((low.levels > 0).any()):
            raise ValueError("`noise` must be given with a `noise_level` above 0: the latents depend on it.")
        text = TextInput.of_images(prompt, count)
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        of_text, _ = self._conditioning_of_text(text, count, guidance)
        conditioning = {**self._conditioning_of(low, None), **of_text}
        return self._encode(images, Chain(num_inference_steps, timesteps, timestep_spacing), conditioning, guidance)

    def _conditioning_of_text(
        self, text: TextInput, count: int, guidance: Guidance
    ) -> tuple[dict[str, Tensor], Callable[..., Mapping[str, Tensor]] | None]:
        """As `_text_conditioning`; nothing for a model that is not told of text.

        Raises:
            ValueError: for prompts of such a model.
        """
        if is_told_of_text(self.unet.config):
            return self._text_conditioning(text, count, guidance)
        guidance.check(self.unet, self.conditioners_of)
        if not text.is_empty or text.negative_prompt is not None or text.negative_prompt_embeds is not None:
            raise ValueError("`prompt` and `negative_prompt` must be None: the model is not told of text.")
        return {}, None

    def _low_resolution(
        self,
        images: Tensor,
        height: int | None,
        width: int | None,
        noise_level: int | Sequence[int] | Tensor,
        noise: Tensor | None,
    ) -> LowResolutionInput:
        """What the model is given of low-resolution images, one for each image.

        Raises:
            ValueError: if a noise level, the noise or the size does not fit.
        """
        count = len(images)
        given = noise_level.tolist() if isinstance(noise_level, Tensor) else noise_level
        levels = list(given) if isinstance(given, (list, tuple)) else [given] * count
        trained = LowResolutionSettings.of(self.unet.config).max_noise_level
        most = min(trained, len(self.image_noising_scheduler) - 1)
        wrong = [s for s in levels if isinstance(s, bool) or not isinstance(s, int) or not 0 <= s <= most]
        if wrong:
            raise ValueError(f"`noise_level` must be an int in 0 ... {most}, or one per image, but is {wrong[0]!r}.")
        if len(levels) != count:
            raise ValueError(f"`noise_level` must be one, or one for each of {count} images, but are {len(levels)}.")
        size = self._size_of(images, height, width)
        if noise is not None:
            check_images("noise", noise, (count, self.num_channels, *size))
        return LowResolutionInput(images, torch.tensor(levels, device="cpu"), noise, size)

    def _size_of(self, images: Tensor, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width of the enlarged images; ValueError for sizes that the model does not take."""
        factor = LowResolutionSettings.of(self.unet.config).factor
        usual = self.example_shape[1:] if factor is None else [factor * side for side in images.shape[2:]]
        step, sizes = 2 ** (len(self.unet.config.block_out_channels) - 1), {"height": height, "width": width}
        size = [default if side is None else side for side, default in zip(sizes.values(), usual, strict=True)]
        for name, side in zip(sizes, size, strict=True):
            if isinstance(side, bool) or not isinstance(side, int) or side < 1 or side % step:
                raise ValueError(f"`{name}` must be a multiple of {step}, which the model halves, but is {side!r}.")
        return size[0], size[1]

    def _conditioning_of(self, low: LowResolutionInput, generator: Generators) -> dict[str, Tensor]:
        """The model's arguments for low-resolution images. Their noise is drawn, used or not, as in stock."""
        device, dtype = self._execution_device, self.unet.dtype
        large = enlarged(low.images.to(device, dtype), *low.size)
        noise, levels = low.noise, low.levels.to(device)
        if noise is None:
            noise = randn_tensor(large.shape, generator=generator, device=device, dtype=dtype)
        return {JOINED: noised(large, noise.to(large), levels, self.image_noising_scheduler), LABELS: levels}
