# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""How image encoders are trained against a text encoder, shown, scored and saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers import ModelMixin
from diffusers.utils import CONFIG_NAME
from safetensors.torch import save_file
from torch import Tensor

from ..conditioning.columns import in_turn
from ..data.batches import Batch
from ..data.image_streams import ImageStream
from ..data.level_images import ImageData, LevelImages
from ..hub.image_encoder_card import TEXT_PROJECTION
from ..results import Metrics
from ..runtime.words import plural
from ..tasks.image_encoder import ImageEncoderTask
from ..tasks.image_encoder_model import ContrastiveEncoder, image_encoder_of
from ..tasks.unclip_arguments import check_contrastive_arguments
from .arguments import RunArguments, check_run_arguments
from .contrastive_scores import Matches, matches_of, overall_std, retrieved
from .contrastive_state import ContrastiveState
from .contrastive_step import ContrastiveResult, training_step
from .method import Method
from .plan import ends_of_epochs, pass_over_training_images, scoring_work, work_on
from .run_clock import MEASURING, SAMPLING, SCORING, Work
from .tracking import StepFigures


class ContrastiveFigures(StepFigures):
    """The steps of an image encoder, with the share of images whose caption is found."""

    def _start(self) -> None:
        super()._start()
        self.accuracy = torch.zeros((), device=self.device)

    def add(self, result: ContrastiveResult) -> None:
        """Add a step."""
        self._keep(result.losses.float().mean(), result.gradient_norm)
        self.accuracy += result.accuracies.mean()

    def _further(self) -> Tensor:
        return self.accuracy[None] / len(self)

    def _named(self, numbers: list[float]) -> dict[str, float]:
        return {"accuracy": numbers[0]}


@dataclass(frozen=True)
class SavedEncoder:
    """An image encoder, and the projection of sentence embeddings to its space, as they are saved."""

    model: ContrastiveEncoder
    overall_std: float

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write the `CLIPVisionModelWithProjection`, and `text_projection.safetensors` beside it."""
        image_encoder_of(self.model, self.overall_std).save_pretrained(save_directory, **options)
        scale = self.model.logit_scale.detach().reshape(1)
        weights = {"weight": self.model.text_projection.weight.detach().contiguous(), "logit_scale": scale}
        save_file({name: each.clone() for name, each in weights.items()}, Path(save_directory) / TEXT_PROJECTION)


class Contrastive(Method[ContrastiveState, ContrastiveResult]):
    """The contrastive loss of Radford et al. (2021) with frozen text, and the most similar images."""

    index = CONFIG_NAME
    score_name = "contrastive_loss"

    # --- before the first step ---

    def check_arguments(self, task: ImageEncoderTask, training: RunArguments) -> None:
        check_run_arguments(training)
        check_contrastive_arguments(task.objective_arguments)
        if training.train_batch_size < 2:
            raise ValueError("`train_batch_size` must be at least 2: other images of the batch are the alternatives.")

    def parts(
        self, task: ImageEncoderTask, training: RunArguments, data: ImageData, accelerator: Accelerator
    ) -> dict[str, Any]:
        return {"objective": task.objective_arguments}

    def state(self, **parts: Any) -> ContrastiveState:
        return ContrastiveState(method=self, **parts)

    def objective(self, state: ContrastiveState) -> str:
        width = state.model.config["vision_config"]["projection_dim"]
        return f"embeddings of {width} numbers, by the caption that is an image's among those of its batch"

    def contents(self, state: ContrastiveState) -> Mapping[str, str]:
        test = len(state.data.test)
        return {
            MEASURING: "the embeddings of training images",
            SAMPLING: f"the images that are most similar to {plural(self.number_of_samples(state), 'caption')}",
            SCORING: f"{plural(test, 'test image')} at the end" if test else "validation images",
        }

    def work(self, state: ContrastiveState) -> Mapping[str, Work]:
        training = state.training
        of_grid = work_on(state, len(self._shown(state)))
        return {
            MEASURING: pass_over_training_images(state, training.max_measured_images),
            SAMPLING: of_grid.times(1 + ends_of_epochs(state, training.save_images_epochs)),
            SCORING: scoring_work(state),
        }

    def example_call(self, state: ContrastiveState, size: int) -> Callable[[], Any]:
        x = torch.zeros(size, *state.data.train.shape, device=state.accelerator.device)
        sentences = torch.zeros(size, state.model.config["text_width"], device=state.accelerator.device)
        return lambda: state.model(x, sentences)

    # --- a step ---

    def training_step(self, state: ContrastiveState, batches: Iterator[Batch]) -> ContrastiveResult:
        return training_step(state, batches)

    def progress(self, state: ContrastiveState) -> ContrastiveFigures:
        return ContrastiveFigures(state.accelerator.device)

    def note(self, state: ContrastiveState, result: ContrastiveResult, progress: ContrastiveFigures) -> None:
        progress.add(result)

    # --- retrieved images, scores and the saved model ---

    def saved(self, state: ContrastiveState, model: ModelMixin) -> SavedEncoder:
        return SavedEncoder(model, state.overall_std or 1.0)

    def draw(self, state: ContrastiveState, count: int) -> Tensor:
        """The image that is most similar to each of the captions that are shown."""
        return retrieved(state, self._shown(state), in_turn(state.conditioners.variety(), range(count)))

    def number_of_samples(self, state: ContrastiveState) -> int:
        return state.training.eval_batch_size

    def _shown(self, state: ContrastiveState) -> LevelImages:
        """Test images, or training images if there are none."""
        if len(state.data.test) or isinstance(state.data.train, ImageStream):
            return state.data.test
        return state.data.train

    def validate(self, state: ContrastiveState, images: LevelImages) -> Matches:
        return matches_of(state, images)

    def measure(self, state: ContrastiveState) -> None:
        state.overall_std = broadcast_object_list([overall_std(state)])[0]

    def scores(self, state: ContrastiveState, samples: Tensor) -> Metrics:
        if not len(state.data.test):
            return {}
        found = matches_of(state, state.data.test)
        return {
            "contrastive_loss": found.total,
            "contrastive_loss_standard_error": found.standard_error,
            "contrastive_accuracy": found.accuracy,
            "contrastive_accuracy_of_captions": found.accuracy_of_captions,
            "contrastive_chance": 1 / len(state.data.test),
            "contrastive_temperature": (-state.model.logit_scale).exp().item(),
            "test_images": len(state.data.test),
        }

    def facts(self, state: ContrastiveState) -> Metrics:
        return {"objective": "contrastive", "latent_shape": [state.model.config["vision_config"]["projection_dim"]]}
