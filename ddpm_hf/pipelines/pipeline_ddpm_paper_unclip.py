# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperUnCLIPPipeline`: images from words by way of embeddings of images, variations, and interpolations."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, PriorTransformer, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from typing_extensions import Self

from ..conditioning.captions import PROMPT
from ..conditioning.classes import LABELS
from ..conditioning.columns import Columns
from ..conditioning.conditioner import Conditioners
from ..conditioning.embeddings import IMAGE_EMBEDS, EmbeddingConditioner, takes_embeddings
from ..conditioning.image_encoders import EmbeddingSettings, ImageEncoder, check_image_size, load_image_encoder
from ..conditioning.prior_text import of_captions
from ..diffusion.finiteness import require_finite
from ..diffusion.numerics import require_count, slerp
from ..likelihood.batches import Batches
from ..likelihood.importance_weighting import ImportanceWeightedBits
from ..likelihood.latent_ode import LatentOdeBitsPerDim
from ..likelihood.latents import LatentBitsPerDim
from ..likelihood.unclip import (
    EmbeddingModel,
    unclip_bits_per_dim,
    unclip_importance_weighted_bits_per_dim,
    unclip_ode_bits_per_dim,
)
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .denoising_step import DenoisingStep
from .guidance import Guidance
from .images import batch_of_images, check_output_type, one_for_each
from .pipeline_ddpm_paper_prior import DDPMPaperPriorPipeline, encoder_of
from .sampling_pipeline import SOURCE_ARGUMENTS, Chain, Generators
from .stock import own_scheduler, stock_class, without_notices
from .text import Prompts, TextInput, check_width
from .text_pipeline import Callback, TextPipeline


# What the stock pipeline calls our parts, and its parts that there are none of.
STOCK_NAMES = {"unet": "decoder", "scheduler": "decoder_scheduler"}
SAME_NAMES = ("prior", "prior_scheduler", "text_encoder", "tokenizer")
NOT_USED = ("text_proj", "super_res_first", "super_res_last", "super_res_scheduler")
TEXT_PARTS = ("tokenizer", "text_encoder")
IMAGE_ENCODER = "image_encoder"


class DDPMPaperUnCLIPPipeline(TextPipeline):
    """Images from prompts by way of embeddings of images, and variations of images (DALL-E 2, Ramesh et al. 2022).

    A prior draws an embedding given the text, and a decoder an image given the embedding and the text. It is saved in
    the layout of `diffusers.UnCLIPPipeline`, with the image encoder beside: every part loads by its stock class. The
    stock pipeline cannot be called with these parts: it needs super-resolution models, and a text encoder of CLIP.

    Args:
        prior (`PriorTransformer`): as in `DDPMPaperPriorPipeline`.
        prior_scheduler (`SchedulerMixin`): its `DDPMPaperScheduler`, or any compatible one, which is converted.
        unet (`UNet2DConditionModel`): the decoder, told of text, and given embeddings as `class_labels`
            (`class_embed_type` "projection"), as in `StableUnCLIPPipeline`.
        scheduler (`SchedulerMixin`): the decoder's.
        image_encoder (`CLIPVisionModelWithProjection`): for images of the decoder's size.
        text_encoder, tokenizer: as in `DDPMPaperTextToImagePipeline`; the prior and the decoder share them.

    Raises:
        ValueError: if the parts do not fit each other, the tokenizer knows no words, or a scheduler has another
            process.
    """

    stock_name = "UnCLIPPipeline"
    model_cpu_offload_seq = "text_encoder->prior->unet"

    def __init__(
        self,
        prior: PriorTransformer,
        prior_scheduler: SchedulerMixin,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        image_encoder: Any,
        text_encoder: Any,
        tokenizer: Any,
    ):
        super().__init__()
        of_prior = DDPMPaperPriorPipeline(prior, image_encoder, text_encoder, tokenizer, prior_scheduler)
        check_decoder(unet, image_encoder, text_encoder)
        self.register_modules(
            prior=prior,
            prior_scheduler=of_prior.scheduler,
            unet=unet,
            scheduler=own_scheduler(scheduler),
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )

    # --- loading and saving ---

    @classmethod
    def _load(cls, name: str, **kwargs: Any) -> Self:
        source = {key: kwargs[key] for key in (*SOURCE_ARGUMENTS, "revision") if key in kwargs}
        index = cls.load_config(name, **source)
        if index.get("_class_name") != cls.stock_name or IMAGE_ENCODER not in index:
            raise ValueError(
                f"{name} holds a {index.get('_class_name')}, but a DDPMPaperUnCLIPPipeline loads what it has saved"
                " itself, with an image encoder."
            )
        given = {STOCK_NAMES.get(part, part): value for part, value in kwargs.items()}
        encoder = given.pop(IMAGE_ENCODER, None)
        if encoder is None:
            encoder = load_image_encoder(name, subfolder=IMAGE_ENCODER, **source)
        absent = [part for part in TEXT_PARTS if not (index.get(part) or [None])[0]]
        with without_notices():
            stock = stock_class(cls.stock_name).from_pretrained(name, **dict.fromkeys((*NOT_USED, *absent)) | given)
        parts = {ours: getattr(stock, theirs) for ours, theirs in STOCK_NAMES.items()}
        pipeline = cls(**parts, **{part: getattr(stock, part) for part in SAME_NAMES}, image_encoder=encoder)
        return pipeline if "text_encoder" in kwargs else pipeline._with_named_encoder(kwargs)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args: Any,
        parts_there: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        """Save in the layout of stock diffusers, with the folder `image_encoder`; arguments as in other pipelines."""
        if IMAGE_ENCODER not in parts_there:
            self.image_encoder.save_pretrained(Path(save_directory) / IMAGE_ENCODER)
        super().save_pretrained(save_directory, *args, parts_there=parts_there, **kwargs)

    def to_stock(self) -> DiffusionPipeline:
        """The `UnCLIPPipeline` with the same parts and without super-resolution; its index names the image encoder."""
        parts = {theirs: getattr(self, ours) for ours, theirs in STOCK_NAMES.items()}
        parts |= {part: getattr(self, part) for part in SAME_NAMES} | dict.fromkeys(NOT_USED)
        parts |= {"decoder_scheduler": self._stock_scheduler, "prior_scheduler": self.prior_scheduler.to_stock()}
        with without_notices():
            stock = stock_class(self.stock_name)(**parts)
        stock._optional_components = list(parts)  # those that are None are left out without a word
        stock.register_modules(image_encoder=self.image_encoder)
        return stock

    # --- the models ---

    @property
    def prior_pipeline(self) -> DDPMPaperPriorPipeline:
        """The pipeline of the prior, of the same parts."""
        parts = (self.prior, self.image_encoder, self.text_encoder, self.tokenizer, self.prior_scheduler)
        pipeline = DDPMPaperPriorPipeline(*parts)
        pipeline.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return pipeline

    @property
    def encoder(self) -> ImageEncoder:
        """The encoder of images, with the moments of its embeddings and the width of q(z | x)."""
        return encoder_of(self.prior, self.image_encoder)

    def conditioners_of(self, unet: UNet2DConditionModel) -> Conditioners:
        """The conditioners of the decoder, or of another model in its place."""
        null = EmbeddingSettings.of(unet.config).null
        return Conditioners((self._text_of(unet), EmbeddingConditioner(self.encoder, null)))

    @torch.no_grad()
    def embed_images(self, image: Any) -> Tensor:
        """e(x) of images, on the encoder's scale, `[B, D]`.

        Args:
            image: PIL images, or tensors in [−1, 1], of the pipeline's size.

        Raises:
            ValueError: for images of another size.
        """
        images = batch_of_images("image", image, self.image_channels)
        return self.encoder.embeds(images.to(self._execution_device))

    @property
    def drawing_columns(self) -> tuple[str, ...]:
        """The prompt; the prior draws the embeddings."""
        return tuple(name for name in self.conditioners.columns if name != IMAGE_EMBEDS)

    @torch.no_grad()
    def with_drawn_columns(self, columns: Columns, generator: Generators = None) -> Columns:
        """The columns of images to draw, with embeddings that the prior draws for their prompts if they have none."""
        if IMAGE_EMBEDS in columns:
            return columns
        words = TextInput(list(columns[PROMPT]))
        batch = {"batch_size": len(columns[PROMPT]), "generator": generator}
        return {**columns, IMAGE_EMBEDS: self._of_prior(words, {}, batch)()}

    # --- the likelihood ---

    @property
    def embedding_model(self) -> EmbeddingModel:
        """q(z | x) and the prior, for the bound."""
        encoder, prior = self.encoder, self.prior_pipeline

        def of_decoder(z: Tensor, conditioning: Mapping[str, Any]) -> dict[str, Any]:
            return {**conditioning, LABELS: encoder.unstandardised(z)}

        return EmbeddingModel(encoder.posterior, prior.denoiser(), prior.scheduler, of_decoder, of_captions)

    def bits_per_dim(
        self, denoise: Any, scheduler: DDPMPaperScheduler, batches: Batches, **options: Any
    ) -> LatentBitsPerDim:
        """`unclip_bits_per_dim` of images. If not given, `prior_num_evaluations` is as `num_evaluations`."""
        asked, every = options.get("num_evaluations"), len(self.prior_scheduler.timesteps)
        of_prior = asked if asked is not None and asked < every else None
        options = {"prior_num_evaluations": of_prior, **options}
        return unclip_bits_per_dim(denoise, scheduler, batches, self.embedding_model, **options)

    def importance_weighted_bits_per_dim(
        self, denoise: Any, scheduler: DDPMPaperScheduler, batches: Batches, **options: Any
    ) -> ImportanceWeightedBits:
        """`unclip_importance_weighted_bits_per_dim` of images."""
        return unclip_importance_weighted_bits_per_dim(denoise, scheduler, batches, self.embedding_model, **options)

    def ode_bits_per_dim(
        self, denoise: Any, scheduler: DDPMPaperScheduler, batches: Batches, **options: Any
    ) -> LatentOdeBitsPerDim:
        """`unclip_ode_bits_per_dim` of images."""
        return unclip_ode_bits_per_dim(denoise, scheduler, batches, self.embedding_model, **options)

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
        callback: Callback | None = None,
        callback_steps: int = 1,
        **options: Any,
    ) -> ImagePipelineOutput | tuple:
        """Draw images from prompts, or variations of images.

        Args:
            prompt, negative_prompt, num_images_per_prompt, num_inference_steps, timesteps, guidance_scale, generator,
                output_type, return_dict, callback, callback_steps: as in `DDPMPaperTextToImagePipeline`. Steps and
                guidance are the decoder's.
            options: further arguments of `iterate`: `image` for variations of it, `image_embeds`, the prior's
                `prior_num_inference_steps` and `prior_guidance_scale`.

        Raises:
            ValueError: for arguments out of range, before anything is drawn; and for images that are not finite.
        """
        check_output_type(output_type, self.num_channels)
        how = (prompt, num_inference_steps, timesteps, guidance_scale, negative_prompt, num_images_per_prompt)
        steps = self.iterate(*how, generator, **options)
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
        image: Any = None,
        image_embeds: Tensor | None = None,
        prior_num_inference_steps: int | None = None,
        prior_guidance_scale: float = 1.0,
        prior_latents: Tensor | None = None,
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
        """Yield one `DenoisingStep` of images per visited timestep of the decoder; the prior runs before the first.

        Args:
            image: images to vary, in the place of the prior: PIL images or tensors in [−1, 1], one for all, one for
                each prompt or one for each image. Their embeddings are e(x), the mean of q(z | x).
            image_embeds: embeddings in the place of the prior, on the encoder's scale, `[N, D]`, likewise.
            prior_num_inference_steps, prior_guidance_scale, prior_latents: the prior's chain, guidance and z_T; by
                default as many steps as `num_inference_steps`, no guidance and noise.
            batch_size: the number of images without a prompt; by default `num_images_per_prompt` of each of `image` or
                `image_embeds`, or of nothing.
            Other arguments as in a call, and in `DDPMPaperTextToImagePipeline`.
        """
        if image is not None and image_embeds is not None:
            raise ValueError("`image` and `image_embeds` must not both be given.")
        text = TextInput(prompt, negative_prompt, num_images_per_prompt, **embeddings)
        known = image_embeds if image is None else self.embed_images(image)
        if known is not None:
            self.conditioners.check({IMAGE_EMBEDS: known, "prompt": ["-"]})
            require_finite(image_embeds=known)
        count = text.count(batch_size, 1 if known is None else len(known))
        self._check_batch(count, generator)
        if known is not None:
            known = one_for_each("image", known, count, num_images_per_prompt)
        chain = Chain(num_inference_steps, timesteps, timestep_spacing, eta, solver_order)
        chain.check()
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        is_prior_guided = known is None and prior_guidance_scale != 1
        if known is None:
            drawn = self._of_prior(
                text if is_prior_guided else _without_negative(text),
                {
                    "num_inference_steps": prior_num_inference_steps or num_inference_steps,
                    "guidance_scale": prior_guidance_scale,
                },
                {"batch_size": count, "generator": generator, "latents": prior_latents},
            )
        else:
            drawn = functools.partial(known.to, self._execution_device)
        is_unused = is_prior_guided and not guidance.is_classifier_free  # the decoder refuses a negative prompt
        words = _without_negative(text) if is_unused else text
        conditioning, unconditional = self._conditioning(words, count, guidance)
        steps = self._sample(count, generator, chain, latents, conditioning, guidance, unconditional)

        def with_embeddings() -> Iterator[DenoisingStep]:
            conditioning[LABELS] = drawn().to(self.unet.dtype)  # every step reads it from here
            yield from steps

        return with_embeddings()

    def interpolate(
        self,
        image_a: Any,
        image_b: Any,
        num_interpolations: int = 5,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **options: Any,
    ) -> ImagePipelineOutput | tuple:
        """Images whose embeddings lie between those of two images, both ends included (Ramesh et al. 2022, section 3).

        The standardised embeddings are interpolated on the sphere (`slerp`); all images start from the same noise.

        Args:
            image_a, image_b: a PIL image or a tensor `[C, H, W]` in [−1, 1] each.
            num_interpolations: number of images, at least 2.
            num_inference_steps, generator, output_type, return_dict: as in a call.
            options: further arguments of a call.

        Raises:
            ValueError: as a call; also for embeddings in opposite directions.
        """
        require_count(num_interpolations=num_interpolations)
        if num_interpolations < 2:
            raise ValueError(f"`num_interpolations` must be at least 2, but is {num_interpolations}.")
        a, b = (self.encoder.standardised(self.embed_images(each)) for each in (image_a, image_b))
        if len(a) != 1 or len(b) != 1:
            raise ValueError(f"`image_a` and `image_b` must be one image each, but are {len(a)} and {len(b)}.")
        t = torch.linspace(0, 1, num_interpolations, device=a.device)
        between = slerp(a.expand(len(t), -1), b.expand(len(t), -1), t)
        if options.get("latents") is None:
            shape = (1, *self.example_shape)
            noise = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
            options["latents"] = noise.expand(len(t), -1, -1, -1)
        embeds = self.encoder.unstandardised(between)
        options |= {"num_inference_steps": num_inference_steps, "output_type": output_type}
        return self(image_embeds=embeds, generator=generator, return_dict=return_dict, **options)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        prompt: Prompts = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        *,
        timestep_spacing: str | None = None,
    ) -> Tensor:
        """x_T of images given their own embeddings, by DDIM's step without noise, as `DDPMPaperPipeline.encode`.

        With the embeddings it is the bipartite representation of Ramesh et al. (2022, section 3): a call with it as
        `latents`, the images as `image`, `eta=0` and the same chain restores them.

        Args:
            images: `[B, C, H, W]` in [−1, 1], floating.
            prompt: a prompt for all images, or a list with one per image; None for no text.
        """
        count = self._check_images_to_encode(images)
        text = TextInput.of_images(prompt, count)
        conditioning, _ = self._conditioning(text, count, Guidance())
        conditioning[LABELS] = self.embed_images(images).to(self.unet.dtype)
        return self._encode(images, Chain(num_inference_steps, timesteps, timestep_spacing), conditioning, Guidance())

    def _of_prior(self, text: TextInput, chain: Mapping[str, Any], batch: Mapping[str, Any]) -> Callable[[], Tensor]:
        """A function that draws embeddings by the prior; its arguments are checked now.

        Raises:
            ValueError: for arguments that the prior does not take.
        """
        try:
            steps = self.prior_pipeline.iterate(**vars(text), **chain, **batch)
        except ValueError as error:
            raise ValueError(f"Of the prior: {error}") from error

        def draw() -> Tensor:
            *_, last = steps
            require_finite(image_embeds=last.prev_sample)
            return self.encoder.unstandardised(last.prev_sample)

        return draw

    def _conditioning(
        self, text: TextInput, count: int, guidance: Guidance
    ) -> tuple[dict[str, Any], Callable[..., Mapping[str, Any]] | None]:
        """The decoder's arguments but for the embeddings, and what replaces all of them without conditioning.

        Raises:
            ValueError: if words or guidance do not fit the model.
        """
        guidance.check(self.unet, self.conditioners_of)
        words, unconditional = self._text_conditioning(text, count, Guidance() if text.is_empty else guidance)
        if unconditional is None:
            return words, None  # the null value of both
        conditioner = EmbeddingConditioner(self.encoder, EmbeddingSettings.of(self.unet.config).null)
        null = conditioner.null(count, self._execution_device)
        return words, lambda conditioning: {**unconditional(conditioning), **null}


def _without_negative(text: TextInput) -> TextInput:
    """The same without the negative prompt."""
    return dataclasses.replace(
        text, negative_prompt=None, negative_prompt_embeds=None, negative_prompt_attention_mask=None
    )


def check_decoder(unet: UNet2DConditionModel, image_encoder: Any, text_encoder: Any) -> None:
    """Raise ValueError unless the decoder takes embeddings of this encoder, for images of the same size, and text."""
    config, width = unet.config, image_encoder.config.projection_dim
    if not takes_embeddings(config) or config.get("projection_class_embeddings_input_dim") != width:
        raise ValueError(
            f"`unet` must be given embeddings of {width} numbers: a UNet2DConditionModel with the `class_embed_type`"
            f" 'projection' and the `projection_class_embeddings_input_dim` {width}."
        )
    size = config.sample_size
    check_image_size(image_encoder, (config.in_channels, *((size, size) if isinstance(size, int) else size)))
    if text_encoder is not None:
        check_width(text_encoder, unet)
