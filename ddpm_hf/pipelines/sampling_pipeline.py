# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What the pipelines of all families share: loading, saving, pushing, the model as a denoiser, the sampling loop."""

from __future__ import annotations

import os
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import CommitInfo
from torch import Tensor
from typing_extensions import Self

from ..conditioning.columns import Columns
from ..conditioning.conditioner import Conditioners
from ..conditioning.denoiser import ConditionalDenoiser
from ..diffusion.denoiser import Denoiser, denoiser_of
from ..diffusion.gaussian_process import check_eta
from ..diffusion.multistep import check_solver_order
from ..diffusion.numerics import require_count
from ..hub.push import push_folder
from ..hub_errors import hub_errors
from ..likelihood.batches import Batches
from ..likelihood.importance_weighting import ImportanceWeightedBits, importance_weighted_bits_per_dim
from ..likelihood.latent_ode import LatentOdeBitsPerDim
from ..likelihood.latents import LatentBitsPerDim
from ..likelihood.ode import OdeBitsPerDim, ode_bits_per_dim
from ..likelihood.variational import BitsPerDim, bits_per_dim
from ..schedulers.scheduling_ddpm_paper import DDPMPaperScheduler
from .denoising_step import DenoisingStep, stepper
from .guidance import Guidance
from .image_starts import ImageStart, mask_of_latents
from .images import check_images, require_finite_latents
from .inpainting import After, Generators, Inpainting


# Arguments that say how a model is loaded from the Hub, beside its revision.
SOURCE_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")


@dataclass(frozen=True)
class Chain:
    """Which timesteps a chain visits, and by which steps; the arguments of a pipeline's call."""

    num_inference_steps: int | None = None
    timesteps: Sequence[int] | None = None
    timestep_spacing: str | None = None
    eta: float | None = None
    solver_order: int = 1

    def check(self) -> None:
        """Raise ValueError for steps that there are not; the scheduler checks the timesteps."""
        if self.eta is not None:
            check_eta(self.eta)
        check_solver_order(self.solver_order, self.eta)


class SamplingPipeline(DiffusionPipeline):
    """A pipeline of a model `unet` and a `DDPMPaperScheduler`.

    A subclass registers the two, and says what conditions the model and which pipeline of diffusers saves it.
    """

    # --- what a subclass provides ---

    @abstractmethod
    def conditioners_of(self, unet: ModelMixin) -> Conditioners:
        """The conditioners of the pipeline's model, or of another model in its place."""

    @abstractmethod
    def to_stock(self) -> DiffusionPipeline:
        """The pipeline of diffusers that saves the same parts."""

    # --- loading and saving ---

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load from a folder or the Hub; arguments as in diffusers.

        It reads what this class and the stock pipeline of its family save. Pickled weights are read only if they
        contain nothing but tensors.

        Raises:
            HubError: an OSError, if there is no such model, or it cannot be reached or must not be read; it says what
                to do next.
        """
        name = str(pretrained_model_name_or_path)
        with hub_errors(name, kwargs.get("revision")):
            return cls._load(name, **kwargs)

    @classmethod
    def _load(cls, name: str, **kwargs: Any) -> Self:
        return super().from_pretrained(name, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        *,
        parts_there: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        """Save in stock diffusers' layout, which loads without ddpm_hf; other arguments as in diffusers.

        Arguments that stock schedulers lack are kept in their configuration, from which this class restores them; see
        `DDPMPaperScheduler.to_stock`. With `push_to_hub`, `push_folder` pushes the folder to `repo_id`, by default the
        folder's name, with `private`, `token`, `commit_message` and `create_pr`.

        Args:
            parts_there: optional parts, such as "text_encoder", that lie in the folder already and are not written.
        """
        names = ("repo_id", "private", "token", "commit_message", "create_pr")
        hub = {"repo_id": Path(save_directory).resolve().name, **{k: kwargs.pop(k) for k in names if k in kwargs}}
        new = self._stock_without((*self._named_parts, *parts_there))
        new.save_pretrained(save_directory, safe_serialization, variant, max_shard_size, **kwargs)
        self._stock_without(self._named_parts).save_config(save_directory)  # the index, with the parts that are there
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

    def _stock_without(self, parts: Collection[str]) -> DiffusionPipeline:
        """The stock pipeline with None in the place of some parts."""
        stock = self.to_stock()
        stock.register_modules(**dict.fromkeys(parts))
        return stock

    @property
    def _stock_scheduler(self) -> Any:
        """The scheduler as stock saves it; the user may have replaced ours."""
        is_ours = isinstance(self.scheduler, DDPMPaperScheduler)
        return self.scheduler.to_stock() if is_ours else self.scheduler

    @property
    def _named_parts(self) -> tuple[str, ...]:
        """Parts that are not saved, since the model's configuration names where they are from."""
        return ()

    def with_scheduler(self, scheduler: DDPMPaperScheduler) -> Self:
        """The same parts with another scheduler."""
        return self._with({"scheduler": scheduler})

    def _with(self, parts: Mapping[str, Any]) -> Self:
        """The pipeline with these parts in the place of its own."""
        return type(self)(**{**self.components, **parts})

    # --- the model ---

    @property
    def conditioners(self) -> Conditioners:
        """The conditioners of the model; an unconditional model has none."""
        return self.conditioners_of(self.unet)

    @property
    def num_channels(self) -> int:
        """The number of channels of x_0, the examples that the model denoises: those of an image, or of latents."""
        return self.unet.config.in_channels

    @property
    def example_shape(self) -> tuple[int, int, int]:
        """The shape of one x_0: (channels, height, width)."""
        size = self.unet.config.sample_size
        if size is None:
            raise ValueError("The model's `sample_size` is not set; it must be the size of its examples.")
        height, width = (size, size) if isinstance(size, int) else size
        return self.num_channels, height, width

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image: (channels, height, width); that of x_0, unless x_0 are latents."""
        return self.example_shape

    @property
    def image_channels(self) -> int:
        """The number of channels of an image."""
        return self.num_channels

    def images_of(self, x_0: Tensor) -> Tensor:
        """The images in [−1, 1] of samples x_0 `[B, …]`: x_0 itself, unless they are latents."""
        return x_0

    @property
    def drawing_columns(self) -> tuple[str, ...]:
        """The columns that a call needs for an image: those of conditioning that the pipeline does not draw itself."""
        return self.conditioners.columns

    def with_drawn_columns(self, columns: Columns, generator: Generators = None) -> Columns:
        """The columns of images to draw, with those that the pipeline draws itself."""
        return columns

    # --- the likelihood ---

    def examples_of(self, images: Tensor, generator: Generators = None) -> Tensor:
        """x_0 of images `[B, C, H, W]` in [−1, 1]: the images themselves, or latents drawn from q(z | x)."""
        return images

    def levels_of_examples(self, num_levels: int) -> int | None:
        """The scheduler's `num_levels` for images of so many levels; None if x_0 are continuous, as latents are."""
        return num_levels

    def require_likelihood(self, num_levels: int) -> None:
        """Raise ValueError if there is no likelihood of images of so many levels."""

    def measure_likelihood(
        self, batches: Iterable[Tensor], num_levels: int, generator: torch.Generator | None = None
    ) -> None:
        """Measure on training images what the likelihood needs beside the denoising errors. By default nothing.

        Args:
            batches: images `[B, C, H, W]`, levels in [−1, 1], on the pipeline's device.
            num_levels: the number of levels.
            generator: for random numbers.
        """

    def bits_per_dim(
        self, denoise: Denoiser, scheduler: DDPMPaperScheduler, batches: Batches, **options: Any
    ) -> BitsPerDim | LatentBitsPerDim:
        """The bound on batches of images; arguments as `bits_per_dim`, such as the result of `denoiser`."""
        return bits_per_dim(denoise, scheduler, batches, **options)

    def importance_weighted_bits_per_dim(
        self, denoise: Denoiser, scheduler: DDPMPaperScheduler, batches: Batches, **options: Any
    ) -> ImportanceWeightedBits:
        """The importance-weighted bound on batches of images; arguments as `importance_weighted_bits_per_dim`."""
        return importance_weighted_bits_per_dim(denoise, scheduler, batches, **options)

    def ode_bits_per_dim(
        self, denoise: Any, scheduler: DDPMPaperScheduler, batches: Batches, **options: Any
    ) -> OdeBitsPerDim | LatentOdeBitsPerDim:
        """The likelihood of batches of images by the probability-flow ODE; arguments as `ode_bits_per_dim`."""
        return ode_bits_per_dim(denoise, scheduler, batches, **options)

    # --- the denoiser ---

    def denoiser(self, guidance: Guidance | None = None) -> ConditionalDenoiser:
        """The model, guided or not, as a denoiser for `bits_per_dim`: it runs in its own dtype and returns float32.

        Raises:
            ValueError: for guidance that does not fit the model.
        """
        return (guidance or Guidance()).denoiser(
            self.unet, self.conditioners_of, lambda unet: self._taking_conditioning(denoiser_of(unet))
        )

    def _taking_conditioning(self, denoise: Denoiser) -> Denoiser:
        """The model's call as a denoiser that takes the arguments of the conditioners; override it if they differ."""
        return denoise

    # --- sampling ---

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

    def _sample(
        self,
        batch_size: int,
        generator: Generators,
        chain: Chain,
        latents: Tensor | None,
        conditioning: Mapping[str, Tensor],
        guidance: Guidance,
        unconditional: Callable[..., Mapping[str, Tensor]] | None = None,
        size: tuple[int, int] | None = None,
        inpainting: Inpainting | None = None,
    ) -> Iterator[DenoisingStep]:
        """The steps of a chain, all arguments checked.

        Args:
            unconditional: the conditioning of the unconditional prediction; the null value if not given.
            size: height and width of the images; the model's if not given.
            inpainting: what is known of x_0.
        """
        shape = (batch_size, *self.example_shape) if size is None else (batch_size, self.num_channels, *size)
        if latents is not None:
            check_images("latents", latents, shape)
        self._set_timesteps(chain)
        step = stepper(self.scheduler, chain.eta, chain.solver_order, generator)
        device, dtype = self._execution_device, self.unet.dtype  # once: diffusers searches all modules for the device

        @torch.no_grad()
        def steps() -> Iterator[DenoisingStep]:
            denoise = self._step_denoiser(guidance, device, unconditional)
            if latents is None:
                x_t = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
            else:
                x_t = latents.to(device, dtype)
            walk: list[tuple[int, After]] = [(t, _as_it_is) for t in self.scheduler.timesteps.tolist()]
            if inpainting is not None:
                walk = inpainting.walk(self.scheduler)
            for t, after in self.progress_bar(walk):
                x_s, x_0 = step(denoise(x_t, t, **conditioning), t, x_t)
                x_s, following = after(x_s)
                yield DenoisingStep(timestep=t, sample=x_t, prev_sample=x_s, pred_original_sample=x_0)
                x_t = following
            self.maybe_free_model_hooks()

        return steps()

    @torch.no_grad()
    def _started(
        self,
        start: ImageStart,
        chain: Chain,
        count: int,
        generator: Generators,
        latents: Tensor | None,
        num_images_per_prompt: int = 1,
    ) -> tuple[Chain, Tensor | None, Inpainting | None]:
        """The rest of a chain from images, x_t at its first timestep (None for noise), and what is known of x_0.

        The random numbers are drawn in the order of `StableDiffusionImg2ImgPipeline`.

        Raises:
            ValueError: for a number of images that does not fit, or a chain that cannot be inpainted.
        """
        start = start.of_each(count, num_images_per_prompt)
        if start.mask is None and latents is not None:
            raise ValueError("`latents` must be left out with an `image`.")
        if start.mask is not None and chain.solver_order != 1:
            raise ValueError(f"`solver_order` must be 1 with a `mask_image`, but is {chain.solver_order}.")
        self._set_timesteps(chain)
        timesteps, device = self.scheduler.timesteps.tolist(), self._execution_device
        rest = start.rest_of(timesteps)
        images = start.images.expand(count, -1, -1, -1) if isinstance(generator, list) else start.images
        x_0 = self.examples_of(images.to(device), generator).expand(count, -1, -1, -1)
        if latents is None and (start.mask is None or len(rest) < len(timesteps)):
            noise = randn_tensor(x_0.shape, generator=generator, device=device, dtype=x_0.dtype)
            latents = self.scheduler.add_noise(x_0, noise, torch.tensor([rest[0]], device=device))
        inpainting = None
        if start.mask is not None:
            factor = images.shape[-1] // x_0.shape[-1]
            inpainting = Inpainting(x_0, mask_of_latents(start.mask, factor).to(device), start.jumps, generator)
        return replace(chain, num_inference_steps=None, timesteps=rest, timestep_spacing=None), latents, inpainting

    def _encode(self, images: Tensor, chain: Chain, conditioning: Mapping[str, Tensor], guidance: Guidance) -> Tensor:
        """x_T by DDIM's step without noise, run backwards (Song, Meng & Ermon 2021, section 4.3)."""
        self._set_timesteps(chain)
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

    def _check_images_to_encode(self, images: Any, size: tuple[int, int] | None = None) -> int:
        """The number of images; ValueError unless they are a batch of the model's images, or of this size."""
        if not isinstance(images, Tensor) or images.ndim == 0 or len(images) == 0:
            raise ValueError(f"`images` must be a tensor of at least one image, but are {type(images).__name__}.")
        self._check_batch(len(images), None)
        shape = self.image_shape if size is None else (self.image_channels, *size)
        check_images("images", images, (len(images), *shape))
        return len(images)

    def _set_timesteps(self, chain: Chain) -> None:
        """Set the scheduler's chain: all training timesteps, or the requested ones."""
        steps = chain.num_inference_steps
        if steps is None and chain.timesteps is None:
            steps = len(self.scheduler)
        self.scheduler.set_timesteps(steps, timesteps=chain.timesteps, timestep_spacing=chain.timestep_spacing)

    def _step_denoiser(
        self,
        guidance: Guidance,
        device: torch.device,
        unconditional: Callable[..., Mapping[str, Tensor]] | None = None,
    ) -> Denoiser:
        """The guided model as a denoiser of visited timesteps, which are passed as ints.

        The scheduler reads its tables on the CPU, and the model needs timesteps on its device: they are copied once.
        """
        timesteps = self.scheduler.timesteps
        on_device = dict(zip(timesteps.tolist(), timesteps.to(device), strict=True))

        def call(unet: ModelMixin) -> Denoiser:
            def denoise(x_t: Tensor, t: int, **conditioning: Tensor) -> Tensor:
                return unet(x_t, on_device[t].expand(len(x_t)), **conditioning, return_dict=False)[0]

            return self._taking_conditioning(denoise)

        return guidance.denoiser(self.unet, self.conditioners_of, call, unconditional)


def _as_it_is(x_s: Tensor) -> tuple[Tensor, Tensor]:
    """What follows a step of a chain that goes straight to x_0: nothing."""
    return x_s, x_s
