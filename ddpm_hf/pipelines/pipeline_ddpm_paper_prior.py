# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperPriorPipeline`: embeddings of images from words, by a `PriorTransformer` and a frozen text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline, PriorTransformer
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from typing_extensions import Self

from ..conditioning.conditioner import Conditioners
from ..conditioning.image_encoders import EmbeddingSettings, ImageEncoder
from ..conditioning.prior_text import FURTHER_PLACES, reading_captions
from ..conditioning.text import TextSettings
from ..diffusion.denoiser import Denoiser
from ..diffusion.finiteness import require_finite
from ..schedulers.configuration import OWN_CONFIG_KEY
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .denoising_step import DenoisingStep
from .guidance import Guidance
from .sampling_pipeline import Chain, Generators
from .stock import own_scheduler, stock_class
from .text import Prompts, TextInput, check_tokenizer, check_width
from .text_pipeline import TextPipeline


@dataclass
class PriorOutput(BaseOutput):
    """The result of a prior.

    Attributes:
        image_embeds: embeddings of images on the scale of their encoder, `[B, D]`.
    """

    image_embeds: Tensor


class DDPMPaperPriorPipeline(TextPipeline):
    """Embeddings of images from prompts: the diffusion prior of DALL-E 2 (Ramesh et al. 2022, section 2.2).

    It is saved as a `diffusers.KandinskyV22PriorPipeline` without an image processor. That pipeline loads it, and can
    call it with a text encoder that has `text_embeds` alone; this one takes any encoder of text, see
    `ddpm_hf.conditioning.prior_text`.

    Args:
        prior (`PriorTransformer`): a model with the scheduler's `prediction_type`, whose `clip_mean` and `clip_std`
            are those of the embeddings.
        image_encoder (`CLIPVisionModelWithProjection`): whose embeddings the prior models.
        text_encoder: an encoder of transformers of any kind; or None, to pass embeddings of text.
        tokenizer: its tokenizer; or None.
        scheduler (`SchedulerMixin`): a `DDPMPaperScheduler`, or any compatible one, which is converted. Embeddings are
            continuous, so that its `num_levels` becomes None.

    Raises:
        ValueError: if the parts do not fit each other, the tokenizer knows no words, or the scheduler has another
            process.
    """

    stock_name = "KandinskyV22PriorPipeline"
    model_cpu_offload_seq = "text_encoder->prior"

    def __init__(
        self,
        prior: PriorTransformer,
        image_encoder: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: SchedulerMixin,
    ):
        super().__init__()
        check_prior(prior, image_encoder, text_encoder)
        check_tokenizer(tokenizer, text_encoder)
        parts = {"prior": prior, "image_encoder": image_encoder, "text_encoder": text_encoder, "tokenizer": tokenizer}
        self.register_modules(**parts, scheduler=of_embeddings(scheduler))

    # --- loading and saving ---

    def to_stock(self) -> DiffusionPipeline:
        """The `KandinskyV22PriorPipeline` with the same parts."""
        names = ("prior", "image_encoder", "text_encoder", "tokenizer")
        parts = {name: getattr(self, name) for name in names}
        stock = stock_class(self.stock_name)(**parts, scheduler=self._stock_scheduler, image_processor=None)
        stock._optional_components = [*parts, "image_processor"]  # those that are None are left out without a word
        return stock

    def _with(self, parts: Any) -> Self:
        return type(self)(**{**self.components, **parts})

    # --- the model ---

    @property
    def unet(self) -> PriorTransformer:
        """The model, under the name that it has in other pipelines."""
        return self.prior

    @property
    def num_channels(self) -> int:
        """The number of elements of an embedding."""
        return self.prior.config.embedding_dim

    @property
    def example_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of one z: (elements,)."""
        return (self.num_channels,)

    @property
    def encoder(self) -> ImageEncoder:
        """The encoder of images, with the moments of its embeddings and the width of q(z | x)."""
        return encoder_of(self.prior, self.image_encoder)

    def conditioners_of(self, unet: PriorTransformer) -> Conditioners:
        """The conditioners of the pipeline's model, or of another model in its place."""
        return Conditioners((self._text_of(unet),))

    def _taking_conditioning(self, denoise: Denoiser) -> Denoiser:
        return reading_captions(denoise)

    def levels_of_examples(self, num_levels: int) -> None:
        """None, for embeddings are continuous."""

    @torch.no_grad()
    def examples_of(self, images: Tensor, generator: Generators = None) -> Tensor:
        """z ~ q(z | x) of images `[B, C, H, W]` in [−1, 1], standardised."""
        q = self.encoder.posterior(images)
        return q.sample(randn_tensor(q.mean.shape, generator, q.mean.device, q.mean.dtype))

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
        return_dict: bool = True,
        **options: Any,
    ) -> PriorOutput | tuple:
        """Draw embeddings of images.

        Args:
            prompt, negative_prompt, num_images_per_prompt, num_inference_steps, timesteps, guidance_scale, generator:
                as in `DDPMPaperTextToImagePipeline`.
            options: further arguments of `iterate`.

        Raises:
            ValueError: for arguments out of range, before anything is drawn; and for embeddings that are not finite.
        """
        how = (prompt, num_inference_steps, timesteps, guidance_scale, negative_prompt, num_images_per_prompt)
        for step in self.iterate(*how, generator, **options):
            z = step.prev_sample
        require_finite(image_embeds=z)
        embeds = self.prior.post_process_latents(z)
        return PriorOutput(image_embeds=embeds) if return_dict else (embeds,)

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
        **embeddings: Tensor | None,
    ) -> Iterator[DenoisingStep]:
        """Yield one `DenoisingStep` of standardised embeddings `[B, D]` per visited timestep.

        Args:
            batch_size, timestep_spacing, eta, solver_order, guidance_interval, guidance_rescale, embeddings: as in
                `DDPMPaperTextToImagePipeline`.
            latents: z_T, `[B, D]`; noise if not given.

        Raises:
            ValueError: for arguments out of range.
        """
        text = TextInput(prompt, negative_prompt, num_images_per_prompt, **embeddings)
        count = text.count(batch_size)
        self._check_batch(count, generator)
        chain = Chain(num_inference_steps, timesteps, timestep_spacing, eta, solver_order)
        chain.check()
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale)
        conditioning, unconditional = self._text_conditioning(text, count, guidance)
        return self._sample(count, generator, chain, latents, conditioning, guidance, unconditional)


def encoder_of(prior: PriorTransformer, image_encoder: Any) -> ImageEncoder:
    """The encoder of images, with what the prior knows of its embeddings."""
    std = EmbeddingSettings.of(prior.config).posterior_std
    return ImageEncoder(image_encoder, prior.clip_mean, prior.clip_std, std)


def check_prior(prior: PriorTransformer, image_encoder: Any, text_encoder: Any) -> None:
    """Raise ValueError unless the prior models embeddings of this encoder, and reads captions of this text encoder."""
    config, width = prior.config, image_encoder.config.projection_dim
    if config.embedding_dim != width or config.clip_embed_dim not in (None, width):
        raise ValueError(f"`prior` must model embeddings of {width} numbers, but models {config.embedding_dim}.")
    if config.encoder_hid_proj_type is not None:
        raise ValueError(
            "`prior` must have the `encoder_hid_proj_type` None: it reads a caption as a sequence in `proj_embedding`."
        )
    places = config.num_embeddings + config.additional_embeddings
    tokens = TextSettings.of(config).max_length
    if OWN_CONFIG_KEY in config and places != 1 + tokens + FURTHER_PLACES:
        raise ValueError(
            f"`prior` must have {1 + tokens + FURTHER_PLACES} places for {tokens} tokens, but has {places}."
        )
    if not bool((prior.clip_std > 0).all()):
        raise ValueError("`clip_std` of the prior must be above 0: set it and `clip_mean` to those of the embeddings.")
    if text_encoder is not None:
        check_width(text_encoder, prior)


def of_embeddings(scheduler: SchedulerMixin) -> DDPMPaperScheduler:
    """The scheduler of continuous embeddings."""
    scheduler = own_scheduler(scheduler)
    if scheduler.diffusion.num_levels is None:
        return scheduler
    return DDPMPaperScheduler.from_config(scheduler.config, num_levels=None)
