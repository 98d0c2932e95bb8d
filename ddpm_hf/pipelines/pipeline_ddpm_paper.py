# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperPipeline`: images from a `UNet2DModel`, class-conditional or not, and a `DDPMPaperScheduler`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import CommitInfo
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor
from typing_extensions import Self

from ..conditioning.classes import ClassLabels, conditioners_of, requested_classes
from ..conditioning.conditioner import Conditioners
from ..conditioning.denoiser import ConditionalDenoiser
from ..diffusion.denoiser import Denoiser
from ..diffusion.gaussian_process import check_eta
from ..diffusion.multistep import check_solver_order
from ..diffusion.numerics import require_count
from ..hub.push import lacks_index, push_folder
from ..hub_errors import hub_errors
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .denoising_step import DenoisingStep, Step, stepper
from .guidance import Guidance
from .images import check_images, check_output_type, require_finite_images, require_finite_latents, to_output
from .models import check_unet


Generators = torch.Generator | list[torch.Generator] | None


class DDPMPaperPipeline(DiffusionPipeline):
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
        if not isinstance(scheduler, DDPMPaperScheduler):
            scheduler = DDPMPaperScheduler.from_scheduler(scheduler)
        self.register_modules(unet=unet, scheduler=scheduler)

    # --- loading and saving ---

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load from a folder or the Hub; arguments as in diffusers.

        It reads what this class and `diffusers.DDPMPipeline` save, and also the flat layout of early models, with
        weights and configurations in one folder. Pickled weights are read only if they contain nothing but tensors.

        Raises:
            HubError: an OSError, if there is no such model, or it cannot be reached or must not be read; it says what
                to do next.
        """
        name = str(pretrained_model_name_or_path)
        with hub_errors(name, kwargs.get("revision")):
            try:
                return super().from_pretrained(name, **kwargs)
            except (OSError, EntryNotFoundError) as error:
                if not lacks_index(error):
                    raise
            return cls._from_flat(name, **kwargs)

    @classmethod
    def _from_flat(cls, name: str, **kwargs: Any) -> Self:
        """Load a pipeline without an index, with config.json, weights and scheduler_config.json at its root."""
        parts = {part: kwargs.pop(part) for part in ("unet", "scheduler") if part in kwargs}
        if "scheduler" not in parts:
            where = {key: kwargs[key] for key in _SOURCE_ARGUMENTS if key in kwargs}
            parts["scheduler"] = DDPMPaperScheduler.from_pretrained(name, **where)
        if "unet" not in parts:
            parts["unet"] = UNet2DModel.from_pretrained(name, **kwargs)
        return cls(**parts)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save in stock diffusers' layout, which loads without ddpm_hf; arguments as in diffusers.

        Arguments that stock schedulers lack are kept in their configuration, from which this class restores them; see
        `DDPMPaperScheduler.to_stock`. With `push_to_hub`, `push_folder` pushes the folder to `repo_id`, by default the
        folder's name, with `private`, `token`, `commit_message` and `create_pr`.
        """
        names = ("repo_id", "private", "token", "commit_message", "create_pr")
        hub = {"repo_id": Path(save_directory).resolve().name, **{k: kwargs.pop(k) for k in names if k in kwargs}}
        is_ours = isinstance(self.scheduler, DDPMPaperScheduler)  # the user may have replaced it
        stock = DDPMPipeline(unet=self.unet, scheduler=self.scheduler.to_stock() if is_ours else self.scheduler)
        stock.save_pretrained(save_directory, safe_serialization, variant, max_shard_size, **kwargs)
        if push_to_hub:
            push_folder(save_directory, **hub)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> CommitInfo:
        """Push the pipeline with a model card, in one commit; arguments as in diffusers, errors as `push_folder`.

        To push a folder that examples/train.py wrote, with its samples and figures, use `push_folder`.

        Raises:
            ValueError: for `safe_serialization=False`: only safetensors are pushed.
        """
        if not safe_serialization:
            raise ValueError("`safe_serialization` must be True: only safetensors are pushed to the Hub.")
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, variant=variant)
            return push_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                commit_message=commit_message,
                create_pr=create_pr,
                path_in_repo=subfolder or "",
            )

    # --- the model ---

    @property
    def conditioners(self) -> Conditioners:
        """The conditioners of the model; an unconditional model has none."""
        return conditioners_of(self.unet.config)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one image: (channels, height, width)."""
        size = self.unet.config.sample_size
        if size is None:
            raise ValueError(
                "The model's `sample_size` is not set; it must be the size of the images, [height, width]."
            )
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    def denoiser(self, guidance: Guidance | None = None) -> ConditionalDenoiser:
        """The model, guided or not, as a denoiser for `bits_per_dim`: it runs in its own dtype and returns float32.

        Raises:
            ValueError: for guidance that does not fit the model.
        """
        return (guidance or Guidance()).denoiser(self.unet)

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

        Raises:
            ValueError: for arguments out of range, before any image is drawn; and for images that are not finite.
        """
        check_output_type(output_type, self.unet.config.in_channels)
        guidance = (guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        chain = (num_inference_steps, timesteps, class_labels, timestep_spacing, eta, latents)
        for step in self.iterate(batch_size, generator, *chain, *guidance, solver_order):
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
    ) -> Iterator[DenoisingStep]:
        """Yield one `DenoisingStep` per visited timestep while sampling. Arguments and errors as in a call."""
        self._check_batch(batch_size, generator)
        if eta is not None:
            check_eta(eta)
        check_solver_order(solver_order, eta)
        shape = (batch_size, *self.example_shape)
        if latents is not None:
            check_images("latents", latents, shape)
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        conditioning = self._conditioning(class_labels, batch_size, guidance)
        self._set_timesteps(num_inference_steps, timesteps, timestep_spacing)
        step = stepper(self.scheduler, eta, solver_order, generator)
        return self._denoise(shape, generator, conditioning, step, latents, guidance)

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
        if not isinstance(images, Tensor) or images.ndim == 0 or len(images) == 0:
            raise ValueError(f"`images` must be a tensor of at least one image, but are {type(images).__name__}.")
        batch_size = len(images)
        self._check_batch(batch_size, None)
        check_images("images", images, (batch_size, *self.example_shape))
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale, guidance_model)
        conditioning = self._conditioning(class_labels, batch_size, guidance)
        self._set_timesteps(num_inference_steps, timesteps, timestep_spacing)
        device, dtype = self._execution_device, self.unet.dtype
        scheduler, visited = self.scheduler, self.scheduler.timesteps.flip(0)
        denoise = self._step_denoiser(guidance, device)
        alpha, _ = scheduler.schedule.marginal_coefficients(int(visited[0]) + 1)
        x = images.to(device, dtype) * float(alpha)
        for t in self.progress_bar(visited[:-1].tolist()):
            x = scheduler.encode_step(denoise(x, t, **conditioning), t, x)
        self.maybe_free_model_hooks()
        require_finite_latents(x, int(visited[0]), self.unet.config)
        return x

    def _check_batch(self, batch_size: Any, generator: Any) -> None:
        """Raise ValueError if the batch size, the scheduler or the generators are invalid."""
        require_count(batch_size=batch_size)
        if not isinstance(self.scheduler, DDPMPaperScheduler):
            raise ValueError(
                f"`scheduler` must be a DDPMPaperScheduler, but is a {type(self.scheduler).__name__};"
                " DDPMPaperScheduler.from_scheduler(scheduler) converts it."
            )
        generators = generator if isinstance(generator, list) else [] if generator is None else [generator]
        if not all(isinstance(each, torch.Generator) for each in generators):
            raise ValueError(f"`generator` must be a torch.Generator, a list of them, or None, but is {generator!r}.")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(
                f"`generator` must hold one generator per image: {batch_size}, but there are {len(generator)}."
            )

    def _set_timesteps(
        self, num_inference_steps: int | None, timesteps: Sequence[int] | None, timestep_spacing: str | None
    ) -> None:
        """Set the scheduler's chain: all training timesteps, or the requested ones."""
        if num_inference_steps is None and timesteps is None:
            num_inference_steps = len(self.scheduler)
        self.scheduler.set_timesteps(num_inference_steps, timesteps=timesteps, timestep_spacing=timestep_spacing)

    @torch.no_grad()
    def _denoise(
        self,
        shape: tuple[int, ...],
        generator: Generators,
        conditioning: dict[str, Tensor],
        step: Step,
        latents: Tensor | None,
        guidance: Guidance,
    ) -> Iterator[DenoisingStep]:
        device, dtype = self._execution_device, self.unet.dtype  # once: diffusers searches all modules for the device
        denoise = self._step_denoiser(guidance, device)
        if latents is None:
            x_t = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        else:
            x_t = latents.to(device, dtype)
        for t in self.progress_bar(self.scheduler.timesteps.tolist()):
            x_s, x_0 = step(denoise(x_t, t, **conditioning), t, x_t)
            yield DenoisingStep(timestep=t, sample=x_t, prev_sample=x_s, pred_original_sample=x_0)
            x_t = x_s
        self.maybe_free_model_hooks()

    def _step_denoiser(self, guidance: Guidance, device: torch.device) -> Denoiser:
        """The guided model as a denoiser of visited timesteps, which are passed as ints.

        The scheduler reads its tables on the CPU, and the model needs timesteps on its device: they are copied once.
        """
        timesteps = self.scheduler.timesteps
        on_device = dict(zip(timesteps.tolist(), timesteps.to(device), strict=True))

        def call(unet: UNet2DModel) -> Denoiser:
            return lambda x_t, t, **conditioning: unet(x_t, on_device[t], **conditioning, return_dict=False)[0]

        return guidance.denoiser(self.unet, call)

    def _conditioning(self, class_labels: ClassLabels, batch_size: int, guidance: Guidance) -> dict[str, Tensor]:
        """The model's further arguments; ValueError if labels or guidance do not fit the model."""
        guidance.check(self.unet)
        columns = requested_classes(self.unet.config, class_labels, batch_size)
        if columns is None and guidance.is_classifier_free:
            raise ValueError(
                f"`guidance_scale` must be 1 for images of no class, but is {guidance.guidance_scale}; pass"
                " `class_labels`."
            )
        conditioners = self.conditioners
        if not conditioners.members:
            return {}
        device = self._execution_device
        return conditioners.null(batch_size, device) if columns is None else conditioners.make(columns, device)


# Arguments that say where a model is loaded from.
_SOURCE_ARGUMENTS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision")
