# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""What is scored and drawn of unCLIP at the end of a decoder's training: the parts of its bound, and pictures."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..conditioning.captions import PROMPT
from ..conditioning.columns import Columns
from ..conditioning.conditioner import Conditioners
from ..conditioning.denoiser import ConditionalDenoiser
from ..conditioning.embeddings import IMAGE_EMBEDS
from ..conditioning.text import TextConditioner, TextSettings
from ..data.latents import LatentImages
from ..data.level_images import LevelImages
from ..evaluation.conditioning_worth import GROUP, Worth, of_others, worth_of
from ..evaluation.sampling import by_number
from ..evaluation.scoring import score
from ..likelihood.information import Information, information_of
from ..likelihood.latents import LatentBitsPerDim
from ..likelihood.variational import BitsPerDim, bits_per_dim
from ..pipelines.sampling_pipeline import SamplingPipeline
from ..reporting.figures import save_grid
from ..results import Metrics
from ..tasks.embedded_images import of_images
from .prior_figures import entropy_bits, prior_figures
from .state import TrainState


VARIATIONS, INTERPOLATIONS = 7, 8  # pictures in a row
ROWS = 6
VARIED, BETWEEN = "variations.png", "interpolations.png"
PRIOR_EVALUATIONS = 100  # a prior is much smaller than a decoder


class PriorScores(NamedTuple):
    """The bound of the prior on test embeddings, and what captions are worth to it, if it can do without."""

    given: BitsPerDim
    worth: Worth | None

    @property
    def report(self) -> dict[str, float]:
        """The figures under the names that they have in metrics.json of a prior."""
        bound = {"bits_per_dim": self.given.total, "bits_per_dim_standard_error": self.given.standard_error}
        return bound if self.worth is None else {**bound, **self.worth.report()}


class DecoderScores(NamedTuple):
    """The bound of the decoder given the images' own embeddings, and what these save in comparison with others'."""

    own: BitsPerDim
    others: BitsPerDim | None
    information: Information | None


def unclip_scores(state: TrainState) -> Metrics:
    """The bound of unCLIP on the test images, its parts, and the controls, by all processes together.

    Prior and decoder are scored on the same z ~ q(z | x), one for each image.
    """
    test, encoder = state.data.test, state.task.image_encoder
    embeddings = of_images(test, encoder, state.task.data_arguments.cache_dir)
    of_prior, of_decoder = score_prior(state, embeddings), score_decoder(state, embeddings)
    dimensions = math.prod(test.shape)
    reconstruction = torch.tensor(of_decoder.own.per_example, dtype=torch.float64)
    entropy = torch.full_like(reconstruction, -entropy_bits(encoder.width, encoder.posterior_std) / dimensions)
    whole = LatentBitsPerDim.of(of_prior.given, reconstruction, entropy, encoder.width / dimensions)
    return {
        "bits_per_dim": whole.total,
        "bits_per_dim_standard_error": whole.standard_error,
        "bits_per_dim_estimation_error": whole.estimation_error,
        "bits_per_dim_reconstruction": whole.reconstruction,
        "bits_per_dim_posterior_entropy": whole.posterior_entropy,
        "bits_per_dim_latent": whole.latent,
        "bits_per_dim_prior": whole.prior,
        "bits_per_dim_rate": whole.rate,
        "bits_per_dim_decoder": whole.decoder,
        "test_images": whole.num_examples,
        "model_evaluations_per_test_image": of_decoder.own.num_model_evaluations // whole.num_examples,
        **prior_figures(of_prior.report, encoder.width, encoder.posterior_std),
        **_decoder_report(of_decoder),
    }


def score_prior(state: TrainState, embeddings: LatentImages) -> PriorScores:
    """The prior on embeddings of test images."""
    pipeline, training = state.task.prior, state.training
    text = next(each for each in state.conditioners.members if isinstance(each, TextConditioner))
    settings = TextSettings.of(pipeline.prior.config)
    conditioners = Conditioners((TextConditioner(text.encoder, settings),))
    denoiser = ConditionalDenoiser(pipeline.denoiser().denoise, conditioners)
    how = (state.accelerator, training.scoring_batch_size, PRIOR_EVALUATIONS, training.seed)

    def scored(denoiser: ConditionalDenoiser, images: LevelImages) -> BitsPerDim:
        return score(denoiser, pipeline.scheduler, images, *how)

    given = scored(denoiser, embeddings)
    has_worth = settings.null and len(embeddings) > 1
    return PriorScores(given, worth_of(scored, denoiser, embeddings, given, training.seed) if has_worth else None)


def score_decoder(state: TrainState, embeddings: LatentImages) -> DecoderScores:
    """The decoder on test images with their captions, given their own embeddings, and those of others."""
    test, training = state.data.test, state.training
    embeds = state.task.image_encoder.unstandardised(embeddings.batch(0, len(test))[0])
    how = (state.accelerator, training.scoring_batch_size, training.num_evaluations, training.seed)

    def scored(embeds: Tensor) -> BitsPerDim:
        images = test.with_columns({**test.columns, IMAGE_EMBEDS: embeds})
        return score(state.denoiser, state.scheduler, images, *how, count=bits_per_dim)

    own = scored(embeds)
    if len(test) < 2:
        return DecoderScores(own, None, None)
    others = scored(embeds[of_others(len(test), training.seed)])
    saved = information_of(others, own, math.prod(test.shape), test.columns.get(GROUP))
    return DecoderScores(own, others, saved)


def _decoder_report(scores: DecoderScores) -> Metrics:
    own, others, information = scores
    report: Metrics = {
        "bits_per_dim_given_embedding": own.total,
        "bits_per_dim_given_embedding_standard_error": own.standard_error,
    }
    if others is None or information is None:
        return report
    return {
        **report,
        "bits_per_dim_given_another_embedding": others.total,
        "bits_per_dim_given_another_embedding_standard_error": others.standard_error,
        "embedding_information_bits": information.bits,
        "embedding_information_bits_standard_error": information.standard_error,
    }


# --- pictures ---


def draw_by(state: TrainState, pipeline: SamplingPipeline, count: int, turns: Columns) -> Tensor:
    """`count` images in [0, 1] with these columns in turn, the same every time, by all processes together."""

    def draw(generators: list[torch.Generator], columns: Columns) -> Tensor:
        chain = {"num_inference_steps": state.inference_steps, "batch_size": len(generators)}
        return pipeline(**columns, **chain, generator=generators, output_type="pt").images

    return by_number(draw, count, state.training.scoring_batch_size, state.training.seed, state.accelerator, turns)


def save_variations(state: TrainState) -> None:
    """Save rows of a test image and its variations, and rows between two test images, in the run's folder.

    All processes call this together.
    """
    pipeline = state.pipeline()
    pipeline.set_progress_bar_config(disable=True)  # the run's progress includes sampling
    images = state.task.shown.spread(2 * ROWS)
    x, columns = images.batch(0, len(images), skip_bad=True)
    varied = x[::2]
    variations = draw_by(state, pipeline, len(varied) * VARIATIONS, {IMAGE_EMBEDS: _repeated(pipeline, varied)})
    ends = [pair for pair in x.split(2) if len(pair) == 2]
    between = [
        pipeline.interpolate(*pair, INTERPOLATIONS, state.inference_steps, _generator(), "pt").images.cpu()
        for pair in ends
    ]
    if not state.accelerator.is_main_process:
        return
    rows = zip(varied / 2 + 0.5, variations.split(VARIATIONS), strict=True)
    picture = torch.cat([part for image, drawn in rows for part in (image[None], drawn)])
    names = [name for prompt in columns[PROMPT][::2] for name in (prompt, *[""] * VARIATIONS)]
    save_grid(picture, state.folder / VARIED, VARIATIONS + 1, captions=names)
    if between:
        rows = zip(ends, between, strict=True)
        picture = torch.cat(
            [part for (a, b), drawn in rows for part in ((a / 2 + 0.5)[None], drawn, (b / 2 + 0.5)[None])]
        )
        save_grid(picture, state.folder / BETWEEN, INTERPOLATIONS + 2)


def _repeated(pipeline: SamplingPipeline, images: Tensor) -> Tensor:
    """The embeddings of images, each as often as it is varied."""
    return pipeline.embed_images(images).cpu().repeat_interleave(VARIATIONS, dim=0)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
