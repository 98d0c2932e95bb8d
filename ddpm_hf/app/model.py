# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The model of a page: what it is of, what it can be told, and what it cannot do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..compression.codec import Codec
from ..compression.entropy_coders import require_constriction
from ..conditioning.captions import PROMPT
from ..conditioning.classes import ClassConditioner, of_classes
from ..conditioning.columns import Columns, in_turn
from ..pipelines.autoencoders import decoder_law_of
from ..pipelines.compressing import codec_of
from ..pipelines.images import PIL_CHANNELS
from ..pipelines.pipeline_ddpm_paper_latent import DDPMPaperLatentPipeline
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..runtime.words import plural


MOST_LEVELS = 256  # a picture that is uploaded is read as 8 bits

Told = int | str | None
"""What a model is told of a picture: its class, its prompt, or nothing."""


@dataclass(frozen=True, eq=False)
class PageModel:
    """A model and what the page needs to know of it.

    Attributes:
        name: the folder or the name on the Hub that it was loaded from.
        pipeline: in evaluation mode.
    """

    name: str
    pipeline: SamplingPipeline

    # --- what it is of ---

    @property
    def title(self) -> str:
        """The last part of the name."""
        return self.name.rstrip("/").split("/")[-1]

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """C, H, W of its images."""
        return tuple(self.pipeline.image_shape)

    @property
    def num_levels(self) -> int | None:
        """The number of levels of its images; None if they are continuous, or if it has no p(x | z)."""
        if not isinstance(self.pipeline, DDPMPaperLatentPipeline):
            return self.pipeline.scheduler.num_levels
        law = decoder_law_of(self.pipeline.vae.config)
        return None if law is None else law.num_levels

    @property
    def num_timesteps(self) -> int:
        return len(self.pipeline.scheduler)

    @property
    def has_measured_errors(self) -> bool:
        """Whether there are optimal timesteps."""
        return self.pipeline.scheduler.denoising_errors is not None

    @property
    def summary(self) -> str:
        """One sentence."""
        channels, height, width = self.image_shape
        levels = f", {plural(self.num_levels, 'level')}" if self.num_levels else ""
        told = "".join(f", {each.summary}" for each in self.pipeline.conditioners.members)
        kind = type(self.pipeline.unet).__name__
        return (
            f"`{kind}` of {width}×{height} pixels, {plural(channels, 'channel')}{levels}, "
            f"{plural(self.num_timesteps, 'timestep')}{told}."
        )

    # --- what it can be told ---

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each class, or its number; [] for a model without classes."""
        members = self.pipeline.conditioners.members
        count = next((each.num_classes for each in members if isinstance(each, ClassConditioner)), 0)
        names = self.pipeline.config.get("id2label") or {}
        return [str(names.get(str(k), names.get(k, k))) for k in range(count)]

    @property
    def is_told_of_text(self) -> bool:
        return PROMPT in self.pipeline.conditioners.columns

    @property
    def enlarges(self) -> bool:
        """Whether it needs a smaller picture to draw one."""
        return self.pipeline.conditioners.derives

    @property
    def can_be_guided(self) -> bool:
        return self.pipeline.conditioners.has_null

    def columns(self, told: Told) -> Columns:
        """What one picture is told, as columns; {} for nothing.

        Raises:
            ValueError: for a class that there is not.
        """
        if told is None or (isinstance(told, str) and not told.strip()):
            return {}
        if isinstance(told, str):
            return {PROMPT: [told.strip()]}
        if not 0 <= told < len(self.class_names):
            raise ValueError(f"The model knows {len(self.class_names)} classes, counted from 0; there is no {told}.")
        return of_classes([told])

    def conditioning(self, x_0: Tensor, told: Told) -> dict[str, Tensor]:
        """The denoiser's arguments for pictures `[B, …]` that are told the same; nothing is told by the null value.

        Raises:
            ValueError: if the model must be told something and is not.
        """
        conditioners, count, device = self.pipeline.conditioners, len(x_0), self.pipeline.device
        known = conditioners.completed(x_0.cpu(), in_turn(self.columns(told), range(count)))
        made: dict[str, Tensor] = {}
        for each in conditioners.members:
            is_given = all(name in known for name in each.columns)
            made |= each.make(known, device) if is_given else each.null(count, device)
        return made

    # --- what it cannot do ---

    @cached_property
    def fault_of_scores(self) -> str | None:
        """Why no picture can be scored; None if pictures can be."""
        try:
            self._require_pictures()
            self.pipeline.require_likelihood(self.num_levels or MOST_LEVELS)
            self.pipeline.scheduler.diffusion.require_determined()
        except ValueError as error:
            return str(error)
        if self.num_levels is None:
            return "The model is of continuous data: without `num_levels` no picture has a number of bits."
        return None

    @cached_property
    def fault_of_files(self) -> str | None:
        """Why no picture can be compressed; None if pictures can be."""
        try:
            require_constriction()
            self.codec.single  # noqa: B018  # raises
            self._require_pictures()
        except ValueError as error:
            return str(error)
        return None

    @cached_property
    def codec(self) -> Codec:
        """The codec of single pictures, made once, since it copies the model.

        Raises:
            ValueError: if the model cannot compress.
        """
        return codec_of(self.pipeline, None, None, 1)

    def _require_pictures(self) -> None:
        """Raise ValueError unless 8-bit files can be pictures of the model."""
        channels = self.image_shape[0]
        if channels not in PIL_CHANNELS:
            raise ValueError(f"The model is of {channels} channels, and pictures have 1, 3 or 4.")
        if self.num_levels is not None and self.num_levels > MOST_LEVELS:
            raise ValueError(f"The model is of {self.num_levels} levels, and pictures are read as {MOST_LEVELS}.")
