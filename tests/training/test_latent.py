# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training diffusions of latents: what they are given, exact resumption, the bound of images, and what is saved."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hooks
import in_process
import numpy as np
import pytest
import tiny_pipelines
import tiny_text
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, LDMPipeline, StableDiffusionPipeline, VQModel
from PIL import Image
from script_server import EXAMPLES, ScriptServer
from tiny_latents import autoencoder, save_pictures
from training_runs import LATEST, assert_same, ended, last_line, names_in, reports_of_equal_weights

from ddpm_hf import DDPMPaperLatentPipeline
from ddpm_hf.cli.latent import LatentTrainingArguments, is_told_of_text
from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.data.latents import FOLDER
from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.likelihood.decoder_law import DecoderLaw
from ddpm_hf.likelihood.latents import latent_bits_per_dim
from ddpm_hf.pipelines.autoencoders import Autoencoder
from ddpm_hf.results import METRICS
from ddpm_hf.runtime.randomness import Use, noise_like
from ddpm_hf.tasks.latent import LatentTask
from ddpm_hf.tasks.latent_autoencoder import fingerprint_of, load_autoencoder
from ddpm_hf.tasks.presets import LATENT_PRESETS
from ddpm_hf.training.state import TrainState


pytestmark = pytest.mark.processes(0)

TINY = shlex.split(
    "--block_out_channels 8 8 --down_block_types DownBlock2D DownBlock2D --up_block_types UpBlock2D UpBlock2D"
    " --layers_per_block 1 --norm_num_groups 4 --ddpm_num_steps 8 --train_batch_size 8 --eval_batch_size 4"
    " --num_quality_samples 4 --num_paths 2 --num_evaluations 3 --max_measured_images 8 --test_fraction 0.25"
    " --max_train_steps 6 --checkpointing_steps 4 --checkpoints_total_limit 1 --save_images_epochs 0"
    " --validation_steps 0 --variance_type optimal"
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 8x8 pixels in folders of two classes, and autoencoders beside them."""
    folder = tmp_path_factory.mktemp("data")
    save_pictures(folder / "images")
    autoencoder(DecoderLaw([-1.0] * 3)).save_pretrained(folder / "A")
    autoencoder(DecoderLaw([-1.0] * 3), seed=1).save_pretrained(folder / "other")
    autoencoder(None).save_pretrained(folder / "stock")
    return folder


def given(images: Path, name: str = "A") -> list[str]:
    where = ["--train_data_dir", images / "images", "--autoencoder", images / name, "--cache_dir", images / "cache"]
    return [*TINY, *map(str, where)]


def trained(images: Path, folder: Path, *flags: object, code: int = 0) -> str:
    done = in_process.run("latent.py", *given(images), *flags, "--output_dir", folder)
    assert done.code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and what was printed beside it."""
    folder = tmp_path_factory.mktemp("runs") / "latent"
    with in_process.a_process():
        folder.with_name("output.txt").write_text(trained(images, folder))
    return folder


@pytest.fixture
def made(images: Path, tmp_path: Path) -> Iterator[Any]:
    """Makes a training of latents in this process."""

    def make(*flags: object, name: str = "A") -> TrainState:
        argv = [*given(images, name), *map(str, flags), "--output_dir", str(tmp_path / "run")]
        state = prepare_run(
            parse("latent.py", *run_arguments(LatentTask, LatentTrainingArguments), argv=argv), LatentTask
        )
        torch.set_num_threads(1)
        return state

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


# --- what the model is given ----------------------------------------------------------------------------------------


def test_x_0_is_drawn_from_the_autoencoders_posterior(made: Any, images: Path) -> None:
    state = made()
    batch = next(iter(state.batches))
    q = Autoencoder(AutoencoderKL.from_pretrained(images / "A")).posterior(_all(state.data.train.images))
    drawn = q.mean[:, None] + torch.exp(0.5 * q.log_variance[:, None]) * noise_like(batch.x_0, 0, 0, 0, Use.LATENTS)
    distance = (drawn - batch.x_0).abs().amax(dim=(2, 3, 4))  # [images, places]
    assert batch.x_0.shape == (8, 2, 4, 4) and distance.min(dim=0).values.max() < 1e-5
    assert distance.argmin(dim=0).unique().numel() == 8  # of different images
    assert state.scheduler.num_levels is None and not state.scheduler.config.clip_sample


def _all(images: LevelImages) -> torch.Tensor:
    return images.batch(0, len(images))[0]


def test_the_first_noise_is_half_as_wide_as_the_narrowest_posterior(made: Any, images: Path) -> None:
    state = made()
    with torch.no_grad():
        q = Autoencoder(AutoencoderKL.from_pretrained(images / "A")).posterior(_all(state.data.train.images))
    narrowest = math.exp(0.5 * q.log_variance.mean(dim=(0, 2, 3)).min().item())
    first = state.scheduler.schedule.log_snr[1].item()
    assert math.exp(-0.5 * first) == pytest.approx(narrowest / 2, rel=1e-4)
    assert made("--log_snr_max", 5).scheduler.schedule.log_snr[1].item() == pytest.approx(5)


def test_classes_are_told(made: Any) -> None:
    state = made("--num_class_embeds", 2)
    batch = next(iter(state.batches))
    assert set(batch.columns["class_labels"].tolist()) <= {0, 1} and state.conditioners.columns == ("class_labels",)


# --- what is saved and scored ---------------------------------------------------------------------------------------


def test_the_report_has_all_parts_of_the_bound(run: Path) -> None:
    report = json.loads((run / METRICS).read_text())
    parts = [report[f"bits_per_dim_{part}"] for part in ("reconstruction", "posterior_entropy", "latent")]
    assert report["bits_per_dim"] == pytest.approx(sum(parts))
    diffusion = [report[f"bits_per_dim_{part}"] for part in ("prior", "rate", "decoder")]
    assert parts[2] == pytest.approx(sum(diffusion))
    assert report["image_shape"] == [3, 8, 8] and report["latent_shape"] == [2, 4, 4] and report["num_levels"] == 256
    assert report["importance_weighted"]["paths"] == 2 and report["quality_samples"] == 4
    assert report["settings"]["autoencoder"] == "A"
    output = run.with_name("output.txt").read_text()
    assert "latents of 2x4x4 by A\n" in output and " + reconstruction " in output and " + posterior entropy " in output


def test_the_saved_model_has_the_bound_of_the_report(run: Path, made: Any) -> None:
    """Another estimate, of all terms."""
    pipeline, report = DDPMPaperLatentPipeline.from_pretrained(run), json.loads((run / METRICS).read_text())
    test = made().data.test
    draws = torch.Generator().manual_seed(1)
    coder = Autoencoder(pipeline.vae)
    found = [
        latent_bits_per_dim(pipeline.denoiser(), pipeline.scheduler, test.batches(8), coder, generator=draws).total
        for _ in range(8)
    ]
    assert abs(np.mean(found) - report["bits_per_dim"]) < 6 * np.std(found) + 0.02 * report["bits_per_dim"]


def test_stock_diffusers_loads_and_samples_it(run: Path) -> None:
    stock = LDMPipeline.from_pretrained(run)
    assert type(stock.vqvae) is AutoencoderKL
    assert np.asarray(stock(batch_size=1, num_inference_steps=2, eta=1.0).images[0]).shape == (8, 8, 3)
    card = (run / "README.md").read_text()
    assert "DDPMPaperLatentPipeline" in card and "LDMPipeline" in card and "8×8 pixels, 3 channels" in card
    assert "have 2 channels and 1/2 of the images' width and height" in card and "is not clipped" in card


def test_the_autoencoder_is_saved_as_it_was(images: Path, run: Path) -> None:
    saved = DDPMPaperLatentPipeline.from_pretrained(run).vae
    assert fingerprint_of(saved) == fingerprint_of(AutoencoderKL.from_pretrained(images / "A"))
    assert Autoencoder(saved).law.numbers == [-1.0] * 3
    assert fingerprint_of(load_autoencoder(str(run))) == fingerprint_of(saved)  # of a pipeline


def test_an_autoencoder_without_a_law_gets_a_measured_one(made: Any) -> None:
    law = made(name="stock").task.autoencoder.law
    assert law.num_levels == 256 and all(0.1 < scale < 2 for scale in law.scale)  # it reconstructs nothing yet


# --- the run --------------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_ends_as_one_that_was_not(images: Path, run: Path, tmp_path: Path) -> None:
    with hooks.signal_at(5, "SIGINT"):
        trained(images, tmp_path / "run", code=130)
    assert "checkpoint-5" in names_in(tmp_path / "run")
    trained(images, tmp_path / "run", *LATEST)
    assert_same(tmp_path / "run", run)
    assert len(list((images / "cache" / FOLDER).glob("*.safetensors"))) >= 1


@pytest.mark.slow
def test_two_processes_train_as_one_does(scripts: ScriptServer, images: Path, tmp_path: Path) -> None:
    script, common = EXAMPLES / "latent.py", given(images)
    alone = scripts.start(script, *common, "--output_dir", tmp_path / "one")
    both = scripts.start_together(2, script, *common, "--train_batch_size", 4, "--output_dir", tmp_path / "two")
    for each in (alone, *both):
        ended(each)
    one, two = reports_of_equal_weights(tmp_path / "one", tmp_path / "two", atol=2e-3)
    for part in ("bits_per_dim", "bits_per_dim_reconstruction", "bits_per_dim_latent"):
        assert two[part] == pytest.approx(one[part], rel=1e-2)  # scored in other batches, with other noise


def test_a_run_does_not_go_on_with_another_autoencoder(images: Path, run: Path, tmp_path: Path) -> None:
    with hooks.signal_at(5, "SIGINT"):
        trained(images, tmp_path / "run", code=130)
    output = trained(images, tmp_path / "run", "--autoencoder", images / "other", *LATEST, code=2)
    assert "its settings are others: autoencoder was " in last_line(output)


def test_mirrored_images_are_trained_on(images: Path, tmp_path: Path) -> None:
    trained(images, tmp_path / "run", "--random_flip", "--num_quality_samples", 0)
    assert json.loads((tmp_path / "run" / METRICS).read_text())["train_steps"] == 6


# --- told of captions ---

WITH_TEXT = shlex.split(
    "--with_text --objective simple --block_out_channels 8 16 --down_block_types DownBlock2D CrossAttnDownBlock2D"
    " --up_block_types CrossAttnUpBlock2D UpBlock2D --cross_attention_dim 8 --norm_num_groups 4"
    " --attention_head_dim 2 --addition_embed_type_num_heads 2 --tokenizer_max_length 8 --dropout 0"
)


@pytest.fixture(scope="module")
def captioned(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures, with their colour as a caption, and encoders of text: CLIP's architecture, and BERT's."""
    folder = tmp_path_factory.mktemp("captioned")
    paths = sorted((images / "images").rglob("*.png"))
    (folder / "images").mkdir()
    with open(folder / "images" / "metadata.jsonl", "w") as lines:
        for k, path in enumerate(paths):
            Image.open(path).save(folder / "images" / f"{k}.png")
            lines.write(json.dumps({"file_name": f"{k}.png", "text": f"a {path.parent.name} one"}) + "\n")
    tokenizer = tiny_pipelines.clip_tokenizer()
    save_encoder(folder / "clip", tokenizer, tiny_pipelines.clip_text_encoder(tokenizer))
    save_encoder(folder / "bert", *tiny_text.bert())
    return folder


def save_encoder(folder: Path, tokenizer: Any, model: Any) -> None:
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def told(images: Path, captioned: Path, folder: Path, *flags: object, code: int = 0) -> str:
    data = ["--train_data_dir", captioned / "images", "--autoencoder", images / "A", "--cache_dir", images / "cache"]
    done = in_process.run("latent.py", *TINY, *WITH_TEXT, *data, *flags, "--output_dir", folder)
    assert done.code == code, done.output
    return done.output


@pytest.mark.parametrize("kind", ["clip", pytest.param("bert", marks=pytest.mark.slow)])
def test_a_model_told_of_captions_is_scored_saved_and_resumed(
    images: Path, captioned: Path, tmp_path: Path, kind: str
) -> None:
    flags = ["--text_encoder", captioned / kind]
    if kind == "clip":
        flags += ["--text_attention_mask", False, "--variance_type", "fixed_small", "--tokenizer_max_length", 12]
    told(images, captioned, tmp_path / "whole", *flags)
    report = json.loads((tmp_path / "whole" / METRICS).read_text())
    parts = ("reconstruction", "posterior_entropy", "latent")
    assert report["bits_per_dim"] == pytest.approx(sum(report[f"bits_per_dim_{part}"] for part in parts), abs=1e-6)
    assert math.isfinite(report["caption_information_bits"]) and report["latent_shape"] == [2, 4, 4]
    pipeline = DDPMPaperLatentPipeline.from_pretrained(tmp_path / "whole")
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 3, "output_type": "pt"}
    words, others = (
        pipeline(prompt, generator=torch.Generator().manual_seed(0), guidance_scale=3.0, **how).images
        for prompt in ("a dark one", "a light one")
    )
    assert words.shape == (1, 3, 8, 8) and not torch.equal(words, others)
    if (
        kind == "clip"
    ):  # stock tells its model of these words in the same way, since their 12 tokens leave no room for padding
        stock = StableDiffusionPipeline.from_pretrained(tmp_path / "whole")
        stock.set_progress_bar_config(disable=True)
        ours, theirs = (
            each(
                "a dark one ab", generator=torch.Generator().manual_seed(0), num_inference_steps=8, guidance_scale=1.0
            )
            for each in (pipeline, stock)
        )
        difference = np.asarray(ours.images[0]).astype(int) - np.asarray(theirs.images[0]).astype(int)
        assert abs(difference).max() <= 2
        return
    with hooks.signal_at(5, "SIGINT"):
        told(images, captioned, tmp_path / "run", *flags, code=130)
    told(images, captioned, tmp_path / "run", *flags, *LATEST)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], False),
        (["--with_text"], True),
        (["--with_text", "False"], False),
        (["--with_text", "perhaps"], False),
        (["settings.yaml"], True),
        (["settings.yaml", "--with_text", "no"], False),
        (["none.yaml"], False),
    ],
)
def test_text_is_asked_for_by_a_flag_or_a_file(
    argv: list[str], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text("with_text: true\n")
    assert is_told_of_text(argv) is expected


# --- what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--autoencoder", "nowhere"), "Could not load nowhere: there is no such folder here"),
        (("--streaming",), "`streaming` must be False: latents are computed once, of all images."),
        (
            ("--center_crop", "False"),
            "`center_crop` must be True: latents are computed once, of the middle of an image.",
        ),
        (
            ("--num_levels", 17),
            "`autoencoder` is for images of 256 levels, but the data have 17; pass --num_levels 256.",
        ),
        (("--channels", 1), "The images must have the autoencoder's 3 channels, not 1."),
        (("--resolution", 7), "The images must have sides that are multiples of 2, the factor of the autoencoder"),
        (("--preset", 7), "`preset` must be one of auto, 8, 16, 32, 64, but is '7'."),
    ],
)
def test_what_does_not_fit_is_told_before_the_training(
    images: Path, tmp_path: Path, flags: tuple[object, ...], sentence: str
) -> None:
    output = trained(images, tmp_path / "run", *flags, code=2)
    assert last_line(output).startswith(f"latent.py: error: {sentence}"), output
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_without_a_posterior_is_refused(images: Path, tmp_path: Path) -> None:
    VQModel(
        block_out_channels=(4,), norm_num_groups=2, latent_channels=2, num_vq_embeddings=4, sample_size=8
    ).save_pretrained(tmp_path / "vq")
    output = trained(images, tmp_path / "run", "--autoencoder", tmp_path / "vq", code=2)
    assert "A VQModel has no posterior q(z | x), and so no likelihood" in last_line(output)


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LATENT_PRESETS)
def test_every_preset_makes_a_model_of_its_size(name: str) -> None:
    assert _built(["--preset", name], int(name)).config["sample_size"] == int(name)


def test_the_configuration_for_a_gpu_has_the_size_that_it_says() -> None:
    path = EXAMPLES / "configs" / "latent256.yaml"
    count = sum(parameter.numel() for parameter in _built([str(path)], 32).parameters())
    assert f"{count / 1e6:.1f} M" in path.read_text() and 200e6 < count < 1e9


def _built(argv: list[str], side: int) -> Any:
    model, data, diffusion, training, _ = parse(
        "latent.py", *run_arguments(LatentTask, LatentTrainingArguments), argv=argv
    )
    images = LevelImages(2, None, None, (4, side, side), pixels=torch.zeros(2, 8, side, side))
    latents = ImageData("zeros", images, images, images)
    task = LatentTask(model, data, diffusion)
    task.settle(latents, training)
    with torch.device("meta"):
        return task.build_model(latents)
