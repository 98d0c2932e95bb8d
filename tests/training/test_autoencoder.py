# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training autoencoders: the bound that they learn, their latents, exact resumption, and what is saved."""

from __future__ import annotations

import ast
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import hooks
import in_process
import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file
from script_server import EXAMPLES, ScriptServer
from training_runs import LATEST, assert_same, ended, last_line, names_in

from ddpm_hf.cli import train as command
from ddpm_hf.cli.autoencoder import METHOD, AutoencoderTrainingArguments
from ddpm_hf.cli.parsing import parse
from ddpm_hf.cli.train import prepare_run, run_arguments
from ddpm_hf.data.level_images import ImageData, LevelImages
from ddpm_hf.hub.model_card import fill_card
from ddpm_hf.hub.push import model_files
from ddpm_hf.likelihood import elbo_bits_per_dim
from ddpm_hf.pipelines.autoencoders import Autoencoder
from ddpm_hf.results import METRICS
from ddpm_hf.tasks.autoencoder import AutoencoderTask
from ddpm_hf.tasks.autoencoder_model import LatentMoments, LikelihoodAutoencoder, stock_autoencoder
from ddpm_hf.tasks.presets import AUTOENCODER_PRESETS
from ddpm_hf.training import elbo_step as library
from ddpm_hf.training import plan
from ddpm_hf.training.autoencoder_state import AutoencoderState
from ddpm_hf.training.elbo_step import training_step
from ddpm_hf.training.loop import train
from ddpm_hf.training.perceptual import CONVOLUTIONS
from ddpm_hf.training.run_clock import PHASES


pytestmark = pytest.mark.processes(0)

TINY = shlex.split(
    "--block_out_channels 8 8 --norm_num_groups 4 --latent_channels 2 --train_batch_size 8 --eval_batch_size 8"
    " --max_train_steps 6 --max_measured_images 16 --test_fraction 0.25 --validation_steps 4 --save_images_epochs 1"
)
ONE_GAUSSIAN = ["--decoder_law", "gaussian", "--decoder_components", 1]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 8x8 pixels, a disc of some colour on another."""
    folder, draws = tmp_path_factory.mktemp("data") / "images", np.random.default_rng(0)
    folder.mkdir()
    y, x = np.mgrid[:8, :8] - 3.5
    for k in range(32):
        picture = np.broadcast_to(draws.integers(0, 256, 3), (8, 8, 3)).astype(np.uint8).copy()
        picture[x**2 + y**2 < draws.uniform(2, 12)] = draws.integers(0, 256, 3)
        Image.fromarray(picture).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def vgg_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights like VGG-16's, of few channels."""
    path, generator = tmp_path_factory.mktemp("weights") / "vgg.safetensors", torch.Generator().manual_seed(0)
    tensors, before = {}, 3
    for number in CONVOLUTIONS:
        tensors[f"features.{number}.weight"] = torch.randn(4, before, 3, 3, generator=generator) / 4
        tensors[f"features.{number}.bias"] = torch.zeros(4)
        before = 4
    save_file(tensors, path)
    return path


@pytest.fixture
def made(images: Path, tmp_path: Path) -> Iterator[Any]:
    """Makes a training of an autoencoder in this process."""

    def make(*flags: object, folder: str = "run") -> AutoencoderState:
        argv = [*TINY, "--train_data_dir", str(images), *map(str, flags), "--output_dir", str(tmp_path / folder)]
        classes = run_arguments(AutoencoderTask, AutoencoderTrainingArguments)
        state = prepare_run(parse("autoencoder.py", *classes, argv=argv), AutoencoderTask, METHOD)
        torch.set_num_threads(1)
        return state

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


def trained(images: Path, folder: Path, *flags: object, code: int = 0) -> str:
    """Train to the end, through the script; returns what was printed."""
    done = in_process.run("autoencoder.py", *TINY, "--train_data_dir", images, "--output_dir", folder, *flags)
    assert done.code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and what was printed beside it."""
    folder = tmp_path_factory.mktemp("runs") / "autoencoder"
    flags = ["--checkpointing_steps", 4, "--checkpoints_total_limit", 1]
    with in_process.a_process():
        folder.with_name("output.txt").write_text(trained(images, folder, *flags))
    return folder


# --- the step -------------------------------------------------------------------------------------------------------


def functions(path: Path) -> dict[str, str]:
    source = path.read_text("utf-8")
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_source_segment(source, node) for node in nodes}


def test_the_example_has_the_librarys_algorithm() -> None:
    copies, originals = functions(EXAMPLES / "autoencoder.py"), functions(Path(library.__file__))
    assert copies == originals and set(copies) == {"training_step", "negative_elbo"}


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_step_learns_the_bound_by_hand(made: Any, scale: float) -> None:
    state = made("--kl_scale", scale, *ONE_GAUSSIAN, "--kl_warmup_steps", 0)
    batch = next(iter(state.batches))
    noise = state.noise(batch.x_0, 0)
    with torch.no_grad():
        q = state.model.vae.encode(batch.x_0).latent_dist  # diffusers' own divergence, and torch's own normal law
        found = state.model.vae.decode(q.mean + q.std * noise).sample.double()
        law = torch.distributions.Normal(0.0, state.model.log_scale.double().exp().view(1, -1, 1, 1))
        below = torch.where(batch.x_0 > -1 + 1e-4, law.cdf(batch.x_0 - 1 / 255 - found), torch.zeros(()).double())
        above = torch.where(batch.x_0 < 1 - 1e-4, law.cdf(batch.x_0 + 1 / 255 - found), torch.ones(()).double())
        terms = torch.stack([-(above - below).log().sum(dim=(1, 2, 3)), q.kl().double()], dim=1) / 192 / math.log(2)
    result = training_step(state, iter([batch]))
    torch.testing.assert_close(result.terms, terms, rtol=1e-4, atol=1e-6)
    assert result.loss.item() == pytest.approx((terms[:, 0] + scale * terms[:, 1]).mean().item(), rel=1e-4)


def test_the_bound_falls_and_the_scale_becomes_that_of_the_errors(made: Any) -> None:
    flags = ["--lr_warmup_steps", 0, "--validation_steps", 0, "--save_images_epochs", 0, "--checkpointing_steps", 0]
    flags += [*ONE_GAUSSIAN, "--kl_warmup_steps", 0]
    state = made("--max_train_steps", 150, "--learning_rate", 4e-3, *flags)
    losses: list[float] = []

    def noted(state: AutoencoderState, batches: Any) -> Any:
        result = training_step(state, batches)
        losses.append(result.loss.item())
        return result

    train(state, SimpleNamespace(caught=None, awaited=iter), noted)
    assert sum(losses[-5:]) < sum(losses[:5]) - 2.5  # half a bit a dimension
    x = state.data.train.batch(0, len(state.data.train))[0]
    with torch.no_grad():
        found = state.model(x, state.noise(x, 0)).reconstruction
    errors = (found - x).square().mean(dim=(0, 2, 3)).sqrt()
    torch.testing.assert_close(state.model.log_scale.exp().detach(), errors, rtol=0.25, atol=0)


def test_the_weight_of_the_divergence_rises_to_its_scale(made: Any) -> None:
    state = made("--kl_scale", 0.5, "--kl_warmup_steps", 4)
    weights = []
    for state.step in range(6):
        weights.append(state.kl_weight)
    assert weights == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    state.step = 0
    result = training_step(state, iter(state.batches))
    assert result.loss.item() == pytest.approx((result.terms[:, 0] + 0.125 * result.terms[:, 1]).mean().item())


def test_components_of_different_widths_code_a_pixel_together(made: Any) -> None:
    state = made("--decoder_components", 3)
    law = state.model.law(256)
    assert law.num_components == 3 and law.family == "logistic"
    assert law.numbers == [pytest.approx([value] * 3) for value in (-1.0, -1.5, -2.0)]
    before, batches = [state.model.log_scale.clone(), state.model.log_weight.clone()], iter(state.batches)
    for _ in range(2):  # the learning rate of the first step is 0
        training_step(state, batches)
    assert not torch.equal(before[0], state.model.log_scale) and not torch.equal(before[1], state.model.log_weight)


VISUAL = ["--perceptual_weight", 0.1, "--adversarial_weight", 0.5, "--adversarial_start_step", 2]
VISUAL += ["--discriminator_channels", 8]


def test_visual_terms_resume_exactly_and_leave_the_bound_as_it_is(
    images: Path, tmp_path: Path, vgg_weights: Path
) -> None:
    flags = [*VISUAL, "--perceptual_model", vgg_weights, "--checkpointing_steps", 4, "--checkpoints_total_limit", 1]
    whole = trained(images, tmp_path / "whole", *flags)
    with hooks.signal_at(5, "SIGINT"):
        trained(images, tmp_path / "run", *flags, code=130)
    kept = names_in(tmp_path / "run" / "checkpoint-5")
    assert {"discriminator.safetensors", "discriminator_optimizer.safetensors"} <= set(kept)
    trained(images, tmp_path / "run", *flags, *LATEST)
    assert_same(tmp_path / "run", tmp_path / "whole")
    assert "by the evidence lower bound and a perceptual term and an adversarial term\n" in whole
    report = json.loads((tmp_path / "whole" / METRICS).read_text())
    assert report["objective"] == "elbo + perceptual + adversarial" and "perceptual_model" not in report["settings"]
    assert report["bits_per_dim"] == pytest.approx(report["bits_per_dim_reconstruction"] + report["bits_per_dim_kl"])
    assert "Its objective was `elbo + perceptual + adversarial`" in (tmp_path / "whole" / "README.md").read_text()


# --- what is saved --------------------------------------------------------------------------------------------------


def test_stock_diffusers_loads_it_and_the_files_are_there(run: Path) -> None:
    assert {"config.json", "diffusion_pytorch_model.safetensors", "samples.png", METRICS, "README.md"} <= set(
        names_in(run)
    )
    vae = AutoencoderKL.from_pretrained(run)
    assert type(vae) is AutoencoderKL and vae.config["latent_channels"] == 2
    report = json.loads((run / METRICS).read_text())
    assert report["objective"] == "elbo" and report["latent_shape"] == [2, 4, 4] and report["test_images"] == 8
    assert report["bits_per_dim"] == pytest.approx(report["bits_per_dim_reconstruction"] + report["bits_per_dim_kl"])
    assert report["bits_per_dim_kl"] == pytest.approx(sum(report["kl_nats_by_channel"]) / 192 / math.log(2))
    assert [entry["step"] for entry in report["validation"]] == [4]
    assert report["settings"]["kl_scale"] == 1.0 and "num_paths" not in report["settings"]
    law = Autoencoder(vae).law
    assert law.scale == pytest.approx(report["decoder_scale"], rel=1e-5) and law.num_levels == 256
    width, height = Image.open(run / "samples.png").size
    assert width == height  # two columns of four: images, and below them their reconstructions


def test_what_is_printed_tells_the_two_terms(run: Path) -> None:
    output = run.with_name("output.txt").read_text()
    assert "learns     latents of 2x4x4 by the evidence lower bound\n" in output
    assert " bits/dim on 8 test images = reconstruction " in output and " + KL " in output


def test_the_saved_latents_have_mean_0_and_variance_1(images: Path, run: Path) -> None:
    vae = AutoencoderKL.from_pretrained(run)
    report = json.loads((run / METRICS).read_text())
    x = torch.stack([_pixels(path) for path in sorted(images.glob("*.png"))])
    with torch.no_grad():
        q = Autoencoder(vae).posterior(x)
    variance = q.mean.var(dim=(0, 2, 3)) + q.log_variance.exp().mean(dim=(0, 2, 3))
    assert q.mean.mean(dim=(0, 2, 3)).abs().max() < 0.15  # measured on half of these images
    assert 0.9 < variance.mean() < 1.1
    assert vae.config["shift_factor"] is None  # few stock pipelines know it
    own = vae.config["_ddpm_hf"]["latents"]
    assert own["shift"] == report["latents_mean"] and own["scale"] == vae.config["scaling_factor"]


def _pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 127.5 - 1


@pytest.mark.parametrize("with_convolutions", [True, False])
def test_a_shift_of_the_latents_changes_no_image(with_convolutions: bool) -> None:
    config = {
        "block_out_channels": [4, 4],
        "norm_num_groups": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 3,
        "sample_size": 8,
        "scaling_factor": 1.0,
        "use_quant_conv": with_convolutions,
        "use_post_quant_conv": with_convolutions,
    }
    model = LikelihoodAutoencoder(config).eval()
    moments = LatentMoments([0.5, -2.0, 1.0], [2.0, 2.0, 2.0])
    plain, shifted = stock_autoencoder(model, 256), stock_autoencoder(model, 256, moments)
    before, after, x = Autoencoder(plain), Autoencoder(shifted), torch.rand(4, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        q, moved = before.posterior(x), after.posterior(x)
        mean = torch.tensor(moments.mean).view(1, 3, 1, 1)
        torch.testing.assert_close(moved.mean, (q.mean - mean) / 2, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moved.log_variance, q.log_variance - 2 * math.log(2), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after.decode(moved.mean), before.decode(q.mean), rtol=1e-4, atol=1e-5)
    assert after.latent_scale.is_one_number == with_convolutions  # as stock pipelines know it


def test_the_saved_model_has_the_reconstruction_cost_of_the_report(images: Path, run: Path, made: Any) -> None:
    """Through stock's loader and ddpm_hf's adapter, with other draws of z."""
    test, report = made().data.test, json.loads((run / METRICS).read_text())
    draws = torch.Generator().manual_seed(1)
    autoencoder = Autoencoder(AutoencoderKL.from_pretrained(run).eval())
    found = [elbo_bits_per_dim(autoencoder, test.batches(8), generator=draws).reconstruction for _ in range(8)]
    spread = np.std(found) * math.sqrt(1 + 1 / 8)
    assert abs(np.mean(found) - report["bits_per_dim_reconstruction"]) < 5 * spread + 1e-4


def test_the_card_and_the_files_of_a_push_are_of_an_autoencoder(run: Path) -> None:
    card = fill_card(run, "me/discs")
    assert 'AutoencoderKL.from_pretrained("me/discs")' in card and "8×8 pixels" in card and "latents of 4×4" in card
    assert "ddpm-hf latent --autoencoder me/discs" in card and "## Training" in card
    assert {path.name for path in model_files(run)} == {
        *("config.json", "diffusion_pytorch_model.safetensors", "samples.png", METRICS),
    }


# --- the run --------------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_ends_as_one_that_was_not(images: Path, run: Path, tmp_path: Path) -> None:
    flags = ["--checkpointing_steps", 4, "--checkpoints_total_limit", 1]
    with hooks.signal_at(5, "SIGINT"):
        trained(images, tmp_path / "run", *flags, code=130)
    assert "checkpoint-5" in names_in(tmp_path / "run")
    trained(images, tmp_path / "run", *flags, *LATEST)
    assert_same(tmp_path / "run", run)


def test_accumulated_batches_make_the_same_step(made: Any) -> None:
    results = []
    for size, windows in ((8, 1), (4, 2)):
        in_process.forget_processes()
        state = made("--train_batch_size", size, "--gradient_accumulation_steps", windows, folder=f"of {size}")
        results.append(training_step(state, iter(state.batches)))
    torch.testing.assert_close(results[1].terms, results[0].terms, rtol=1e-5, atol=1e-6)
    assert float(results[1].gradient_norm) == pytest.approx(float(results[0].gradient_norm), rel=1e-4)


def test_several_averages_are_scored_and_saved(images: Path, tmp_path: Path) -> None:
    trained(images, tmp_path / "run", "--ema_max_decay", 0.9, 0.5)
    report = json.loads((tmp_path / "run" / METRICS).read_text())
    assert set(report["validation_bits_per_dim_by_ema_decay"]) == {"0.9", "0.5"}
    assert (tmp_path / "run" / "vae_ema_0.5" / "config.json").is_file()


def test_the_model_calls_that_are_planned_are_made(images: Path, tmp_path: Path) -> None:
    calls, seen, planned = Counter(), Counter(), {}
    forward, announce, states = LikelihoodAutoencoder.forward, command.announce, []

    def counting(self: LikelihoodAutoencoder, x: torch.Tensor, noise: torch.Tensor) -> Any:
        if states:
            calls[states[0].clock._open[-1]] += 1
            seen[states[0].clock._open[-1]] += len(x)
        return forward(self, x, noise)

    def announcing(state: AutoencoderState) -> None:
        announce(state)
        planned.update({name: tuple(work) for name, work in plan.work_to_come(state).items()})
        states.append(state)

    with (
        mock.patch.object(LikelihoodAutoencoder, "forward", counting),
        mock.patch.object(command, "announce", announcing),
    ):
        trained(images, tmp_path / "run", "--ema_max_decay", 0.9, 0.5)
    assert {name: (calls[name], seen[name]) for name in planned} == {
        name: tuple(work) for name, work in planned.items()
    }
    assert tuple(json.loads((tmp_path / "run" / METRICS).read_text())["seconds_by_phase"]) == PHASES


@pytest.mark.parametrize("flags", [["--streaming", "--shuffle_buffer_size", 8], ["--test_fraction", 0]])
def test_streams_and_data_without_test_images_are_trained_on(
    images: Path, tmp_path: Path, flags: list[object]
) -> None:
    trained(images, tmp_path / "run", "--resolution", 8, *flags)
    report = json.loads((tmp_path / "run" / METRICS).read_text())
    assert len(report["latents_std"]) == 2 and ("bits_per_dim" in report) == ("--streaming" in flags)


@pytest.mark.slow
def test_two_processes_train_as_one_does(scripts: ScriptServer, images: Path, tmp_path: Path) -> None:
    common = [*TINY, "--train_data_dir", str(images), "--resume_from_checkpoint", "latest"]
    script = EXAMPLES / "autoencoder.py"
    alone = scripts.start(script, *common, "--output_dir", tmp_path / "one")
    both = scripts.start_together(2, script, *common, "--train_batch_size", 4, "--output_dir", tmp_path / "two")
    for each in (alone, *both):
        ended(each)
    one, two = (json.loads((tmp_path / name / METRICS).read_text()) for name in ("one", "two"))
    assert two["bits_per_dim"] == pytest.approx(one["bits_per_dim"], rel=1e-4)
    assert two["latents_mean"] == pytest.approx(one["latents_mean"], abs=1e-3)


def test_a_collapsed_channel_is_told(images: Path, tmp_path: Path) -> None:
    output = trained(images, tmp_path / "run", "--kl_scale", 1e4, "--learning_rate", 0.05, "--max_train_steps", 60)
    assert "Of the latents' channels, 0, 1 tell the decoder less than 0.01 bits an image" in output


# --- what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--kl_scale", -1), "`kl_scale` must be at least 0, but is -1.0."),
        (("--kl_scale", "nan"), "`kl_scale` must be at least 0, but is nan."),
        (("--norm_num_groups", 3), "`norm_num_groups` must divide all of `block_out_channels`, [8, 8], but is 3."),
        (("--preset", 512), "`preset` must be one of auto, 32, 64, 128, 256, but is '512'."),
        (("--kl_warmup_steps", -1), "`kl_warmup_steps` must be at least 0, but is -1."),
        (("--decoder_law", "laplace"), "`decoder_law` must be one of 'gaussian', 'logistic', but is 'laplace'."),
        (("--decoder_components", 0), "`decoder_components` must be at least 1, but is 0."),
        (("--adversarial_weight", -1), "`adversarial_weight` must be at least 0, but is -1.0."),
        (("--discriminator_channels", 12), "`discriminator_channels` must be a multiple of 8, but is 12."),
        (
            ("--perceptual_weight", 1, "--perceptual_model", "none.pth"),
            "`perceptual_model` must be efficientnet_lite0 or a file of weights, but is none.pth.",
        ),
        (("--num_paths", 4), "there is no argument --num_paths."),
        (
            ("--block_out_channels", *[8] * 5),
            "`block_out_channels` has 5 resolutions, so that height and width must be multiples of 16, but the images",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_the_training(
    images: Path, tmp_path: Path, flags: tuple[object, ...], sentence: str
) -> None:
    output = trained(images, tmp_path / "run", *flags, code=2)
    assert last_line(output).startswith(f"autoencoder.py: error: {sentence}"), output
    assert not (tmp_path / "run").exists()


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUTOENCODER_PRESETS)
def test_every_preset_makes_an_autoencoder_of_its_size(name: str) -> None:
    groups = parse("a.py", *run_arguments(AutoencoderTask, AutoencoderTrainingArguments), argv=["--preset", name])
    model = _built(groups, int(name))
    factor = {"32": 2, "256": 8}.get(name, 4)
    assert model.latent_shape((3, int(name), int(name))) == (4, int(name) // factor, int(name) // factor)


def test_the_configuration_for_a_gpu_has_the_size_of_stable_diffusions() -> None:
    path = EXAMPLES / "configs" / "autoencoder256.yaml"
    groups = parse("a.py", *run_arguments(AutoencoderTask, AutoencoderTrainingArguments), argv=[str(path)])
    model = _built(groups, groups[1].resolution)
    count = sum(parameter.numel() for parameter in model.vae.parameters())
    assert count == 83_653_863 and f"{count / 1e6:.1f} M" in path.read_text()  # as its vae/config.json makes
    assert yaml.safe_load(path.read_text())["resolution"] == 256


def _built(groups: tuple[Any, ...], side: int) -> LikelihoodAutoencoder:
    model, data, objective, training, _ = groups
    images = LevelImages.in_memory(torch.zeros(2, 3, side, side, dtype=torch.uint8), 256)
    given = ImageData("zeros", images, images, images)
    task = AutoencoderTask(model, data, objective)
    task.settle(given, training)
    with torch.device("meta"):
        return task.build_model(given)
