# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Training DALL-E 2: the image encoder, the prior and the decoder, by one command or three, and what they leave."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import in_process
import pytest
import torch
from hooks import signal_at
from PIL import Image
from safetensors.torch import load_file
from script_server import EXAMPLES
from tiny_text import save_encoder, save_images
from training_runs import LATEST, assert_same, last_line
from transformers import CLIPVisionModelWithProjection

from ddpm_hf import DDPMPaperPriorPipeline, DDPMPaperUnCLIPPipeline
from ddpm_hf.cli import unclip
from ddpm_hf.data.text_embeddings import FOLDER
from ddpm_hf.hub.push import model_files
from ddpm_hf.results import CONTRASTIVE_NAMES, PRIOR_NAMES, UnCLIPFigures
from ddpm_hf.runtime.arguments import completed
from ddpm_hf.tasks.unclip_arguments import UnCLIPModelArguments
from ddpm_hf.training import contrastive_step as library
from ddpm_hf.training import unclip_scores, worth
from ddpm_hf.training.contrastive_scores import Matches


SHARED = shlex.split(
    "--train_batch_size 16 --eval_batch_size 4 --max_train_steps 3 --test_fraction 0.4 --lr_warmup_steps 1"
    " --save_images_epochs 0 --max_measured_images 16 --validation_steps 0 --checkpointing_steps 2"
)
ENCODER = shlex.split("--projection_dim 4 --hidden_size 8 --intermediate_size 8 --num_hidden_layers 1")
ENCODER += shlex.split("--num_attention_heads 2 --tokenizer_max_length 8")
CHAIN = shlex.split("--ddpm_num_steps 6 --num_evaluations 3")
PRIOR = shlex.split("--num_layers 1 --num_attention_heads 2 --attention_head_dim 4 --tokenizer_max_length 8")
DECODER = shlex.split(
    "--block_out_channels 8 8 --down_block_types DownBlock2D CrossAttnDownBlock2D --up_block_types CrossAttnUpBlock2D"
    " UpBlock2D --norm_num_groups 4 --cross_attention_dim 8 --attention_head_dim 2 --addition_embed_type_num_heads 2"
)


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with captioned images and a text encoder."""
    folder = tmp_path_factory.mktemp("unclip")
    save_images(folder / "images")
    save_encoder(folder / "encoder", positions=16)
    return folder


def command(script: str, *given: object, code: int = 0, during: tuple[Any, ...] = ()) -> str:
    with contextlib.ExitStack() as stack:
        for hook in during:
            stack.enter_context(hook)
        done = in_process.run(script, *given)
    assert done.code == code, done.output
    return done.output


def data(assets: Path) -> list[object]:
    return ["--train_data_dir", assets / "images", "--cache_dir", assets / "cache"]


def encoder(assets: Path, folder: Path, *more: object, **options: Any) -> str:
    given = [*SHARED, *ENCODER, *data(assets), "--text_encoder", assets / "encoder", *more]
    return command("image_encoder.py", *given, "--output_dir", folder, **options)


def prior(assets: Path, folder: Path, *more: object, **options: Any) -> str:
    given = [*SHARED, *CHAIN, *PRIOR, *data(assets), "--text_encoder", assets / "encoder", *more]
    return command("prior.py", *given, "--output_dir", folder, **options)


def decoder(assets: Path, folder: Path, *more: object, **options: Any) -> str:
    return command("unclip.py", *SHARED, *CHAIN, *DECODER, *data(assets), *more, "--output_dir", folder, **options)


@pytest.fixture(scope="session")
def runs(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three runs to their ends, each by its own script."""
    folder = tmp_path_factory.mktemp("runs")
    found = {name: folder / name for name in ("encoder", "prior", "unclip")}
    encoder(assets, found["encoder"])
    prior(assets, found["prior"], "--image_encoder", found["encoder"])
    output = decoder(assets, found["unclip"], "--prior", found["prior"], "--validation_prompts", "big cat", "dark")
    (folder / "output.txt").write_text(output)
    return found


@contextlib.contextmanager
def short_scores() -> Iterator[None]:
    """A context in which a prior of 1000 timesteps is scored by few calls."""
    with (
        mock.patch.object(worth, "RETRIEVAL_EVALUATIONS", 2),
        mock.patch.object(unclip_scores, "PRIOR_EVALUATIONS", 3),
    ):
        yield


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_captions_are_embedded_once_for_encoder_and_prior(assets: Path, tmp_path: Path) -> None:
    folder, cache = tmp_path / "cache" / FOLDER, ("--cache_dir", tmp_path / "cache")
    encoder(assets, tmp_path / "encoder", *cache)
    before = set(folder.glob("*.safetensors"))
    prior(assets, tmp_path / "prior", "--image_encoder", tmp_path / "encoder", *cache)
    (of_the_empty_one,) = set(folder.glob("*.safetensors")) - before
    assert len(load_file(of_the_empty_one)["lengths"]) == 1


# --- what the runs leave ---------------------------------------------------------------------------------------------


def test_an_image_encoder_is_one_of_transformers(runs: dict[str, Path]) -> None:
    report = report_of(runs["encoder"])
    assert report.keys() >= set(CONTRASTIVE_NAMES)
    assert (report["test_images"], report["latent_shape"], report["contrastive_chance"]) == (24, [4], 1 / 24)
    model = CLIPVisionModelWithProjection.from_pretrained(runs["encoder"])
    embeds = model(torch.rand(2, 3, 8, 8) * 2 - 1).image_embeds
    assert embeds.shape == (2, 4)
    projection = load_file(runs["encoder"] / "text_projection.safetensors")
    assert projection["weight"].shape == (4, 8) and projection["logit_scale"].shape == (1,)
    names = {path.name for path in model_files(runs["encoder"])}
    assert names == {"config.json", "model.safetensors", "text_projection.safetensors", "samples.png", "metrics.json"}
    assert "CLIPVisionModelWithProjection" in (runs["encoder"] / "README.md").read_text()


def test_embeddings_have_unit_variance_and_a_prior_knows_their_moments(runs: dict[str, Path], assets: Path) -> None:
    pipeline = DDPMPaperPriorPipeline.from_pretrained(runs["prior"])
    model = CLIPVisionModelWithProjection.from_pretrained(runs["encoder"])
    names = sorted((assets / "images").glob("*.png"))
    pixels = [torch.frombuffer(Image.open(name).tobytes(), dtype=torch.uint8) for name in names]
    x = torch.stack(pixels).reshape(-1, 8, 8, 3).permute(0, 3, 1, 2) / 127.5 - 1
    embeds = model(x).image_embeds.detach()
    assert ((embeds - embeds.mean(0)).square().mean().sqrt() - 1).abs() < 0.2  # of the training images exactly 1
    assert (pipeline.prior.clip_mean[0] - embeds.mean(0)).abs().max() < 0.5
    assert (pipeline.prior.clip_std[0] / embeds.std(0)).log().abs().max() < 0.3
    report = report_of(runs["prior"])
    assert report.keys() >= set(PRIOR_NAMES)
    bits = 4 * (report["bits_per_dim"] - 0.5 * math.log2(2 * math.pi * math.e * 0.1**2))
    assert report["prior_bits_per_image"] == pytest.approx(bits)
    saved = report["prior_bits_per_image_unconditional"] - report["prior_bits_per_image"]
    assert report["prior_caption_information_bits"] == pytest.approx(saved)
    assert pipeline.encoder.posterior_std == 0.1
    assert "what a caption saves" in (runs["prior"] / "README.md").read_text()


def test_the_whole_is_scored_in_parts_that_add_up(runs: dict[str, Path]) -> None:
    report, of_prior = report_of(runs["unclip"]), report_of(runs["prior"])
    assert report.keys() >= {*PRIOR_NAMES, *UnCLIPFigures.__annotations__}
    pixels = 3 * 8 * 8
    parts = ("reconstruction", "posterior_entropy", "latent")
    assert report["bits_per_dim"] == pytest.approx(sum(report[f"bits_per_dim_{part}"] for part in parts))
    assert report["bits_per_dim_reconstruction"] == pytest.approx(report["bits_per_dim_given_embedding"])
    of_embedding = report["bits_per_dim"] - report["bits_per_dim_given_embedding"]
    assert report["prior_bits_per_image"] == pytest.approx(of_embedding * pixels)
    saved = report["bits_per_dim_given_another_embedding"] - report["bits_per_dim_given_embedding"]
    assert report["embedding_information_bits"] == pytest.approx(saved * pixels)
    # The prior is scored on the same z, with the same seed, but here along all of its six timesteps.
    assert report["prior_bits_per_image"] == pytest.approx(of_prior["prior_bits_per_image"], rel=0.3)
    for name in ("samples.png", "variations.png", "interpolations.png"):
        width, height = Image.open(runs["unclip"] / name).size
        assert width > height if name != "samples.png" else width > 100  # rows of eight and of ten, six of them
    output = runs["unclip"].with_name("output.txt").read_text()
    assert "bits an image for its embedding" in output and "bits/dim given its own embedding" in output


def test_the_whole_samples_scores_and_varies(runs: dict[str, Path], assets: Path, tmp_path: Path) -> None:
    folder = runs["unclip"]
    pipeline = DDPMPaperUnCLIPPipeline.from_pretrained(folder)
    assert pipeline("dark cat", num_inference_steps=2, guidance_scale=2.0, prior_guidance_scale=2.0).images
    model, some = ["--model_name_or_path", folder], ["--num_images", 2, "--batch_size", 2]
    words = tmp_path / "words.png"
    command("sample.py", *model, *some, "--prompt", "dark", "big cat", "--guidance_scale", 1.5, "--output", words)
    varied = tmp_path / "varied.png"
    picture = next((assets / "images").glob("*.png"))
    command("sample.py", *model, *some, "--image", picture, "--output", varied)
    assert Image.open(words).size[0] > 50 < Image.open(varied).size[0]
    between, others = tmp_path / "between.png", sorted((assets / "images").glob("*.png"))[:2]
    command("sample.py", *model, "--num_images", 3, "--interpolate", *others, "--output", between)
    assert Image.open(between).size[0] > 50
    given = ["--num_evaluations", 2, "--test_fraction", 0.4, "--num_paths", 2]
    command("evaluate.py", *model, *data(assets), *given, "--output_dir", tmp_path / "evaluated")
    found = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())
    assert found["total"] == pytest.approx(report_of(folder)["bits_per_dim"], rel=0.2)
    assert found["caption_information_bits"] and found["importance_weighted"]["paths"] == 2


# --- one command, and resumption -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_command_trains_all_three_and_goes_on_where_it_was_stopped(assets: Path, tmp_path: Path) -> None:
    first = ["--encoder_train_steps", 2, "--prior_train_steps", 2, "--tokenizer_max_length", 8]
    given, few = [*first, "--text_encoder", assets / "encoder"], short_scores
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    output = decoder(assets, whole, *given, during=(few(),))
    assert [line for line in output.splitlines() if " of three" in line] == [
        f"First of three: an image encoder, in {whole}-image-encoder.",
        f"Second of three: a prior of its embeddings, in {whole}-prior.",
        f"Third of three: the decoder, in {whole}.",
    ]
    decoder(assets, stopped, *given, code=143, during=(few(), signal_at(2, "SIGTERM")))
    output = decoder(assets, stopped, *given, *LATEST, during=(few(),))
    assert output.index("First of three") < output.index("Going on from") < output.index("Second of three")
    models = [load_file(folder / "decoder" / "diffusion_pytorch_model.safetensors") for folder in (whole, stopped)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_a_preset_keeps_the_prior_that_was_just_trained() -> None:
    arguments = unclip._with(UnCLIPModelArguments(), {"prior": "runs/prior"})
    assert completed(arguments, {"layers_per_block": 3}) == UnCLIPModelArguments(
        prior="runs/prior", layers_per_block=3
    )


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("prior", "unclip")]


@pytest.mark.parametrize("kind", ["encoder", *SLOW])
def test_a_run_goes_on_exactly(kind: str, runs: dict[str, Path], assets: Path, tmp_path: Path) -> None:
    train = {"encoder": encoder, "prior": prior, "unclip": decoder}[kind]
    more = {"encoder": [], "prior": ["--image_encoder", runs["encoder"]], "unclip": ["--prior", runs["prior"]]}[kind]
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(assets, straight, *more)
    train(assets, resumed, *more, code=143, during=(signal_at(3, "SIGTERM"),))
    train(assets, resumed, *more, *LATEST)
    checkpoints = [
        max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        for folder in (straight, resumed)
    ]
    assert_same(*checkpoints)


# --- the contrastive loss --------------------------------------------------------------------------------------------


def test_the_loss_is_the_probability_of_the_right_caption_and_of_the_right_image() -> None:
    logits = torch.randn(5, 5, dtype=torch.float64)
    by_hand = [
        -(logits[i, i] - logits[i].logsumexp(0)) / 2 - (logits[i, i] - logits[:, i].logsumexp(0)) / 2 for i in range(5)
    ]
    torch.testing.assert_close(library.contrastive_losses(logits), torch.stack(by_hand))
    found = Matches.of(torch.tensor([[2.0, 1.0, 0.0], [3.0, 2.5, 0.0], [0.0, 0.0, 1.0]]))
    assert (found.accuracy, found.accuracy_of_captions) == (2 / 3, 2 / 3)


def test_two_processes_have_the_gradient_of_one() -> None:
    """The mean of the processes' gradients is that of the whole loss, by the rules of `of_all_processes`."""
    torch.manual_seed(0)
    images, texts, log_scale = torch.randn(4, 3), torch.randn(4, 3), torch.tensor(0.3)

    def gradients(processes: int) -> list[torch.Tensor]:
        sums = None
        for rank in range(processes):
            leaves = [each.clone().requires_grad_() for each in (images, texts, log_scale)]
            matched = library.Matched(leaves[0], leaves[1], leaves[2].exp())
            if processes > 1:
                rows = slice(rank * 2, rank * 2 + 2)
                state = Together(processes, rank, [leaves[0].detach(), leaves[1].detach()])
                own = library.Matched(leaves[0][rows], leaves[1][rows], leaves[2].exp())
                matched = library.of_all_processes(state, own)
            logits = matched.logit_scale * matched.image_embeds @ matched.text_embeds.T
            (library.contrastive_losses(logits).mean() * processes).backward()
            found = [each.grad / processes for each in leaves]
            sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
        return sums

    for one, two in zip(gradients(1), gradients(2), strict=True):
        torch.testing.assert_close(one, two)


class Together:
    """What `of_all_processes` asks of a run with several processes, which all have these embeddings."""

    def __init__(self, processes: int, rank: int, everyone: list[torch.Tensor]):
        self.shard = type("Shard", (), {"processes": processes, "batch_size": 2})
        self.accelerator = type("Accelerator", (), {"process_index": rank, "gather": lambda _, own: everyone.pop(0)})()


def test_the_example_is_a_copy_of_the_librarys_step() -> None:
    def functions(path: Path) -> dict[str, str]:
        tree = ast.parse(path.read_text())
        return {node.name: ast.dump(node) for node in tree.body if isinstance(node, ast.FunctionDef)}

    assert functions(EXAMPLES / "image_encoder.py") == functions(Path(library.__file__))


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, list[object], str]] = {
    "patches": (encoder, ["--patch_size", 3], "`patch_size` must divide the side of square images, but is 3"),
    "one image": (encoder, ["--train_batch_size", 1], "`train_batch_size` must be at least 2"),
    "a temperature": (encoder, ["--logit_scale_init_value", -1], "`logit_scale_init_value` must be in [0, 4.605]"),
    "a deviation": (prior, ["--posterior_std", 0], "`posterior_std` must be above 0, but is 0.0."),
    "no encoder": (prior, ["--image_encoder", "nowhere/to-be-found-here/at-all"], "Could not load nowhere"),
    "a learned variance": (prior, ["--variance_type", "learned_range"], "`variance_type` must not be learned"),
    "samples": (prior, ["--num_quality_samples", 4], "`num_quality_samples` must be 0: a prior draws embeddings"),
    "no prior": (decoder, ["--prior", "nowhere/to-be-found-here/at-all"], "Could not load nowhere"),
    "dropped text": (decoder, ["--text_dropout_prob", 1], "`text_dropout_prob` must be in [0, 1), but is 1.0."),
    "paths": (decoder, ["--num_paths", 2], "`num_quality_samples` and `num_paths` must be 0"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_mistakes_are_told_in_a_sentence(way: str, runs: dict[str, Path], assets: Path, tmp_path: Path) -> None:
    train, given, sentence = REFUSED[way]
    if train is prior and "--image_encoder" not in given:
        given = [*given, "--image_encoder", runs["encoder"]]
    if train is decoder and "--prior" not in given:
        given = [*given, "--prior", runs["prior"]]
    told = last_line(train(assets, tmp_path / "run", *given, code=2))
    assert sentence in told, told


def test_a_prior_alone_has_no_images(runs: dict[str, Path], tmp_path: Path) -> None:
    given = ["--model_name_or_path", runs["prior"], "--output", tmp_path / "x.png"]
    assert "is a prior of embeddings, which has no images" in last_line(command("sample.py", *given, code=2))
