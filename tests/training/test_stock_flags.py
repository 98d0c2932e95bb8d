# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Moving from diffusers' train_unconditional.py: each of its 45 arguments works as documented, its README's
commands run, and its recipe, by examples/configs/stock.yaml, is reproduced to the last digits.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from clients import as_client
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from hooks import signal_at
from loopback_hub import LoopbackHub
from PIL import Image
from script_server import EXAMPLES, ScriptServer
from torch.nn.functional import mse_loss
from training_runs import refused, train

from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.batches import BatchShard, TrainingBatches
from ddpm_hf.data.level_images import LevelImages
from ddpm_hf.data.loading import load_images
from ddpm_hf.hub.arguments import check_hub_arguments
from ddpm_hf.runtime.randomness import noise_like
from ddpm_hf.tasks.building import build_scheduler, build_unet
from ddpm_hf.training import loop
from ddpm_hf.training import setup as preparation
from ddpm_hf.training.arguments import check_training_arguments
from ddpm_hf.training.state import TrainState
from ddpm_hf.training.step import draw_timesteps
from ddpm_hf.training.tracking import Progress
from ddpm_hf.training.weight_averages import WeightAverage


STOCK = EXAMPLES / "configs" / "stock.yaml"
TINY_MODEL = ["--block_out_channels", 8, 8, "--down_block_types", "DownBlock2D", "AttnDownBlock2D"]
TINY_MODEL += ["--up_block_types", "AttnUpBlock2D", "UpBlock2D", "--layers_per_block", 1, "--norm_num_groups", 4]
QUICK = ["--num_quality_samples", 0, "--num_paths", 0, "--num_evaluations", 2, "--validation_steps", 0]
QUICK += ["--max_measured_images", 4]

# Its arguments, by default as there.
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(
        ("dataset_name", "dataset_config_name", "train_data_dir", "cache_dir", "model_config_name_or_path")
    ),
    **dict.fromkeys(("hub_token", "hub_model_id", "checkpoints_total_limit", "resume_from_checkpoint")),
    **dict.fromkeys(("center_crop", "random_flip", "preserve_input_precision", "overwrite_output_dir"), False),
    **dict.fromkeys(("use_ema", "push_to_hub", "hub_private_repo"), False),
    "enable_xformers_memory_efficient_attention": False,
    "resolution": 64,
    "dataloader_num_workers": 0,
    "output_dir": "ddpm-model-64",
    "local_rank": -1,
    "num_epochs": 100,
    "train_batch_size": 16,
    "eval_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-4,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 500,
    "adam_beta1": 0.95,
    "adam_beta2": 0.999,
    "adam_weight_decay": 1e-6,
    "adam_epsilon": 1e-8,
    "ema_inv_gamma": 1.0,
    "ema_power": 0.75,
    "ema_max_decay": 0.9999,
    "logger": "tensorboard",
    "logging_dir": "logs",
    "mixed_precision": "no",
    "prediction_type": "epsilon",
    "ddpm_num_steps": 1000,
    "ddpm_num_inference_steps": 1000,
    "ddpm_beta_schedule": "linear",
    "save_images_epochs": 10,
    "save_model_epochs": 10,
    "checkpointing_steps": 500,
}
FLAGS = (name for name, value in DEFAULTS.items() if value is False)
# Another value for each.
OTHERS: dict[str, Any] = {
    **dict.fromkeys(FLAGS, True),
    "dataset_name": "owner/data",
    "dataset_config_name": "plain",
    "train_data_dir": "images",
    "cache_dir": "cache",
    "model_config_name_or_path": "model",
    "hub_token": "hf_token",
    "hub_model_id": "owner/model",
    "checkpoints_total_limit": 3,
    "resume_from_checkpoint": "latest",
    "resolution": 32,
    "dataloader_num_workers": 2,
    "output_dir": "run",
    "local_rank": 1,
    "num_epochs": 7,
    "train_batch_size": 8,
    "eval_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup_steps": 10,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_weight_decay": 0.1,
    "adam_epsilon": 1e-6,
    "ema_inv_gamma": 2.0,
    "ema_power": 0.5,
    "ema_max_decay": 0.9,
    "logger": "wandb",
    "logging_dir": "boards",
    "mixed_precision": "bf16",
    "prediction_type": "sample",
    "ddpm_num_steps": 100,
    "ddpm_num_inference_steps": 50,
    "ddpm_beta_schedule": "squaredcos_cap_v2",
    "save_images_epochs": 3,
    "save_model_epochs": 4,
    "checkpointing_steps": 20,
}


def parsed(*argv: object) -> tuple[Any, ...]:
    return parse("train.py", *run_arguments(), argv=[str(argument) for argument in argv])


def values_of(*argv: object) -> dict[str, Any]:
    return {name: value for group in parsed(*argv) for name, value in dataclasses.asdict(group).items()}


def as_list(name: str, value: Any) -> Any:
    return [value] if name == "ema_max_decay" else value  # the one that takes several here


def test_all_45_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(DEFAULTS) == 45 and OTHERS.keys() == DEFAULTS.keys()
    monkeypatch.setattr(sys, "argv", ["train.py"])
    argv = [[f"--{name}"] if value is True else [f"--{name}", value] for name, value in OTHERS.items()]
    values = values_of(*(argument for pair in argv for argument in pair))
    assert {name: values[name] for name in OTHERS} == {name: as_list(name, value) for name, value in OTHERS.items()}
    groups = parsed(*(argument for pair in argv for argument in pair), "--objective", "simple")
    check_training_arguments(groups[3], groups[2])
    check_hub_arguments(groups[4])


# --- what each does: data --------------------------------------------------------------------------------------------


def save(folder: Path, count: int, size: tuple[int, int] = (20, 12), level: int | None = None) -> Path:
    """PNG files of three channels, noise or of one level."""
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels if level is None else np.full_like(pixels, level)).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("data") / "images", 40)


def test_where_the_images_come_from(tmp_path: Path, images: Path) -> None:
    cache = tmp_path / "cache"
    by_folder = load_images(DataArguments(train_data_dir=str(images), cache_dir=str(cache)))
    assert not cache.exists()  # a folder is read as it is
    by_name = load_images(DataArguments(dataset_name=str(images), cache_dir=str(cache)))
    assert torch.equal(by_folder.train.pixels, by_name.train.pixels) and len(by_name.train) == 36
    both = tmp_path / "both"
    for name, level in (("dark", 10), ("light", 200)):
        save(both / name, 4, level=level)
    text = "".join(f"- config_name: {name}\n  data_files: {name}/*.png\n" for name in ("dark", "light"))
    (both / "README.md").write_text(f"---\nconfigs:\n{text}---\n")
    arguments = DataArguments(dataset_name=str(both), dataset_config_name="light", cache_dir=str(cache))
    assert set(load_images(arguments).train.pixels.unique().tolist()) == {200}
    assert any(cache.rglob("*.arrow"))


def read(images: Path, *flags: str, epochs: int = 6) -> torch.Tensor:
    """Batches of a training, as it reads them."""
    _, data, _, training, _ = parsed("--train_data_dir", images, *flags)
    train_images = load_images(data).train
    steps = epochs * len(train_images) // 12
    batches = TrainingBatches(
        train_images, BatchShard(12), 0, steps, training.seed, data.random_flip, data.dataloader_num_workers
    )
    return torch.stack([batch.x_0 for batch in batches])


def test_what_is_made_of_the_images(images: Path, tmp_path: Path) -> None:
    small = ["--resolution", "8", "--cache_dir", str(tmp_path)]
    center = read(images, *small, "--center_crop")
    assert center.shape == (18, 12, 3, 8, 8)

    def kinds(batches: torch.Tensor) -> int:
        return len({image.numpy().tobytes() for image in batches.flatten(0, 1)})

    assert kinds(center) == 36
    assert 36 < kinds(read(images, *small, "--center_crop", "--random_flip")) <= 72
    assert kinds(read(images, *small)) > 72  # 13 x 8 pixels cut to 8 x 8 at six places
    by_worker = read(images, *small, "--center_crop", "--dataloader_num_workers", "1", epochs=1)
    assert torch.equal(by_worker, center[:3])


def test_more_than_8_bits_are_preserved(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000 + 3
    for i in range(4):
        Image.fromarray(levels).save(tmp_path / "deep" / f"{i}.png")
    flags = ["--train_data_dir", str(tmp_path / "deep"), "--cache_dir", str(tmp_path / "cache"), "--channels", "3"]
    _, data, *_ = parsed(*flags, "--preserve_input_precision")
    loaded = load_images(data).train
    assert loaded.shape == (3, 8, 8) and loaded.num_levels == 2**16  # RGB, as there
    assert all(np.array_equal(channel.numpy(), levels.astype(np.int32)) for channel in loaded.levels(0))


# --- what each does: model and optimisation --------------------------------------------------------------------------


def config_of(unet: UNet2DModel) -> dict[str, Any]:
    public = {key: value for key, value in unet.config.items() if key[0] != "_"}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in public.items()}


def test_the_model_by_its_configuration(tmp_path: Path) -> None:
    model, _, diffusion, *_ = parsed(*TINY_MODEL, "--dropout", 0.25)
    images = LevelImages(1, None, 256, (3, 16, 16))
    build_unet(model, diffusion, images).save_config(tmp_path)
    again, _, diffusion, *_ = parsed("--model_config_name_or_path", tmp_path)
    assert config_of(build_unet(again, diffusion, images)) == config_of(build_unet(model, diffusion, images))


def test_the_model_that_stock_builds() -> None:
    model, _, diffusion, *_ = parsed(STOCK)
    blocks = ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D")
    with torch.device("meta"):
        ours = build_unet(model, diffusion, LevelImages(1, None, 256, (3, 64, 64)))
        stock = UNet2DModel(
            sample_size=64,
            in_channels=3,
            out_channels=3,
            layers_per_block=2,
            block_out_channels=(128, 128, 256, 256, 512, 512),
            down_block_types=blocks,
            up_block_types=tuple(block.replace("Down", "Up") for block in reversed(blocks)),
        )
    assert config_of(ours) == config_of(stock)
    shapes = [{name: value.shape for name, value in unet.state_dict().items()} for unet in (ours, stock)]
    assert shapes[0] == shapes[1]


def test_attention_is_memory_efficient_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, attend = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), attend(*a, **k))[1]
    )
    for flags in ([], ["--enable_xformers_memory_efficient_attention"]):
        model, _, diffusion, *_ = parsed(*TINY_MODEL, *flags)
        unet = build_unet(model, diffusion, LevelImages(1, None, 256, (1, 8, 8)))
        processors = [type(module.processor) for module in unet.modules() if isinstance(module, Attention)]
        assert set(processors) == {AttnProcessor2_0}
        calls.clear()
        unet(torch.zeros(1, 1, 8, 8), 0)
        assert len(calls) == len(processors)


def test_the_diffusion() -> None:
    flags = ["--ddpm_num_steps", 50, "--ddpm_beta_schedule", "scaled_linear", "--prediction_type", "sample"]
    scheduler = build_scheduler(parsed(*flags)[2], 256)
    stock = DDPMScheduler(50, beta_schedule="scaled_linear", prediction_type="sample")
    assert len(scheduler) == 50 and scheduler.config.prediction_type == "sample"
    torch.testing.assert_close(scheduler.alphas_cumprod.float(), stock.alphas_cumprod, rtol=1e-5, atol=0)


def test_the_optimizer_its_rate_and_the_average() -> None:
    names = [name for name in DEFAULTS if name.startswith(("adam_", "learning_rate", "lr_", "ema_"))]
    given = [argument for name in names for argument in (f"--{name}", OTHERS[name])]
    training = parsed(*given)[3]
    model = torch.nn.Linear(2, 2)
    optimizer, rates = preparation._make_optimizer(model.parameters(), training, steps=40)
    (group,) = optimizer.param_groups
    assert (group["betas"], group["weight_decay"], group["eps"]) == ((0.8, 0.9), 0.1, 1e-6)
    seen = []
    for _ in range(40):
        seen.append(rates.get_last_lr()[0])
        optimizer.step()
        rates.step()
    assert seen == pytest.approx([1e-3 * min(1, k / 10) for k in range(40)])
    (average,) = preparation._averages(model, training, flat=None)
    assert (average.inv_gamma, average.power, average.max_decay) == (2.0, 0.5, 0.9)
    assert preparation._averages(model, parsed("--no_use_ema")[3], flat=None) == []


def test_how_long_it_trains() -> None:
    data = load_images(DataArguments())  # 1500 images
    for flags, steps in ((["--num_epochs", 2], 32), (["--num_epochs", 2, "--train_batch_size", 100], 15)):
        training = parsed("--gradient_accumulation_steps", 2, "--train_batch_size", 48, *flags)[3]
        shard = BatchShard(training.train_batch_size, training.gradient_accumulation_steps)
        assert preparation._steps(training, data, shard) == steps


def test_the_local_rank_of_old_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "Accelerator", lambda **_: None)
    for processes, expected in (("2", "1"), ("1", None)):
        monkeypatch.setattr(preparation.os, "environ", {"WORLD_SIZE": processes})
        with pytest.raises(AttributeError):  # of what stands for the accelerator
            preparation._engine(parsed("--local_rank", 1)[3])
        assert preparation.os.environ.get("LOCAL_RANK") == expected


# --- what each does: real runs ---------------------------------------------------------------------------------------


def test_what_is_written_and_gone_on_with(images: Path, tmp_path: Path) -> None:
    # 36 images, 16 in a step: epochs end with steps 3, 5, 7 and 9.
    run, common = tmp_path / "run", [*TINY_MODEL, *QUICK, "--train_data_dir", images]
    common += ["--cache_dir", tmp_path / "cache", "--resolution", 8, "--center_crop", "--random_flip"]
    common += ["--train_batch_size", 8, "--gradient_accumulation_steps", 2, "--num_epochs", 4, "--mixed_precision"]
    common += ["bf16", "--ddpm_num_steps", 20, "--ddpm_num_inference_steps", 5, "--eval_batch_size", 3, "--use_ema"]
    common += ["--checkpointing_steps", 2, "--checkpoints_total_limit", 2, "--save_images_epochs", 2]
    common += ["--save_model_epochs", 1, "--logger", "tensorboard", "--logging_dir", "boards"]
    common += ["--dataloader_num_workers", 1, "--enable_xformers_memory_efficient_attention"]
    train(run, *common, code=143, during=(signal_at(13, "SIGTERM"),))  # in step 7
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-6", "checkpoint-7"}
    assert [path.name for path in (run / "samples").iterdir()] == ["step_0000005.png"]
    assert len(list((run / "boards").rglob("*tfevents*"))) == 1
    assert DDPMPipeline.from_pretrained(run).unet.config.sample_size == 8  # saved after step 5
    fingerprint = json.loads((run / "checkpoint-7" / "training.json").read_text())["fingerprint"]
    assert fingerprint["precision"] == "bf16" and fingerprint["images in a step"] == 16
    assert not (run / "metrics.json").exists()
    assert "already holds another run" in refused(run, *common)
    assert "after step 6 of 9" in train(run, *common, "--resume_from_checkpoint", "checkpoint-6")
    report = json.loads((run / "metrics.json").read_text())
    assert (report["train_steps"], report["train_images"], report["train_batch_size"]) == (9, 36, 16)
    train(run, *common, "--overwrite_output_dir", "--num_epochs", 1)
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}


def command(text: str, data: Path, output: Path) -> list[str]:
    """The arguments of a command in stock's README, after the script, with this data set and folder."""
    words = [word.replace('"', "") for word in text.replace("\\\n", " ").split()]
    words = words[words.index("train_unconditional.py") + 1 :]
    words = [f"--dataset_name={data}" if word.startswith("--dataset_name") else word for word in words]
    return [f"--output_dir={output}" if word.startswith("--output_dir") else word for word in words]


FLOWERS = """accelerate launch train_unconditional.py \\
  --dataset_name="huggan/flowers-102-categories" --resolution=64 --center_crop --random_flip \\
  --output_dir="ddpm-ema-flowers-64" --train_batch_size=16 --num_epochs=100 --gradient_accumulation_steps=1 \\
  --use_ema --learning_rate=1e-4 --lr_warmup_steps=500 --mixed_precision=no --push_to_hub"""
POKEMON = FLOWERS.replace("huggan/flowers-102-categories", "huggan/pokemon").replace("flowers", "pokemon")
MULTI_GPU = (
    POKEMON.replace("launch", 'launch --mixed_precision="fp16" --multi_gpu')
    .replace("--mixed_precision=no", '--mixed_precision="fp16"')
    .replace("--push_to_hub", '--logger="wandb"')
)


@pytest.mark.parametrize("text", [FLOWERS, POKEMON, MULTI_GPU], ids=["flowers", "pokemon", "multi-gpu"])
def test_the_commands_of_the_readme_mean_the_same(text: str) -> None:
    output = Path(re.search('output_dir="(.*?)"', text)[1])
    name = re.search('dataset_name="(.*?)"', text)[1]
    values = values_of(STOCK, *command(text, Path(name), output))
    meant = DEFAULTS | {"dataset_name": name, "output_dir": str(output), "center_crop": True, "random_flip": True}
    meant |= {"use_ema": True, "push_to_hub": text is not MULTI_GPU}
    meant |= {"mixed_precision": "fp16", "logger": "wandb"} if text is MULTI_GPU else {}
    assert {key: values[key] for key in DEFAULTS} == {key: as_list(key, value) for key, value in meant.items()}
    launched = launch_command_parser().parse_args(text.replace("\\\n", " ").replace('"', "").split()[2:])
    assert launched.training_script_args[0] == f"--dataset_name={name}"


def test_the_flowers_command_runs(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "ddpm-ema-flowers-64"
    words = command(FLOWERS, images, output)
    words += ["--hub_private_repo", "--hub_token", "hf_owner", "--max_train_steps", "2", *map(str, TINY_MODEL + QUICK)]
    words += ["--ddpm_num_inference_steps", "2", "--eval_batch_size", "2", "--cache_dir", str(tmp_path / "cache")]
    with LoopbackHub() as hub:
        hub.add_user("owner", token="hf_owner")
        with as_client(hub, tmp_path / "home", token=None):
            done = in_process.run("train.py", *words)
        assert done.code == 0, done.output
        repository = hub.repos["owner/ddpm-ema-flowers-64"]
        assert repository.private and "unet/diffusion_pytorch_model.safetensors" in repository.files()
    assert DDPMPipeline.from_pretrained(output).unet.config.sample_size == 64


@pytest.mark.slow
def test_the_multi_gpu_command_runs_on_two_processes(scripts: ScriptServer, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    output = tmp_path / "run"
    words = [*command(MULTI_GPU, images, output), "--resolution=8", "--max_train_steps", 3, *TINY_MODEL, *QUICK]
    words += ["--ddpm_num_inference_steps", 2, "--eval_batch_size", 2, "--cache_dir", tmp_path / "cache"]
    runs = scripts.start_together(2, "train.py", *words, env={"WANDB_MODE": "offline"})
    assert [run.wait() for run in runs] == [0, 0], [run.output for run in runs]
    assert json.loads((output / "metrics.json").read_text())["train_batch_size"] == 32
    assert len(list(output.rglob("*.wandb"))) == 1


# --- the recipe ------------------------------------------------------------------------------------------------------


def test_its_settings_are_its_defaults() -> None:
    values, given = values_of(STOCK), yaml.safe_load(STOCK.read_text())
    for name, value in DEFAULTS.items():
        assert values[name] == as_list(name, value) or (name, values[name]) == ("mixed_precision", None), name
    assert given.keys() <= values.keys()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Any]:
    """Makes a run with stock's settings and others, prepared to take its first step."""

    def make(*flags: object) -> TrainState:
        argv = [STOCK, *TINY_MODEL, "--use_ema", "--logger", "none", "--output_dir", tmp_path / "run", *flags]
        images = save(tmp_path / "images", 40, (8, 8))
        argv += ["--train_data_dir", images, "--resolution", 8, "--cache_dir", tmp_path / "cache"]
        prepared = prepare_run(parsed(*argv, "--lr_warmup_steps", 2, "--learning_rate", 1e-3))
        torch.set_num_threads(1)
        return prepared

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


def test_its_average_is_reproduced() -> None:
    model = torch.nn.Linear(3, 2)
    ours = WeightAverage(model, inv_gamma=2.0, power=0.6, max_decay=0.7)
    theirs = EMAModel(model.parameters(), decay=0.7, use_ema_warmup=True, inv_gamma=2.0, power=0.6)
    for _ in range(20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update()
        theirs.step(model.parameters())
        for mine, its in zip(ours.averages, theirs.shadow_params, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_its_recipe_is_reproduced(job: Any, prediction: str) -> None:
    flags = ["--prediction_type", "sample", "--snr_gamma", 1e9] if prediction == "sample" else []
    run = job(*flags)
    model = copy.deepcopy(run.model)
    # The recipe, in diffusers' and torch's own terms.
    scheduler = DDPMScheduler(1000, beta_schedule="linear", prediction_type=prediction)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rates = get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=run.steps)
    average = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    progress = Progress(1000, torch.device("cpu"))
    with closing(iter(run.batches)) as batches:
        for _ in range(6):
            batch = next(batches)
            t, x_0 = draw_timesteps(run)[0], batch.x_0
            noise = noise_like(x_0, 0, run.training.seed, run.step)
            output = model(scheduler.add_noise(x_0, noise, t), t).sample
            if prediction == "epsilon":
                loss = mse_loss(output, noise)
            else:
                alpha = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
                loss = (alpha / (1 - alpha) * (output - x_0) ** 2).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rates.step()
            optimizer.zero_grad()
            average.step(model.parameters())
            loop.take_step(run, iter([batch]), progress)
            assert progress.losses[-1].item() == pytest.approx(loss.item(), rel=1e-4)
    ours, theirs = run.model.state_dict(), model.state_dict()
    for name in ours:  # where Adam divides a small gradient by its own size, the last digits of the tables show
        torch.testing.assert_close(ours[name], theirs[name], atol=3e-4, rtol=0)
    for mine, its in zip(run.average.averages, average.shadow_params, strict=True):
        torch.testing.assert_close(mine, its, atol=3e-4, rtol=0)
    assert run.lr_scheduler.get_last_lr() == rates.get_last_lr()


# --- what docs/ say --------------------------------------------------------------------------------------------------


DOCS = EXAMPLES.parent / "docs"
GUIDE = (DOCS / "coming_from" / "train_unconditional.md").read_text("utf-8")


def test_the_guide_lists_every_default_that_differs() -> None:
    rows = dict(re.findall(r"^\| `--(\w+)` \| .* \| (.*) \|$", GUIDE, re.MULTILINE))
    ours = values_of()
    differing = {name: value for name, value in DEFAULTS.items() if ours[name] != as_list(name, value)}
    assert rows.keys() == differing.keys()
    words = {True: "yes", False: "no", None: "all; -1"}
    for name, value in differing.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        assert (float(rows[name]) == value) if is_number else rows[name] == words.get(value, value), name


def commands() -> list[str]:
    text = "".join(path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md")))
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return sorted({line for line in lines if "examples/train.py" in line})


@pytest.mark.parametrize("line", commands())
def test_the_commands_of_the_guide_are_commands(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    launch, *words = line.split("#")[0].split("&&")[-1].split()[1:]
    launched = launch_command_parser().parse_args(words)
    assert launch == "launch" and Path(launched.training_script).is_file()
    assert launched.config_file is None or Path(launched.config_file).is_file()
    _, _, diffusion, training, hub = parsed(*launched.training_script_args)
    check_training_arguments(training, diffusion)
    check_hub_arguments(hub)
