# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""`DDPMPaperPipeline`: images from a `UNet2DModel`, class-conditional or not, and a `DDPMPaperScheduler`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMPipeline, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.configuration_utils import FrozenDict
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import CommitInfo
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image
from torch import Tensor
from typing_extensions import Self

from .finiteness import NO_TIMESTEP_0, require_finite
from .gaussian_process import check_eta, unknown
from .hub import INDEX, push_folder
from .hub_errors import hub_errors
from .model_card import embeds_classes, number_of_classes
from .numerics import require_count, require_samples
from .scheduling_ddpm_paper import DDPMPaperScheduler


OUTPUT_TYPES = ("pil", "np", "pt")
PIL_CHANNELS = (1, 3, 4)  # modes "L", "RGB" and "RGBA"

Generators = torch.Generator | list[torch.Generator] | None
ClassLabels = int | Sequence[int] | Tensor | None


@dataclass(frozen=True)
class DenoisingStep:
    """One reverse step of a batch, as `DDPMPaperPipeline.iterate` yields it.

    Attributes:
        timestep: the diffusers timestep that the step starts from.
        sample: x_t, `[B, C, H, W]`; noise at the first step.
        prev_sample: x_s, what the step arrives at; the image in [−1, 1] at the last step.
        pred_original_sample: x̂_0, the image that the model sees in x_t.
    """

    timestep: int
    sample: Tensor
    prev_sample: Tensor
    pred_original_sample: Tensor


class DDPMPaperPipeline(DiffusionPipeline):
    """Image generation by ancestral sampling (Ho et al. 2020, Algorithm 2), or by DDIM (Song et al. 2021).

    Loads what `diffusers.DDPMPipeline` saved, from a folder or the Hub, and gives the same images for the same
    generator; saves what `diffusers.DDPMPipeline` loads. A class-conditional model is sampled by class, which stock's
    pipeline cannot.

    Args:
        unet (`UNet2DModel`): predicts what the scheduler's `prediction_type` says, with twice the channels where it
            learns the variance; class-conditional with `num_class_embeds`.
        scheduler (`SchedulerMixin`): a `DDPMPaperScheduler`, or any compatible one, which is converted.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: SchedulerMixin):
        super().__init__()
        if not isinstance(scheduler, DDPMPaperScheduler):
            scheduler = DDPMPaperScheduler.from_scheduler(scheduler)
        self.register_modules(unet=unet, scheduler=scheduler)

    # --- loading and saving ---

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load from a folder or the Hub; arguments as in diffusers.

        Reads what this class and `diffusers.DDPMPipeline` save, and the flat layout of early models too, whose
        weights and configurations lie side by side. Pickled weights are read only as far as they are tensors.

        Raises:
            HubError: an OSError, if there is no such model, or it cannot be reached or must not be read, with the
                next thing to do.
        """
        name = str(pretrained_model_name_or_path)
        with hub_errors(name, kwargs.get("revision")):
            try:
                return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
            except (OSError, EntryNotFoundError) as error:
                if not _lacks_index(error):
                    raise
            return cls._from_flat(name, **kwargs)

    @classmethod
    def _from_flat(cls, name: str, **kwargs: Any) -> Self:
        """A pipeline without an index: config.json, weights and scheduler_config.json at its root."""
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
        """Save in stock diffusers' own layout, which needs no ddpm_hf to be read; arguments as in diffusers.

        What stock schedulers have no argument for travels in their configuration and is found again by this class;
        see `DDPMPaperScheduler.to_stock`. With `push_to_hub` the folder is pushed as `push_folder` does it, to
        `repo_id` or else to the folder's name, with `private`, `token`, `commit_message` and `create_pr`.
        """
        names = ("repo_id", "private", "token", "commit_message", "create_pr")
        hub = {"repo_id": Path(save_directory).resolve().name, **{k: kwargs.pop(k) for k in names if k in kwargs}}
        is_ours = isinstance(self.scheduler, DDPMPaperScheduler)  # and not one that was put in afterwards
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

        A folder that examples/train.py wrote has more to show: samples and figures; push it with `push_folder`.

        Raises:
            ValueError: for `safe_serialization=False`: what is pushed is safetensors.
        """
        if not safe_serialization:
            raise ValueError("`safe_serialization` must be True: what is pushed to the Hub is safetensors.")
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
    ) -> ImagePipelineOutput | tuple:
        """Draw images.

        Args:
            batch_size: how many, ≥ 1.
            generator: one for the batch, as stock draws it; or a list of one per image, so that an image depends on
                its own generator alone and not on the batch around it.
            num_inference_steps: K in 1 … T; all training timesteps if not given.
            output_type: "pil", a list of images (mode "L" for one channel, "RGB" for three, "RGBA" for four); "np",
                an array `[B, H, W, C]`, or "pt", a tensor `[B, C, H, W]`, both in [0, 1], of any number of channels.
            return_dict: whether to return an `ImagePipelineOutput` or a tuple.
            timesteps: the timesteps to visit, descending, in place of `num_inference_steps`.
            class_labels: of a class-conditional model, and of no other: the class, 0 … `num_class_embeds` − 1, of all
                images, or a list or tensor of one per image.
            timestep_spacing: of `num_inference_steps`, by name, such as "optimal"; see
                `DDPMPaperScheduler.set_timesteps`.
            eta: DDIM's η in [0, 1] in the place of the scheduler's variance (Song et al. 2021); 0 adds no noise, so
                that the images follow from `latents` alone.
            latents: x_T, `[B, C, H, W]`, such as `encode` gives it; noise if not given.

        Raises:
            ValueError: for any of these that is out of range, before any image is drawn; and for images that are not
                finite.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(unknown("output_type", output_type, OUTPUT_TYPES))
        channels = self.unet.config.in_channels
        if output_type == "pil" and channels not in PIL_CHANNELS:
            raise ValueError(f"`output_type` 'pil' has no image mode for {channels} channels; use 'np' or 'pt'.")
        for step in self.iterate(
            batch_size, generator, num_inference_steps, timesteps, class_labels, timestep_spacing, eta, latents
        ):
            last = step
        _check_finite(last, self.unet.config)
        images = _to_output(last.prev_sample, output_type)
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
    ) -> Iterator[DenoisingStep]:
        """The chain as it runs: one `DenoisingStep` per visited timestep. Arguments and errors as in a call."""
        self._check_batch(batch_size, generator)
        if eta is not None:
            check_eta(eta)
        shape = self._image_shape(batch_size)
        if latents is not None:
            _check_images("latents", latents, shape)
        labels = self._check_labels(class_labels, batch_size)
        self._set_timesteps(num_inference_steps, timesteps, timestep_spacing)
        return self._denoise(shape, generator, labels, eta, latents)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        class_labels: ClassLabels = None,
        timestep_spacing: str | None = None,
    ) -> Tensor:
        """The latents of images, from which a call with `latents`, `eta=0` and the same timesteps makes them again.

        DDIM's step without noise, backwards (Song et al. 2021, section 4.3). The images are taken as they are at the
        noise of the last timestep; what is lost falls with the number of steps.

        Args:
            images: `[B, C, H, W]` in [−1, 1], floating.
            num_inference_steps, timesteps, class_labels, timestep_spacing: as in a call.

        Returns:
            x_T, like `images` on the pipeline's device, in the model's dtype.

        Raises:
            ValueError: as in a call.
        """
        if not isinstance(images, Tensor) or images.ndim == 0 or len(images) == 0:
            raise ValueError(f"`images` must be a tensor of at least one image, but are {type(images).__name__}.")
        batch_size = len(images)
        self._check_batch(batch_size, None)
        _check_images("images", images, self._image_shape(batch_size))
        condition = self._condition(self._check_labels(class_labels, batch_size))
        self._set_timesteps(num_inference_steps, timesteps, timestep_spacing)
        scheduler, visited = self.scheduler, self.scheduler.timesteps.flip(0)
        on_device = visited.to(self._execution_device)
        alpha, _ = scheduler.schedule.marginal_coefficients(int(visited[0]) + 1)
        x = images.to(self._execution_device, self.unet.dtype) * float(alpha)
        for k, t in enumerate(self.progress_bar(visited[:-1].tolist())):
            model_output = self.unet(x, on_device[k], **condition, return_dict=False)[0]
            x = scheduler.encode_step(model_output, t, x)
        self.maybe_free_model_hooks()
        if not bool(x.isfinite().all()):
            hint = _hint(self.unet.config, int(visited[0]))
            raise ValueError(f"The latents are not finite: the model's output is not, or it is too large.{hint}")
        return x

    def _check_batch(self, batch_size: Any, generator: Any) -> None:
        """Raise ValueError for a number of images, a scheduler or generators that nothing can be drawn with."""
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
        """The scheduler's chain: all training timesteps, or those asked for."""
        if num_inference_steps is None and timesteps is None:
            num_inference_steps = len(self.scheduler)
        self.scheduler.set_timesteps(num_inference_steps, timesteps=timesteps, timestep_spacing=timestep_spacing)

    @torch.no_grad()
    def _denoise(
        self,
        shape: tuple[int, ...],
        generator: Generators,
        labels: list[int] | None,
        eta: float | None,
        latents: Tensor | None,
    ) -> Iterator[DenoisingStep]:
        device, dtype = self._execution_device, self.unet.dtype
        condition = self._condition(labels)
        timesteps = self.scheduler.timesteps
        if latents is None:
            x_t = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        else:
            x_t = latents.to(device, dtype)
        # The scheduler looks its tables up in main memory, the model wants the timestep on its device: one copy for
        # all.
        on_device = timesteps.to(device)
        step = self.scheduler.step if eta is None else partial(self.scheduler.ddim_step, eta=eta)
        for k, t in enumerate(self.progress_bar(timesteps.tolist())):
            model_output = self.unet(x_t, on_device[k], **condition, return_dict=False)[0]
            x_s, x_0 = step(model_output, t, x_t, generator=generator, return_dict=False)
            yield DenoisingStep(timestep=t, sample=x_t, prev_sample=x_s, pred_original_sample=x_0)
            x_t = x_s
        self.maybe_free_model_hooks()

    def _condition(self, labels: list[int] | None) -> dict[str, Tensor]:
        """What the model is told beside the sample and the timestep."""
        return {} if labels is None else {"class_labels": torch.tensor(labels, device=self._execution_device)}

    def _check_labels(self, class_labels: ClassLabels, batch_size: int) -> list[int] | None:
        """The class of every image, None for a model without classes; ValueError if they do not fit."""
        config = self.unet.config
        if not embeds_classes(config):
            if class_labels is not None:
                raise ValueError("`class_labels` must be None: the model is not class-conditional.")
            return None
        num_classes = number_of_classes(config)
        if num_classes is None:
            raise ValueError(
                "`class_labels` are for a model that embeds its classes by their numbers, but this one has"
                f" `class_embed_type` {config.class_embed_type!r}; call `unet` yourself."
            )
        if class_labels is None:
            raise ValueError(
                f"`class_labels` must be given: the model is conditional on one of {num_classes} classes; pass one for"
                " all images or one per image."
            )
        given = class_labels.tolist() if isinstance(class_labels, (Tensor, np.ndarray)) else class_labels
        labels = given if isinstance(given, Sequence) else [given] * batch_size
        if isinstance(given, str) or any(isinstance(k, bool) or not isinstance(k, Integral) for k in labels):
            raise ValueError(f"`class_labels` must be an int or a list of ints, but is {class_labels!r}.")
        if len(labels) != batch_size:
            raise ValueError(
                f"`class_labels` must be one for all images or one per image: {batch_size}, but there are"
                f" {len(labels)}."
            )
        if not 0 <= min(labels) <= max(labels) < num_classes:
            raise ValueError(f"`class_labels` must lie in 0 ... {num_classes - 1}, but is {class_labels!r}.")
        return [int(k) for k in labels]

    def _image_shape(self, batch_size: int) -> tuple[int, ...]:
        size = self.unet.config.sample_size
        if size is None:
            raise ValueError(
                "The model's `sample_size` is not set; it must be the size of the images, [height, width]."
            )
        height, width = (size, size) if isinstance(size, int) else size
        return batch_size, self.unet.config.in_channels, height, width


# What says where a model comes from, and nothing about what is made of it.
_SOURCE_ARGUMENTS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision")


def _lacks_index(error: BaseException | None) -> bool:
    """Whether a model could not be loaded since it has no index: an OSError for a folder, a 404 from the Hub."""
    while error is not None:
        if INDEX in str(error) and (isinstance(error, EntryNotFoundError) or "no file named" in str(error)):
            return True
        error = error.__cause__
    return False


def _check_finite(last: DenoisingStep, config: FrozenDict) -> None:
    """Raise ValueError unless the chain has ended in images; once for all of it, since it waits for the device."""
    if bool(last.prev_sample.isfinite().all()):
        return
    t = last.timestep
    is_last = bool(last.sample.isfinite().all())
    where = f"at timestep {t}" if is_last else f"at a timestep before {t}; `iterate` yields all steps"
    raise ValueError(
        f"The images are not finite: the model's output is not, or it is too large, {where}.{_hint(config, t)}"
    )


def _hint(config: FrozenDict, timestep: int) -> str:
    """What helps if a model's output is not finite, as far as its configuration tells it."""
    return NO_TIMESTEP_0 if config.get("time_embedding_type") == "fourier" and timestep == 0 else ""


def _check_images(name: str, images: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the argument is floating, finite and of this shape."""
    require_samples(**{name: images})
    require_finite(**{name: images})
    if tuple(images.shape) != shape:
        raise ValueError(f"`{name}` must be of shape {list(shape)}, but is {list(images.shape)}.")


def _to_output(sample: Tensor, output_type: str) -> Tensor | Any:
    """Samples in [−1, 1] as images: tensor, array or PIL."""
    images = (sample / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return images
    images = images.float().permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return images
    levels = (images * 255).round().astype("uint8")
    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in levels]
