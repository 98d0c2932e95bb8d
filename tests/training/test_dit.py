# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training diffusion transformers of latents: labels are dropped once for all blocks, and stock loads the models."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hooks
import in_process
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from tiny_latents import autoencoder, save_pictures
from training_runs import LATEST, assert_same, last_line

from ddpm_hf import DDPMPaperLatentPipeline
from ddpm_hf.cli.latent import LatentTrainingArguments
from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.likelihood.decoder_law import DecoderLaw
from ddpm_hf.results import METRICS
from ddpm_hf.tasks.latent import LatentTask
from ddpm_hf.training.state import TrainState


pytestmark = pytest.mark.processes(0)

TINY = shlex.split(
    "--ddpm_num_steps 8 --train_batch_size 8 --eval_batch_size 4 --num_quality_samples 4 --num_paths 0"
    " --num_evaluations 3 --max_measured_images 8 --test_fraction 0.25 --max_train_steps 6 --checkpointing_steps 4"
    " --checkpoints_total_limit 1 --save_images_epochs 0 --validation_steps 0 --label_column label"
)
CONFIG = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "patch_size": 2,
    "num_embeds_ada_norm": 2,
}
LABELS = "class_labels"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 8x8 pixels in folders of two classes, an autoencoder, and a configuration."""
    folder = tmp_path_factory.mktemp("data")
    save_pictures(folder / "images")
    autoencoder(DecoderLaw([-1.0] * 3)).save_pretrained(folder / "A")
    written(folder / "dit", CONFIG)
    return folder


def written(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def given(data: Path, config: str | Path = "dit") -> list[str]:
    where = ["--train_data_dir", data / "images", "--autoencoder", data / "A", "--cache_dir", data / "cache"]
    return [*TINY, *map(str, where), "--model_config_name_or_path", str(data / config)]


def trained(data: Path, folder: Path, *flags: object, config: str | Path = "dit", code: int = 0) -> str:
    done = in_process.run("latent.py", *given(data, config), *flags, "--output_dir", folder)
    assert done.code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "dit"
    with in_process.a_process():
        trained(data, folder)
    return folder


@pytest.fixture
def state(data: Path, tmp_path: Path) -> Iterator[TrainState]:
    """A training in this process."""
    classes = run_arguments(LatentTask, LatentTrainingArguments)
    argv = [*given(data), "--output_dir", str(tmp_path / "run")]
    yield prepare_run(parse("latent.py", *classes, argv=argv), LatentTask)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_model_that_has_learned_nothing_predicts_nothing(state: TrainState) -> None:
    x, labels = torch.randn(4, 2, 4, 4), torch.tensor([0, 1, 2, 0])
    assert state.model(x, torch.full((4,), 3), labels).sample.abs().max() == 0
    assert state.model.config["sample_size"] == 4 and state.model.config["out_channels"] == 4  # with a variance


def test_labels_are_dropped_by_the_trainer_alone(state: TrainState) -> None:
    """Stock's blocks would each drop other labels, by numbers that no seed of the run determines."""
    model, labels = state.model.train(), torch.zeros(256, dtype=torch.int64)
    embeddings = [block.norm1.emb.class_embedder(labels) for block in model.transformer_blocks]
    assert all(torch.equal(each, each[:1].expand_as(each)) for each in embeddings)
    assert state.diffusion.conditioning_dropout_prob == 0.1 and state.conditioners.has_null
    fresh = DiTTransformer2DModel.from_config(model.config).train()  # the same with stock's own model is not
    stock = fresh.transformer_blocks[0].norm1.emb.class_embedder(labels)
    assert not torch.equal(stock, stock[:1].expand_as(stock))


def test_it_is_scored_and_stock_loads_and_samples_it(run: Path) -> None:
    report = json.loads((run / METRICS).read_text())
    parts = [report[f"bits_per_dim_{part}"] for part in ("reconstruction", "posterior_entropy", "latent")]
    assert report["bits_per_dim"] == pytest.approx(sum(parts))
    stock = DiTPipeline.from_pretrained(run)
    ours = DDPMPaperLatentPipeline.from_pretrained(run)
    assert type(stock.transformer) is DiTTransformer2DModel and type(ours.unet) is DiTTransformer2DModel
    stock.scheduler = DDPMScheduler.from_config(stock.scheduler.config, variance_type="fixed_small")
    stock.set_progress_bar_config(disable=True)
    images = stock([0, 1], guidance_scale=1.0, num_inference_steps=2).images
    assert [np.asarray(each).shape for each in images] == [(8, 8, 3)] * 2
    assert len(ours(batch_size=2, class_labels=[0, 1], num_inference_steps=2).images) == 2
    assert len(ours(batch_size=1, num_inference_steps=2).images) == 1  # of the null class
    card = " ".join((run / "README.md").read_text().split())
    assert "DiTTransformer2DModel" in card and "for the null class, which is 2 here, and fails: pass" in card
    with pytest.raises(IndexError):  # as the card says
        stock([0, 1], guidance_scale=1.5, num_inference_steps=2)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(data: Path, run: Path, tmp_path: Path) -> None:
    with hooks.signal_at(5, "SIGINT"):
        trained(data, tmp_path / "run", code=130)
    trained(data, tmp_path / "run", *LATEST)
    assert_same(tmp_path / "run", run)


@pytest.mark.parametrize(
    ("changes", "flags", "sentence"),
    [
        ({}, ("--conditioning_dropout_prob", 0), "`conditioning_dropout_prob` must be above 0 for a DiTTransformer2D"),
        ({"patch_size": 3}, (), "`patch_size` must divide the side of square latents, but is 3, and these are 4x4."),
        ({}, ("--num_class_embeds", 1), "The data have a class 1, but the model knows 1, counted from 0."),
        ({"num_embeds_ada_norm": None}, (), "`num_embeds_ada_norm` must be at least 1, but is None."),
        (
            {"_class_name": "UNet2DConditionModel"},
            (),
            "`model_config_name_or_path` must be the configuration of a UNet2DModel, but is that of a UNet2DCondition",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(
    data: Path, tmp_path: Path, changes: dict[str, Any], flags: tuple[object, ...], sentence: str
) -> None:
    config = written(tmp_path / "config", CONFIG | changes)
    output = trained(data, tmp_path / "run", *flags, config=config, code=2)
    assert last_line(output).startswith(f"latent.py: error: {sentence}"), output
    assert not (tmp_path / "run").exists()
