# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Networks and settings by resolution: which is chosen, what wins over it, and which one a run goes on with."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNet2DModel
from PIL import Image
from script_server import EXAMPLES
from training_runs import LATEST, TINY_MODEL, refused, train

from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import run_arguments
from ddpm_hf.conditioning.low_resolution import LowResolutionSettings
from ddpm_hf.conditioning.text import TextSettings
from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.runtime.checksums import write_checksums
from ddpm_hf.tasks.arguments import ModelArguments
from ddpm_hf.tasks.building import build_super_resolution_unet, build_text_unet
from ddpm_hf.tasks.images import ImageTask
from ddpm_hf.tasks.presets import PRESETS
from ddpm_hf.tasks.super_resolution import SuperResolutionTask
from ddpm_hf.tasks.text_to_image import TextToImageTask
from ddpm_hf.training.arguments import TrainingArguments


def settled(height: int, width: int, *argv: object) -> tuple[str | None, ModelArguments, TrainingArguments]:
    """The preset for images of this size, and the arguments of the network and of the training."""
    model, data, diffusion, training, _ = parse("train.py", *run_arguments(), argv=[*map(str, argv)])
    task = ImageTask(model, data, diffusion)
    training, name = task.settle(_images(height, width), training)
    return name, task.model_arguments, training


def _images(height: int, width: int, channels: int = 3) -> ImageData:
    images = LevelImages.in_memory(torch.zeros(2, channels, height, width, dtype=torch.uint8), 256)
    return ImageData("zeros", images, images, images)


# --- which ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "name"),
    [
        *(((8, 8), "8"), ((4, 4), "8"), ((6, 8), "8"), ((12, 12), "16"), ((16, 16), "16"), ((28, 28), "32")),
        *(((32, 32), "32"), ((24, 32), "32"), ((64, 64), "64"), ((96, 128), "128"), ((256, 256), "256")),
        *(((10, 10), "8"), ((36, 36), "32"), ((512, 384), "256")),
    ],
)
def test_the_smallest_that_fits_is_taken(size: tuple[int, int], name: str) -> None:
    chosen, model, _ = settled(*size)
    assert chosen == name
    assert model.block_out_channels == PRESETS[name].get("block_out_channels", [32, 64])


def test_the_digits_keep_all_defaults() -> None:
    name, model, training = settled(8, 8)
    assert name == "8" and model == ModelArguments() and training == TrainingArguments()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_a_model_of_its_size(name: str) -> None:
    assert PRESETS[name].keys() <= {f.name for f in dataclasses.fields(ModelArguments)} | {
        f.name for f in dataclasses.fields(TrainingArguments)
    }
    model, data, diffusion, training, _ = parse("train.py", *run_arguments(), argv=["--preset", name])
    task, images = ImageTask(model, data, diffusion), _images(int(name), int(name))
    task.settle(images, training)
    with torch.device("meta"):
        unet = task.build_model(images)
    sides = [int(name) // 2**depth for depth in range(len(unet.config.block_out_channels))]
    attends = ["Attn" in kind for kind in unet.config.down_block_types]
    assert attends == [side <= 16 and side < int(name) for side in sides]
    assert ["Attn" in kind for kind in reversed(unet.config.up_block_types)] == attends


# --- what wins over it ----------------------------------------------------------------------------------------------


def test_what_is_given_wins_whatever_its_value() -> None:
    default = TrainingArguments().learning_rate
    _, model, training = settled(32, 32, "--learning_rate", default, "--layers_per_block", 1, "--no_use_ema")
    assert (training.learning_rate, model.layers_per_block, training.use_ema) == (default, 1, False)
    assert model.block_out_channels == PRESETS["32"]["block_out_channels"]
    assert training.lr_warmup_steps == PRESETS["32"]["lr_warmup_steps"]


def test_a_settings_file_wins_too(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("preset: 32\ndropout: 0.15\nnum_epochs: 3\n")
    name, model, training = settled(16, 16, tmp_path / "settings.yaml")
    assert (name, model.dropout, training.num_epochs, training.max_train_steps) == ("32", 0.15, 3, None)


def test_a_network_of_ones_own_keeps_the_usual_settings() -> None:
    name, model, training = settled(32, 32, *TINY_MODEL)
    assert name is None and model.block_out_channels == [8, 8] and training == TrainingArguments()


def test_arguments_made_in_python_are_given_if_they_differ() -> None:
    task = ImageTask(ModelArguments(dropout=0.3), None, None)
    training, name = task.settle(_images(32, 32), TrainingArguments(learning_rate=1e-5))
    assert name == "32" and task.model_arguments.dropout == 0.3 and training.learning_rate == 1e-5
    own = ImageTask(ModelArguments(block_out_channels=[8, 8]), None, None)
    assert own.settle(_images(32, 32), TrainingArguments())[1] is None


CONFIGS = sorted((EXAMPLES / "configs").glob("*.yaml"))
OF_OTHERS = [path for path in CONFIGS if path.stem.startswith(("autoencoder", "latent", "text"))]  # other families


@pytest.mark.parametrize("config", [path for path in CONFIGS if path not in OF_OTHERS], ids=lambda path: path.stem)
def test_the_configurations_are_what_they_say(config: Path) -> None:
    said = yaml.safe_load(config.read_text())
    side = int(said.get("preset", said.get("resolution", 32)))
    name, model, training = settled(side, side, config)
    assert name == said.get("preset")
    for arguments in (model, training):
        usual = type(arguments)()
        for field in dataclasses.fields(arguments):
            value, wanted = getattr(arguments, field.name), said.get(field.name, getattr(usual, field.name))
            listed = [wanted] if isinstance(value, list) and not isinstance(wanted, list) else wanted
            assert value == listed, field.name


WIDTH_OF_T5_LARGE = 1024


@pytest.mark.parametrize(
    ("config", "task", "side", "parameters"),
    [("text64", TextToImageTask, 64, 430_277_574), ("text256", SuperResolutionTask, 256, 182_716_678)],
)
def test_the_configurations_of_text_have_the_sizes_that_they_say(
    config: str, task: type[TextToImageTask], side: int, parameters: int
) -> None:
    path = EXAMPLES / "configs" / f"{config}.yaml"
    model, data, diffusion, *_ = parse("text.py", *run_arguments(task), argv=[str(path)])
    assert data.resolution == side and model.text_encoder == "google/t5-v1_1-large"
    images = LevelImages.in_memory(torch.zeros((1, 3, side, side), dtype=torch.uint8), num_levels=256)
    text = (WIDTH_OF_T5_LARGE, TextSettings(model.tokenizer_max_length))
    with torch.device("meta"):
        if task is TextToImageTask:
            unet = build_text_unet(model, diffusion, images, *text)
        else:
            low = LowResolutionSettings(model.factor, 256, model.max_noise_level)
            unet = build_super_resolution_unet(model, diffusion, images, low, text, data.crop_size)
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters
    assert f"{parameters / 1e6:.1f} M" in path.read_text()


def test_the_configurations_of_text_make_a_cascade() -> None:
    """The first stage trains on what the second one enlarges."""
    stages = (("text64", TextToImageTask), ("text256", SuperResolutionTask))
    (_, small, *_), (model, large, *_) = (
        parse("text.py", *run_arguments(task), argv=[str(EXAMPLES / "configs" / f"{name}.yaml")])
        for name, task in stages
    )
    assert small.low_resolution_of == large.resolution == small.resolution * model.factor
    assert (small.train_data_dir, small.center_crop) == (large.train_data_dir, large.center_crop)


def test_a_recipe_and_a_preset_go_together() -> None:
    model, data, diffusion, training, _ = parse("train.py", *run_arguments(), argv=["--recipe", "ddpm"])
    training, name = ImageTask(model, data, diffusion).settle(_images(16, 16), training)
    assert (name, diffusion.objective, training.train_batch_size) == ("16", "simple", 64)


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_an_unknown_one_is_met_with_those_there_are(tmp_path: Path) -> None:
    sentence = refused(tmp_path / "run", "--preset", 48)
    assert sentence.endswith("`preset` must be one of auto, 8, 16, 32, 64, 128, 256, but is '48'.")


@pytest.mark.parametrize(
    ("size", "argv", "sentence"),
    [
        (
            (30, 30),
            ("--preset", 32),
            "`preset` 32 takes .* multiples of 4, but these are 30x30; pass --resolution 28 or",
        ),
        ((50, 50), (), "`preset` 64 takes .* multiples of 8, but these are 50x50; pass --resolution 48 or 56"),
        ((100, 60), (), "`preset` 128 takes .* multiples of 16, but these are 100x60; pass --resolution 96 or 112"),
        ((7, 7), (), "`preset` 8 takes .* multiples of 2, but these are 7x7; pass --resolution 6 or 8"),
        (
            (1024, 1024),
            (),
            "The largest `preset` is 256, too small for images of 1024x1024; pass another --resolution",
        ),
    ],
)
def test_sides_that_do_not_fit_are_told(size: tuple[int, int], argv: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        settled(*size, *argv)


# --- going on -------------------------------------------------------------------------------------------------------

SHORT = ["--train_batch_size", 2, "--ddpm_num_steps", 4, "--num_quality_samples", 0, "--eval_batch_size", 2]
SHORT += ["--num_paths", 0, "--num_evaluations", 2, "--max_measured_images", 4, "--checkpointing_steps", 1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for number in range(6):
        Image.new("L", (16, 16), 40 * number).save(tmp_path / "data" / f"{number}.png")
    return tmp_path / "data"


def test_a_run_goes_on_with_its_preset(tmp_path: Path, folder: Path) -> None:
    arguments = ["--train_data_dir", folder, *SHORT]
    output = train(tmp_path / "run", *arguments, "--max_train_steps", 1)
    assert "(preset 16)" in output
    output = train(tmp_path / "run", *arguments, *LATEST, "--max_train_steps", 2)
    assert "after step 1 of 2" in output and "(preset 16)" in output


def test_a_run_from_before_there_were_presets_goes_on_with_its_network(tmp_path: Path, folder: Path) -> None:
    arguments = ["--train_data_dir", folder, *SHORT]
    train(tmp_path / "run", *arguments, "--preset", 8, "--max_train_steps", 1)
    checkpoint = tmp_path / "run" / "checkpoint-1"
    record = json.loads((checkpoint / "training.json").read_text())
    assert record.pop("preset") == "8"
    (checkpoint / "training.json").write_text(json.dumps(record))
    write_checksums(checkpoint)
    output = train(tmp_path / "run", *arguments, *LATEST, "--max_train_steps", 2)
    assert "after step 1 of 2" in output and "(preset 8)" in output
    unet = UNet2DModel.load_config(tmp_path / "run" / "unet")
    assert list(unet["block_out_channels"]) == [32, 64] and unet["sample_size"] == 16
    sentence = refused(tmp_path / "run", *arguments, *LATEST, "--preset", 16)
    assert re.search(r"its settings are others: .*block_out_channels was \[32, 64\] and is \[32, 64, 128\]", sentence)


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["docs/training.md", "benchmarks/results/presets.md"])
@pytest.mark.parametrize("name", PRESETS)
def test_tables_have_the_settings_of_the_presets(table: str, name: str) -> None:
    _, model, training = settled(int(name), int(name), "--preset", name)
    text = (EXAMPLES.parent / table).read_text(encoding="utf-8")
    lines = [re.search(rf"^\| `?(?:--)?{first}`? \|.*$", text, re.MULTILINE)[0] for first in ("preset", name)]
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in lines), strict=True))
    digits = 1500  # training images, which the steps of the preset without `max_train_steps` follow from
    steps = training.max_train_steps or math.ceil(training.num_epochs * digits / training.train_batch_size)
    assert cells["steps"] == f"{steps:,}".replace(",", " ")
    channels = cells.get("channels of the blocks") or cells["block_out_channels"]
    assert channels == " ".join(map(str, model.block_out_channels))
    assert (cells.get("batch") or cells["images in a step"]) == str(training.train_batch_size)
