# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperLatentPipeline`: images by a diffusion of an autoencoder's latents, with or without words or classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from typing_extensions import Self

from ..conditioning.classes import CLASSES_OF_DIT, ClassLabels, conditioners_of
from ..conditioning.conditioner import Conditioners
from ..conditioning.text import TextConditioner, TextEncoder
from ..diffusion.denoiser import Denoiser
from ..likelihood.batches import Batches
from ..likelihood.importance_weighting import ImportanceWeightedBits
from ..likelihood.latent_ode import LatentOdeBitsPerDim, latent_ode_bits_per_dim
from ..likelihood.latents import (
    LatentBitsPerDim,
    latent_bits_per_dim,
    latent_importance_weighted_bits_per_dim,
)
from ..schedulers.configuration import OWN_CONFIG_KEY
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .autoencoders import Autoencoder, with_scaling_factor
from .class_labels import class_arguments, labels_of_each, number_of_labels
from .denoising_step import DenoisingStep
from .guidance import Guidance
from .image_starts import ImageStart
from .images import LATENT, OUTPUT_TYPES, check_output_type
from .inpainting import Generators, Jumps
from .latent_parts import (
    NOT_USED,
    STOCK,
    TEXT_PARTS,
    check_fit,
    is_told_of_text,
    latent_size,
    scheduler_of_latents,
)
from .sampling_pipeline import SOURCE_ARGUMENTS, Chain
from .stock import stock_class
from .text import Prompts, TextInput, check_tokenizer
from .text_pipeline import Callback, TextPipeline


class DDPMPaperLatentPipeline(TextPipeline):
    """Images by a diffusion in the latent space of an autoencoder (Rombach et al. 2022; Peebles & Xie 2023).

    It loads what `diffusers.StableDiffusionPipeline`, `diffusers.LDMPipeline` and `diffusers.DiTPipeline` saved, from
    a folder or the Hub, and saves what they load. A safety checker and an image encoder are neither loaded nor saved.

    The latents are continuous, so that the scheduler's `num_levels` becomes None. If the model's output has twice the
    channels, the variance is learned, and it is used; `DiTPipeline` drops it. With text, the scheduler gets
    `clip_sample=False` and `steps_offset=1`, as in `StableDiffusionPipeline`.

    Args:
        vae: an `AutoencoderKL`; or a `VQModel` or an `AutoencoderTiny`, with which it samples but has no likelihood.
        unet: a `UNet2DModel`, class-conditional or not; a `UNet2DConditionModel`, which is told of text; or a
            `DiTTransformer2DModel`, which is told of classes. Its channels are those of the latents.
        scheduler (`SchedulerMixin`): a `DDPMPaperScheduler`, or any compatible one, which is converted.
        tokenizer, text_encoder: as in `DDPMPaperTextToImagePipeline`, for a model that is told of text.
        id2label: names of a `DiTTransformer2DModel`'s classes, as `DiTPipeline` takes them.

    Raises:
        ValueError: if the parts do not fit each other, the tokenizer knows no words, or the scheduler has another
            process.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"

    def __init__(
        self,
        vae: ModelMixin,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        tokenizer: Any = None,
        text_encoder: Any = None,
        id2label: Mapping[int, str] | None = None,
    ):
        super().__init__()
        check_fit(Autoencoder(vae), unet, text_encoder)
        check_tokenizer(tokenizer, text_encoder)
        scheduler = scheduler_of_latents(scheduler, unet)
        parts = {"vae": vae, "unet": unet, "scheduler": scheduler}
        self.register_modules(**parts, tokenizer=tokenizer, text_encoder=text_encoder)
        if id2label is not None:
            self.register_to_config(id2label=dict(id2label))

    # --- loading and saving ---

    @classmethod
    def _load(cls, name: str, **kwargs: Any) -> Self:
        source = {key: kwargs[key] for key in (*SOURCE_ARGUMENTS, "revision") if key in kwargs}
        index = cls.load_config(name, **source)
        family = index.get("_class_name")
        if family not in STOCK:
            raise ValueError(
                f"{name} holds a {family}, but a DDPMPaperLatentPipeline loads what {', '.join(STOCK)} saved."
            )
        names = STOCK[family]
        given = {names.get(part, part): value for part, value in kwargs.items()}
        if family == "StableDiffusionPipeline":
            absent = [part for part in TEXT_PARTS if not (index.get(part) or [None])[0]]
            given = dict.fromkeys((*NOT_USED, *absent)) | given | {"requires_safety_checker": False}
        pipeline = cls.from_stock(stock_class(family).from_pretrained(name, **given), index.get("id2label"))
        return pipeline if "text_encoder" in kwargs else pipeline._with_named_encoder(kwargs)

    @classmethod
    def from_stock(cls, pipeline: DiffusionPipeline, id2label: Mapping[int, str] | None = None) -> Self:
        """The pipeline with the parts of a `StableDiffusionPipeline`, an `LDMPipeline` or a `DiTPipeline`.

        Args:
            pipeline: the stock pipeline.
            id2label: names of the classes of a `DiTPipeline`.

        Raises:
            ValueError: for a pipeline of another class.
        """
        names = STOCK.get(type(pipeline).__name__)
        if names is None:
            raise ValueError(f"`pipeline` must be a {', '.join(STOCK)}, but is a {type(pipeline).__name__}.")
        return cls(**{ours: getattr(pipeline, theirs) for ours, theirs in names.items()}, id2label=id2label)

    def to_stock(self) -> DiffusionPipeline:
        """The stock pipeline with the same parts, by the kind of the model.

        Stock uses the autoencoder's `scaling_factor` alone: other scales become part of its weights, see
        `with_scaling_factor`. `DiTPipeline` drops a learned variance, so that its scheduler has a fixed one.
        """
        family = self._stock_family
        parts = {theirs: getattr(self, ours) for ours, theirs in STOCK[family].items()}
        parts |= {STOCK[family]["vae"]: with_scaling_factor(self.vae), "scheduler": self._stock_scheduler}
        if family == "StableDiffusionPipeline":
            parts |= {**dict.fromkeys(NOT_USED), "requires_safety_checker": False}
        stock = stock_class(family)(**parts)
        if self.config.get("id2label"):
            stock.register_to_config(id2label=self.config["id2label"])
        return stock

    @property
    def _stock_family(self) -> str:
        """The stock pipeline that calls such a model."""
        if is_told_of_text(self.unet):
            return "StableDiffusionPipeline"
        return "DiTPipeline" if CLASSES_OF_DIT in self.unet.config else "LDMPipeline"

    @property
    def _stock_scheduler(self) -> Any:
        stock = super()._stock_scheduler
        if self._stock_family == "DiTPipeline" and stock.config.variance_type == "learned_range":
            stock.register_to_config(variance_type="fixed_small")
        return stock

    def _with(self, parts: Mapping[str, Any]) -> Self:
        return super()._with({"id2label": self.config.get("id2label"), **parts})

    # --- the model ---

    @property
    def autoencoder(self) -> Autoencoder:
        """The autoencoder, with shifted and scaled latents."""
        return Autoencoder(self.vae)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image: (channels, height, width)."""
        return self.autoencoder.image_shape(self.example_shape)

    @property
    def image_channels(self) -> int:
        """The number of channels of an image."""
        return self.autoencoder.image_channels

    @torch.no_grad()
    def images_of(self, x_0: Tensor) -> Tensor:
        """The images about in [−1, 1] of latents `[B, C, h, w]`, by the decoder."""
        images = self.autoencoder.decode(x_0)
        self.maybe_free_model_hooks()
        return images

    def conditioners_of(self, unet: ModelMixin) -> Conditioners:
        """The conditioners of the pipeline's model, or of another model in its place."""
        return Conditioners((self._text_of(unet),)) if is_told_of_text(unet) else conditioners_of(unet.config)

    def _text_of(self, unet: ModelMixin, embeddings: Tensor | None = None) -> TextConditioner:
        """As in other pipelines; a model of stock is told of text as `StableDiffusionPipeline` tells it.

        The number of tokens is the tokenizer's, and the encoder is not told of padding unless its configuration asks.
        """
        conditioner = super()._text_of(unet, embeddings)
        if OWN_CONFIG_KEY in unet.config or self.tokenizer is None or self.text_encoder is None:
            return conditioner
        length = self.tokenizer.model_max_length if embeddings is None else embeddings.shape[1]
        masks = bool(getattr(self.text_encoder.config, "use_attention_mask", False))
        encoder = TextEncoder(self.tokenizer, self.text_encoder, length, masks)
        return TextConditioner(encoder, replace(conditioner.settings, max_length=length))

    # --- the likelihood ---

    @torch.no_grad()
    def examples_of(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Latents of images `[B, C, H, W]` in [−1, 1], on their device: z ~ q(z | x), if there is a posterior."""
        return self._latents_of(images, generator)

    def levels_of_examples(self, num_levels: int) -> None:
        """None, for latents are continuous."""

    def require_likelihood(self, num_levels: int) -> None:
        """Raise ValueError if the autoencoder has no p(x | z), or one of another number of levels."""
        known = self.autoencoder.num_levels
        if known != num_levels:
            raise ValueError(
                f"The autoencoder's p(x | z) is of images of {known} levels, but these have {num_levels}; measure it"
                " on such images, or pass others."
            )

    def measure_likelihood(
        self, batches: Iterable[Tensor], num_levels: int, generator: torch.Generator | None = None
    ) -> None:
        """Give the autoencoder the scale of p(x | z) that fits these images best, if it has not learned one.

        It is recorded in the autoencoder's configuration; see `measured_decoder_scale`. An autoencoder without a
        posterior gets none. Arguments as in the base class.

        Raises:
            ValueError: for an autoencoder with a p(x | z) of another number of levels.
        """
        if not self.autoencoder.has_posterior:
            return
        self.autoencoder.measure_law(batches, num_levels, generator)
        self.require_likelihood(num_levels)

    def bits_per_dim(
        self, denoise: Denoiser, scheduler: DDPMPaperScheduler, batches: Batches, **options: Any
    ) -> LatentBitsPerDim:
        """`latent_bits_per_dim` of images, with the autoencoder."""
        return latent_bits_per_dim(denoise, scheduler, batches, self.autoencoder, **options)

    def importance_weighted_bits_per_dim(
        self, denoise: Denoiser, scheduler: DDPMPaperScheduler, batches: Batches, **options: Any
    ) -> ImportanceWeightedBits:
        """`latent_importance_weighted_bits_per_dim` of images, with the autoencoder."""
        return latent_importance_weighted_bits_per_dim(denoise, scheduler, batches, self.autoencoder, **options)

    def ode_bits_per_dim(
        self, denoise: Any, scheduler: DDPMPaperScheduler, batches: Batches, **options: Any
    ) -> LatentOdeBitsPerDim:
        """`latent_ode_bits_per_dim` of images, with the autoencoder."""
        return latent_ode_bits_per_dim(denoise, scheduler, batches, self.autoencoder, **options)

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
        class_labels: ClassLabels = None,
        batch_size: int | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        height: int | None = None,
        width: int | None = None,
        timestep_spacing: str | None = None,
        eta: float | None = None,
        solver_order: int = 1,
        latents: Tensor | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_model: ModelMixin | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        callback: Callback | None = None,
        callback_steps: int = 1,
    ) -> ImagePipelineOutput | tuple:
        """Draw images.

        Args:
            prompt, negative_prompt, num_images_per_prompt, prompt_embeds, negative_prompt_embeds,
                prompt_attention_mask, negative_prompt_attention_mask: as in `DDPMPaperTextToImagePipeline`, for a
                model that is told of text.
            class_labels: as in `DDPMPaperPipeline`, for a class-conditional model.
            batch_size: the number of images without a prompt; by default `num_images_per_prompt` of each of
                `class_labels` or `image`, or of nothing.
            image: images to start from, in the place of noise (SDEdit, Meng et al. 2022): PIL images or tensors in
                [−1, 1], one for all, one for each prompt or one for each image. They get the noise of a later timestep
                of the chain, and only the timesteps from there are visited. With a `mask_image`, what is kept of them.
            mask_image: white, or at least 0.5, where the `image` is drawn anew (RePaint, Lugmayr et al. 2022): PIL
                images, or tensors `[H, W]`, `[B, H, W]` or `[B, 1, H, W]`. All other pixels are those of `image`.
            strength: the share of the chain's timesteps that an `image` goes through, in (0, 1]; 0.8 if not given,
                and all of them with a `mask_image`.
            jump_length, jump_n_sample: with a `mask_image`, as in diffusers' `RePaintPipeline`: the chain jumps back
                by so many steps, every so many steps, until it has taken them this often. 1 for no jumps.
            height, width: of the images, in pixels; by default the model's. A `DiTTransformer2DModel` takes no other.
            num_inference_steps, timesteps, timestep_spacing, eta, solver_order, generator, return_dict: as in
                `DDPMPaperPipeline`.
            latents: x_T, `[B, c, h, w]`, such as the result of `encode`; noise if not given.
            output_type: "pil", "np" or "pt" as in `DDPMPaperPipeline`; or "latent", the latents before decoding.
            guidance_scale, guidance_interval, guidance_rescale, guidance_model: see `Guidance`. A scale other than 1
                needs a prompt or `class_labels`, and a model that was also trained without them.
            callback: called with the number of the step, the timestep and x_s after every `callback_steps` steps.

        Raises:
            ValueError: for arguments out of range, before any image is drawn; and for images that are not finite.
        """
        check_output_type(output_type, self.image_channels, (*OUTPUT_TYPES, LATENT))
        steps = self.iterate(
            prompt,
            num_inference_steps,
            timesteps,
            guidance_scale,
            negative_prompt,
            num_images_per_prompt,
            generator,
            class_labels=class_labels,
            batch_size=batch_size,
            image=image,
            mask_image=mask_image,
            strength=strength,
            jump_length=jump_length,
            jump_n_sample=jump_n_sample,
            height=height,
            width=width,
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
        start = ImageStart.of(image, mask_image, strength, Jumps(), self.image_channels)
        return self._result(steps, output_type, return_dict, callback, callback_steps, start)

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
        class_labels: ClassLabels = None,
        batch_size: int | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        height: int | None = None,
        width: int | None = None,
        timestep_spacing: str | None = None,
        eta: float | None = None,
        solver_order: int = 1,
        latents: Tensor | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_model: ModelMixin | None = None,
        **embeddings: Tensor | None,
    ) -> Iterator[DenoisingStep]:
        """Yield one `DenoisingStep` of latents per visited timestep. Arguments and errors as in a call.

        `images_of` decodes a step's latents.
        """
        text = TextInput(prompt, negative_prompt, num_images_per_prompt, **embeddings)
        jumps = Jumps(jump_length, jump_n_sample)
        start = ImageStart.of(image, mask_image, strength, jumps, self.image_channels)
        count = text.count(batch_size, number_of_labels(class_labels) or (1 if start is None else len(start.images)))
        class_labels = labels_of_each(class_labels, count, num_images_per_prompt)
        self._check_batch(count, generator)
        chain = Chain(num_inference_steps, timesteps, timestep_spacing, eta, solver_order)
        chain.check()
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        size = latent_size(self, height, width)
        conditioning, unconditional = self._conditioning(text, class_labels, count, guidance)
        if start is None:
            return self._sample(count, generator, chain, latents, conditioning, guidance, unconditional, size)
        if size is not None:
            raise ValueError("`height` and `width` must be left out with an `image`.")
        size = latent_size(self, *start.images.shape[2:])
        chain, latents, inpainting = self._started(start, chain, count, generator, latents, num_images_per_prompt)
        return self._sample(count, generator, chain, latents, conditioning, guidance, unconditional, size, inpainting)

    def _latents_of(self, images: Tensor, generator: Generators) -> Tensor:
        """z of images: drawn from q(z | x), if there is a posterior."""
        if not self.autoencoder.has_posterior:
            return self.autoencoder.encode(images)
        q = self.autoencoder.posterior(images)
        return q.sample(randn_tensor(q.mean.shape, generator=generator, device=q.mean.device, dtype=q.mean.dtype))

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        prompt: Prompts = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        *,
        class_labels: ClassLabels = None,
        timestep_spacing: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_model: ModelMixin | None = None,
    ) -> Tensor:
        """The noise x_T of images' latents, by DDIM's step without noise, as `DDPMPaperPipeline.encode`.

        A call with it as `latents`, `eta=0` and the same chain restores the images, as far as the autoencoder does.
        The latents are the means of q(z | x).

        Args:
            images: `[B, C, H, W]` in [−1, 1], floating.
            prompt: a prompt for all images, or a list with one per image; None for no text.
            num_inference_steps, timesteps, class_labels, timestep_spacing, guidance_scale, guidance_interval,
                guidance_rescale, guidance_model: as in a call.
        """
        count = self._check_images_to_encode(images)
        text = TextInput.of_images(prompt, count)
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        conditioning, _ = self._conditioning(text, class_labels, count, guidance)
        latents = self.autoencoder.encode(images.to(self._execution_device))
        return self._encode(latents, Chain(num_inference_steps, timesteps, timestep_spacing), conditioning, guidance)

    def _conditioning(
        self, text: TextInput, class_labels: ClassLabels, count: int, guidance: Guidance
    ) -> tuple[dict[str, Tensor], Callable[..., Mapping[str, Tensor]] | None]:
        """The model's further arguments, and what replaces them in the unconditional prediction; None for the null.

        Raises:
            ValueError: for words or classes that do not fit the model.
        """
        if is_told_of_text(self.unet):
            if class_labels is not None:
                raise ValueError("`class_labels` must be None: the model is told of text.")
            return self._text_conditioning(text, count, guidance)
        if not text.is_empty or text.negative_prompt is not None or text.negative_prompt_embeds is not None:
            raise ValueError("`prompt` and `negative_prompt` must be None: the model is not told of text.")
        device = self._execution_device
        return class_arguments(self.unet, self.conditioners_of, class_labels, count, guidance, device), None
