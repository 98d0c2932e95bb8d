# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperPipeline`: images from a `UNet2DModel`, class-conditional or not, and a `DDPMPaperScheduler`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import DDPMPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor
from typing_extensions import Self

from ..conditioning.classes import ClassLabels, conditioners_of
from ..conditioning.conditioner import Conditioners
from ..hub.push import lacks_index
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .class_labels import class_arguments
from .denoising_step import DenoisingStep
from .guidance import Guidance
from .image_starts import ImageStart
from .images import check_images, check_output_type, require_finite_images, to_output
from .inpainting import Generators, Jumps
from .models import check_unet
from .sampling_pipeline import SOURCE_ARGUMENTS, Chain, SamplingPipeline
from .stock import own_scheduler


class DDPMPaperPipeline(SamplingPipeline):
    """Image generation by ancestral sampling (Ho et al. 2020, Algorithm 2) or DDIM (Song, Meng & Ermon 2021, Eq. 12).

    It loads what `diffusers.DDPMPipeline` saved, from a folder or the Hub, gives the same images for the same
    generator, and saves what `diffusers.DDPMPipeline` loads. Unlike stock's pipeline it also samples class-conditional
    models.

    Args:
        unet (`UNet2DModel`): a model with the scheduler's `prediction_type`, with twice the channels if it learns the
            variance; class-conditional if it has `num_class_embeds`.
        scheduler (`SchedulerMixin`): a `DDPMPaperScheduler`, or any compatible one, which is converted.

    Raises:
        ValueError: if the model needs more arguments than a sample and a timestep, or the scheduler has another
            process.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: SchedulerMixin):
        super().__init__()
        if type(self) is DDPMPaperPipeline:  # a subclass may call its model with more arguments
            check_unet(unet)
        self.register_modules(unet=unet, scheduler=own_scheduler(scheduler))

    # --- loading and saving ---

    @classmethod
    def _load(cls, name: str, **kwargs: Any) -> Self:
        """Also load the flat layout of early models, with weights and configurations in one folder."""
        try:
            return super()._load(name, **kwargs)
        except (OSError, EntryNotFoundError) as error:
            if not lacks_index(error):
                raise
        return cls._from_flat(name, **kwargs)

    @classmethod
    def _from_flat(cls, name: str, **kwargs: Any) -> Self:
        """Load a pipeline without an index, with config.json, weights and scheduler_config.json at its root."""
        parts = {part: kwargs.pop(part) for part in ("unet", "scheduler") if part in kwargs}
        if "scheduler" not in parts:
            where = {key: kwargs[key] for key in (*SOURCE_ARGUMENTS, "revision") if key in kwargs}
            parts["scheduler"] = DDPMPaperScheduler.from_pretrained(name, **where)
        if "unet" not in parts:
            parts["unet"] = UNet2DModel.from_pretrained(name, **kwargs)
        return cls(**parts)

    def to_stock(self) -> DDPMPipeline:
        """The `DDPMPipeline` with the same parts."""
        return DDPMPipeline(unet=self.unet, scheduler=self._stock_scheduler)

    # --- the model ---

    def conditioners_of(self, unet: UNet2DModel) -> Conditioners:
        """The conditioners of the pipeline's model, or of another model in its place."""
        return conditioners_of(unet.config)

    # --- sampling ---

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        num_inference_steps: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        timesteps: Sequence[int] | None = None,
        class_labels: ClassLabels = None,
        timestep_spacing: str | None = None,
        eta: float | None = None,
        latents: Tensor | None = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_model: UNet2DModel | None = None,
        solver_order: int = 1,
        *,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        jump_length: int = 10,
        jump_n_sample: int = 10,
    ) -> ImagePipelineOutput | tuple:
        """Draw images.

        Args:
            batch_size: number of images, ≥ 1.
            generator: one for the batch, as in stock; or a list with one per image, so that each image depends only on
                its own generator and not on the rest of the batch.
            num_inference_steps: K in 1 … T; all training timesteps if not given.
            output_type: "pil", a list of images (mode "L" for one channel, "RGB" for three, "RGBA" for four); "np",
                an array `[B, H, W, C]`, or "pt", a tensor `[B, C, H, W]`, both in [0, 1], of any number of channels.
            return_dict: whether to return an `ImagePipelineOutput` or a tuple.
            timesteps: the timesteps to visit, descending, instead of `num_inference_steps`.
            class_labels: for class-conditional models only: the class of all images, counted from 0, or a list or
                tensor with one class per image. None draws images without a class if the model has a null class.
            timestep_spacing: how `num_inference_steps` are spaced, such as "optimal"; see
                `DDPMPaperScheduler.set_timesteps`.
            eta: DDIM's η in [0, 1], which replaces the scheduler's variance (Song, Meng & Ermon 2021, Eq. 16); 0 adds
                no noise, so that `latents` determine the images.
            latents: x_T, `[B, C, H, W]`, such as the result of `encode`; noise if not given.
            guidance_scale, guidance_interval, guidance_rescale, guidance_model: see `Guidance`. A scale other than 1
                needs a model with a null class and `class_labels`, or a `guidance_model`.
            solver_order: 1, or 2 for DPM-Solver++(2M) (Lu et al. 2022), which needs `eta` 0: DDIM's chain without
                noise, by steps of second order, each with one call of the model.
            image: images to start from, in the place of noise (SDEdit, Meng et al. 2022): PIL images or tensors in
                [−1, 1], one for all images or one for each. They get the noise of a later timestep of the chain, and
                only the timesteps from there are visited. With a `mask_image`, what is kept of them.
            mask_image: white, or at least 0.5, where the `image` is drawn anew (RePaint, Lugmayr et al. 2022): PIL
                images, or tensors `[H, W]`, `[B, H, W]` or `[B, 1, H, W]`. All other pixels are those of `image`.
            strength: the share of the chain's timesteps that an `image` goes through, in (0, 1]; 0.8 if not given,
                and all of them with a `mask_image`.
            jump_length, jump_n_sample: with a `mask_image`, as in diffusers' `RePaintPipeline`: the chain jumps back
                by so many steps, every so many steps, until it has taken them this often. 1 for no jumps.

        Raises:
            ValueError: for arguments out of range, before any image is drawn; and for images that are not finite.
        """
        check_output_type(output_type, self.unet.config.in_channels)
        guidance = (guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        chain = (num_inference_steps, timesteps, class_labels, timestep_spacing, eta, latents)
        steps = self.iterate(
            batch_size,
            generator,
            *chain,
            *guidance,
            solver_order,
            image=image,
            mask_image=mask_image,
            strength=strength,
            jump_length=jump_length,
            jump_n_sample=jump_n_sample,
        )
        for step in steps:
            last = step
        require_finite_images(last.prev_sample, last.sample, last.timestep, self.unet.config)
        images = to_output(last.prev_sample, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def iterate(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        class_labels: ClassLabels = None,
        timestep_spacing: str | None = None,
        eta: float | None = None,
        latents: Tensor | None = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_model: UNet2DModel | None = None,
        solver_order: int = 1,
        *,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        jump_length: int = 10,
        jump_n_sample: int = 10,
    ) -> Iterator[DenoisingStep]:
        """Yield one `DenoisingStep` per visited timestep while sampling. Arguments and errors as in a call."""
        self._check_batch(batch_size, generator)
        chain = Chain(num_inference_steps, timesteps, timestep_spacing, eta, solver_order)
        chain.check()
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        conditioning = self._conditioning(class_labels, batch_size, guidance)
        jumps = Jumps(jump_length, jump_n_sample)
        start = ImageStart.of(image, mask_image, strength, jumps, self.image_channels)
        if start is None:
            return self._sample(batch_size, generator, chain, latents, conditioning, guidance)
        check_images("image", start.images, (len(start.images), *self.example_shape))
        chain, latents, inpainting = self._started(start, chain, batch_size, generator, latents)
        return self._sample(batch_size, generator, chain, latents, conditioning, guidance, inpainting=inpainting)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        class_labels: ClassLabels = None,
        timestep_spacing: str | None = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_model: UNet2DModel | None = None,
    ) -> Tensor:
        """The latents of images; a call with `latents`, `eta=0` and the same chain restores the images.

        It runs DDIM's step without noise backwards (Song, Meng & Ermon 2021, section 4.3), with the images as samples
        at the last visited timestep. The reconstruction error falls with the number of steps.

        Args:
            images: `[B, C, H, W]` in [−1, 1], floating.
            num_inference_steps, timesteps, class_labels, timestep_spacing, guidance_scale, guidance_interval,
                guidance_rescale, guidance_model: as in a call.

        Returns:
            x_T, like `images` on the pipeline's device, in the model's dtype.

        Raises:
            ValueError: as in a call.
        """
        batch_size = self._check_images_to_encode(images)
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        conditioning = self._conditioning(class_labels, batch_size, guidance)
        return self._encode(images, Chain(num_inference_steps, timesteps, timestep_spacing), conditioning, guidance)

    def _conditioning(self, class_labels: ClassLabels, batch_size: int, guidance: Guidance) -> dict[str, Tensor]:
        """The model's further arguments; ValueError if labels or guidance do not fit the model."""
        device = self._execution_device
        return class_arguments(self.unet, self.conditioners_of, class_labels, batch_size, guidance, device)
