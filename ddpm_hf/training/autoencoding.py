# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""How autoencoders are trained, measured, shown, scored and saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers import AutoencoderKL, ModelMixin
from diffusers.utils import CONFIG_NAME
from torch import Tensor

from ..data.batches import Batch
from ..data.image_streams import ImageStream
from ..data.level_images import ImageData, LevelImages
from ..likelihood.elbo import ElboBits, channels_of_note
from ..results import Metrics
from ..runtime.words import plural
from ..tasks.autoencoder import AutoencoderTask
from ..tasks.autoencoder_arguments import check_elbo_arguments
from ..tasks.autoencoder_model import stock_autoencoder
from .arguments import RunArguments, check_run_arguments
from .autoencoder_scores import elbo_of, moments_of, reconstructed
from .autoencoder_state import AutoencoderState
from .elbo_step import ElboResult, training_step
from .method import Method
from .plan import ends_of_epochs, pass_over_training_images, scoring_work
from .run_clock import MEASURING, SAMPLING, SCORING, Work
from .run_state import DIVIDED
from .tracking import StepFigures, tell
from .visual_terms import VisualTerms


class ElboFigures(StepFigures):
    """The steps of an autoencoder, with the two terms of the bound."""

    def _start(self) -> None:
        super()._start()
        self.terms = torch.zeros(5, device=self.device)

    def add(self, result: ElboResult) -> None:
        """Add a step."""
        self._keep(result.loss.float(), result.gradient_norm)
        self.terms += torch.cat([result.terms.float().mean(dim=0), result.visual.float()])

    def _further(self) -> Tensor:
        return self.terms / len(self)

    def _named(self, numbers: list[float]) -> dict[str, float]:
        named = dict(zip(TERMS, numbers, strict=True))
        return {name: value for name, value in named.items() if value != 0 or name in TERMS[:2]}


# The two of the bound, and those of `VisualFigures`, which are 0 where they are not there.
TERMS = (
    *("bits_per_dim_reconstruction", "bits_per_dim_kl"),
    *("perceptual_distance", "adversarial_loss", "discriminator_loss"),
)


class Autoencoding(Method[AutoencoderState, ElboResult]):
    """The evidence lower bound, the moments of the latents, and reconstructions."""

    index = CONFIG_NAME

    # --- before the first step ---

    def check_arguments(self, task: AutoencoderTask, training: RunArguments) -> None:
        check_run_arguments(training)
        check_elbo_arguments(task.objective_arguments)
        if task.objective_arguments.adversarial_weight and training.torch_compile:
            raise ValueError("`adversarial_weight` must be 0 with `torch_compile`: it needs two gradients of a pass.")

    def parts(
        self, task: AutoencoderTask, training: RunArguments, data: ImageData, accelerator: Accelerator
    ) -> dict[str, Any]:
        objective = task.objective_arguments
        if objective.adversarial_weight and accelerator.distributed_type in DIVIDED:
            raise ValueError("`adversarial_weight` must be 0 where an engine divides the model among processes.")
        return {"objective": objective, "visual": VisualTerms.of(objective, training, data, accelerator)}

    def state(self, **parts: Any) -> AutoencoderState:
        return AutoencoderState(method=self, **parts)

    def objective(self, state: AutoencoderState) -> str:
        scale = state.objective.kl_scale
        latents = "x".join(map(str, state.model.latent_shape(state.data.train.shape)))
        weight = "" if scale == 1 else f", with the KL divergence times {scale:g}"
        further = "".join(f" and a{'n' if name[0] == 'a' else ''} {name} term" for name in state.visual.names)
        return f"latents of {latents} by the evidence lower bound{weight}{further}"

    def contents(self, state: AutoencoderState) -> Mapping[str, str]:
        test = len(state.data.test)
        return {
            MEASURING: "the latents of training images",
            SAMPLING: f"{plural(self.number_of_samples(state) // 2, 'reconstruction')} at the end",
            SCORING: f"{plural(test, 'test image')} at the end" if test else "validation images",
        }

    def work(self, state: AutoencoderState) -> Mapping[str, Work]:
        training = state.training
        grid = Work(1, min(self.number_of_samples(state) // 2, len(self._shown(state))))
        return {
            MEASURING: pass_over_training_images(state, training.max_measured_images),
            SAMPLING: grid.times(1 + ends_of_epochs(state, training.save_images_epochs)),
            SCORING: scoring_work(state),
        }

    def example_call(self, state: AutoencoderState, size: int) -> Callable[[], Any]:
        x = torch.zeros(size, *state.data.train.shape, device=state.accelerator.device)
        noise = torch.zeros_like(state.empty_latents(x))
        return lambda: state.model(x, noise)

    # --- a step ---

    def training_step(self, state: AutoencoderState, batches: Iterator[Batch]) -> ElboResult:
        return training_step(state, batches)

    def progress(self, state: AutoencoderState) -> ElboFigures:
        return ElboFigures(state.accelerator.device)

    def note(self, state: AutoencoderState, result: ElboResult, progress: ElboFigures) -> None:
        progress.add(result)

    # --- checkpoints ---

    def tensors(self, state: AutoencoderState) -> Mapping[str, Mapping[str, Tensor]]:
        return {} if state.visual.adversary is None else state.visual.adversary.tensors()

    def restore(self, state: AutoencoderState, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        state.visual.adversary.restore(tensors)

    # --- reconstructions, scores and the saved model ---

    def saved(self, state: AutoencoderState, model: ModelMixin) -> AutoencoderKL:
        return stock_autoencoder(model, state.data.train.num_levels, state.moments)

    def draw(self, state: AutoencoderState, count: int) -> Tensor:
        """Rows of images and below each of them its reconstruction from the mean of q(z | x)."""
        images = self._shown(state).spread(count // 2)
        return reconstructed(state, images, self.columns(count))

    def columns(self, count: int) -> int:
        """As many as make the grid about as wide as high, with an even number of rows."""
        return max(1, round((count / 2) ** 0.5 * 2**0.5))

    def number_of_samples(self, state: AutoencoderState) -> int:
        return 2 * max(1, state.training.eval_batch_size // 2)

    def _shown(self, state: AutoencoderState) -> LevelImages:
        """Test images, or training images if there are none."""
        if len(state.data.test) or isinstance(state.data.train, ImageStream):
            return state.data.test
        return state.data.train

    def validate(self, state: AutoencoderState, images: LevelImages) -> ElboBits:
        return elbo_of(state, images)

    def measure(self, state: AutoencoderState) -> None:
        state.moments = broadcast_object_list([moments_of(state)])[0]

    def scores(self, state: AutoencoderState, samples: Tensor) -> Metrics:
        figures: Metrics = {
            "decoder_scale": state.model.law(state.data.train.num_levels).scale,
            "latents_mean": state.moments.mean,
            "latents_std": state.moments.std,
        }
        if not len(state.data.test):
            return figures
        result = elbo_of(state, state.data.test)
        if state.accelerator.is_main_process:
            _tell_of_channels(state, result)
        return {
            "bits_per_dim": result.total,
            "bits_per_dim_standard_error": result.standard_error,
            "bits_per_dim_reconstruction": result.reconstruction,
            "bits_per_dim_kl": result.kl,
            "kl_nats_by_channel": result.kl_by_channel,
            "test_images": result.num_examples,
            **figures,
        }

    def facts(self, state: AutoencoderState) -> Metrics:
        return {
            "objective": " + ".join(["elbo", *state.visual.names]),
            "latent_shape": list(state.model.latent_shape(state.data.train.shape)),
        }


def _tell_of_channels(state: AutoencoderState, result: ElboBits) -> None:
    """Print a line for the channels that have collapsed, and one for those that have exploded."""
    _, height, width = state.model.latent_shape(state.data.train.shape)
    collapsed, exploded = channels_of_note(result.kl_by_channel, height * width)
    if collapsed:
        tell(
            f"Of the latents' channels, {_listed(collapsed)} tell the decoder less than 0.01 bits an image: they have"
            " collapsed to the prior. Fewer --latent_channels or a smaller --kl_scale keep a diffusion from modelling"
            " mere noise."
        )
    if exploded:
        tell(
            f"Of the latents' channels, {_listed(exploded)} have a KL divergence of more than 20 nats an element:"
            " their posterior is all but a point. A larger --kl_scale or a lower --learning_rate keeps it wider."
        )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
