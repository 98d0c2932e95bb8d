# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures that a visitor asks for, and how they come about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from PIL import Image

from ..conditioning.columns import Columns
from ..evaluation.filming import draw_film
from ..pipelines.guidance import Guidance
from ..reporting.animation import WIDEST, images_shown, save_animation
from ..reporting.figures import grid_picture
from .model import PageModel, Told


SAMPLERS: dict[str, dict[str, Any]] = {  # by what the page calls them: arguments of a pipeline's call
    "ancestral": {"eta": None, "solver_order": 1},
    "DDIM": {"eta": 0.0, "solver_order": 1},
    "DPM-Solver++(2M)": {"eta": 0.0, "solver_order": 2},
}
MOST_PICTURES = 16
LEAST_SIDE = 192  # pixels: smaller pictures are enlarged by a whole factor
IN_TURN = -1  # in the place of a class


@dataclass(frozen=True)
class SampleRequest:
    """What is drawn, and how.

    Attributes:
        count: how many pictures, at most `MOST_PICTURES`.
        num_inference_steps, timestep_spacing, guidance_scale: as in a pipeline's call.
        sampler: a key of `SAMPLERS`.
        eta: of DDIM.
        seed: at least 0.
        told: a class, `IN_TURN` for all classes in turn, a prompt, or None.
    """

    count: int = 4
    num_inference_steps: int = 50
    timestep_spacing: str | None = None
    sampler: str = "ancestral"
    eta: float = 0.0
    guidance_scale: float = 1.0
    seed: int = 0
    told: Told = None

    def check(self) -> None:
        """Raise ValueError for values out of range that the pipeline would not notice."""
        if not 1 <= self.count <= MOST_PICTURES:
            raise ValueError(f"`count` must lie in 1 ... {MOST_PICTURES}, but is {self.count}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must be at least 0, but is {self.seed}.")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"`sampler` must be one of {', '.join(SAMPLERS)}, but is {self.sampler!r}.")

    @property
    def chain(self) -> dict[str, Any]:
        """The arguments of a pipeline's call that choose steps, noise and guidance."""
        how = SAMPLERS[self.sampler] | ({"eta": self.eta} if self.sampler == "DDIM" else {})
        steps = {"num_inference_steps": self.num_inference_steps, "timestep_spacing": self.timestep_spacing}
        return {**steps, **how, **Guidance(guidance_scale=self.guidance_scale).options}


class Samples(NamedTuple):
    """What was drawn.

    Attributes:
        pictures: enlarged if they are small.
        animation: the file of the reverse process, a GIF.
    """

    pictures: list[Image.Image]
    animation: Path


def spacings_of(model: PageModel) -> list[str]:
    """How the steps of a chain may be spaced, the best first."""
    best = ["optimal"] if model.has_measured_errors else []
    return [*best, "leading", "trailing", "linspace", "quadratic", "log_snr"]


def sample_pictures(model: PageModel, request: SampleRequest, folder: Path) -> Samples:
    """Draw pictures; picture i depends on the request and i alone.

    Args:
        folder: of the animation, which is in a new file.

    Raises:
        ValueError: for a request that the model cannot follow.
    """
    request.check()
    film = draw_film(
        model.pipeline,
        request.count,
        request.count,
        request.seed,
        Accelerator(cpu=model.pipeline.device.type == "cpu"),
        _turns(model, request),
        **request.chain,
    )
    pictures = [grid_picture(image[None], margin=0, smallest_cell=LEAST_SIDE) for image in film.images]
    shown = images_shown(request.count, model.image_shape)
    columns = max(1, round(shown**0.5 + 0.49))
    animation = folder / "reverse_process.gif"
    save_animation(film.frames[:shown], film.timesteps, animation, smallest_cell=max(1, WIDEST // columns))
    return Samples(pictures, animation)


def _turns(model: PageModel, request: SampleRequest) -> Columns:
    if model.class_names and request.told == IN_TURN:
        return model.pipeline.conditioners.variety()
    return model.columns(request.told)
